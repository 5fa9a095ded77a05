"""Columns of a group in tiles whose places are fixed within their runs.

The first 64 keys of a run are cut into tiles of 16, so that short steps need little padding, all others into tiles of
64. So the length of a run, who reads it and where its pages lie change no tile: what a token adds up in one product
follows from its view, and from the positions at which that was stored. Few tiles in a row that lie side by side in
memory are read in place; bits do not depend on that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.plan import GroupPlan
from hogwild.core.tiles import MAX_SLICES, PADDING

SHORT, LONG = 16, 64
MIN_TILES = 2  # side by side in memory, to be read in place


@dataclass(frozen=True, slots=True)
class Tiles:
    """M tiles of one size. A padding column repeats the first of its tile: memory that nobody wrote is never read."""

    run: IntArray  # [M] the run of each tile
    index: Int32Array  # [M, size] the index of each column's key in its block, `PADDING` past the end of the run
    slots: Int32Array  # [M, size] where K/V lie in the pool
    in_place: bool = False  # one run, and slots side by side

    def __len__(self) -> int:
        return len(self.run)

    def __getitem__(self, which: IntArray) -> Tiles:
        """Some of the tiles; those of one stretch must stay neighbours."""
        return replace(self, run=self.run[which], index=self.index[which], slots=self.slots[which])

    @property
    def turning_run(self) -> IntArray:
        """`[M]`, or `[1]` where one turn of a query serves all tiles: the runs to turn for."""
        return self.run[:1] if self.in_place else self.run


def cut(group: GroupPlan) -> list[Tiles]:
    """All columns of the group; M > 0 in each part."""
    lengths = np.diff(group.run_start)
    short = _tiles(group, np.zeros_like(lengths), np.minimum(lengths, LONG), SHORT)
    others, in_place = _in_place(_tiles(group, np.full_like(lengths, LONG), lengths, LONG))
    return [part for part in (short, others, *in_place) if len(part)]


def _tiles(group: GroupPlan, start: IntArray, stop: IntArray, size: int) -> Tiles:
    """The keys `start..stop` of each run, in tiles of one size."""
    counts = np.maximum(-(-(stop - start) // size), 0)
    run = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = (start[run] + nth * size)[:, None]
    place = first + np.arange(size)
    is_padding = place >= stop[run][:, None]
    columns = group.run_start[run][:, None] + np.where(is_padding, first, place)
    return Tiles(run, np.where(is_padding, PADDING, group.column_index[columns]), group.column_slots[columns])


def _in_place(tiles: Tiles) -> tuple[Tiles, list[Tiles]]:
    """The longest stretches that lie side by side in memory, few of them, after all other tiles."""
    slots, run = tiles.slots, tiles.run
    is_broken = (np.diff(slots, axis=1) != 1).any(axis=1)
    is_edge = np.concatenate([is_broken, [True]])
    is_edge[1:] |= is_edge[:-1]
    is_edge[0] = True
    is_edge[1:-1] |= (slots[1:, 0] != slots[:-1, -1] + 1) | (run[1:] != run[:-1])
    edges = np.flatnonzero(is_edge)
    lengths = np.diff(edges)
    longest = [i for i in np.argsort(-lengths, kind="stable")[:MAX_SLICES] if lengths[i] >= MIN_TILES]
    stretches = [np.arange(edges[i], edges[i + 1]) for i in longest]
    others = np.setdiff1d(np.arange(len(tiles)), np.concatenate([[], *stretches]))
    return tiles[others], [replace(tiles[which], in_place=True) for which in stretches]
