"""How the plain backends read a group's columns: a few long slices of the pool, and short tiles gathered at once.

Columns that lie side by side in memory and belong to one run need no copy: the longest stretches are read as slices.
All others, hundreds of published steps perhaps, are cut into tiles of equal length and gathered in one batched
operation, so that nothing loops over blocks or pages. A tile holds columns of one run. Its length is chosen by how many
these are: the batched product costs something for each tile, and padding costs something too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.plan import GroupPlan

TILE_SIZES = np.arange(8, 129, 8)
TILE_COST = 16  # what a tile costs besides its columns, in columns
MAX_SLICES = 4
MIN_SLICE = 128


@dataclass(frozen=True, slots=True)
class Slice:
    """Columns of one run that lie side by side: `slots start..stop` of the pool."""

    start: int
    stop: int
    run: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """The columns of a group, in reading order: those of each slice, then those of each tile (padded to one size).

    C' columns in all. A padding column repeats a slot that was written and carries an index past every limit, so that
    it is masked and never reads memory that nobody wrote.
    """

    slices: tuple[Slice, ...]
    tile_run: IntArray  # [M] the run of each tile
    tile_slots: Int32Array  # [M * size] slots to gather
    column_run: IntArray  # [C'] the run of each column
    column_index: Int32Array  # [C'] the index of each column's key in its block

    @property
    def num_columns(self) -> int:
        """C', padding included."""
        return len(self.column_run)


PADDING = np.iinfo(np.int32).max


def cut(group: GroupPlan) -> Tiles:
    """Choose the slices and tiles for one group."""
    stretches = _longest_stretches(group)
    run, index = group.column_run, group.column_index
    is_sliced = np.zeros(group.num_columns, dtype=np.bool_)
    for first, last in stretches:
        is_sliced[first:last] = True
    sliced, left = is_sliced.nonzero()[0], (~is_sliced).nonzero()[0]
    edges = np.diff(run[left], prepend=-1, append=-1).nonzero()[0]
    places, padding = _tiles(edges[:-1], edges[1:])
    tiled = left[places]
    slots = group.column_slots[stretches[:, 0]]
    parts = zip(slots.tolist(), np.diff(stretches)[:, 0].tolist(), run[stretches[:, 0]].tolist(), strict=True)
    return Tiles(
        slices=tuple(Slice(slot, slot + length, of) for slot, length, of in parts),
        tile_run=run[tiled[:, 0]],
        tile_slots=group.column_slots[tiled].ravel(),
        column_run=np.concatenate([run[sliced], run[tiled].ravel()]),
        column_index=np.concatenate([index[sliced], np.where(padding, PADDING, index[tiled]).ravel()]),
    )


def _places(length: int, *places: IntArray) -> NDArray[np.bool_]:
    """`[length]` which of them were named."""
    named = np.zeros(length, dtype=np.bool_)
    for some in places:
        named[some] = True
    return named


def _longest_stretches(group: GroupPlan) -> IntArray:
    """`[S, 2]` column ranges of one run that lie side by side in the pool: all if they are few, else long ones.

    Ascending.
    """
    is_edge = _places(group.num_columns + 1, group.run_start)
    is_edge[1:-1] |= group.column_slots[1:] != group.column_slots[:-1] + 1
    edges = is_edge.nonzero()[0]
    lengths = edges[1:] - edges[:-1]
    if len(lengths) <= MAX_SLICES:
        return np.stack([edges[:-1], edges[1:]], axis=1)
    longest = np.sort(np.argsort(-lengths, kind="stable")[:MAX_SLICES])
    longest = longest[lengths[longest] >= MIN_SLICE]
    return np.stack([edges[longest], edges[longest + 1]], axis=1)


def _tiles(start: IntArray, stop: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Cut ranges into tiles, none over the end of a range; a tile that is not full repeats its first number.

    Returns the numbers of each tile `[M, size]`, and which of these are padding.
    """
    size = _tile_size(stop - start)
    num_tiles = -(-(stop - start) // size)
    nth = np.arange(num_tiles.sum()) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    first = (np.repeat(start, num_tiles) + nth * size)[:, None]
    numbers = first + np.arange(size)
    padding = numbers >= np.repeat(stop, num_tiles)[:, None]
    return np.where(padding, first, numbers), padding


def _tile_size(lengths: IntArray) -> int:
    """The size of tiles with which column ranges of these lengths cost least."""
    num_tiles = -(-lengths // TILE_SIZES[:, None])
    costs = num_tiles.sum(axis=1) * (TILE_SIZES + TILE_COST)
    return int(TILE_SIZES[np.argmin(costs)])
