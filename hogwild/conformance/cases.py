"""Generated cases of attention over shared blocks: real blocks and plans, random numbers, all shapes that may occur.

A case is drawn from its number alone, so that anyone can make it again. Every slot that no block holds is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hogwild.conformance.sessions import draw_session, pick
from hogwild.core.plan import ForwardPlan, Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.quantized import dequantize, quantize
from hogwild.core.rotary import NO_ROTARY, RotarySpec

DType = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
KVDtype = Literal["auto", "int8"]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One attention layer in one pass. H query heads, K kv heads, S slots.

    queries `[T, H, Dk]` have the model's own rotation at their positions; `keys [K, S, Dk]` and
    `values [K, S, Dv]` are what is stored, the new tokens' included. All three are float32 arrays that hold numbers of
    `dtype` exactly. kv_dtype "int8": what is stored is their nearest in 8 bits, see `stored`.
    """

    name: str
    groups: tuple[tuple[Row, ...], ...]
    plan: ForwardPlan
    queries: Array
    keys: Array
    values: Array
    dtype: DType
    rotary: RotarySpec
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Array | None = None  # [H] float32
    kv_dtype: KVDtype = "auto"


def attention_case(
    seed: int,
    *,
    dtype: DType | None = None,
    max_length: int = 70,
    max_work: float = np.inf,
    kv_dtype: KVDtype = "auto",
) -> AttentionCase:
    """Case number `seed`; blocks are mostly shorter than `max_length`. `dtype` None: any.

    max_work: multiplications for the scores, beyond which a case gets fewer heads than drawn.
    """
    rng = np.random.default_rng([20250409, seed])
    pool = PagePool(4, page_size=pick(rng, (1, 2, 3, 4, 8, 16, 16, 32, 64)))
    num_groups = pick(rng, (1, 1, 1, 2, 3))
    groups, appended = zip(*(draw_session(rng, pool, max_length) for _ in range(num_groups)), strict=True)
    plan = build_plan(groups, pool.num_slots, appended)
    chosen: DType = dtype if dtype is not None else pick(rng, DTYPES)
    num_pairs = sum(group.num_tokens * group.num_columns for group in plan.groups)
    kv_heads, group_size = _heads(rng, num_pairs)
    key_dim, value_dim = _head_dims(rng)
    if num_pairs * key_dim * kv_heads * group_size > max_work:
        kv_heads, group_size = _at_most(max(1, int(max_work / (num_pairs * key_dim))), kv_heads, group_size)
    num_heads = kv_heads * group_size
    scale = pick(rng, (key_dim**-0.5, 1.0 / key_dim, 0.3))
    queries = rounded(rng.standard_normal((plan.num_tokens, num_heads, key_dim), dtype=np.float32), chosen)
    keys, values = _stored(rng, plan, kv_heads, (key_dim, value_dim), chosen)
    if rng.random() < 0.1:
        queries = rounded(queries * _loudness(rng, queries, keys, scale, chosen), chosen)
    return AttentionCase(
        name=f"case {seed}",
        groups=groups,
        plan=plan,
        queries=queries,
        keys=keys,
        values=values,
        dtype=chosen,
        rotary=_rotary(rng, key_dim),
        scale=scale,
        window=pick(rng, (1, 2, 7, 16, 30, 64)) if rng.random() < 0.25 else None,
        softcap=pick(rng, (5.0, 50.0)) if rng.random() < 0.2 else None,
        sinks=_sinks(rng, num_heads) if rng.random() < 0.2 else None,
        kv_dtype=kv_dtype,
    )


def stored(case: AttentionCase) -> AttentionCase:
    """The case with the very numbers that the pool holds as its keys and values."""
    if case.kv_dtype == "auto":
        return case
    keys, values = (dequantize(quantize(x)) for x in (case.keys, case.values))
    return replace(case, keys=keys, values=values, kv_dtype="auto")


def rounded(x: Array, dtype: DType) -> Array:
    """The nearest numbers of `dtype`, as float32."""
    x = x.astype(np.float32)
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":  # round to nearest even: the upper half of the bits
        bits = x.view(np.uint32)
        kept: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(x), x, kept)
    return x


def _heads(rng: np.random.Generator, num_pairs: int) -> tuple[int, int]:
    """kv heads, and query heads for each; few where there are many pairs of tokens and columns."""
    kv_heads = pick(rng, (1, 2, 3)) if num_pairs < 4000 else 1
    group_size = pick(rng, (1, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32))
    return kv_heads, group_size if num_pairs < 16000 else min(group_size, 4)


def _at_most(num_heads: int, kv_heads: int, group_size: int) -> tuple[int, int]:
    group_size = min(group_size, num_heads)
    return min(kv_heads, num_heads // group_size), group_size


def _head_dims(rng: np.random.Generator) -> tuple[int, int]:
    key_dim = pick(rng, (8, 16, 24, 32, 40, 56, 64, 64, 72, 80, 96, 112, 128, 128, 136, 192, 256))
    return key_dim, key_dim if rng.random() < 0.8 else pick(rng, (8, 24, 32, 64, 104, 128))


def _loudness(rng: np.random.Generator, queries: Array, keys: Array, scale: float, dtype: DType) -> float:
    """A factor that makes scores of a thousand to a million."""
    most = float(np.linalg.norm(queries, axis=-1).max() * np.nanmax(np.linalg.norm(keys, axis=-1)) * scale)
    largest = 4.5e4 if dtype == "float16" else np.inf  # a turned pair may grow by the root of two
    return float(min(10.0 ** rng.uniform(3, 6) / most, largest / float(np.abs(queries).max())))


def _sinks(rng: np.random.Generator, num_heads: int) -> Array:
    loudness = pick(rng, (1.0, 1.0, 10.0))
    return np.asarray(loudness * rng.standard_normal(num_heads), dtype=np.float32)


def _rotary(rng: np.random.Generator, key_dim: int) -> RotarySpec:
    if rng.random() < 0.1:
        return NO_ROTARY
    num_dims = key_dim if rng.random() < 0.6 else 2 * int(rng.integers(1, key_dim // 2 + 1))
    start = 0 if rng.random() < 0.7 else int(rng.integers(0, key_dim - num_dims + 1))
    theta = pick(rng, (1e4, 5e5, 1e6))
    inv_freq = (theta ** -(np.arange(0, num_dims, 2) / num_dims)).astype(np.float32)
    pairing: Literal["half", "interleaved"] = "half" if rng.random() < 0.6 else "interleaved"
    return RotarySpec(tuple(map(float, inv_freq)), pairing, start)


def _stored(
    rng: np.random.Generator, plan: ForwardPlan, kv_heads: int, dims: tuple[int, int], dtype: DType
) -> tuple[Array, Array]:
    """K and V of every slot that a group reads; NaN elsewhere."""
    held = np.unique(np.concatenate([group.column_slots for group in plan.groups]))
    arrays = []
    for dim in dims:
        array = np.full((kv_heads, plan.num_slots, dim), np.nan, dtype=np.float32)
        array[:, held] = rounded(rng.standard_normal((kv_heads, len(held), dim), dtype=np.float32), dtype)
        arrays.append(array)
    return arrays[0], arrays[1]
