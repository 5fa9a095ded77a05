"""The K/V pool: for each layer the keys, and the values, of every slot.

Rows stand head by head: row `h * num_slots + s` holds head h of slot s. So a stretch of slots is, for each head, a
matrix that MLX multiplies without copying it (measured: with slots first the products are two to four times slower on a
CPU), and single slots are written and gathered as whole rows. Writing changes the arrays in place: MLX donates an array
to which nothing else refers, so a write costs O(new tokens) whatever the pool's size.

In 8 bits (`hogwild.core.quantized`) a row is its codes, and its scale in an array beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx.stored import Quantized, Stored, arrays, each, numbers, quantize
from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.quantized import vector_bytes
from hogwild.errors import PoolExhausted


class SlotRows:
    """Slots as row numbers of the pool's arrays, made once per pass for each number of heads."""

    def __init__(self, slots: IntArray | Int32Array, num_slots: int) -> None:
        self._slots, self._num_slots = slots, num_slots
        self._rows: dict[tuple[int, int | None], mx.array] = {}

    def of(self, num_heads: int, size: int | None = None) -> mx.array:
        """`[num_heads, n]` int32, head by head; with a size `[n / size, num_heads, size]`, so many slots at a time."""
        key = (num_heads, size)
        if key not in self._rows:
            slots = self._slots if size is None else self._slots.reshape(-1, 1, size)
            rows = np.arange(num_heads)[:, None] * self._num_slots + slots
            self._rows[key] = mx.array(rows.astype(np.int32))
        return self._rows[key]


class KVPool:
    """K and V of every layer, stored in `dtype`, or in 8 bits if kv_dtype is "int8".

    Where keys and values have as many features, they are one array, the heads of V after those of K: one write a layer.
    """

    def __init__(self, layers: Sequence[LayerSpec], dtype: Any, kv_dtype: str = "auto") -> None:
        self._layers = layers
        self._dtype, self._in_8_bits = dtype, kv_dtype == "int8"
        self.num_slots = 0
        self._rows: list[tuple[Stored, ...]] = []  # of each layer K and V: [2 * kv_heads * slots, D], or two arrays
        self._broken = [_broken(x.num_kv_heads, dtype) for x in layers]

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token in all layers."""
        return sum(x.num_kv_heads * (self._bytes(x.key_dim) + self._bytes(x.value_dim)) for x in self._layers)

    def _bytes(self, dim: int) -> int:
        return vector_bytes(dim) if self._in_8_bits else dim * int(self._dtype.size)

    def reserve(self, num_slots: int) -> None:
        """Grow to `num_slots`; raises `PoolExhausted` and changes nothing when the device has no room."""
        if num_slots <= self.num_slots:
            return
        try:
            rows = [self._grown(i, num_slots) for i in range(len(self._layers))]
            mx.eval([arrays(x) for of_layer in rows for x in of_layer])
        except (RuntimeError, MemoryError) as error:
            raise PoolExhausted(
                "the device has no room for a larger K/V pool",
                expected=f"{num_slots * self.bytes_per_token} bytes for {num_slots} tokens",
                got=str(error),
                remedy="lower the number of tokens, workers or concurrent problems",
            ) from error
        self._rows, self.num_slots = rows, num_slots
        mx.clear_cache()  # on a GPU MLX keeps what was outgrown

    def write(self, layer: int, keys: mx.array, values: mx.array, where: SlotRows) -> None:
        """Store `keys [T, kv_heads, 1, Dk]` and `values [T, kv_heads, 1, Dv]` in the T slots `where`.

        A token whose K or V is not finite gets NaN keys and zero values: whoever sees it gets NaN, through the scores;
        for whoever does not, the scores are masked, and no NaN reaches the sum over values.
        """
        pools = self._rows[layer]
        joined = len(pools) == 1
        given = [_joined_without_nan(keys, values, self._broken[layer])] if joined else _without_nan(keys, values)
        for pool, x in zip(pools, given, strict=True):
            _store(pool, x, where.of(x.shape[1], 1))

    def heads(self, layer: int) -> tuple[Stored, Stored]:
        """A layer's K `[kv_heads, slots, Dk]` and V `[kv_heads, slots, Dv]`, without a copy."""
        pools = [each(partial(_by_head, self.num_slots), x) for x in self._rows[layer]]
        if len(pools) == 2:
            return pools[0], pools[1]
        num_heads = self._layers[layer].num_kv_heads
        return each(partial(_some, slice(num_heads)), pools[0]), each(partial(_some, slice(num_heads, None)), pools[0])

    def read(self, layer: int, slots: IntArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots."""
        where = SlotRows(slots, self.num_slots)

        def in_order(pool: Stored) -> NDArray[np.float32]:
            return np.array(gather(pool, where.of(pool.shape[0], 1))[:, :, 0].astype(mx.float32))

        keys, values = self.heads(layer)
        return in_order(keys), in_order(values)

    def evaluate(self) -> None:
        """Compute everything that was written."""
        mx.eval([arrays(x) for of_layer in self._rows for x in of_layer])

    def clear(self) -> None:
        """Let go of the arrays."""
        self._rows, self.num_slots = [], 0

    def _grown(self, layer: int, num_slots: int) -> tuple[Stored, ...]:
        spec = self._layers[layer]
        shapes = [(spec.num_kv_heads, dim) for dim in (spec.key_dim, spec.value_dim)]
        if spec.key_dim == spec.value_dim:
            shapes = [(2 * spec.num_kv_heads, spec.key_dim)]
        old = self._rows[layer] if self._rows else (None,) * len(shapes)
        return tuple(self._more(x, num_heads, num_slots, dim) for x, (num_heads, dim) in zip(old, shapes, strict=True))

    def _more(self, pool: Stored | None, num_heads: int, num_slots: int, dim: int) -> Stored:
        def rows(width: int, dtype: Any, old: mx.array | None) -> mx.array:
            room = mx.zeros((num_heads, num_slots - self.num_slots, width), dtype)
            if old is not None:
                room = mx.concatenate([_by_head(self.num_slots, old), room], axis=1)
            return room.reshape(-1, width)

        old = (None, None) if pool is None else arrays(pool)
        if self._in_8_bits:
            return Quantized(rows(dim, mx.int8, old[0]), rows(1, mx.float32, old[1]))
        return rows(dim, self._dtype, old[0])


def gather(pool: Stored, rows: mx.array) -> mx.array:
    """The numbers `[*rows.shape, D]` of some rows of `pool [kv_heads, slots, D]`; see `SlotRows`."""

    def taken(x: mx.array) -> mx.array:
        return mx.take(x.reshape(-1, x.shape[-1]), rows, axis=0)

    return numbers(each(taken, pool))


def _store(pool: Stored, x: mx.array, rows: mx.array) -> None:
    given = quantize(x) if isinstance(pool, Quantized) else x
    for target, array in zip(arrays(pool), arrays(given), strict=True):
        target[rows] = array


def _by_head(num_slots: int, rows: mx.array) -> mx.array:
    return rows.reshape(-1, num_slots, rows.shape[-1])


def _some(heads: slice, x: mx.array) -> mx.array:
    return x[heads]


def _broken(num_heads: int, dtype: Any) -> mx.array:
    """`[2 * num_heads, 1, 1]`: what takes the place of a broken token's keys and values."""
    return mx.array([float("nan")] * num_heads + [0.0] * num_heads, dtype)[:, None, None]


@partial(mx.compile, shapeless=True)
def _joined_without_nan(keys: mx.array, values: mx.array, broken: mx.array) -> mx.array:
    """K and V `[T, 2 * kv_heads, 1, D]`."""
    both = mx.concatenate([keys, values], axis=1)
    return mx.where(mx.isfinite(both.astype(mx.float32).sum((1, 3), keepdims=True)), both, broken)


@partial(mx.compile, shapeless=True)
def _without_nan(keys: mx.array, values: mx.array) -> list[mx.array]:
    total = keys.astype(mx.float32).sum(-1, keepdims=True) + values.astype(mx.float32).sum(-1, keepdims=True)
    good = mx.isfinite(total)
    nan, zero = mx.array(float("nan"), keys.dtype), mx.array(0.0, values.dtype)
    return [mx.where(good, keys, nan), mx.where(good, values, zero)]
