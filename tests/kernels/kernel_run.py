"""A generated case through the Triton kernels: on a GPU, or on the CPU when TRITON_INTERPRET=1."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hogwild.backends.cuda.kernels.attention import KernelAttention
from hogwild.conformance.cases import AttentionCase
from hogwild.conformance.oracle import Exact, exact_attention
from hogwild.conformance.torch_pool import case_pool
from hogwild.conformance.verdict import Verdict, judge
from hogwild.core.frame import Frame

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


class Layer(torch.nn.Module):
    layer_idx = 0


def run_case(case: AttentionCase, *, by_block: bool = False, **settings: int) -> tuple[Any, Any]:
    """Output `[T, H, Dv]` in float64, and the log-sum-exp `[T, H, B]` per block of the plan (else None).

    The pass's K/V are not in the pool before: writing them is part of it. settings: see `kernels_for`.
    """
    kernels = kernels_for(case, **settings)
    q, k, v, options = call_arguments(case)
    kernels.load(case.plan, by_block=by_block)
    current = kernels.start()
    if by_block:
        output, block_lse = current.attend_by_block(0, q, k, v, options)
        return to_numpy(output[0]), to_numpy(block_lse)
    return to_numpy(current.attend(Layer(), q, k, v, None, options)[0]), None


def verdict(case: AttentionCase, *, by_block: bool = False, **settings: int) -> Verdict:
    """Of the output and, by block, of the log-sum-exps and of their sum."""
    exact = exact_attention(case, by_block=by_block)
    output, block_lse = run_case(case, by_block=by_block, **settings)
    if not by_block:
        return judge(case, output, exact=exact)
    found = judge(case, output, np.logaddexp.reduce(block_lse, axis=-1), exact=exact)
    return replace(found, problems=(*found.problems, *block_problems(case, exact, block_lse)))


def block_problems(case: AttentionCase, exact: Exact, block_lse: Any) -> list[str]:
    """Blocks whose log-sum-exp is not that of the exact answer, which lists them by their place in the view."""
    problems, token = [], 0
    for group in case.groups:
        rows = [row for row in group if row.token_ids]
        for row, view in zip(rows, Frame(tuple(row.view for row in rows)).shape.indices, strict=True):
            tokens = slice(token, token + len(row.token_ids))
            expected = exact.block_log_sum_exp[tokens, :, : len(view)]
            got, allowed = block_lse[tokens][..., view], 1e-4 + exact.score_error[tokens, :, None]
            with np.errstate(invalid="ignore"):
                close = (got == expected) | (np.abs(got - expected) <= allowed + 1e-4 * np.abs(expected))
            others = np.delete(block_lse[tokens], view, axis=-1)
            if not close.all() or (others != -np.inf).any():
                problems.append(f"log-sum-exps of the blocks of tokens {tokens}")
            token = tokens.stop
    return problems


def call_arguments(case: AttentionCase) -> tuple[Any, Any, Any, dict[str, Any]]:
    """What transformers would hand over: q, k, v with heads before tokens, strided, and the options."""
    dtype, slots = getattr(torch, case.dtype), case.plan.write_slots
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(x)).to(DEVICE, dtype)[None].transpose(1, 2)
        for x in (case.queries, case.keys[:, slots].swapaxes(0, 1), case.values[:, slots].swapaxes(0, 1))
    )
    options: dict[str, Any] = {"scaling": case.scale, "softcap": case.softcap}
    if case.sinks is not None:
        options["s_aux"] = torch.from_numpy(case.sinks).to(DEVICE)
    return q, k, v, options


def kernels_for(case: AttentionCase, num_items: int | None = None, span: int = 0, **launch: int) -> KernelAttention:
    """Kernels over a pool that holds the case's K/V but for the new tokens; all other slots are NaN.

    span as in `KernelAttention`; num_items, and fields of `Launch`, in place of the tuned ones: so that small cases
    have many tiles and chunks.
    """
    pool = case_pool(case, torch.device(DEVICE))
    kernels = KernelAttention(pool, pool.layers, case.queries.shape[1], span)
    kernels._launch = replace(kernels._launch, **launch)
    kernels._num_items = num_items or kernels._num_items
    return kernels


def num_steps(case: AttentionCase, tile: int, max_rows: int) -> float:
    """About how many tiles, segments and tokens the programs of a case go through: what costs the interpreter time."""
    kv_heads, group_size = case.keys.shape[0], case.queries.shape[1] // case.keys.shape[0]
    chunk = max(1, max_rows // group_size)
    read = sum(
        (group.num_runs + 4 + group.num_columns / tile) * -(-group.num_tokens // chunk) for group in case.plan.groups
    )
    return kv_heads * read + 2 * case.plan.num_tokens


def to_numpy(x: torch.Tensor) -> Any:
    return np.asarray(x.detach().double().cpu().numpy())
