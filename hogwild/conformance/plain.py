"""Generated cases through the attention of the plain backends, as their models call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase
from hogwild.conformance.sequences import pairs_side_by_side
from hogwild.core.arrays import IntArray
from hogwild.core.quantized import quantize
from hogwild.core.rotary import OffsetTable

Answer = Callable[[AttentionCase], Array]
"""Gives `[T, H, Dv]` for a case."""
Fit = Callable[[AttentionCase], AttentionCase]
"""Gives a case without the features that a backend lacks."""


def reference_supports(case: AttentionCase) -> bool:
    """The reference backend knows neither soft caps nor sinks."""
    return case.softcap is None and case.sinks is None


def reference_case(case: AttentionCase) -> AttentionCase:
    """The case without what the reference backend lacks."""
    return replace(case, softcap=None, sinks=None)


def reference_answer(case: AttentionCase, dtype: type[np.floating[Any]] = np.float32) -> Array:
    """NumPy, in float32 or float64 whatever the case's dtype."""
    from hogwild.backends.reference.attention import PassReader

    num_tokens, num_heads, key_dim = case.queries.shape
    table, order = OffsetTable(case.rotary), pairs_side_by_side(case.rotary, key_dim)

    def turns(offsets: IntArray) -> Array:
        phases = np.ones((*offsets.shape, key_dim // 2), dtype=np.result_type(dtype, np.complex64))
        turning = phases[..., : len(case.rotary.inv_freq)]
        turning.real, turning.imag = table(offsets)
        return phases

    reader = PassReader(case.plan, turns, num_heads, key_dim, np.dtype(dtype))
    queries = (case.queries.take(order, axis=-1) * np.float32(case.scale)).astype(dtype)
    queries = queries.reshape(num_tokens, case.keys.shape[0], -1, key_dim)
    keys, values = case.keys.take(order, axis=-1), case.values
    pool = [quantize(x) if case.kv_dtype == "int8" else x.astype(dtype) for x in (keys, values)]
    with np.errstate(invalid="ignore"):
        return reader.attend(queries, pool[0], pool[1], case.window).reshape(num_tokens, num_heads, -1)


def mlx_answer(case: AttentionCase) -> Array:
    """MLX operations, in the case's dtype."""
    import mlx.core as mx

    from hogwild.backends.mlx.attention import PassReader
    from hogwild.conformance.mlx_pool import case_arrays

    dtype = getattr(mx, case.dtype)
    tables = {case.rotary: OffsetTable(case.rotary)}
    num_heads, key_dim = case.queries.shape[1:]
    reader = PassReader(case.plan, tables.__getitem__, num_heads, key_dim, case.plan.num_slots)
    output = reader.attend(
        mx.array(case.queries).astype(dtype)[:, :, None],
        *case_arrays(case),
        rotary=case.rotary,
        window=case.window,
        scale=case.scale,
        sinks=None if case.sinks is None else mx.array(case.sinks),
        softcap=case.softcap,
    )
    return np.array(output[:, :, 0].astype(mx.float32))


def torch_answer(case: AttentionCase, device: str = "cpu") -> Array:
    """Torch operations, in the case's dtype; they write the new tokens' K/V themselves, as in a model."""
    import torch

    from hogwild.backends.cuda.angles import AngleTables
    from hogwild.backends.cuda.attention import SharedPass
    from hogwild.backends.cuda.device_plan import to_device_plan
    from hogwild.conformance.torch_pool import case_pool

    dtype, place, new = getattr(torch, case.dtype), torch.device(device), case.plan.write_slots
    pool = case_pool(case, place)
    tables = AngleTables(pool.layers, dtype, place)
    _, num_heads, key_dim = case.queries.shape
    plan = to_device_plan(case.plan, num_heads, key_dim, tables)
    current = SharedPass(plan, pool, pool.layers, tables)
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(x)).to(place, dtype)[None]
        for x in (case.queries.transpose(1, 0, 2), case.keys[:, new], case.values[:, new])
    )
    sinks = None if case.sinks is None else torch.from_numpy(case.sinks).to(place)
    with torch.inference_mode():
        output = current.attend(module, q, k, v, None, {"scaling": case.scale, "softcap": case.softcap, "s_aux": sinks})
    return np.asarray(output[0].float().cpu().numpy())
