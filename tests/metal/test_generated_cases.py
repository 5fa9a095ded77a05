"""The kernels' own source, run on the CPU, against the float64 oracle on generated cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

from metal_cpu import CpuStarter
from run_case import attend, block_errors, to_numpy, verdict

from hogwild.backends.mlx.kernels.attention import Chooser
from hogwild.backends.mlx.kernels.launch import MATRIX_TILE, VECTOR_ROWS, Launch, choose_launch
from hogwild.conformance.cases import AttentionCase, attention_case
from hogwild.conformance.kit.schedule import PARTS

PER_TEST = 25
NUM_CASES, MANY_CASES = 300, 6000
OTHER_SEEDS = range(10_000, 10_060)
MAX_LENGTH = 48


def generated(seed: int, max_length: int = MAX_LENGTH) -> AttentionCase:
    """Case number `seed`; every fifth one stores K and V in 8 bits."""
    return attention_case(seed, max_length=max_length, kv_dtype="int8" if seed % 5 == 4 else "auto")


def check(cpu: CpuStarter, first: int) -> None:
    """Orders of the threads and layouts of the matrices take turns."""
    problems = []
    for seed in range(first, first + PER_TEST):
        cpu.order = seed % 4
        found = verdict(generated(seed), cpu)
        problems += [f"{found.case}: {problem}" for problem in found.problems]
    assert not problems


@pytest.mark.parametrize("first", range(0, NUM_CASES, PER_TEST))
def test_cases(cpu: CpuStarter, first: int) -> None:
    check(cpu, first)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(NUM_CASES, MANY_CASES, PER_TEST))
def test_many_cases(cpu: CpuStarter, first: int) -> None:
    check(cpu, first)


def always_vector(num_tokens: int, group_size: int, head_dim: int, itemsize: int) -> Launch:
    """The rows of a chunk shared by several threadgroups, one or many items, several tiles for each simdgroup."""
    launch = choose_launch(1, 1, head_dim, itemsize)
    return replace(
        launch,
        rows=min((1, 4, 8)[num_tokens % 3], VECTOR_ROWS[launch.capacity]),
        simdgroups=2,
        group_size=group_size,
        query_tile=min(num_tokens, 5),
        tiles_per_item=(4, 1)[group_size % 2],
    )


def always_matrix(num_tokens: int, group_size: int, head_dim: int, itemsize: int) -> Launch:
    """8 x 8 matrices for few rows too, and chunks of more rows than a threadgroup takes."""
    launch = choose_launch(64, 1, head_dim, itemsize)
    return replace(launch, group_size=group_size, query_tile=min(num_tokens, 7), tiles_per_item=1)


@pytest.mark.parametrize("choose", [always_vector, always_matrix], ids=["vector", "matrix"])
def test_other_launches(cpu: CpuStarter, choose: Chooser) -> None:
    """Both kernels answer every case, with many items."""
    problems = []
    for seed in OTHER_SEEDS:
        cpu.order = seed % 4
        problems += verdict(generated(seed, 24), cpu, choose=choose).problems
    assert not problems


@pytest.mark.parametrize(("span", "seeds"), [(0, (7,)), (2, (4, 7))])
def test_with_fixed_cuts_the_schedule_changes_no_bit(cpu: CpuStarter, span: int, seeds: tuple[int, ...]) -> None:
    """Statement L0; without them it does, so the comparison can fail."""
    cpu.order = 0
    changed = set()
    for seed in seeds:
        case = generated(seed, 40)
        first = to_numpy(attend(case, cpu, span=span).output)
        for part, passes in PARTS.items():
            answers = [(tokens, to_numpy(attend(given, cpu, span=span).output)) for tokens, given in passes(case)]
            if any(answer.tobytes() != first[tokens].tobytes() for tokens, answer in answers):
                changed.add(part)
    assert bool(changed) == (span == 0), changed


def test_log_sum_exp_of_each_block(cpu: CpuStarter) -> None:
    cpu.order = 0
    worst = {}
    for seed in range(400, 430):
        choose = (choose_launch, always_vector)[seed % 2]
        worst[seed] = float(block_errors(attention_case(seed, max_length=24), cpu, choose=choose).max())
    assert max(worst.values()) <= 1, worst


def test_every_class_is_reached() -> None:
    """Each kernel, with each number of rows and features that it is compiled for, in each size of number."""
    chosen = [launch_of(attention_case(seed, max_length=MAX_LENGTH), choose_launch) for seed in range(NUM_CASES)]
    chosen += [launch_of(attention_case(seed, max_length=24), always_vector) for seed in OTHER_SEEDS]
    reached = {(launch.rows, launch.keys, launch.capacity, itemsize) for launch, itemsize in chosen}
    expected = set()
    for capacity, most in VECTOR_ROWS.items():
        for itemsize in (2, 4):
            most_rows, keys = MATRIX_TILE[capacity * itemsize]
            expected |= {(rows, 0, capacity, itemsize) for rows in (1, 4, 8) if rows <= most}
            expected |= {(rows, keys, capacity, itemsize) for rows in (16, most_rows)}
    assert reached == expected


def launch_of(case: AttentionCase, choose: Chooser) -> tuple[Launch, int]:
    head_dim = max(case.keys.shape[-1], case.values.shape[-1])
    most_tokens = max(group.num_tokens for group in case.plan.groups)
    itemsize = 4 if case.dtype == "float32" else 2
    return choose(most_tokens, case.queries.shape[1] // case.keys.shape[0], head_dim, itemsize), itemsize
