"""What the plans of one session have in common from pass to pass: its views, and the runs of their blocks.

While workers only write, a pass differs from the last one in a few lengths: runs are listed again only when a step was
published, cut or begun. And when a worker begins a step in a new block, views keep their `Shape`: the order in which
blocks stand in them, whichever blocks they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.blocks import Block

UNSEEN = -(1 << 30)  # the turn of a block that a row does not read: every key of it lies in the future
_BESIDE_LENGTHS = np.array([0, UNSEEN, -UNSEEN])  # of an empty block; what a row's sums begin with, and what ends that
Views: TypeAlias = tuple[tuple[Block, ...], ...]
_T = TypeVar("_T")
_N = TypeVar("_N", bound=np.integer[Any])
_A = TypeVar("_A", bound=NDArray[Any])


class Kept:
    """What was made of arrays that never change: made once, and again when it is asked for by another key."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Hashable, Any]] = {}

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        """Another process makes anew what it needs."""
        return Kept, ()

    def __call__(self, what: str, key: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gives; the same again, without a call, while it is asked for with the same `key`."""
        known = self._made.get(what)
        if known is None or known[0] != key:
            known = self._made[what] = key, make()
        value: _T = known[1]
        return value


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of some blocks as they are listed (`Block.listed`), one block after the other: N in all.."""

    counts: IntArray  # [B] how many runs each block has
    start: IntArray  # [N] place in its block's list of the run's first key
    shift: IntArray  # [N] how much further a query is turned for a run than for its block as a whole
    kept: Kept = field(default_factory=Kept)  # of these runs

    def __reduce__(self) -> tuple[type[Runs], tuple[IntArray, ...]]:
        """Another process derives anew what it needs."""
        return Runs, (self.counts, self.start, self.shift)

    @cached_property
    def block(self) -> IntArray:
        """`[N]` the block of each run."""
        return self.of_each(np.arange(len(self.counts)))

    @cached_property
    def largest_shift(self) -> int:
        """The largest of `|shift|`."""
        shift = np.abs(self.shift)
        return int(shift[shift.argmax()])

    def of_each(self, of_blocks: _A) -> _A:
        """`[.., N]` from `[.., B]`: what is given for each block, for each of its runs."""
        return of_blocks.repeat(self.counts, axis=-1)  # type: ignore[return-value]


class Shape:
    """R views as numbers of their blocks: in which order they stand, whichever they are.

    A block that stands twice in one view is listed twice: B in all, in the order in which they first appear.

    Attributes:
        listed: the number of each listed block, [B].
        indices: each view as indices of these.
        own: the index of each row's own block, [R].
        kept: what depends on the rows of tokens alone.
    """

    def __init__(self, views: tuple[tuple[int, ...], ...]) -> None:
        appearances = [_appearances(view) for view in views]
        index = {nth: i for i, nth in enumerate(dict.fromkeys(chain.from_iterable(appearances)))}
        self.listed = [number for number, _ in index]
        self.indices = [[index[nth] for nth in view] for view in appearances]
        self.own = np.array([view[-1] for view in self.indices])
        # From the own block backwards. Shorter views go on with an empty block, so that all rows are computed at once.
        rows, width = np.arange(len(views)), max(map(len, views)) - 1
        empty, unseen, zero = range(len(index), len(index) + 3)  # see `turns`
        before = [view[-2::-1] + [empty] * (width + 1 - len(view)) for view in self.indices]
        self._summed = np.array([[unseen, zero, *view] for view in before])  # [R, 2 + width]
        place = np.zeros((len(rows), len(index) + 3), dtype=np.int64)
        place[rows[:, None], self._summed] = np.arange(2 + width)
        place[rows, self.own] = 1
        self._place = place[:, :-3] + rows[:, None] * (2 + width)  # [R, B] in the sums of `turns`
        self._counts: list[int] = []
        self.kept = Kept()

    def turns(self, lengths: IntArray) -> IntArray:
        """`[R, B]` for blocks of these lengths: `start_w(own) - start_w(b)` for row w and block b, or UNSEEN."""
        # The sums of a row: of a block that is not seen, of the own one, of the block before that and so on.
        sums = np.concatenate((lengths, _BESIDE_LENGTHS)).take(self._summed).cumsum(axis=1)
        return sums.take(self._place)

    def place(self, lengths: IntArray, counts: list[int]) -> tuple[IntArray, IntArray]:
        """`[T]` each: the row of each new token, and its index in its own block.

        The rows brought `counts` tokens, with which the blocks have these lengths.
        """
        if counts != self._counts:
            given, ends = np.array(counts), np.cumsum(counts)
            self._counts, self._token_row = counts, np.arange(len(counts)).repeat(given)
            self._token_own = self.own[self._token_row]
            self._from_end = np.arange(ends[-1]) - ends[self._token_row]
        return self._token_row, lengths.take(self._token_own) + self._from_end


def _appearances(view: tuple[int, ...]) -> list[tuple[int, int]]:
    """The blocks of a view; beside the nth appearance of the same one stands n, from 0."""
    return [(number, view[:i].count(number)) for i, number in enumerate(view)]


class Frame:
    """The views of R rows, their shape, and their blocks as they are."""

    def __init__(self, views: Views, shape_of: Callable[[tuple[tuple[int, ...], ...]], Shape] = Shape) -> None:
        """`shape_of` makes shapes, or remembers them."""
        number: defaultdict[Block, int] = defaultdict()
        number.default_factory = number.__len__
        self.views = views
        self.shape = shape_of(tuple([tuple(map(number.__getitem__, view)) for view in views]))
        blocks = list(number)
        self._listed = [blocks[i] for i in self.shape.listed]
        self._versions: tuple[int, ...] = ()

    def list_runs(self) -> tuple[Runs, IntArray, Int32Array, Int32Array]:
        """Runs, lengths `[B]`, slots and indices `[C]` of the listed blocks as they are now; sets `origins`.

        The runs are the same object while no block's runs have changed.
        """
        slots, index, starts, shifts, versions = zip(*[block.listed() for block in self._listed], strict=True)
        if versions != self._versions:
            counts = np.array(list(map(len, starts)))
            self._versions, self._runs = versions, Runs(counts, _joined(starts, np.int64), _joined(shifts, np.int64))
            self.origins = np.array([view[-1].origin for view in self.views])  # [R] of the own blocks
        return self._runs, np.array(list(map(len, slots))), _joined(slots, np.int32), _joined(index, np.int32)


def _joined(arrays: Iterable[Any], dtype: type[_N]) -> NDArray[_N]:
    """Their concatenation; of many short ones in half of the time that `np.concatenate` takes."""
    return np.frombuffer(bytearray().join(arrays), dtype=dtype)
