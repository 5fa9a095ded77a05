"""The plan of one pass: what is written where, and who reads what at which offset.  The contract with the backends.

All new tokens of all workers of all sessions are packed in one dimension, T. Tokens that may read the same blocks form
a *group* (one session); its distinct runs of keys are listed once, as C columns, however many workers read them.

For a worker w whose view is b1..bm, with lengths counted after this pass's tokens are written:
`start_w(b_j) = len(b_1) + .. + len(b_{j-1})`. A query at position p of its own block stands, against a run that begins
at index s of block b and whose first key is stored at position k, at `p + start_w(own) - start_w(b) - s + k`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hogwild.core.blocks import Block, IntArray
from hogwild.core.rotary import MAX_OFFSET
from hogwild.errors import HogwildError, LayoutError

LogitsWanted = Literal["last", "all", "none"]


@dataclass(frozen=True, slots=True)
class Row:
    """One worker's part of a pass: `token_ids` go to the end of the last block of `view`, which is its own."""

    view: tuple[Block, ...]
    token_ids: tuple[int, ...]
    logits: LogitsWanted = "last"

    def __post_init__(self) -> None:
        if not self.view:
            raise LayoutError("a view is empty", expected="at least the worker's own block, in the last place")
        if any(block is self.own for block in self.view[:-1]):
            raise LayoutError(
                f"the view reads its own block {self.own.name!r} twice",
                expected="the own block once, in the last place",
            )

    @property
    def own(self) -> Block:
        """The block that this row writes."""
        return self.view[-1]

    @property
    def num_visible(self) -> int:
        """Tokens that the view holds now; before the pass that is without the new ones."""
        return sum(len(block) for block in self.view)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One session's part of a pass. R rows, T tokens, N runs, C columns (all of this group)."""

    token_start: int  # the group's tokens are token_start .. token_start + T of the packed dimension
    token_row: IntArray  # [T] which row each token belongs to
    run_start: IntArray  # [N + 1] first column of each run, and C
    run_position: IntArray  # [N] rotary position of the run's first key
    column_slots: IntArray  # [C] where the K/V of each column lies in the pool
    offsets: IntArray  # [R, N] how far a row's queries are turned for a run
    visible: IntArray  # [T, N] how many of the run's first columns the token may read

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_row)

    @property
    def num_runs(self) -> int:
        """N."""
        return len(self.run_position)

    @property
    def num_columns(self) -> int:
        """C: distinct keys that anybody in the group reads."""
        return len(self.column_slots)

    def first_visible(self, positions: IntArray, window: int) -> IntArray:
        """`[T, N]` first column of each run inside a sliding window: key l is seen when `(p + offset) - l < window`.

        positions: `[T]` positions of the group's tokens.
        """
        query: IntArray = positions[:, None] + self.offsets[self.token_row]
        first: IntArray = np.maximum(query - self.run_position[None, :] - window + 1, 0)
        return first


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """Everything a backend needs to know of one pass; immutable, plain numpy, the same for all backends."""

    token_ids: IntArray  # [T]
    positions: IntArray  # [T] position within the own block: what the model's own RoPE gets
    write_slots: IntArray  # [T] where the new K/V go, before anybody reads
    logit_tokens: IntArray  # [L] tokens whose logits are wanted, ascending
    groups: tuple[GroupPlan, ...]
    num_slots: int  # the pool must hold this many slots

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)


def build_plan(groups: Sequence[Sequence[Row]], num_slots: int, appended: Sequence[Sequence[IntArray]]) -> ForwardPlan:
    """Plan the pass of `groups` (rows of each session), whose tokens have been appended to their own blocks.

    appended: for each row the slots that its new tokens were given. num_slots: size of the pool that holds them.
    """
    rows = [row for group in groups for row in group]
    slots = [new for group in appended for new in group]
    token_ids = [token for row in rows for token in row.token_ids]
    positions = [np.arange(len(row.own) - len(row.token_ids), len(row.own)) for row in rows]
    return ForwardPlan(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=_concatenate(positions),
        write_slots=_concatenate(slots),
        logit_tokens=_logit_tokens(rows),
        groups=tuple(_plan_groups(groups)),
        num_slots=num_slots,
    )


def _plan_groups(groups: Sequence[Sequence[Row]]) -> Iterator[GroupPlan]:
    token_start = 0
    for rows in groups:
        active = [row for row in rows if row.token_ids]
        if active:
            yield _plan_group(active, token_start)
            token_start += sum(len(row.token_ids) for row in active)


def _plan_group(rows: Sequence[Row], token_start: int) -> GroupPlan:
    """The plan of the rows of one session that bring tokens; B is the number of blocks that they read."""
    blocks, views = _list_blocks(rows)
    lengths = np.array([len(block) for block in blocks], dtype=np.int64)
    first_column = np.cumsum(lengths) - lengths
    runs_of = [block.num_runs for block in blocks]
    index_in_block = _concatenate([block.run_starts for block in blocks])  # of each run's first token, [N]
    run_position = _concatenate([block.run_positions for block in blocks])
    run_start = np.append(index_in_block + np.repeat(first_column, runs_of), lengths.sum())
    counts = [len(row.token_ids) for row in rows]
    turns, seen = _block_turns(views, lengths)
    token_row = np.repeat(np.arange(len(rows)), counts)
    readable = _readable_tokens(views, lengths, counts)
    return GroupPlan(
        token_start=token_start,
        token_row=token_row,
        run_start=run_start,
        run_position=run_position,
        column_slots=_concatenate([block.slots for block in blocks]),
        offsets=_run_offsets(turns, seen, runs_of, run_position - index_in_block),
        visible=np.clip(np.repeat(readable, runs_of, axis=1) - index_in_block, 0, np.diff(run_start)),
    )


def _list_blocks(rows: Sequence[Row]) -> tuple[list[Block], list[list[int]]]:
    """Every block that somebody reads, as often as it stands in one view, and each row's view as indices of these."""
    index: dict[tuple[Block, int], int] = {}
    views = []
    for row in rows:
        appearances: dict[Block, int] = {}
        view = []
        for block in row.view:
            nth = appearances[block] = appearances.get(block, -1) + 1
            view.append(index.setdefault((block, nth), len(index)))
        views.append(view)
    return [block for block, _ in index], views


def _block_turns(views: Sequence[Sequence[int]], lengths: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """`start_w(own) - start_w(b)` for each row w and block b, and which blocks the row reads at all, both `[R, B]`."""
    turns = np.zeros((len(views), len(lengths)), dtype=np.int64)
    seen = np.zeros(turns.shape, dtype=bool)
    for r, view in enumerate(views):
        start = np.cumsum(lengths[view]) - lengths[view]
        turns[r, view] = start[-1] - start
        seen[r, view] = True
    return turns, seen


def _run_offsets(turns: IntArray, seen: NDArray[np.bool_], runs_of: Sequence[int], shift: IntArray) -> IntArray:
    """`[R, N]`: how far a row's queries are turned for each run, 0 where the row does not read it.

    shift: `[N]` the position at which a run's first key is stored, less its index in the block.
    """
    offsets = np.repeat(turns, runs_of, axis=1) + shift
    offsets *= np.repeat(seen, runs_of, axis=1)
    _check_offsets(offsets)
    return offsets


def _readable_tokens(views: Sequence[Sequence[int]], lengths: IntArray, counts: Sequence[int]) -> IntArray:
    """`[T, B]`: how many of a block's first tokens each new token reads: all, none, or causally in its own block."""
    readable = np.zeros((sum(counts), len(lengths)), dtype=np.int64)
    token = 0
    for view, count in zip(views, counts, strict=True):
        own = view[-1]
        readable[token : token + count, view] = lengths[view]
        readable[token : token + count, own] = np.arange(lengths[own] - count, lengths[own]) + 1
        token += count
    return readable


def _logit_tokens(rows: Sequence[Row]) -> IntArray:
    wanted: list[int] = []
    token = 0
    for row in rows:
        end = token + len(row.token_ids)
        if row.logits == "all":
            wanted += range(token, end)
        elif row.logits == "last" and row.token_ids:
            wanted.append(end - 1)
        token = end
    return np.array(wanted, dtype=np.int64)


def _check_offsets(offsets: IntArray) -> None:
    if offsets.size and (np.abs(offsets).max() >= MAX_OFFSET):
        raise HogwildError(
            "a query would be turned too far",
            expected=f"offsets below {MAX_OFFSET} tokens",
            got=str(int(np.abs(offsets).max())),
            remedy="end the session, or use shorter views",
        )


def _concatenate(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])
