"""Named edge cases: each has one thing that breaks kernels, at every size where it might."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import mlx.core as mx
from made_case import made_case
from metal_cpu import CpuStarter
from run_case import attend, to_numpy, verdict

from hogwild.backends.mlx.kernels.launch import Launch, choose_launch
from hogwild.core.rotary import NO_ROTARY
from hogwild.errors import HogwildError


def check(cpu: CpuStarter, **changes: Any) -> None:
    """Few rows (vector kernel) and many (matrix kernel)."""
    for name, sizes in (("few", {"new_tokens": (1, 1)}), ("many", {"new_tokens": (9, 1, 3)})):
        case = made_case(**{**sizes, **changes})
        assert not verdict(case, cpu).problems, name


@pytest.mark.parametrize("dim", [8, 40, 56, 72, 104, 136, 200, 248, 256])
def test_head_dims(cpu: CpuStarter, dim: int) -> None:
    check(cpu, key_dim=dim, value_dim=dim)


@pytest.mark.parametrize("dims", [(8, 256), (192, 128), (64, 72)])
def test_keys_and_values_of_different_width(cpu: CpuStarter, dims: tuple[int, int]) -> None:
    check(cpu, key_dim=dims[0], value_dim=dims[1], dtype="float16")


def test_every_group_size(cpu: CpuStarter) -> None:
    for group_size in range(1, 33):
        check(cpu, group_size=group_size, kv_heads=1 + group_size % 2)


def test_more_query_heads_than_rows_of_a_threadgroup(cpu: CpuStarter) -> None:
    case = made_case(group_size=32, key_dim=256, value_dim=256, dtype="float32", new_tokens=(1, 2))
    assert choose_launch(2, 32, 256, 4).row_blocks == 2
    assert not verdict(case, cpu).problems


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_lengths_around_pages_and_tiles(cpu: CpuStarter, length: int) -> None:
    check(cpu, shared=(length,), page_size=16)
    check(cpu, shared=(length, 0, length), page_size=32)


def test_many_short_blocks(cpu: CpuStarter) -> None:
    check(cpu, shared=tuple(i % 5 for i in range(63)), page_size=4)


def test_a_long_item(cpu: CpuStarter) -> None:
    """Every simdgroup has several tiles, of several segments."""

    def one_item(*sizes: int) -> Launch:
        return replace(choose_launch(*sizes), tiles_per_item=100)

    for new_tokens in ((1, 1), (9, 1, 3)):
        case = made_case(shared=(600, 90, 20), new_tokens=new_tokens)
        assert not verdict(case, cpu, choose=one_item).problems


def test_a_block_that_stands_several_times_in_a_view(cpu: CpuStarter) -> None:
    check(cpu, shared=(33, 2), repeat=3)


def test_rows_without_tokens_and_long_rows(cpu: CpuStarter) -> None:
    for new_tokens in ((0, 1), (1, 0, 0, 40), (33, 0, 1), (1,) * 8):
        check(cpu, new_tokens=new_tokens)


def test_two_sessions_in_one_pass(cpu: CpuStarter) -> None:
    check(cpu, num_sessions=2)


@pytest.mark.parametrize("window", [1, 2, 31, 32, 33, 1 << 20])
def test_windows(cpu: CpuStarter, window: int) -> None:
    check(cpu, window=window)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
@pytest.mark.parametrize("loudness", [1.0, 1e6])
def test_soft_caps_and_loud_scores(cpu: CpuStarter, softcap: float, loudness: float) -> None:
    check(cpu, softcap=softcap, loudness=loudness)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_scores_of_a_million(cpu: CpuStarter, dtype: str) -> None:
    check(cpu, dtype=dtype, loudness=1e6 if dtype != "float16" else 1e4)


@pytest.mark.parametrize("sink", [-200.0, 0.0, 200.0])
def test_sinks(cpu: CpuStarter, sink: float) -> None:
    check(cpu, sinks=sink)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize(("num_dims", "start"), [(64, 0), (32, 0), (32, 32), (18, 7), (2, 62)])
def test_rotations(cpu: CpuStarter, pairing: str, num_dims: int, start: int) -> None:
    check(cpu, pairing=pairing, num_dims=num_dims, start=start)


def test_no_rotation(cpu: CpuStarter) -> None:
    for new_tokens in ((1, 1), (9, 1, 3)):
        case = replace(made_case(new_tokens=new_tokens), rotary=NO_ROTARY)
        assert not verdict(case, cpu).problems


def test_dead_slots_and_dead_keys_reach_nobody(cpu: CpuStarter) -> None:
    """Same bits, whatever stands in slots that nobody holds: NaN, infinity or nothing."""
    for new_tokens in ((1, 1), (9, 1, 3)):
        case = made_case(new_tokens=new_tokens, page_size=16)
        dead = np.isnan(case.keys)
        assert dead.any()
        answers = []
        for filler in (np.nan, np.inf, 0.0):
            keys, values = np.where(dead, filler, case.keys), np.where(np.isnan(case.values), filler, case.values)
            answers.append(to_numpy(attend(replace(case, keys=keys, values=values), cpu).output))
        np.testing.assert_array_equal(answers[0], answers[2])
        np.testing.assert_array_equal(answers[1], answers[2])


@pytest.mark.parametrize("order", range(4))
def test_a_broken_token_is_seen_only_by_those_who_read_it(cpu: CpuStarter, order: int) -> None:
    """The pool stores NaN keys and zero values for a token that is not finite: its readers get NaN, others do not."""
    cpu = CpuStarter(cpu.folder, order)
    for new_tokens in ((1, 1), (9, 1, 3)):
        case = made_case(new_tokens=new_tokens, private=True)
        (rows,) = case.groups
        keys, values = case.keys.copy(), case.values.copy()
        broken = rows[0].own.slots[0]
        keys[:, broken], values[:, broken] = np.nan, 0.0
        output = to_numpy(attend(replace(case, keys=keys, values=values), cpu).output)
        first = len(rows[0].token_ids)
        assert np.isnan(output[:first]).all()
        whole = to_numpy(attend(case, cpu).output)
        np.testing.assert_array_equal(output[first:], whole[first:])


def test_the_log_sum_exp_leaves_sinks_out(cpu: CpuStarter) -> None:
    case = made_case(sinks=50.0)
    with_sinks, without = attend(case, cpu), attend(replace(case, sinks=None), cpu)
    np.testing.assert_array_equal(to_numpy(with_sinks.log_sum_exp), to_numpy(without.log_sum_exp))
    assert np.abs(to_numpy(with_sinks.output)).max() < 1e-6


def test_what_the_kernels_do_not_compute_is_refused(cpu: CpuStarter) -> None:
    case = made_case()
    narrow = replace(case, keys=case.keys[..., :12], queries=case.queries[..., :12], rotary=NO_ROTARY)
    wide = replace(case, values=np.zeros((*case.values.shape[:2], 264), dtype=np.float32))
    odd = replace(case, queries=case.queries[:, :3])
    for wrong, what in ((narrow, "12"), (wide, "264"), (odd, "3 query heads")):
        with pytest.raises(HogwildError, match=what):
            attend(wrong, cpu)


def test_output_has_the_dtype_of_the_queries(cpu: CpuStarter) -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        assert attend(made_case(dtype=dtype), cpu).output.dtype == getattr(mx, dtype)
