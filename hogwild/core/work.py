"""A pass cut into work for the attention kernels: flat int32 tables, the same for Triton and for Metal.

The tokens of a group are taken in *chunks* of at most `query_tile`; the query heads of a chunk that share a kv head
are the rows of one matrix product. The group's columns are cut into *segments*, keys of one run, and segments are dealt
out to *items* of nearly equal size, measured in tiles. One thread block computes one item for one kv head: every row of
the chunk against every segment of the item, each K/V byte read once for all of them. Its result is a partial output
with the log-sum-exp of its scores; the merge adds up the items of each token, in the order in which `order` lists them.

Equal items keep a GPU busy, but where they are cut depends on the whole pass. Cut at fixed places of each block
(`span`), and added up in the order of the own view, a token's items are the same whatever else is in the pass.

A key is read when `0 <= distance < window`, with `distance = position + turn - index` (see `GroupPlan`); its query is
turned by `turn + shift`, which `offsets` lists beside `turns`. So nothing here depends on the layer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from hogwild.core.blocks import Int32Array, IntArray
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import ForwardPlan, GroupPlan


@dataclass(frozen=True, slots=True)
class WorkList:
    """T tokens, I items, S segments, C columns (over all groups)."""

    tokens: Int32Array  # [T, 5] position, first of its row's turns, place in its chunk, start and end in `order`
    items: Int32Array  # [I, 5] first token, number of tokens, first segment, end of its segments, block (-1: several)
    order: Int32Array  # [..] the items that a token adds up, one after another
    segments: Int32Array  # [S, 5] run, index of its first key in its block, shift, first column, number of keys
    turns: Int32Array  # [..] for each row of each group: the turn for each of the group's runs, or UNSEEN
    offsets: Int32Array  # [..] the same with the shift of the run, or 0: how far a query is turned
    column_slots: Int32Array  # [C] where the K/V of each column lies in the pool

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.items)


def cut_work(
    plan: ForwardPlan,
    *,
    tile: int,
    query_tile: int,
    num_items: int,
    by_block: bool = False,
    span: int = 0,
    skip: Collection[int] = (),
) -> WorkList:
    """Cut a pass into about `num_items` items: at most that many, plus one for each chunk.

    tile: keys that a kernel reads at once; items are cut between tiles. query_tile: most tokens of a chunk.
    by_block: no item spans two blocks, so that the merge can tell the share of attention that each block gets; there
    are then more items. span: items of so many tiles of one block, counted from its start, in place of `num_items`; a
    token's list names those of the blocks that it sees, in the order of its view. skip: numbers of the groups that are
    attended in another way; their tokens have no items.
    """
    groups = [group for g, group in enumerate(plan.groups) if g not in skip]
    tile_ends = [_tile_ends(group, tile) for group in groups]
    num_tiles = [int(ends[-1]) for ends in tile_ends]
    chunks = [-(-group.num_tokens // query_tile) for group in groups]
    total = sum(n * c for n, c in zip(num_tiles, chunks, strict=True))
    parts = _Parts(plan.num_tokens)
    for group, ends, n in zip(groups, tile_ends, num_tiles, strict=True):
        splits = min(max(1, num_items * n // total), n)
        parts.add(group, ends, _Cut(tile, query_tile, splits, by_block or span > 0, span))
    return parts.joined()


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a group is cut."""

    tile: int
    query_tile: int
    num_splits: int
    by_block: bool
    span: int


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What of a group's tables stays as it is until a run needs one tile more: t tokens, i items, s segments."""

    tokens: Int32Array  # [t, 5] without the positions
    items: Int32Array  # [i, 5]
    order: Int32Array
    segments: Int32Array  # [s, 5] without columns and lengths
    run: IntArray  # [s] the run of each segment
    skipped: IntArray  # [s] how many keys of the run come before it


class _Parts:
    """The tables of the groups seen so far."""

    def __init__(self, num_tokens: int) -> None:
        self.tokens = np.zeros((num_tokens, 5), dtype=np.int32)
        self.items: list[Int32Array] = []
        self.order: list[Int32Array] = []
        self.segments: list[Int32Array] = []
        self.turns: list[Int32Array] = []
        self.offsets: list[Int32Array] = []
        self.column_slots: list[Int32Array] = []
        self.num_items = self.num_places = self.num_segments = self.num_turns = self.num_columns = 0

    def add(self, group: GroupPlan, tile_ends: IntArray, cut: _Cut) -> None:
        """Add a group, cut in that way."""
        before = (group.token_start, self.num_items, self.num_places, self.num_segments, self.num_turns)
        key = (tile_ends.tobytes(), group.token_row.tobytes(), cut, before)
        fixed = group.runs.derived("work", key, lambda: self._fixed(group, tile_ends, cut))
        tokens = self.tokens[group.token_start : group.token_start + group.num_tokens]
        tokens[:] = fixed.tokens
        tokens[:, 0] = group.positions
        segments = _with_columns(fixed, group)
        if self.num_columns:
            segments[:, 3] += self.num_columns
        turns, offsets = _turns_and_offsets(group)
        self.items.append(fixed.items)
        self.order.append(fixed.order)
        self.segments.append(segments)
        self.turns.append(turns)
        self.offsets.append(offsets)
        self.column_slots.append(group.column_slots.astype(np.int32, copy=False))
        self.num_items += len(fixed.items)
        self.num_places += len(fixed.order)
        self.num_segments += len(segments)
        self.num_turns += len(turns)
        self.num_columns += group.num_columns

    def _fixed(self, group: GroupPlan, tile_ends: IntArray, cut: _Cut) -> _Fixed:
        run, skipped, edges = _cut_columns(group, tile_ends, cut)
        segments = np.empty((len(run), 5), dtype=np.int32)
        segments[:, 0] = run
        segments[:, 1] = group.run_index[run] + skipped
        segments[:, 2] = group.run_shift[run]
        items = self._items(group, run, edges, cut)
        order, ends = _order(group, items[:, 4].reshape(-1, len(edges) - 1), cut)
        tokens = self._tokens(group, cut, ends)
        return _Fixed(tokens, items, order + np.int32(self.num_items), segments, run, skipped)

    def _tokens(self, group: GroupPlan, cut: _Cut, ends: IntArray) -> Int32Array:
        tokens = np.empty((group.num_tokens, 5), dtype=np.int32)
        tokens[:, 1] = self.num_turns + group.token_row * group.num_runs
        tokens[:, 2] = np.arange(group.num_tokens) % cut.query_tile
        tokens[:, 3:] = self.num_places + ends
        return tokens

    def _items(self, group: GroupPlan, run: IntArray, edges: IntArray, cut: _Cut) -> Int32Array:
        first = np.arange(0, group.num_tokens, cut.query_tile)
        items = np.empty((len(first), len(edges) - 1, 5), dtype=np.int32)
        items[..., 0] = group.token_start + first[:, None]
        items[..., 1] = np.minimum(group.num_tokens - first, cut.query_tile)[:, None]
        items[..., 2] = edges[:-1] + self.num_segments
        items[..., 3] = edges[1:] + self.num_segments
        items[..., 4] = group.run_block[run[edges[:-1]]] if cut.by_block else -1
        return items.reshape(-1, 5)

    def joined(self) -> WorkList:
        return WorkList(
            tokens=self.tokens,
            items=_joined(self.items, 5),
            order=_joined(self.order),
            segments=_joined(self.segments, 5),
            turns=_joined(self.turns),
            offsets=_joined(self.offsets),
            column_slots=_joined(self.column_slots),
        )


def _order(group: GroupPlan, blocks: Int32Array, cut: _Cut) -> tuple[Int32Array, IntArray]:
    """The items that the tokens add up, and `[t, 2]` where each token's begin and end among them.

    blocks: `[chunks, splits]` those of the items, which are counted from 0. Without `span` a token has all items of its
    chunk, else those of the blocks that it sees: the farther away a block, the earlier it stands in the view.
    """
    num_splits = blocks.shape[1]
    chunk = np.arange(group.num_tokens) // cut.query_tile
    if not cut.span:
        return np.arange(blocks.size, dtype=np.int32), (chunk[:, None] + (0, 1)) * num_splits
    turns = group.turns[:, blocks[0]]  # [R, splits]
    by_distance, counts = np.argsort(-turns, axis=1, kind="stable"), (turns != UNSEEN).sum(axis=1)
    first = np.flatnonzero(np.diff(chunk * len(turns) + group.token_row, prepend=-1))  # token of each row in each chunk
    rows = group.token_row[first].tolist()
    lists = [by_distance[row, : counts[row]] + chunk[t] * num_splits for t, row in zip(first, rows, strict=True)]
    end = counts[rows].cumsum()
    ends = np.stack([end - counts[rows], end], axis=1)
    return np.concatenate(lists).astype(np.int32), ends.repeat(np.diff(first, append=group.num_tokens), axis=0)


def _joined(parts: list[Int32Array], width: int | None = None) -> Int32Array:
    if len(parts) == 1:
        return parts[0]
    empty = np.empty((0,) if width is None else (0, width), dtype=np.int32)
    return np.concatenate([empty, *parts])


def _turns_and_offsets(group: GroupPlan) -> tuple[Int32Array, Int32Array]:
    """`[R * N]` each: `GroupPlan.run_turns` and `GroupPlan.offsets`, made in 32 bits from the start."""
    shift = group.runs.derived("shift", None, lambda: group.run_shift.astype(np.int32))
    turns = group.runs.of_each(group.turns.astype(np.int32))
    offsets = turns + shift
    if np.minimum.reduce(group.turns, axis=None) == UNSEEN:  # not while every row reads every block
        np.copyto(offsets, 0, where=turns == UNSEEN)
    return turns.ravel(), offsets.ravel()


def _tile_ends(group: GroupPlan, tile: int) -> IntArray:
    """How many tiles the runs take, up to each: `ceil(n / tile)` for n keys."""
    ends: IntArray = -((group.run_start[:-1] - group.run_start[1:]) // tile).cumsum()
    return ends


def _cut_columns(group: GroupPlan, tile_ends: IntArray, cut: _Cut) -> tuple[IntArray, IntArray, IntArray]:
    """Cut a group's columns into segments, in reading order, and deal these out to the splits.

    Returns `run [s]` and `skipped [s]` as in `_Fixed`, and `[k + 1]`: the first segment of each split, then s. Every
    run begins a segment, and so does every edge of a split within a run. Edges are counted in tiles.
    """
    num_runs, total = group.num_runs, int(tile_ends[-1])
    edges = np.arange(cut.num_splits) * total // cut.num_splits
    if cut.by_block:
        first_runs = np.flatnonzero(np.diff(group.run_block, prepend=-1))
        block_starts = np.append(0, tile_ends)[first_runs]
        edges = _spans(block_starts, total, cut.span) if cut.span else np.union1d(edges, block_starts)
    run_of_edge = tile_ends.searchsorted(edges, side="right")  # few edges are searched for, not many runs
    past = edges - np.append(0, tile_ends)[run_of_edge]
    is_within = past > 0
    segment_of_edge = run_of_edge + is_within.cumsum()
    within = segment_of_edge[is_within]
    run, skipped = np.ones(num_runs + len(within), dtype=np.int64), np.zeros(num_runs + len(within), dtype=np.int64)
    run[0] = run[within] = 0
    skipped[within] = past[is_within] * cut.tile
    return run.cumsum(), skipped, np.append(segment_of_edge, len(run))


def _spans(starts: IntArray, total: int, span: int) -> IntArray:
    """Every `span` tiles of each block, whose first tiles are `starts`, of `total`."""
    ends = np.append(starts[1:], total)
    return np.concatenate([np.arange(start, end, span) for start, end in zip(starts, ends, strict=True)])


def _with_columns(fixed: _Fixed, group: GroupPlan) -> Int32Array:
    """The segments with their first columns and lengths as they are in this pass."""
    column = np.empty(len(fixed.run) + 1, dtype=np.int64)
    np.add(group.run_start.take(fixed.run), fixed.skipped, out=column[:-1])
    column[-1] = group.num_columns  # a segment ends where the next one begins; the last one at the end of the last run
    segments = fixed.segments.copy()
    segments[:, 3] = column[:-1]
    segments[:, 4] = column[1:] - column[:-1]
    return segments
