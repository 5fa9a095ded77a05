"""How far queries are turned for what a pass reads: tables for `rotate`, spread over a head's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.mlx.rope import backwards, pairs_of
from hogwild.core.rotary import RotarySpec


@dataclass(frozen=True, slots=True)
class Turn:
    """cos and sin for every entry and token, times the scale, for each of the head's features."""

    features: tuple[int, ...]  # Dk, laid out as pairs where all of them turn
    cos: mx.array  # [E, 1, t or 1, 1, *features]
    sin: mx.array  # the same, with the sign of each feature's part
    partners: Callable[[mx.array], mx.array]  # of [kv_heads, t, G, *features]: the other feature of each one's pair


def spread(cos: NDArray[np.float32], sin: NDArray[np.float32], rotary: RotarySpec, scale: float, key_dim: int) -> Turn:
    """Tables `[E, t, num_dims/2]` to one entry for each of the head's features; those that stand still get cos 1."""
    pairs, axis = pairs_of(rotary)
    turning = slice(rotary.start, rotary.start + rotary.num_dims)
    tables = np.zeros((2, *cos.shape[:2], key_dim), np.float32)
    tables[0] = 1
    for table, of_pair in zip(tables, ([cos, cos], [-sin, sin]), strict=True):
        table[..., turning] = np.stack(of_pair, axis).reshape(*cos.shape[:2], -1)
    features = pairs if rotary.num_dims == key_dim else (key_dim,)
    full_cos, full_sin = (tables * np.float32(scale)).reshape(2, len(cos), 1, cos.shape[1], 1, *features)
    return Turn(features, mx.array(full_cos), mx.array(full_sin), _partners(rotary, key_dim))


def _partners(rotary: RotarySpec, key_dim: int) -> Callable[[mx.array], mx.array]:
    """See `Turn.partners`."""
    if rotary.num_dims == key_dim:
        return itemgetter(backwards(rotary, 3))
    pairs, axis = pairs_of(rotary)
    partner = np.arange(key_dim)
    turning = partner[rotary.start : rotary.start + rotary.num_dims]
    turning[:] = np.flip(turning.reshape(pairs), axis).ravel()
    permutation = mx.array(np.eye(key_dim, dtype=np.float32)[:, partner])
    return lambda x: x @ permutation
