"""Shares of attention: the model runs again over stored tokens, and attention is asked for columns too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.reference.model import Decoder, Pool, Reader
from hogwild.backends.reference.pool import Stored
from hogwild.core.arrays import IntArray
from hogwild.core.plan import ForwardPlan
from hogwild.core.shares import indicator

Array = NDArray[Any]


def measure(decoder: Decoder, plan: ForwardPlan, pool: Pool, columns: IntArray, num_columns: int) -> tuple[Array, ...]:
    """For each layer `[heads, T, K]`; see `hogwild.backends.base.Backend.attention_shares`."""
    num_kv_heads, num_slots = pool.keys[0].shape[:2]
    ones = np.zeros((num_slots, num_columns), decoder.model.dtype)
    ones[: len(columns)] = indicator(columns, num_columns)
    measuring = _Measuring(decoder.reader(plan), np.broadcast_to(ones, (num_kv_heads, *ones.shape)))
    decoder(plan, _ReadOnly(pool), measuring)
    return tuple(measuring.shares)


class _ReadOnly:
    """A pool that holds the pass already."""

    def __init__(self, pool: Pool) -> None:
        self.keys, self.values = pool.keys, pool.values

    def write(self, layer: int, slots: IntArray, keys: Array, values: Array) -> None:
        """Nothing: these very keys and values are stored."""


class _Measuring:
    """Attends as `reader` does, and once more to `ones [kv_heads, slots, K]` in the place of the values."""

    def __init__(self, reader: Reader, ones: Array) -> None:
        self._reader, self._ones = reader, ones
        self.shares: list[Array] = []

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array:
        shares = self._reader.attend(queries, keys, self._ones, window)  # [T, kv_heads, G, K]
        self.shares.append(shares.reshape(len(shares), -1, shares.shape[-1]).swapaxes(0, 1))
        return self._reader.attend(queries, keys, values, window)
