"""The order in which the keys of a block are read: span by span, and in each span those of one shift side by side.

A key's *shift* is its rotary position less its index: how much further a query is turned for it than for the block.
Keys of one shift are asked by the same query, whatever steps they belong to, so hundreds of published steps are read as
few long runs. Softmax knows no order; each key carries its index, by which it is seen or not. A full span is listed
once and for all: what is published later moves nothing in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import Int32Array, IntArray

SPAN = 1024
"""Keys that are sorted together: as long as positions go on, see `blocks.PERIOD`; longer ones save few runs."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The n keys of a block in N runs; within a run they have one shift and ascending indices."""

    slots: Int32Array  # [n] where the K/V of each key lies in the pool
    index: Int32Array  # [n] index in the block of each key
    run_starts: IntArray  # [N] place in this list of each run's first key
    run_shifts: IntArray  # [N]

    def __len__(self) -> int:
        return len(self.slots)

    def cut(self, length: int) -> Listing:
        """Without the spans that hold anything but the block's first `length` tokens."""
        end = min(length, len(self)) // SPAN * SPAN
        runs = int(self.run_starts.searchsorted(end))
        return Listing(self.slots[:end], self.index[:end], self.run_starts[:runs], self.run_shifts[:runs])


_NO_SLOTS, _NO_RUNS = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
NOTHING = Listing(_NO_SLOTS, _NO_SLOTS, _NO_RUNS, _NO_RUNS)


def list_keys(slots: Int32Array, starts: IntArray, shifts: IntArray, known: Listing = NOTHING) -> Listing:
    """List the keys of a block.

    slots: [n] those of its tokens. starts, shifts: `[m]` the index of the first token of each of the block's runs, and
    the run's shift. known: a listing of the same block when it was shorter; its full spans are taken over.
    """
    if len(starts) < 2:
        return Listing(slots, np.arange(len(slots), dtype=np.int32), starts, shifts)
    done = known.cut(len(slots))
    first, counts, shift = _pieces(starts, shifts, len(done), len(slots))
    ends = counts.cumsum()
    begins = ends - counts
    index = np.arange(ends[-1]) + (first - begins).repeat(counts)
    before = done.run_shifts[-1:]
    is_new = np.diff(shift, prepend=before if len(before) else shift[0] - 1) != 0
    return Listing(
        slots=np.concatenate([done.slots, slots.take(index)]),
        index=np.concatenate([done.index, index], dtype=np.int32),
        run_starts=np.concatenate([done.run_starts, begins[is_new] + len(done)]),
        run_shifts=np.concatenate([done.run_shifts, shift[is_new]]),
    )


def _pieces(starts: IntArray, shifts: IntArray, begin: int, end: int) -> tuple[IntArray, IntArray, IntArray]:
    """Tokens `begin..end` cut at runs and spans, and sorted: first tokens, how many, and shifts, `[pieces]` each."""
    run = int(starts.searchsorted(begin, side="right")) - 1
    first = np.union1d(starts[run + 1 :], np.arange(begin, end, SPAN))
    shift = shifts[starts.searchsorted(first, side="right") - 1]
    order = np.lexsort((shift, first // SPAN))
    counts: NDArray[Any] = np.diff(first, append=end)
    return first[order], counts[order], shift[order]
