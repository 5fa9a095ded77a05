"""The order in which the keys of a block are read: span by span, and in each span those of one shift side by side.

A key's *shift* is its rotary position less its index: how much further a query is turned for it than for the block.
Keys of one shift are asked by the same query, whatever steps they belong to, so many published steps are read as few
long runs. Softmax knows no order; each key carries its index, by which it is seen or not. A full span is listed once
and for all: what is published later moves nothing in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray, IntBuffer

SPAN = 1024
"""Keys that are sorted together: as long as positions go on, see `blocks.PERIOD`; longer ones save few runs."""


class Listed(NamedTuple):
    """The n keys of a block in N runs; within a run they have one shift and ascending indices."""

    slots: Int32Array  # [n] where the K/V of each key lies in the pool
    indices: Int32Array  # [n] where each key stands in the block
    run_starts: IntArray  # [N] place in this order of each run's first key
    run_shifts: IntArray  # [N]
    version: int  # another one where runs differ, apart from a last one that only grew


class Listing:
    """What was listed of a block that has several runs."""

    __slots__ = ("_index", "_run_shift", "_run_start", "_slots")

    def __init__(self) -> None:
        self._slots, self._index = IntBuffer(dtype=np.int32), IntBuffer(dtype=np.int32)
        self._run_start, self._run_shift = IntBuffer(), IntBuffer()

    def forget(self, length: int) -> None:
        """Forget the spans that hold anything but the block's first `length` tokens."""
        end = min(length, len(self._slots)) // SPAN * SPAN
        runs = int(self._run_start.array.searchsorted(end))
        for buffer, kept in ((self._slots, end), (self._index, end), (self._run_start, runs), (self._run_shift, runs)):
            buffer.truncate(kept)

    def update(self, slots: Int32Array, starts: IntArray, positions: IntArray, version: int) -> Listed:
        """List the keys of a block that has grown; valid until the next call.

        slots: `[m]` those of its tokens. starts, positions: index and position of the first token of each of its runs.
        """
        if len(slots) != len(self._slots):
            self.forget(len(slots))
            for begin in range(len(self._slots), len(slots), SPAN):
                self._add_span(slots, starts, positions, begin)
        arrays = self._slots.array, self._index.array, self._run_start.array, self._run_shift.array
        return Listed(*arrays, version)

    def _add_span(self, slots: Int32Array, starts: IntArray, positions: IntArray, begin: int) -> None:
        end = min(begin + SPAN, len(slots))
        runs = slice(int(starts.searchsorted(begin, side="right")) - 1, int(starts.searchsorted(end)))
        first, shift = starts[runs], positions[runs] - starts[runs]
        edges = np.empty(len(first) + 1, dtype=np.int64)
        edges[:-1] = first
        edges[0], edges[-1] = begin, end
        order = shift.argsort(kind="stable")
        first, counts, shift = edges.take(order), (edges[1:] - edges[:-1]).take(order), shift.take(order)
        place = begin + counts.cumsum() - counts
        index = (first - place).repeat(counts) + np.arange(begin, end)
        is_new = np.ones(len(shift), dtype=np.bool_)
        np.not_equal(shift[1:], shift[:-1], out=is_new[1:])
        is_new[0] = begin == 0 or shift[0] != self._run_shift.last
        self._slots.extend(slots.take(index))
        self._index.extend(index)
        self._run_start.extend(place[is_new])
        self._run_shift.extend(shift[is_new])
