"""The K/V pool: for each layer `[kv_heads, slots, D]`, so that a head's neighbouring slots are a matrix in place.

In 8 bits the pool holds codes and scales; what is read are the numbers that they stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import IntArray
from hogwild.core.quantized import Quantized, quantize, vector_bytes
from hogwild.errors import PoolExhausted

Array = NDArray[Any]
Stored = Array | Quantized  # `[kv_heads, slots]` vectors; indexed by these axes it gives numbers


class KVPool:
    """Keys and values of all layers.

    fill: what new memory holds until it is written, None for whatever was there. Tests give NaN: nothing may read it.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: np.dtype[Any],
        fill: float | None = None,
        kv_dtype: str = "auto",
    ) -> None:
        self._shape = (num_kv_heads, head_dim)
        self._dtype, self._fill, self._in_8_bits = dtype, fill, kv_dtype == "int8"
        self.num_slots = 0
        self.keys = [self._new(0) for _ in range(num_layers)]
        self.values = [self._new(0) for _ in range(num_layers)]

    @property
    def bytes_per_token(self) -> int:
        """K and V of all layers."""
        kv_heads, dim = self._shape
        return 2 * len(self.keys) * kv_heads * (vector_bytes(dim) if self._in_8_bits else dim * self._dtype.itemsize)

    def reserve(self, num_slots: int) -> None:
        """Hold at least `num_slots` slots; what was written stays. `PoolExhausted` leaves the pool as it was."""
        if num_slots <= self.num_slots:
            return
        try:
            grown = [[self._grown(array, num_slots) for array in arrays] for arrays in (self.keys, self.values)]
        except MemoryError as error:
            raise PoolExhausted(
                "the machine has no memory for a larger K/V pool",
                expected=f"room for {num_slots} tokens",
                got=f"{self.num_slots} tokens are held",
                remedy="limit the cache, or use shorter contexts or fewer workers",
            ) from error
        self.keys, self.values = grown
        self.num_slots = num_slots

    def write(self, layer: int, slots: IntArray, keys: Array, values: Array) -> None:
        """Store `keys`, `values [kv_heads, T, D]` in `slots [T]`."""
        _store(self.keys[layer], slots, keys)
        _store(self.values[layer], slots, values)

    def _new(self, num_slots: int) -> Stored:
        shape = (self._shape[0], num_slots, self._shape[1])
        if self._in_8_bits:
            return Quantized(np.empty(shape, np.int8), self._memory(shape[:2], np.dtype(np.float32)))
        return self._memory(shape, self._dtype)

    def _memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.empty(shape, dtype) if self._fill is None else np.full(shape, self._fill, dtype)

    def _grown(self, old: Stored, num_slots: int) -> Stored:
        larger = self._new(num_slots)
        for new, array in zip(_arrays(larger), _arrays(old), strict=True):
            new[:, : array.shape[1]] = array
        return larger


def _store(pool: Stored, slots: IntArray, x: Array) -> None:
    given = quantize(x) if isinstance(pool, Quantized) else x
    for target, array in zip(_arrays(pool), _arrays(given), strict=True):
        target[:, slots] = array


def _arrays(stored: Stored) -> tuple[Array, ...]:
    return (stored.codes, stored.scales) if isinstance(stored, Quantized) else (stored,)
