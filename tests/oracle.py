"""The flat oracle: what attention over blocks must give, computed without blocks; float64, NumPy, plain on purpose.

Each worker's view is laid out as one sequence, every query and key is encoded at its absolute position in it, and an
ordinary causal mask does the rest: the own block stands last, so all others are fully visible. Next to it stands
attention by the plan, with the core's own rotary code and pages, in the two ways in which backends read columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core import rotary, tiles
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.rotary import RotarySpec

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """Queries `[V, H, D]`, keys `[V, K, D]` and values `[V, K, Dv]` of token ids `0..V-1`, before any rotation."""

    q: Array
    k: Array
    v: Array

    @staticmethod
    def random(seed: int, vocab: int, heads: int, kv_heads: int, dim: int, value_dim: int) -> Vectors:
        rng = np.random.default_rng(seed)
        shapes = (heads, dim), (kv_heads, dim), (kv_heads, value_dim)
        return Vectors(*(rng.standard_normal((vocab, *shape)) for shape in shapes))


def flat_attention(
    vectors: Vectors, view: Sequence[Sequence[int]], num_new: int, spec: RotarySpec, window: int | None = None
) -> Array:
    """Outputs `[num_new, H, Dv]` of the last `num_new` tokens of a view, given as the token ids of its blocks."""
    ids = np.concatenate([np.asarray(block, dtype=np.int64) for block in view])
    positions = np.arange(len(ids))
    new = positions[len(ids) - num_new :]
    q = encode(vectors.q[ids[new]], new, spec)
    k = encode(vectors.k[ids], positions, spec)
    distance = new[:, None] - positions[None, :]
    mask = (distance >= 0) & (distance < (np.inf if window is None else window))
    return attend(np.broadcast_to(q[:, None], (num_new, len(ids), *q.shape[1:])), k, vectors.v[ids], mask)


def encode(x: Array, positions: IntArray, spec: RotarySpec) -> Array:
    """Rotary embedding of `x [n, heads, D]` by complex multiplication; shares nothing with the core's own."""
    out, pairs = x.copy(), len(spec.inv_freq)
    first = spec.start + (np.arange(pairs) if spec.pairing == "half" else 2 * np.arange(pairs))
    second = first + (pairs if spec.pairing == "half" else 1)
    angle = positions[:, None, None] * np.array(spec.inv_freq)
    z = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle) * spec.factor
    out[..., first], out[..., second] = z.real, z.imag
    return out


def attend(q: Array, k: Array, v: Array, mask: NDArray[np.bool_]) -> Array:
    """Softmax attention with one query per key: q `[T, C, H, D]`, k `[C, K, D]`, v `[C, K, Dv]`, mask `[T, C]`.

    Masked columns are multiplied by zero, not skipped: a column of unwritten memory (NaN) spoils the result.
    """
    group = q.shape[2] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("tchd,chd->thc", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(mask[:, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("thc,chd->thd", weights / weights.sum(axis=-1, keepdims=True), v)


class KeyPool:
    """K and V of every slot, keys encoded once, at the position at which they were written; NaN elsewhere."""

    def __init__(self, vectors: Vectors, spec: RotarySpec) -> None:
        self.vectors, self.spec = vectors, spec
        self.k = np.empty((0, *vectors.k.shape[1:]))
        self.v = np.empty((0, *vectors.v.shape[1:]))

    def resize(self, num_slots: int) -> None:
        """Hold exactly `num_slots` slots; new ones are NaN."""
        self.k, self.v = (_resized(array, num_slots) for array in (self.k, self.v))

    def write(self, slots: IntArray, token_ids: IntArray, positions: IntArray) -> None:
        self.k[slots] = rope(self.vectors.k[token_ids], positions, self.spec)
        self.v[slots] = self.vectors.v[token_ids]

    def kill(self, slots: IntArray) -> None:
        """Nobody may read these any more."""
        self.k[slots] = self.v[slots] = np.nan


def _resized(array: Array, length: int) -> Array:
    out = np.full((length, *array.shape[1:]), np.nan)
    kept = min(length, len(array))
    out[:kept] = array[:kept]
    return out


def rope(x: Array, positions: IntArray, spec: RotarySpec) -> Array:
    """The model's own rotary embedding, attention factor included, by the core's code."""
    cos, sin = (spec.factor * table[:, None] for table in rotary.exact_angles(positions, spec))
    return np.asarray(rotary.turn(x, cos, sin, spec))


def plan_attention(plan: ForwardPlan, pool: KeyPool, window: int | None = None, *, tiled: bool = False) -> Array:
    """Outputs `[T, H, Dv]` of a pass, by its plan: all rows write, then all rows read."""
    pool.resize(plan.num_slots)
    pool.write(plan.write_slots, plan.token_ids, plan.positions)
    queries = rope(pool.vectors.q[plan.token_ids], plan.positions, pool.spec)
    out = np.full((plan.num_tokens, queries.shape[1], pool.v.shape[-1]), np.nan)
    for group in plan.groups:
        tokens = slice(group.token_start, group.token_start + group.num_tokens)
        out[tokens] = _group_attention(group, queries[tokens], plan.positions[tokens], pool, window, tiled)
    return out


def _group_attention(
    group: GroupPlan, queries: Array, positions: IntArray, pool: KeyPool, window: int | None, tiled: bool
) -> Array:
    cos, sin = rotary.exact_angles(group.offsets[group.token_row], pool.spec)  # [T, N, pairs]
    turned = np.asarray(rotary.turn(queries[:, None], cos[:, :, None], sin[:, :, None], pool.spec))  # [T, N, H, D]
    k, v, run, index = (_read_tiles if tiled else _read_columns)(group, pool)
    mask = group.sees(slice(None), run, index, window)
    return attend(turned[:, run], k, v, mask)


_Read = tuple[Array, Array, IntArray, IntArray]


def _read_columns(group: GroupPlan, pool: KeyPool) -> _Read:
    return pool.k[group.column_slots], pool.v[group.column_slots], group.column_run, group.column_index


def _read_tiles(group: GroupPlan, pool: KeyPool) -> _Read:
    cut = tiles.cut(group)

    def read(array: Array) -> Any:
        return np.concatenate([*(array[piece.start : piece.stop] for piece in cut.slices), array[cut.tile_slots]])

    return read(pool.k), read(pool.v), cut.column_run, cut.column_index
