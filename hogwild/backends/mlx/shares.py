"""Shares of attention: the model runs again over stored tokens, and attention is asked for columns too."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.mlx.attention import PassReader
from hogwild.backends.mlx.model_pass import PassRunner
from hogwild.backends.mlx.pool import KVPool, SlotRows
from hogwild.backends.mlx.stored import Stored
from hogwild.core.arrays import IntArray
from hogwild.core.plan import ForwardPlan
from hogwild.core.shares import indicator


def measure(
    runner: PassRunner, plan: ForwardPlan, pool: KVPool, columns: IntArray, num_columns: int
) -> tuple[NDArray[np.float32], ...]:
    """For each layer `[heads, T, K]`; see `hogwild.backends.base.Backend.attention_shares`."""
    ones = np.zeros((pool.num_slots, num_columns), np.float32)
    ones[: len(columns)] = indicator(columns, num_columns)
    measuring = _Measuring(runner.plain_reader(plan, pool), mx.array(ones))
    runner.run(plan, _ReadOnly(pool), measuring)
    mx.eval(measuring.shares)
    return tuple(np.array(shares) for shares in measuring.shares)


class _ReadOnly(KVPool):
    """The same arrays, which hold the pass already."""

    def __init__(self, pool: KVPool) -> None:
        vars(self).update(vars(pool))

    def write(self, layer: int, keys: mx.array, values: mx.array, where: SlotRows) -> None:
        """Nothing: these very keys and values are stored."""


class _Measuring(PassReader):
    """Attends as `reader` does, and once more to `ones [slots, K]` in the place of every head's values."""

    def __init__(self, reader: PassReader, ones: mx.array) -> None:
        vars(self).update(vars(reader))
        self._ones = ones
        self._of_heads: dict[int, mx.array] = {}  # [heads, slots, K], which layers share
        self.shares: list[mx.array] = []

    def attend(self, queries: mx.array, keys: Stored, values: Stored, **how: Any) -> mx.array:
        heads = keys.shape[0]
        if heads not in self._of_heads:
            self._of_heads[heads] = mx.contiguous(mx.broadcast_to(self._ones, (heads, *self._ones.shape)))
        ones = self._of_heads[heads]
        shares = super().attend(queries.astype(mx.float32), keys, ones, **how)  # [T, H, 1, K]
        self.shares.append(shares[:, :, 0].swapaxes(0, 1))
        return super().attend(queries, keys, values, **how)
