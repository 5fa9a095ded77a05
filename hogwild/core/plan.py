"""The plan of one pass: what is written where, and who reads what at which offset.  The contract with the backends.

All new tokens of all workers of all sessions are packed in one dimension, T. Tokens that may read the same blocks form
a *group* (one session); its distinct runs of keys are listed once, as C columns, however many workers read them.

For a worker w whose view is b1..bm, with lengths counted after this pass's tokens are written:
`start_w(b_j) = len(b_1) + .. + len(b_{j-1})`. A query at index p of its own block stands, against keys of block b that
are stored at their index plus a shift, at `p + start_w(own) - start_w(b) + shift`. The model turns it to `p + origin`,
where the origin is the position of its own block's first key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.blocks import PERIOD, Block
from hogwild.core.frame import UNSEEN, Frame, Kept, Runs, Shape
from hogwild.core.rotary import MAX_OFFSET
from hogwild.errors import HogwildError, LayoutError, PromptError

LogitsWanted = Literal["last", "all", "none"]
PREFILL_CHUNK = 512
"""Tokens of a long text that go into one pass."""


@dataclass(frozen=True, slots=True)
class Row:
    """One worker's part of a pass: `token_ids` go to the end of the last block of `view`, which is its own."""

    view: tuple[Block, ...]
    token_ids: tuple[int, ...]
    logits: LogitsWanted = "last"

    def __post_init__(self) -> None:
        if not self.view:
            raise LayoutError("a view is empty", expected="at least the worker's own block, in the last place")
        if self.own in self.view[:-1]:
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
        return sum(map(len, self.view))


def view_lengths(rows: Sequence[Row]) -> list[int]:
    """Tokens in each row's view with those that all rows bring; rows write different blocks, before the pass."""
    views = [row.view for row in rows]
    lengths = {block: len(block) for block in set(chain.from_iterable(views))}
    for row, view in zip(rows, views, strict=True):
        lengths[view[-1]] += len(row.token_ids)
    return [sum(map(lengths.__getitem__, view)) for view in views]


@dataclass(frozen=True)
class GroupPlan:
    """One session's part of a pass. R rows, T tokens, B blocks, N runs, C columns (all of this group).

    A token at index p of its own block, of a row whose turn for a block is t, stands `p + t - i` tokens after key i of
    that block. It reads the key when this *distance* is not negative (and, in a layer with a sliding window, below the
    window): the own block has turn 0 and is read causally; every other block of the view lies wholly in the past.
    """

    token_start: int  # the group's tokens are token_start .. token_start + T of the packed dimension
    token_row: IntArray  # [T] which row each token belongs to
    token_index: IntArray  # [T] index of each token in its own block
    origins: IntArray  # [R] rotary position of the own block's first key
    turns: IntArray  # [R, B] `start_w(own) - start_w(b)`, or UNSEEN
    runs: Runs
    run_start: IntArray  # [N + 1] first column of each run, and C
    column_slots: Int32Array  # [C] where the K/V of each column lies in the pool
    column_index: Int32Array  # [C] index of each column's key in its block; ascending within a run
    kept: Kept = field(default_factory=Kept, repr=False)  # of `token_row`, from pass to pass

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_row)

    @property
    def num_runs(self) -> int:
        """N."""
        return len(self.run_start) - 1

    @property
    def num_columns(self) -> int:
        """C: distinct keys that anybody in the group reads."""
        return len(self.column_slots)

    @property
    def run_block(self) -> IntArray:
        """`[N]` the block of each run."""
        return self.runs.block

    @property
    def run_shift(self) -> IntArray:
        """`[N]` how much further a query is turned for a run than for the block as a whole."""
        return self.runs.shift

    @cached_property
    def run_turns(self) -> IntArray:
        """`[R, N]` the turn of each run's block."""
        return self.runs.of_each(self.turns)

    @cached_property
    def offsets(self) -> IntArray:
        """`[R, N]` how far a row's queries are turned for a run, 0 where the row does not read it."""
        offsets = self.run_turns + self.run_shift - self.origins[:, None]
        offsets[self.run_turns == UNSEEN] = 0
        return offsets

    @cached_property
    def column_run(self) -> IntArray:
        """`[C]` the run of each column."""
        return np.arange(self.num_runs).repeat(np.diff(self.run_start))

    def reach(self) -> IntArray:
        """`[T, B]` how many of a block's first tokens a token would read if the block were endless; may be negative."""
        return self.token_index[:, None] + self.turns[self.token_row] + 1

    def sees(self, tokens: slice, run: IntArray, index: Int32Array, window: int | None = None) -> NDArray[np.bool_]:
        """`[t, k]` which of k keys some of the group's tokens read: those at `index [k]` of the blocks of `run [k]`."""
        reach = self.reach()[tokens].take(self.run_block[run], axis=1)
        seen: NDArray[np.bool_] = index < reach
        if window is not None:
            seen &= index >= reach - window
        return seen


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """Everything a backend needs to know of one pass; immutable, plain numpy, the same for all backends."""

    token_ids: IntArray  # [T]
    positions: IntArray  # [T] rotary position: what the model's own RoPE gets
    write_slots: IntArray  # [T] where the new K/V go, before anybody reads
    logit_tokens: IntArray  # [L] tokens whose logits are wanted, ascending
    groups: tuple[GroupPlan, ...]
    num_slots: int  # the pool must hold this many slots

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)


class Planner:
    """Plans one pass after another, and remembers how the views of the last one were listed."""

    def __init__(self, context_size: int | None = None) -> None:
        """context_size: most tokens in a view; None: no limit."""
        self._context_size = context_size
        self._frames: dict[Block, Frame] = {}  # of the last pass, by the own block of the first row
        self._shape_of = lru_cache(maxsize=64)(Shape)

    def plan(
        self, groups: Sequence[Sequence[Row]], num_slots: int, appended: Sequence[Sequence[IntArray]]
    ) -> ForwardPlan:
        """Plan the pass of `groups` (rows of each session), whose tokens have been appended to their own blocks.

        appended: for each row the slots that its new tokens were given. num_slots: size of the pool that holds them.

        Raises `PromptError` for a view that is now longer than the context, and `HogwildError` where a query would be
        turned too far.
        """
        rows = list(chain.from_iterable(groups))
        planned = self._plan_groups(groups)
        return ForwardPlan(
            token_ids=np.array(list(chain.from_iterable([row.token_ids for row in rows])), dtype=np.int64),
            positions=_concatenate([group.token_index + group.origins[group.token_row] for group in planned]),
            write_slots=_concatenate([slots for of_group in appended for slots in of_group]),
            logit_tokens=_logit_tokens(rows),
            groups=planned,
            num_slots=num_slots,
        )

    def _plan_groups(self, groups: Sequence[Sequence[Row]]) -> tuple[GroupPlan, ...]:
        frames, planned, token_start = {}, [], 0
        for rows in groups:
            active = [row for row in rows if row.token_ids]
            if active:
                frame = frames[active[0].own] = self._frame(active)
                planned.append(_plan_group(active, frame, token_start))
                token_start += planned[-1].num_tokens
                self._check_views(active, planned[-1].num_columns)
        self._frames = frames
        return tuple(planned)

    def _frame(self, rows: Sequence[Row]) -> Frame:
        views, known = tuple([row.view for row in rows]), self._frames.get(rows[0].own)
        return known if known is not None and known.views == views else Frame(views, self._shape_of)

    def _check_views(self, rows: Sequence[Row], num_columns: int) -> None:
        if self._context_size is not None and num_columns > self._context_size:  # no view is longer than all columns
            for row in rows:
                check_view(row, row.num_visible, self._context_size)


def build_plan(groups: Sequence[Sequence[Row]], num_slots: int, appended: Sequence[Sequence[IntArray]]) -> ForwardPlan:
    """The plan of a single pass; see `Planner.plan`."""
    return Planner().plan(groups, num_slots, appended)


def _plan_group(rows: Sequence[Row], frame: Frame, token_start: int) -> GroupPlan:
    """The plan of the rows of one session that bring tokens; B is the number of blocks that they read."""
    runs, lengths, slots, index = frame.list_runs()
    end = lengths.cumsum()
    run_start = np.empty(len(runs.start) + 1, dtype=np.int64)
    np.add(runs.start, runs.of_each(end - lengths), out=run_start[:-1])
    run_start[-1] = end[-1]
    token_row, token_index = frame.shape.place(lengths, [len(row.token_ids) for row in rows])
    group = GroupPlan(
        token_start=token_start,
        token_row=token_row,
        token_index=token_index,
        origins=frame.origins,
        turns=frame.shape.turns(lengths),
        runs=runs,
        run_start=run_start,
        column_slots=slots,
        column_index=index,
        kept=frame.shape.kept,
    )
    _check_offsets(group)
    return group


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


def check_view(row: Row, length: int, context_size: int) -> None:
    """Raise `PromptError` if `length`, that of the row's view with its tokens, is more than the context."""
    if length > context_size:
        raise PromptError(
            f"the view of block {row.own.name!r} would be longer than the context",
            expected=f"at most {context_size} tokens",
            got=f"{length} tokens",
            remedy="shorten the prompt, or use a model with a longer context",
        )


def _check_offsets(group: GroupPlan) -> None:
    most = group.num_columns + group.runs.largest_shift + PERIOD  # not less than the largest offset
    if most >= MAX_OFFSET and np.abs(group.offsets).max() >= MAX_OFFSET:
        raise HogwildError(
            "a query would be turned too far",
            expected=f"offsets below {MAX_OFFSET} tokens",
            got=str(int(np.abs(group.offsets).max())),
            remedy="end the session, or use shorter views",
        )


def _concatenate(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0] if arrays else np.empty(0, dtype=np.int64)
