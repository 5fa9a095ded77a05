"""How the plain backends read a group's columns: a few long slices of the pool, and short tiles gathered at once.

A query is turned once per (row, run). Columns that lie side by side in memory and belong to one run need no copy: the
longest stretches are read as slices. All others, hundreds of published steps perhaps, are cut into tiles of equal
length and gathered in one batched operation, so that nothing loops over blocks or pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hogwild.core.blocks import IntArray
from hogwild.core.plan import GroupPlan

TILE = 32
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
    """The columns of a group, in reading order: those of each slice, then those of each tile (padded to `TILE`).

    C' columns in all. A padding column repeats a slot that was written and carries a `column_index` past every limit,
    so that it is masked and never reads memory that nobody wrote.
    """

    slices: tuple[Slice, ...]
    tile_run: IntArray  # [M] the run of each tile
    tile_slots: IntArray  # [M * TILE] slots to gather
    column_run: IntArray  # [C'] the run of each column
    column_index: IntArray  # [C'] the column's index within its run

    @property
    def num_columns(self) -> int:
        """C', padding included."""
        return len(self.column_run)


PADDING = np.iinfo(np.int64).max


def cut(group: GroupPlan) -> Tiles:
    """Choose the slices and tiles for one group."""
    run = np.repeat(np.arange(group.num_runs), np.diff(group.run_start))
    stretches = _longest_stretches(group, run)
    slices = tuple(
        Slice(int(group.column_slots[a]), int(group.column_slots[b - 1]) + 1, int(run[a])) for a, b in stretches
    )
    rest = np.ones(group.num_columns, dtype=bool)
    for a, b in stretches:
        rest[a:b] = False
    index = np.arange(group.num_columns) - group.run_start[run]
    tile_run, tile_slots, tile_index = _tiles(group.column_slots[rest], run[rest], index[rest])
    return Tiles(
        slices=slices,
        tile_run=tile_run,
        tile_slots=tile_slots,
        column_run=np.concatenate([*(run[a:b] for a, b in stretches), np.repeat(tile_run, TILE)]),
        column_index=np.concatenate([*(index[a:b] for a, b in stretches), tile_index]),
    )


def _longest_stretches(group: GroupPlan, run: IntArray) -> list[tuple[int, int]]:
    """Column ranges that are one run and lie side by side in the pool: the longest few, in order."""
    slots = group.column_slots
    breaks = np.flatnonzero((np.diff(slots) != 1) | (np.diff(run) != 0)) + 1
    edges = np.concatenate([[0], breaks, [len(slots)]])
    lengths = np.diff(edges)
    longest = np.argsort(-lengths, kind="stable")[:MAX_SLICES]
    return [(int(edges[i]), int(edges[i + 1])) for i in np.sort(longest) if lengths[i] >= MIN_SLICE]


def _tiles(slots: IntArray, run: IntArray, index: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Cut columns into tiles of one run each; returns the tiles' runs, slots and indices, padded to `TILE`."""
    if not len(slots):
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty
    new_run = np.concatenate([[True], np.diff(run) != 0])
    first = np.flatnonzero(new_run)
    within = np.arange(len(slots)) - first[np.cumsum(new_run) - 1]
    new_tile = within % TILE == 0
    tile = np.cumsum(new_tile) - 1
    place = tile * TILE + within % TILE
    num_tiles = int(tile[-1]) + 1
    tile_slots = np.repeat(slots[new_tile], TILE)
    tile_slots[place] = slots
    tile_index = np.full(num_tiles * TILE, PADDING)
    tile_index[place] = index
    return run[new_tile], tile_slots, tile_index
