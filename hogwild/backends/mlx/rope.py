"""The model's own rotary embedding on a CPU, with cos and sin made once per pass.

MLX has no kernel for it there: angles, cos and sin are made anew for the queries and for the keys of every layer, some
1,500 of 5,000 nodes of a pass of the bundled model. In layers whose rotary modules are alike they are the same. What
such a module makes of ones and zeros is its cos and sin, so its rule is not written down here again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.rope_utils import Llama3RoPE, ProportionalRoPE, YarnRoPE

from hogwild.backends.mlx.rotary_fit import specs_of
from hogwild.core.arrays import IntArray
from hogwild.core.rotary import RotarySpec

_MODULES = (nn.RoPE, Llama3RoPE, ProportionalRoPE, YarnRoPE)
_Rotary = Callable[..., mx.array]


class Positions(mx.array):
    """The positions of a pass's tokens, `[T]` int32, as the model hands them to its rotary modules.

    Attributes:
        tables: cos and sin that were made of them, by rotation and dtype.
    """

    def __init__(self, positions: IntArray) -> None:
        super().__init__(positions.astype(np.int32))
        self.tables: dict[tuple[Rotation, Any], tuple[mx.array, mx.array]] = {}


class Rotation:
    """What those rotary modules of a model have in common that stand for one spec."""

    def __init__(self, spec: RotarySpec) -> None:
        self._num_dims = spec.num_dims
        self._pairs, self._axis = pairs_of(spec)
        self._partners = backwards(spec, 2)

    def turn(self, x: mx.array, positions: Positions, rotary: _Rotary) -> mx.array:
        """`rotary(x, offset=positions)` for `x [T, H, 1, D]`."""
        key = (self, x.dtype)
        if key not in positions.tables:
            positions.tables[key] = self._tables(positions, x.dtype, rotary)
        if x.shape[-1] == self._num_dims:
            return self._turned(x, *positions.tables[key])
        part, rest = mx.split(x, [self._num_dims], axis=-1)
        return mx.concatenate([self._turned(part, *positions.tables[key]), rest], axis=-1)

    def _turned(self, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        shape = x.shape
        pairs = x.reshape(*shape[:2], *self._pairs)
        return rotate(pairs, pairs[self._partners], cos, sin).reshape(shape)

    def _tables(self, positions: Positions, dtype: Any, rotary: _Rotary) -> tuple[mx.array, mx.array]:
        """cos and sin for both features of each pair, `[T, 1, *pairs]`; sin with the sign of the feature's part."""
        first = mx.array((np.indices(self._pairs)[self._axis] == 0).ravel(), dtype)
        made = rotary(mx.broadcast_to(first, (len(positions), 1, 1, len(first))), offset=positions)
        cos, sin = mx.split(made.reshape(len(positions), 1, *self._pairs), 2, axis=self._axis)
        return mx.concatenate([cos, cos], axis=self._axis), mx.concatenate([-sin, sin], axis=self._axis)


def pairs_of(spec: RotarySpec) -> tuple[tuple[int, int], int]:
    """The turning features laid out as pairs: their shape, and which axis is that within a pair."""
    n = len(spec.inv_freq)
    return ((2, n), -2) if spec.pairing == "half" else ((n, 2), -1)


def backwards(spec: RotarySpec, num_axes: int) -> tuple[slice, ...]:
    """The index that puts the other one of its pair in each feature's place; so many axes stand before the pairs'.

    Written out for each axis: an ellipsis takes MLX twice as long.
    """
    every = slice(None)
    before = (every,) * num_axes if spec.pairing == "half" else (every,) * (num_axes + 1)
    return (*before, slice(None, None, -1))


def share_tables(model: Any) -> None:
    """Have rotary modules that are alike use the same cos and sin when they are handed `Positions`.

    Handed anything else they are as they were.
    """
    classes: dict[type, type] = {}
    rotations: dict[RotarySpec, Rotation] = {}
    for _, module in model.named_modules():
        cls = type(module)
        if cls in _MODULES:
            (spec,) = specs_of(module)
            module.rotation = rotations.setdefault(spec, Rotation(spec))
            module.__class__ = classes.setdefault(cls, _sharing(cls))


def _sharing(cls: Any) -> type:
    def call(self: Any, x: mx.array, offset: Any = 0, **kwargs: Any) -> mx.array:
        rotary: _Rotary = partial(cls.__call__, self, **kwargs)
        if kwargs or not isinstance(offset, Positions) or x.ndim != 4 or x.shape[2] != 1:
            return rotary(x, offset=offset)
        rotation: Rotation = self.rotation
        return rotation.turn(x, offset, rotary)

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


@partial(mx.compile, shapeless=True)
def rotate(x: mx.array, partners: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Each feature and the other one of its pair, turned."""
    return x * cos + partners * sin
