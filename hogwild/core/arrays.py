"""Arrays of whole numbers: their names, and one that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

IntArray: TypeAlias = NDArray[np.int64]
Int32Array: TypeAlias = NDArray[np.int32]


_NUMBERS = np.arange(1 << 14, dtype=np.int32)
_NUMBERS.flags.writeable = False


def count_to(length: int) -> Int32Array:
    """0, 1 .. length - 1; without work for as many tokens as a block usually has."""
    return _NUMBERS[:length] if length <= len(_NUMBERS) else np.arange(length, dtype=np.int32)


class IntBuffer:
    """A growing array of integers: appending is amortised O(1), reading is a view without a copy."""

    __slots__ = ("_data", "_length", "_view")

    def __init__(self, values: Sequence[int] | NDArray[Any] = (), dtype: DTypeLike = np.int64) -> None:
        self._data = np.array(values, dtype=dtype)
        self._length = len(self._data)
        self._view: NDArray[Any] | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def array(self) -> NDArray[Any]:
        """The values, as a read-only view that is valid until the next change."""
        if self._view is None:  # most blocks do not change between two passes, and a plan asks all of them
            self._view = self._data[: self._length]
            self._view.flags.writeable = False
        return self._view

    @property
    def last(self) -> int:
        """The last value; there must be one."""
        return int(self._data[self._length - 1])

    def extend(self, values: Sequence[int] | NDArray[Any]) -> None:
        """Append `values`."""
        end = self._length + len(values)
        if end > len(self._data):
            grown = np.empty(max(end, 2 * len(self._data), 16), dtype=self._data.dtype)
            grown[: self._length] = self._data[: self._length]
            self._data = grown
        self._data[self._length : end] = values
        self._length, self._view = end, None

    def push(self, value: int) -> None:
        """Append one value."""
        if self._length == len(self._data):
            self.extend((value,))
        else:
            self._data[self._length] = value
            self._length, self._view = self._length + 1, None

    def truncate(self, length: int) -> None:
        """Forget everything from `length` on."""
        self._length, self._view = min(self._length, length), None

    def copy(self) -> IntBuffer:
        """Another one with the same values."""
        return IntBuffer(self.array, self._data.dtype)
