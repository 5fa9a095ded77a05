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


@dataclass(frozen=True, slots=True)
class _Column:
    """The n-th appearance of a block in the views of a group: its keys are listed once per appearance."""

    block: Block
    appearance: int


def build_plan(
    groups: Sequence[Sequence[Row]], num_slots: int, appended: Sequence[Sequence[IntArray]]
) -> ForwardPlan:
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
    columns = _columns(rows)
    index = {(id(column.block), column.appearance): i for i, column in enumerate(columns)}
    blocks = [column.block for column in columns]
    num_runs = [block.num_runs for block in blocks]
    first_run = np.concatenate([[0], np.cumsum(num_runs)]).astype(np.int64)
    lengths = np.array([len(block) for block in blocks], dtype=np.int64)
    first_column = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    run_start = _concatenate([block.run_starts + first for block, first in zip(blocks, first_column, strict=False)])
    run_position = _concatenate([block.run_positions for block in blocks])
    run_start = np.append(run_start, first_column[-1])
    run_length = np.diff(run_start)
    # A run's own place within its block, less the position at which its first key is stored.
    shift = _concatenate([block.run_positions - block.run_starts for block in blocks])

    offsets = np.zeros((len(rows), len(run_position)), dtype=np.int64)
    seen = np.zeros((len(rows), len(run_position)), dtype=np.int64)
    causal = []
    for r, row in enumerate(rows):
        starts = np.concatenate([[0], np.cumsum([len(block) for block in row.view])]).astype(np.int64)
        appearances: dict[int, int] = {}
        for block, start in zip(row.view, starts, strict=False):
            i = index[id(block), appearances.get(id(block), 0)]
            appearances[id(block)] = appearances.get(id(block), 0) + 1
            runs = slice(first_run[i], first_run[i + 1])
            offsets[r, runs] = starts[-2] - start + shift[runs]
            seen[r, runs] = run_length[runs]
        causal.append(slice(first_run[i], first_run[i + 1]))
    _check_offsets(offsets)
    counts = [len(row.token_ids) for row in rows]
    token_row = np.repeat(np.arange(len(rows)), counts)
    visible = seen[token_row]
    token = 0
    for row, runs, count in zip(rows, causal, counts, strict=True):
        positions = np.arange(len(row.own) - count, len(row.own))[:, None]
        reach = positions + 1 - row.own.run_starts[None, :]
        visible[token : token + count, runs] = np.clip(reach, 0, run_length[runs])
        token += count
    return GroupPlan(
        token_start=token_start,
        token_row=token_row,
        run_start=run_start,
        run_position=run_position,
        column_slots=_concatenate([block.slots for block in blocks]),
        offsets=offsets,
        visible=visible,
    )


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """Every block that somebody reads, once for each time it stands in one view; empty blocks are left out."""
    most: dict[int, tuple[Block, int]] = {}
    for row in rows:
        counts: dict[int, int] = {}
        for block in row.view:
            counts[id(block)] = counts.get(id(block), 0) + 1
            known = most.get(id(block), (block, 0))[1]
            most[id(block)] = (block, max(known, counts[id(block)]))
    return [_Column(block, n) for block, count in most.values() for n in range(count)]


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
