"""Shares of attention: the model runs again over stored tokens, and attention is asked for columns too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hogwild.backends.cuda.attention import Pool, SharedPass
from hogwild.backends.cuda.stored import Stored
from hogwild.core.arrays import IntArray
from hogwild.core.shares import indicator


class Measuring:
    """A pass that writes nothing. Implements `hogwild.backends.cuda.attention.Pass`.

    Attributes:
        shares: for each layer `[heads, T, K]`, in the order in which the model computes them.
    """

    def __init__(self, reading: SharedPass, columns: IntArray, num_columns: int) -> None:
        self._reading = replace(reading, pool=_ReadOnly(reading.pool))
        ones = torch.from_numpy(indicator(columns, num_columns))
        self._ones = ones.to(reading.plan.token_ids.device)
        self.shares: list[Tensor] = []

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """What the pass itself gave, `[1, T, H, Dv]`."""
        wide = q if q.dtype.itemsize >= 4 else q.float()
        ones = self._ones.to(wide.dtype)
        asking = replace(self._reading, pool=_WithValues(self._reading.pool, ones))
        like_values = v[..., :1].expand(*v.shape[:-1], ones.shape[-1])
        self.shares.append(asking.attend(module, wide, k, like_values, mask, options)[0].transpose(0, 1))
        return self._reading.attend(module, q, k, v, mask, options)


class _ReadOnly:
    """A pool that holds the pass already."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Nothing: these very keys and values are stored."""

    def stored(self, layer: int) -> tuple[Stored, Stored]:
        """K and V of a layer."""
        return self._pool.stored(layer)


class _WithValues(_ReadOnly):
    """The same keys, and other values `[slots, Dv]` for all heads and layers."""

    def __init__(self, pool: Pool, values: Tensor) -> None:
        super().__init__(pool)
        self._values = values

    def stored(self, layer: int) -> tuple[Stored, Stored]:
        keys, _ = self._pool.stored(layer)
        heads, num_slots, _ = keys.numbers.shape
        return keys, Stored(self._values[:num_slots].expand(heads, -1, -1))
