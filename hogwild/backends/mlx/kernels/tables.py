"""What the kernels read beside K and V: a pass's tables in one array, and a model's rotary tables."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from hogwild.core.arrays import IntArray
from hogwild.core.rotary import MAX_OFFSET, RotarySpec, exact_angles
from hogwild.core.work import WorkList

HEADER = 8
_LOW = 1024  # 2 ** LOW_BITS of common.metal


def pack_tables(work: WorkList) -> mx.array:
    """A work list as one int32 array: where each table starts, then the tables.

    The order of the starts is that of `common.metal`: items, segments, turns, offsets, column slots, tokens, order,
    column indices.
    """
    parts = [work.items, work.segments, work.turns, work.offsets, work.column_slots, work.tokens, work.order]
    parts += [work.column_index]
    start = HEADER + np.cumsum([0, *(part.size for part in parts)])
    header = np.zeros(HEADER, dtype=np.int32)
    header[: len(parts)] = start[:-1]
    return mx.array(np.concatenate([header, *(part.ravel() for part in parts)]))


def rotary_tables(spec: RotarySpec) -> tuple[mx.array, mx.array]:
    """For multiples of 1024 `[2049, pairs, 4]`, for the rest below 1024 `[1024, pairs, 4]`, both float32.

    Four numbers for each pair: cos, sin, and what float32 rounded off the two. Composed by the kernels they are within
    6e-8 of the exact values for every |offset| <= 2^20.
    """
    if not spec.num_dims:
        return mx.zeros((HEADER,)), mx.zeros((HEADER,))
    return _table(np.arange(-MAX_OFFSET, MAX_OFFSET + 1, _LOW), spec), _table(np.arange(_LOW), spec)


def _table(positions: IntArray, spec: RotarySpec) -> mx.array:
    exact = np.stack(exact_angles(positions, spec), axis=-1)
    rounded = exact.astype(np.float32)
    return mx.array(np.concatenate([rounded, (exact - rounded).astype(np.float32)], axis=-1))
