"""The order in which the keys of a block are read: span by span, and in each span those of one shift side by side.

A key's *shift* is its rotary position less its index: how much further a query is turned for it than for the block.
Keys of one shift are asked by the same query, whatever steps they belong to, so many published steps are read as few
long runs. Softmax knows no order; each key carries its index, by which it is seen or not. A full span is listed once
and for all: what is published later moves nothing in it.
"""

from __future__ import annotations

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray, IntBuffer

SPAN = 1024
"""Keys that are sorted together: as long as positions go on, see `blocks.PERIOD`; longer ones save few runs."""


class Listing:
    """The n keys of a block in N runs; within a run they have one shift and ascending indices."""

    __slots__ = ("_index", "_run_shift", "_run_start", "_slots")

    def __init__(self) -> None:
        self._slots, self._index = IntBuffer(dtype=np.int32), IntBuffer(dtype=np.int32)
        self._run_start, self._run_shift = IntBuffer(), IntBuffer()

    @property
    def keys(self) -> tuple[Int32Array, Int32Array]:
        """Where the K/V of each key lies in the pool, and its index in the block, `[n]` each."""
        return self._slots.array, self._index.array

    @property
    def runs(self) -> tuple[IntArray, IntArray]:
        """The place of each run's first key in this order, and the run's shift, `[N]` each."""
        return self._run_start.array, self._run_shift.array

    def forget(self, length: int) -> None:
        """Forget the spans that hold anything but the block's first `length` tokens."""
        end = min(length, len(self._slots)) // SPAN * SPAN
        runs = int(self._run_start.array.searchsorted(end))
        for buffer, kept in ((self._slots, end), (self._index, end), (self._run_start, runs), (self._run_shift, runs)):
            buffer.truncate(kept)

    def update(self, slots: Int32Array, starts: IntArray, positions: IntArray) -> None:
        """List the keys of a block that has grown.

        slots: `[m]` those of its tokens. starts, positions: index and position of the first token of each of its runs.
        """
        if len(slots) != len(self._slots):
            self.forget(len(slots))
            for begin in range(len(self._slots), len(slots), SPAN):
                self._add_span(slots, starts, positions, begin)

    def _add_span(self, slots: Int32Array, starts: IntArray, positions: IntArray, begin: int) -> None:
        end = min(begin + SPAN, len(slots))
        runs = slice(int(starts.searchsorted(begin, side="right")) - 1, int(starts.searchsorted(end)))
        edges = np.append(starts[runs], end)
        edges[0] = begin
        shift = positions[runs] - starts[runs]
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
