"""One case through the kernels, and the verdict on it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from hogwild.backends.mlx.kernels.attention import Attended, Chooser, KernelAttention
from hogwild.backends.mlx.kernels.launch import choose_launch
from hogwild.backends.mlx.kernels.source import Starter
from hogwild.conformance.cases import AttentionCase
from hogwild.conformance.mlx_pool import case_arrays
from hogwild.conformance.oracle import exact_attention
from hogwild.conformance.verdict import Verdict, judge
from hogwild.core.plan import Row

Array = np.ndarray[Any, Any]


def attend(
    case: AttentionCase, start: Starter, *, choose: Chooser = choose_launch, by_block: bool = False, span: int = 0
) -> Attended:
    """The kernels' answer, as MLX arrays."""
    return (
        KernelAttention(start, choose, span)
        .reader(case.plan)
        .attend_all(
            mx.array(case.queries).astype(getattr(mx, case.dtype)),
            *case_arrays(case),
            rotary=case.rotary,
            window=case.window,
            scale=case.scale,
            sinks=None if case.sinks is None else mx.array(case.sinks),
            softcap=case.softcap,
            by_block=by_block,
        )
    )


def verdict(case: AttentionCase, start: Starter, *, choose: Chooser = choose_launch) -> Verdict:
    """What is wrong with the kernels' output and log-sum-exp."""
    attended = attend(case, start, choose=choose)
    return judge(case, to_numpy(attended.output), to_numpy(attended.log_sum_exp))


def block_errors(case: AttentionCase, start: Starter, *, choose: Chooser = choose_launch) -> Array:
    """How far the log-sum-exp of each block of each view is off, in units of what is allowed; `[T, H, M]`."""
    given = to_numpy(attend(case, start, choose=choose, by_block=True).by_block)
    exact = exact_attention(case, by_block=True)
    expected = exact.block_log_sum_exp
    found = np.full_like(expected, -np.inf)
    token = 0
    for rows in case.groups:
        for row, blocks in block_numbers(rows):
            tokens = slice(token, token := token + len(row.token_ids))
            found[tokens, :, : len(blocks)] = given[tokens][..., blocks]
    same = (found == expected) | (np.isneginf(found) & np.isneginf(expected))
    with np.errstate(invalid="ignore"):
        allowed = 1e-4 * (1 + np.abs(expected)) + exact.score_error[..., None]
        return np.where(same, 0.0, np.nan_to_num(np.abs(found - expected) / allowed, nan=np.inf))


def block_numbers(rows: tuple[Row, ...]) -> list[tuple[Row, list[int]]]:
    """For each row that brings tokens, its view as numbers of the plan's blocks: in order of first appearance."""
    numbers: dict[tuple[int, int], int] = {}
    views = []
    for row in (row for row in rows if row.token_ids):
        seen: dict[int, int] = {}
        view = []
        for block in row.view:
            nth = seen[id(block)] = seen.get(id(block), -1) + 1
            view.append(numbers.setdefault((id(block), nth), len(numbers)))
        views.append((row, view))
    return views


def to_numpy(x: mx.array) -> Array:
    """Any floats as float32."""
    return np.array(x.astype(mx.float32))
