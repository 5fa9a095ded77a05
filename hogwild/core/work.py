"""A pass cut into work for the attention kernels: flat int32 tables, the same for Triton and for Metal.

The tokens of a group are taken in *chunks* of at most `query_tile`; the query heads of a chunk that share a kv head
are the rows of one matrix product. The group's columns are cut into *segments*, keys of one run, and segments are dealt
out to *items* of nearly equal size, measured in tiles. One thread block computes one item for one kv head: every row of
the chunk against every segment of the item, each K/V byte read once for all of them. Its result is a partial output
with the log-sum-exp of its scores; the merge adds up the items of each token, in the order in which `order` lists them.

Equal items keep a GPU busy, but where they are cut depends on the whole pass. Cut at fixed places of each block
(`span`), and added up in the order of the own view, a token's items are the same whatever else is in the pass.

A key is read when `0 <= distance < window`, with `distance = token_index + turn - index` (see `GroupPlan`); its query
is turned by `turn + shift - origin`, which `offsets` lists beside `turns`. So nothing here depends on the layer. The
indices of a segment ascend, but need not follow one another, so each column has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import ForwardPlan, GroupPlan


@dataclass(frozen=True, slots=True)
class WorkList:
    """T tokens, I items, S segments, C columns (over all groups)."""

    tokens: Int32Array  # [T, 5] index in own block, first of its row's turns, place in its chunk, start, end in `order`
    items: Int32Array  # [I, 5] first token, number of tokens, first segment, end of its segments, block (-1: several)
    order: Int32Array  # [..] the items that a token adds up, one after another
    segments: Int32Array  # [S, 3] run, first column, number of keys
    turns: Int32Array  # [..] for each row of each group: the turn for each of the group's runs, or UNSEEN
    offsets: Int32Array  # [..] the same with the shift of the run, or 0: how far a query is turned
    column_slots: Int32Array  # [C] where the K/V of each column lies in the pool
    column_index: Int32Array  # [C] index of each column's key in its block

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.items)


_TABLES = tuple(field.name for field in fields(WorkList))
_ROWS = np.empty((0, 5), dtype=np.int32)
_NOTHING = WorkList(_ROWS, _ROWS, _ROWS[:, 0], _ROWS[:, :3], *[_ROWS[:, 0]] * 4)


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
    tile_edges = [_tile_edges(group, tile) for group in groups]
    num_tiles = [int(edges[-1]) for edges in tile_edges]
    total = sum([n * -(-group.num_tokens // query_tile) for group, n in zip(groups, num_tiles, strict=True)])
    parts = []
    for group, edges, n in zip(groups, tile_edges, num_tiles, strict=True):
        splits = min(max(1, num_items * n // total), n)
        parts.append(_cut_group(group, edges, _Cut(tile, query_tile, splits, by_block or span > 0, span)))
    return parts[0] if len(parts) == len(plan.groups) == 1 else _joined(parts, groups, plan.num_tokens)


class _Cut(NamedTuple):
    """How a group is cut."""

    tile: int
    query_tile: int
    num_splits: int
    by_block: bool
    span: int


class _Fixed(NamedTuple):
    """What of a group's tables stays as it is until a run needs one tile more: t tokens, i items."""

    tokens: Int32Array  # [t, 5] without the tokens' indices
    items: Int32Array  # [i, 5]
    order: Int32Array
    pieces: _Pieces


class _Pieces(NamedTuple):
    """Which part of a run each of s segments is."""

    run: IntArray  # [s + 1] the run of each segment, then N
    skipped: IntArray  # [s + 1] how many keys of the run come before it, then 0


def _cut_group(group: GroupPlan, tile_edges: IntArray, cut: _Cut) -> WorkList:
    """The work of one group, as if it were the only one."""
    key = (tile_edges.tobytes(), group.token_row.tobytes(), cut)
    fixed = group.runs.kept("work", key, lambda: _fixed(group, tile_edges, cut))
    tokens = fixed.tokens.copy()
    tokens[:, 0] = group.token_index
    turns, offsets = _turns_and_offsets(group)
    segments = _segments(group, fixed.pieces)
    columns = group.column_slots, group.column_index
    return WorkList(tokens, fixed.items, fixed.order, segments, turns, offsets, *columns)


def _joined(parts: Sequence[WorkList], groups: Sequence[GroupPlan], num_tokens: int) -> WorkList:
    """The work of all groups; a token of a group that is not among them has no items."""
    parts = [_NOTHING, *parts]
    tables = [np.concatenate([getattr(part, name) for part in parts]) for name in _TABLES]
    counts = np.array([[len(getattr(part, name)) for name in _TABLES] for part in parts], dtype=np.int32)
    counted, items, places, segments, turns, _, columns, _ = (counts.cumsum(axis=0, dtype=np.int32) - counts).T
    starts, zero = np.array([0, *(group.token_start for group in groups)], dtype=np.int32), np.zeros_like(items)
    # What the numbers in a table count has begun in the parts before: so much is added.
    tables[0] += _repeated(counts[:, 0], zero, turns, zero, places, places)
    tables[1] += _repeated(counts[:, 1], starts, zero, segments, segments, zero)
    tables[2] += items.repeat(counts[:, 2])
    tables[3] += _repeated(counts[:, 3], zero, columns, zero)
    tokens = np.zeros((num_tokens, 5), dtype=np.int32)
    tokens[np.arange(len(tables[0])) + (starts - counted).repeat(counts[:, 0])] = tables[0]
    return WorkList(tokens, *tables[1:])


def _repeated(counts: Int32Array, *columns: Int32Array) -> Int32Array:
    """`[sum(counts), len(columns)]`: row i of the columns, `counts[i]` times."""
    return np.stack(columns, axis=1).repeat(counts, axis=0)


def _fixed(group: GroupPlan, tile_edges: IntArray, cut: _Cut) -> _Fixed:
    pieces, first = _cut_columns(group, tile_edges, cut)
    key = (group.token_row.tobytes(), cut.query_tile, len(first) - 1)
    tokens, items, order = group.kept("dealt", key, lambda: _dealt(group.token_row, cut.query_tile, len(first) - 1))
    tokens, items = tokens.copy(), items.copy()
    tokens[:, 1] = group.token_row * group.num_runs
    items[..., 2] = first[:-1]
    items[..., 3] = first[1:]
    if cut.by_block:
        items[..., 4] = group.run_block[pieces.run[first[:-1]]]
    if cut.span:
        order, tokens[:, 3:] = _order_of_views(group, items[0, :, 4], cut)
    return _Fixed(tokens, items.reshape(-1, 5), order, pieces)


def _segments(group: GroupPlan, pieces: _Pieces) -> Int32Array:
    """`[s, 3]` as in `WorkList`."""
    edges = group.run_start.take(pieces.run)
    edges += pieces.skipped
    segments = np.empty((len(edges) - 1, 3), dtype=np.int32)
    segments[:, 0] = pieces.run[:-1]
    segments[:, 1] = edges[:-1]
    segments[:, 2] = edges[1:] - edges[:-1]
    return segments


def _dealt(token_row: IntArray, query_tile: int, num_splits: int) -> tuple[Int32Array, Int32Array, Int32Array]:
    """What depends on the rows of the tokens alone.

    `tokens [t, 5]` without indices and turns, `items [chunks, splits, 5]` without segments, and `order`: a
    token adds up all items of its chunk.
    """
    numbers = np.arange(len(token_row))
    chunk, place = np.divmod(numbers, query_tile)
    tokens = np.zeros((len(numbers), 5), dtype=np.int32)
    tokens[:, 2] = place
    tokens[:, 3] = chunk * num_splits
    tokens[:, 4] = tokens[:, 3] + num_splits
    first = numbers[::query_tile, None]
    items = np.full((len(first), num_splits, 5), -1, dtype=np.int32)
    items[..., 0] = first
    items[..., 1] = np.minimum(len(numbers) - first, query_tile)
    return tokens, items, np.arange(len(first) * num_splits, dtype=np.int32)


def _order_of_views(group: GroupPlan, blocks: Int32Array, cut: _Cut) -> tuple[Int32Array, IntArray]:
    """The items that the tokens add up, and `[t, 2]` where each token's begin and end among them.

    blocks: `[splits]` those of the items of a chunk. A token has the items of the blocks that it sees: the farther away
    a block, the earlier it stands in the view.
    """
    chunk, turns = np.arange(group.num_tokens) // cut.query_tile, group.turns[:, blocks]  # [R, splits]
    by_distance, counts = np.argsort(-turns, axis=1, kind="stable"), (turns != UNSEEN).sum(axis=1)
    first = np.flatnonzero(np.diff(chunk * len(turns) + group.token_row, prepend=-1))  # token of each row in each chunk
    rows = group.token_row[first].tolist()
    lists = [by_distance[row, : counts[row]] + chunk[t] * len(blocks) for t, row in zip(first, rows, strict=True)]
    end = counts[rows].cumsum()
    ends = np.stack([end - counts[rows], end], axis=1)
    return np.concatenate(lists).astype(np.int32), ends.repeat(np.diff(first, append=group.num_tokens), axis=0)


def _turns_and_offsets(group: GroupPlan) -> tuple[Int32Array, Int32Array]:
    """`[R * N]` each: `GroupPlan.run_turns` and `GroupPlan.offsets`, made in 32 bits from the start."""
    turns = group.runs.of_each(group.turns.astype(np.int32))
    offsets = turns + _shift(group)
    offsets -= group.origins.astype(np.int32)[:, None]
    if group.turns.item(group.turns.argmin()) == UNSEEN:  # not while every row reads every block
        offsets[turns == UNSEEN] = 0
    return turns.ravel(), offsets.ravel()


def _shift(group: GroupPlan) -> Int32Array:
    return group.runs.kept("shift", None, lambda: group.runs.shift.astype(np.int32))


def _tile_edges(group: GroupPlan, tile: int) -> IntArray:
    """`[N + 1]` how many tiles the runs before each take, `ceil(n / tile)` for n keys; then those of all."""
    tiles = np.zeros(len(group.run_start), dtype=np.int64)
    np.floor_divide(group.run_start[:-1] - group.run_start[1:], tile, out=tiles[1:])  # times -1, so that it rounds up
    return np.subtract.accumulate(tiles)


def _cut_columns(group: GroupPlan, tile_edges: IntArray, cut: _Cut) -> tuple[_Pieces, IntArray]:
    """Cut a group's columns into segments, in reading order, and deal these out to the splits.

    Returns the segments, and `[k + 1]`: the first one of each split, then s. Every run begins a segment, and so does
    every edge of a split within a run. Edges are counted in tiles.
    """
    total = int(tile_edges[-1])
    edges = np.arange(0, (cut.num_splits + 1) * total, total) // cut.num_splits
    if cut.by_block:
        first_runs = np.flatnonzero(np.diff(group.run_block, prepend=-1))
        starts = tile_edges[first_runs]
        edges = _spans(starts, total, cut.span) if cut.span else np.union1d(edges, starts)
    run_of_edge = tile_edges[1:].searchsorted(edges, side="right")  # few edges are searched for, not many runs
    past = edges - tile_edges.take(run_of_edge)
    (within,) = past.nonzero()
    first = run_of_edge + (past > 0).cumsum()
    begun = first[within]
    run, skipped = np.ones(first[-1] + 1, dtype=np.int64), np.zeros(first[-1] + 1, dtype=np.int64)
    run[0] = run[begun] = 0
    skipped[begun] = past[within] * cut.tile
    return _Pieces(run.cumsum(), skipped), first


def _spans(starts: IntArray, total: int, span: int) -> IntArray:
    """Every `span` tiles of each block, whose first tiles are `starts`, of `total`; then `total`."""
    ends = [*starts[1:].tolist(), total]
    return np.array([*chain.from_iterable(map(range, starts.tolist(), ends, repeat(span))), total])
