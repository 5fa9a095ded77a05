"""The K/V pool: for each layer the keys, and the values, of every slot.

Rows stand head by head: row `h * num_slots + s` holds head h of slot s. So a stretch of slots is, for each head, a
matrix that MLX multiplies without copying it (measured: with slots first the products are two to four times slower on a
CPU), and single slots are written and gathered as whole rows. Writing changes the arrays in place: MLX donates an array
to which nothing else refers, so a write costs O(new tokens) whatever the pool's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import LayerSpec
from hogwild.core.blocks import IntArray
from hogwild.errors import PoolExhausted


class SlotRows:
    """Slots as row numbers of the pool's arrays, made once per pass for each number of heads."""

    def __init__(self, slots: IntArray, num_slots: int) -> None:
        self._slots, self._num_slots = slots, num_slots
        self._rows: dict[int, mx.array] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def of(self, num_heads: int) -> mx.array:
        """`[num_heads * n]` int32, head by head."""
        if num_heads not in self._rows:
            rows = np.arange(num_heads)[:, None] * self._num_slots + self._slots
            self._rows[num_heads] = mx.array(rows.reshape(-1).astype(np.int32))
        return self._rows[num_heads]


class KVPool:
    """K and V of every layer."""

    def __init__(self, layers: Sequence[LayerSpec], dtype: Any) -> None:
        self._layers = layers
        self._dtype = dtype
        self.num_slots = 0
        self._keys: list[mx.array] = []  # [kv_heads * slots, Dk] of each layer
        self._values: list[mx.array] = []  # [kv_heads * slots, Dv]

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token in all layers."""
        return int(self._dtype.size) * sum(x.num_kv_heads * (x.key_dim + x.value_dim) for x in self._layers)

    def reserve(self, num_slots: int) -> None:
        """Grow to `num_slots`; raises `PoolExhausted` and changes nothing when the device has no room."""
        if num_slots <= self.num_slots:
            return
        try:
            keys = [self._grown(self._keys, i, num_slots, x.key_dim) for i, x in enumerate(self._layers)]
            values = [self._grown(self._values, i, num_slots, x.value_dim) for i, x in enumerate(self._layers)]
            mx.eval(keys, values)
        except (RuntimeError, MemoryError) as error:
            raise PoolExhausted(
                "the device has no room for a larger K/V pool",
                expected=f"{num_slots * self.bytes_per_token} bytes for {num_slots} tokens",
                got=str(error),
                remedy="lower the number of tokens, workers or concurrent problems",
            ) from error
        self._keys, self._values, self.num_slots = keys, values, num_slots

    def write(self, layer: int, keys: mx.array, values: mx.array, where: SlotRows) -> None:
        """Store `keys [kv_heads, T, Dk]` and `values [kv_heads, T, Dv]` in the T slots `where`.

        A token whose K or V is not finite gets NaN keys and zero values: whoever sees it gets NaN, through the scores;
        for whoever does not, the scores are masked, and no NaN reaches the sum over values.
        """
        keys, values = _contain_nan(keys, values)
        rows = where.of(keys.shape[0])
        self._keys[layer][rows] = keys.reshape(-1, keys.shape[-1])
        self._values[layer][rows] = values.reshape(-1, values.shape[-1])

    def heads(self, layer: int) -> tuple[mx.array, mx.array]:
        """A layer's K `[kv_heads, slots, Dk]` and V `[kv_heads, slots, Dv]`, without a copy."""
        num_heads = self._layers[layer].num_kv_heads
        keys, values = self._keys[layer], self._values[layer]
        return keys.reshape(num_heads, -1, keys.shape[-1]), values.reshape(num_heads, -1, values.shape[-1])

    def read(self, layer: int, slots: IntArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots."""
        where = SlotRows(slots, self.num_slots)

        def in_order(pool: mx.array) -> NDArray[np.float32]:
            return np.array(gather(pool, where).swapaxes(0, 1).astype(mx.float32))

        keys, values = self.heads(layer)
        return in_order(keys), in_order(values)

    def evaluate(self) -> None:
        """Compute everything that was written."""
        mx.eval(self._keys, self._values)

    def clear(self) -> None:
        """Let go of the arrays."""
        self._keys, self._values, self.num_slots = [], [], 0

    def _grown(self, pool: list[mx.array], layer: int, num_slots: int, dim: int) -> mx.array:
        num_heads = self._layers[layer].num_kv_heads
        room = mx.zeros((num_heads, num_slots - self.num_slots, dim), self._dtype)
        if pool:
            room = mx.concatenate([pool[layer].reshape(num_heads, -1, dim), room], axis=1)
        return room.reshape(-1, dim)


def gather(pool: mx.array, where: SlotRows) -> mx.array:
    """`[kv_heads, n, D]` of `pool [kv_heads, slots, D]`, row by row."""
    num_heads, _, dim = pool.shape
    return mx.take(pool.reshape(-1, dim), where.of(num_heads), axis=0).reshape(num_heads, -1, dim)


@partial(mx.compile, shapeless=True)
def _contain_nan(keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    total = keys.astype(mx.float32).sum(-1, keepdims=True) + values.astype(mx.float32).sum(-1, keepdims=True)
    good = mx.isfinite(total)
    nan, zero = mx.array(float("nan"), keys.dtype), mx.array(0.0, values.dtype)
    return mx.where(good, keys, nan), mx.where(good, values, zero)
