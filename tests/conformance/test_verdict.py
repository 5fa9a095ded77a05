"""A verdict passes ordinary attention, and fails answers with seeded faults wherever these matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hogwild.conformance import sequences
from hogwild.conformance.cases import AttentionCase, DType, attention_case
from hogwild.conformance.oracle import exact_attention
from hogwild.conformance.ordinary import ordinary_attention
from hogwild.conformance.verdict import comparable, judge, typical_ratio
from hogwild.core.rotary import exact_angles, turn

Patch = pytest.MonkeyPatch
Answer = Callable[[AttentionCase, DType], Any]
DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
MATTERS = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}  # change of the output, relative to its size


def output_of(case: AttentionCase, dtype: DType) -> Any:
    return ordinary_attention(case, dtype)[0]


def off_by_one_offset(case: AttentionCase, dtype: DType) -> Any:
    """Every query stands one position further away."""
    cos, sin = exact_angles(np.ones(1, dtype=np.int64), case.rotary)
    return output_of(replace(case, queries=turn(case.queries, cos, sin, case.rotary)), dtype)


def unmasked_column(case: AttentionCase, dtype: DType) -> Any:
    """Each token also reads the key right after it."""
    seen = sequences.seen_columns

    def one_more(case: AttentionCase, row: Any) -> Any:
        mask = seen(case, row)
        return mask | np.pad(mask, ((0, 0), (1, 0)))[:, :-1]

    with Patch.context() as patch:
        patch.setattr(sequences, "seen_columns", one_more)
        return output_of(case, dtype)


FAULTS: dict[str, Answer] = {
    "off-by-one offset": off_by_one_offset,
    "swapped tokens": lambda case, dtype: output_of(case, dtype)[::-1],
    "swapped heads": lambda case, dtype: output_of(case, dtype)[:, ::-1],
    "unmasked column": unmasked_column,
    "window off by one": lambda case, dtype: output_of(replace(case, window=case.window and case.window + 1), dtype),
    "window dropped": lambda case, dtype: output_of(replace(case, window=None), dtype),
    "sink dropped": lambda case, dtype: output_of(replace(case, sinks=None), dtype),
    "soft cap dropped": lambda case, dtype: output_of(replace(case, softcap=None), dtype),
    "scale forgotten": lambda case, dtype: output_of(replace(case, scale=1.0), dtype),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_attention_passes(dtype: DType) -> None:
    verdicts = []
    for seed in range(60):
        case = attention_case(seed, dtype=dtype)
        verdict = judge(case, *ordinary_attention(case))
        assert verdict.passed, (verdict.case, verdict.problems)
        verdicts.append(verdict)
    assert 0 < typical_ratio(verdicts) < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_where_it_matters(fault: str, dtype: DType) -> None:
    """The fault is planted in the dtype; whether it matters is asked in float32, and of cases that are not loud."""
    mattered = caught = seed = 0
    while mattered < 12:
        seed += 1
        case = attention_case(seed, dtype=dtype)
        with np.errstate(all="ignore"):
            wrong, right = FAULTS[fault](case, "float32"), output_of(case, "float32")
        if np.abs(wrong - right).max() < MATTERS[dtype] * np.abs(right).max():
            continue
        exact = exact_attention(case)
        if exact.score_error.max() >= 0.5:  # rounding decides which key wins
            continue
        mattered += 1
        caught += not judge(case, FAULTS[fault](case, dtype), exact=exact, against_ordinary=False).passed
        assert seed < 600, "the fault hardly ever matters"
    assert caught >= 11


def test_a_wrong_log_sum_exp_fails() -> None:
    case = attention_case(0, dtype="float32")
    output, log_sum_exp = ordinary_attention(case)
    verdict = judge(case, output, log_sum_exp + 1e-2)
    assert not verdict.passed
    assert verdict.log_sum_exp_error == pytest.approx(1e-2, rel=0.1)
    merged = exact_attention(case).log_sum_exp + 5e-5 * (1 + np.abs(exact_attention(case).log_sum_exp))
    assert judge(case, output, merged).passed
    assert not judge(case, output, merged, log_sum_exp_tolerance=1e-5).passed


def test_what_is_no_number_fails() -> None:
    case = attention_case(0)
    output, log_sum_exp = ordinary_attention(case)
    for bad in (np.nan, np.inf):
        output[0, 0, 0] = bad
        verdict = judge(case, output, log_sum_exp)
        assert verdict.error == np.inf
        assert "token 0, head 0, feature 0" in verdict.problems[0]
    assert not judge(case, output[:, :, :1]).passed


def test_shares_of_blocks_add_up() -> None:
    for seed in range(30):
        case = attention_case(seed)
        exact = exact_attention(case, by_block=True)
        assert exact.block_log_sum_exp is not None
        total = np.logaddexp.reduce(exact.block_log_sum_exp, axis=-1)
        np.testing.assert_allclose(total, exact.log_sum_exp, rtol=1e-12, atol=1e-12)


def test_large_scores_under_a_soft_cap_are_not_compared_with_ordinary_attention() -> None:
    cases = (attention_case(seed, max_length=40, max_work=1e4) for seed in range(200))
    case = next(case for case in cases if case.softcap is not None and comparable(exact_attention(case, "float32")))
    assert comparable(exact_attention(replace(case, queries=case.queries * 4), "float32"))
    assert not comparable(exact_attention(replace(case, queries=case.queries * 10_000), "float32"))
