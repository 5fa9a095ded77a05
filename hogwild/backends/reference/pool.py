"""The K/V pool: for each layer `[kv_heads, slots, D]`, so that a head's neighbouring slots are a matrix in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core.blocks import IntArray
from hogwild.errors import PoolExhausted

Array = NDArray[Any]


class KVPool:
    """Keys and values of all layers.

    fill: what new memory holds until it is written, None for whatever was there. Tests give NaN: nothing may read it.
    """

    def __init__(
        self, num_layers: int, num_kv_heads: int, head_dim: int, dtype: np.dtype[Any], fill: float | None = None
    ) -> None:
        self._shape = (num_kv_heads, head_dim)
        self._dtype, self._fill = dtype, fill
        self.num_slots = 0
        self.keys: list[Array] = [self._new(0) for _ in range(num_layers)]
        self.values: list[Array] = [self._new(0) for _ in range(num_layers)]

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
        self.keys[layer][:, slots] = keys
        self.values[layer][:, slots] = values

    def _new(self, num_slots: int) -> Array:
        shape = (self._shape[0], num_slots, self._shape[1])
        return np.empty(shape, self._dtype) if self._fill is None else np.full(shape, self._fill, self._dtype)

    def _grown(self, array: Array, num_slots: int) -> Array:
        larger = self._new(num_slots)
        larger[:, : array.shape[1]] = array
        return larger
