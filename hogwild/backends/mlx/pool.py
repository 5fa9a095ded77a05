"""The K/V pool: for each layer keys `[kv_heads, slots, Dk]` and values `[kv_heads, slots, Dv]`.

Slots stand in the middle, so that a stretch of slots is, for each head, a matrix that MLX multiplies without copying it
(measured: with slots first the products are two to four times slower on a CPU). Writing changes the arrays in place:
MLX donates an array to which nothing else refers, so a write costs O(new tokens) whatever the pool's size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import LayerSpec
from hogwild.core.blocks import IntArray
from hogwild.errors import PoolExhausted

MAX_STRETCHES = 4


class WriteSlots:
    """Where a pass writes: a few stretches of neighbouring slots, or any slots at once."""

    def __init__(self, slots: IntArray) -> None:
        edges = np.concatenate([[0], np.flatnonzero(np.diff(slots) != 1) + 1, [len(slots)]])
        self.stretches: list[tuple[int, int, int]] = []  # (first token, last token + 1, first slot)
        self.slots: mx.array | None = None
        if len(edges) - 1 <= MAX_STRETCHES:
            pairs = itertools.pairwise(edges.tolist())
            self.stretches = [(a, b, int(slots[a])) for a, b in pairs]
        else:
            self.slots = mx.array(slots.astype(np.int32))


class KVPool:
    """K and V of every layer."""

    def __init__(self, layers: Sequence[LayerSpec], dtype: Any) -> None:
        self._layers = layers
        self._dtype = dtype
        self.num_slots = 0
        self.keys: list[mx.array] = []
        self.values: list[mx.array] = []

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token in all layers."""
        return int(self._dtype.size) * sum(x.num_kv_heads * (x.key_dim + x.value_dim) for x in self._layers)

    def reserve(self, num_slots: int) -> None:
        """Grow to `num_slots`; raises `PoolExhausted` and changes nothing when the device has no room."""
        extra = num_slots - self.num_slots
        if extra <= 0:
            return
        try:
            keys = [self._grown(self.keys, i, extra, x.num_kv_heads, x.key_dim) for i, x in enumerate(self._layers)]
            values = [
                self._grown(self.values, i, extra, x.num_kv_heads, x.value_dim) for i, x in enumerate(self._layers)
            ]
            mx.eval(keys, values)
        except (RuntimeError, MemoryError) as error:
            raise PoolExhausted(
                "the device has no room for a larger K/V pool",
                expected=f"{num_slots * self.bytes_per_token} bytes for {num_slots} tokens",
                got=str(error),
                remedy="lower the number of tokens, workers or concurrent problems",
            ) from error
        self.keys, self.values, self.num_slots = keys, values, num_slots

    def write(self, layer: int, keys: mx.array, values: mx.array, where: WriteSlots) -> None:
        """Store `keys [kv_heads, T, Dk]` and `values [kv_heads, T, Dv]`.

        A token whose K or V is not finite gets NaN keys and zero values: whoever sees it gets NaN, through the scores;
        for whoever does not, the scores are masked, and no NaN reaches the sum over values.
        """
        total = keys.astype(mx.float32).sum(-1, keepdims=True) + values.astype(mx.float32).sum(-1, keepdims=True)
        good = mx.isfinite(total)
        keys = mx.where(good, keys, mx.array(float("nan"), keys.dtype))
        values = mx.where(good, values, mx.array(0.0, values.dtype))
        for pool, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if where.slots is not None:
                pool[:, where.slots] = new
            for first, last, slot in where.stretches:
                pool[:, slot : slot + last - first] = new[:, first:last]

    def read(self, layer: int, slots: IntArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots."""
        index = mx.array(slots.astype(np.int32))

        def rows(pool: mx.array) -> NDArray[np.float32]:
            return np.array(mx.take(pool, index, axis=1).swapaxes(0, 1).astype(mx.float32))

        return rows(self.keys[layer]), rows(self.values[layer])

    def evaluate(self) -> None:
        """Compute everything that was written."""
        mx.eval(self.keys, self.values)

    def clear(self) -> None:
        """Let go of the arrays."""
        self.keys, self.values, self.num_slots = [], [], 0

    def _grown(self, pool: list[mx.array], layer: int, extra: int, num_heads: int, dim: int) -> mx.array:
        room = mx.zeros((num_heads, extra, dim), self._dtype)
        return mx.concatenate([pool[layer], room], axis=1) if pool else room
