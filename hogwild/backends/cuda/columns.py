"""How a group's keys are read: stretches of the pool as they lie in memory, and short leftovers gathered at once.

The pool is seen as tiles of 16 slots. Softmax has no order, so the columns are sorted by slot: steps that several
workers wrote in turns and published one after the other are then one stretch of memory, whatever their order in the
common block, and are read without a copy. A tile is listed for each run that has keys in it, so one turned query serves
it each time; runs for which queries are turned alike count as one. A stretch also covers slots that nobody may read:
they are masked, and the pool keeps its values finite there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.core.blocks import IntArray
from hogwild.core.plan import GroupPlan
from hogwild.core.tiles import PADDING

TILE = 16
MIN_TILES = 8  # shorter stretches are gathered, unless there are only few in all
MAX_STRETCHES = 4  # of one run, and as many of several runs
MAX_GAP = 3  # tiles of no use that a stretch may bridge


@dataclass(frozen=True, slots=True)
class Stretch:
    """The pool's slots `start..stop`, whole tiles; `uniform` when all of them are asked by one query."""

    start: int
    stop: int
    uniform: bool

    @property
    def num_pieces(self) -> int:
        """Parts that each want a turned query of their own."""
        return 1 if self.uniform else (self.stop - self.start) // TILE


@dataclass(frozen=True, slots=True)
class Columns:
    """C' columns: those of each stretch (uniform ones first), then those of each gathered tile; P pieces in that order.

    Columns that hold no key of the group carry a `column_index` past every limit.
    """

    stretches: tuple[Stretch, ...]
    gathered: IntArray  # [M] numbers of the tiles to gather
    piece_run: IntArray  # [P] a run that is asked as each uniform stretch is, then as each tile
    column_run: IntArray  # [C'] the run of each column
    column_index: IntArray  # [C'] the column's index within its run


def find_columns(group: GroupPlan) -> Columns:
    """Choose the stretches and the tiles to gather for one group."""
    run = np.repeat(np.arange(group.num_runs), np.diff(group.run_start))
    tiles = _Tiles(group.column_slots.astype(np.int64), group.runs.alike[run], group.num_runs)
    uniform = tiles.longest(tiles.number, same_run=True)
    rest = np.ones(len(tiles.number), dtype=bool)
    for a, b in uniform:
        rest[a:b] = False
    left = np.flatnonzero(rest)
    mixed = [(int(left[a]), int(left[b - 1]) + 1) for a, b in tiles.longest(tiles.number[left], same_run=False)]
    for a, b in mixed:
        rest[a:b] = False
    return _lay_out(group, run, tiles, uniform, mixed, np.flatnonzero(rest))


class _Tiles:
    """The tiles that hold keys of the group, once for each run (those that are asked alike are one) and each repetition
    of a block in a view.

    `number` is the tile's number in the pool, ascending; plus a large step for each repetition, and for each other run
    that has keys in the tile: short steps share tiles, and their second and third runs make stretches of their own.
    """

    def __init__(self, slots: IntArray, run: IntArray, num_runs: int) -> None:
        step = int(slots.max()) // TILE + MAX_GAP + 2
        key = (_repetition(slots) * step + slots // TILE) * num_runs + run
        keys, of_column = np.unique(key, return_inverse=True)
        number = keys // num_runs
        nth = np.arange(len(number)) - number.searchsorted(number)
        number += nth * (number[-1] // step + 1) * step
        order = number.argsort()
        self.number, self.run = number[order], keys[order] % num_runs
        self.of_column = order.argsort()[of_column]
        self.tile = self.number % step

    def longest(self, number: IntArray, *, same_run: bool) -> list[tuple[int, int]]:
        """Ranges of `number` that lie side by side, or nearly so: the longest few that are long enough."""
        step = np.diff(number)
        breaks = (step != 1) | (np.diff(self.run) != 0) if same_run else (step < 1) | (step > MAX_GAP + 1)
        edges = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(number)]])
        lengths = np.diff(edges)
        chosen = np.sort(np.argsort(-lengths, kind="stable")[:MAX_STRETCHES])
        least = MIN_TILES if len(lengths) > MAX_STRETCHES else 1
        return [(int(edges[i]), int(edges[i + 1])) for i in chosen if lengths[i] >= least]


def _repetition(slots: IntArray) -> IntArray:
    """How often each slot stood further left: 0 but for blocks that are repeated or share pages."""
    order = np.argsort(slots, kind="stable")
    place = np.arange(len(slots))
    new = np.concatenate([[True], np.diff(slots[order]) != 0])
    repetition = np.empty_like(slots)
    repetition[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return repetition


def _lay_out(
    group: GroupPlan,
    run: IntArray,
    tiles: _Tiles,
    uniform: list[tuple[int, int]],
    mixed: list[tuple[int, int]],
    gathered: IntArray,
) -> Columns:
    base = np.empty(len(tiles.number), dtype=np.int64)  # first column of each tile
    stretches, piece_run, column = [], [], 0
    for a, b in [*uniform, *mixed]:
        first, last = int(tiles.tile[a]), int(tiles.tile[b - 1])
        stretch = Stretch(first * TILE, (last + 1) * TILE, uniform=(a, b) in uniform)
        base[a:b] = column + (tiles.tile[a:b] - first) * TILE
        piece_run.append(_runs_of_pieces(stretch, tiles, a, b))
        stretches.append(stretch)
        column += stretch.stop - stretch.start
    base[gathered] = column + np.arange(len(gathered)) * TILE
    piece_run.append(tiles.run[gathered])
    place = base[tiles.of_column] + group.column_slots % TILE
    total = column + len(gathered) * TILE
    return Columns(
        stretches=tuple(stretches),
        gathered=tiles.tile[gathered],
        piece_run=np.concatenate(piece_run),
        column_run=_scattered(np.zeros(total, dtype=np.int64), place, run),
        column_index=_scattered(np.full(total, PADDING), place, np.arange(group.num_columns) - group.run_start[run]),
    )


def _runs_of_pieces(stretch: Stretch, tiles: _Tiles, a: int, b: int) -> IntArray:
    runs = np.full(stretch.num_pieces, tiles.run[a])
    if not stretch.uniform:
        runs[tiles.tile[a:b] - tiles.tile[a]] = tiles.run[a:b]
    return runs


def _scattered(target: NDArray[np.int64], place: IntArray, values: IntArray) -> IntArray:
    target[place] = values
    return target
