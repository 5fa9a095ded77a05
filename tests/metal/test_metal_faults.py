"""The negative control: each fault that is put into the kernels' source is caught by one of a few small cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import mlx.core as mx
from made_case import made_case
from metal_cpu import CpuStarter, MetalError
from run_case import block_errors, verdict
from test_generated_cases import always_vector

from hogwild.backends.mlx.kernels.launch import choose_launch
from hogwild.backends.mlx.kernels.source import ATTEND_MATRIX, ATTEND_VECTOR, KERNELS, Call, Kernel

FEW, MANY = (1, 1), (9, 1, 3)  # new tokens: what the vector kernel gets, and the matrix kernel
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"

# The kernel (all of them where none is named), a text of it, and what stands there instead.
FAULTS = {
    "offset off by one": ("", "(offset + LARGEST_OFFSET)", "(offset + 1024 + LARGEST_OFFSET)"),
    "low part of the offset off by one": ("", "offset & ((1 <<", "(offset + 1) & ((1 <<"),
    "turned the other way": ("", "second ? other : -other", "second ? -other : other"),
    "pairs mixed up": ("", "i / 2 : i % rotary.num_pairs", "i % rotary.num_pairs : i / 2"),
    "rotation starts one feature early": ("", "feature - rotary.start", "feature - rotary.start + 1"),
    "causality off by one": ("", "uint(reach - index) <", "uint(reach - index - 1) <"),
    "window off by one": ("", "uint(reach - index) < uint(window)", "uint(reach - index) <= uint(window)"),
    "a visible tile is skipped": ("", "reach.most < first ", "reach.most < first + 8 "),
    "a tile is skipped though its last key is seen": ("", "reach.least - last >=", "reach.least - first >="),
    "indices without gaps": ("", "index_at(tables, column + int(lane))", "index_at(tables, column) + int(lane)"),
    "a tile is skipped though a row sees it": ("", "simd_min(reach < 0", "simd_max(reach < 0"),
    "no soft cap": ("", "softcap > 0.0f", "false"),
    "vector: rows swapped": ("attend_vector", "row % group_size", "(row + 1) % group_size"),
    "vector: tail not masked": ("attend_vector", "seen = int(lane) < count && ", "seen = "),
    "vector: the sum keeps its scale": ("attend_vector", "sum[r][e] *= kept;", ""),
    "vector: the total keeps its scale": ("attend_vector", "total[r] * kept + ", "total[r] + "),
    "vector: a simdgroup's total is lost": ("attend_vector", "whole += all_total", "whole = all_total"),
    "vector: tiles are read twice": ("attend_vector", "tile += SIMDGROUPS", "tile += 1"),
    "vector: one head's keys for all": ("attend_vector", "ulong(kv_head) * num_slots", "ulong(0) * num_slots"),
    "matrix: rows swapped": ("attend_matrix", "row % group_size", "(row + 1) % group_size"),
    "matrix: tail not masked": ("attend_matrix", "seen = int(lane) < count && ", "seen = "),
    "matrix: keys not transposed": ("attend_matrix", "ulong2(0, 0), true)", "ulong2(0, 0), false)"),
    "matrix: the sum keeps its scale": (
        "attend_matrix",
        "factors[r * 8 + int(lane)] = kept",
        "factors[r * 8 + int(lane)] = 1.0f",
    ),
    "matrix: no scale": ("attend_matrix", "* scale, softcap", ", softcap"),
    "matrix: queries are turned once only": (
        "attend_matrix",
        "bool is_turned = false;",
        "bool is_turned = s > item.first_segment;",
    ),
    "matrix: dead slots are read": ("attend_matrix", "if (exists) {", "if (true) {"),
    "merge: sinks are forgotten": ("merge", "sizes[0] ? ", "false ? "),
    "merge: the first item only": ("merge", "i < count; i++", "i < 1; i++"),
    "merge: places swapped": ("merge", "token.place * group_size", "(token.place ^ 1) * group_size"),
    "merge: sinks in the log-sum-exp": ("merge", "best + precise::log(total)", "best + precise::log(whole)"),
    "blocks: the last item of a block only": ("merge_blocks", "total * precise::exp(best - new_best) + ", ""),
}
# The same for K and V in 8 bits.
FAULTS_IN_8_BITS = {
    "vector: scales of another head": ("attend_vector", "vector = ulong(kv_head)", "vector = ulong(kv_head ^ 1)"),
    "vector: a key's scale twice": ("attend_vector", "* key_scale * scale", "* key_scale * key_scale * scale"),
    "vector: no scale for values": ("attend_vector", "score[r] * value_scale", "score[r]"),
    "vector: a value's scale in the total": ("attend_vector", "simd_sum(score[r])", "simd_sum(score[r] * value_scale)"),
    "vector: codes without a sign": ("attend_vector", "float(keys[at + feature])", "float(uchar(keys[at + feature]))"),
    "vector: the neighbour's scale": ("attend_vector", "key_scales[vector]", "key_scales[vector ^ 1]"),
    "matrix: scales of another head": ("attend_matrix", "vector = ulong(kv_head)", "vector = ulong(kv_head ^ 1)"),
    "matrix: a value's scale twice": ("attend_matrix", "weight * value_scale", "weight * value_scale * value_scale"),
    "matrix: no scale for keys": ("attend_matrix", "* key_scale * scale", "* scale"),
    "matrix: a value's scale in the total": ("attend_matrix", "simd_sum(weight)", "simd_sum(weight * value_scale)"),
    "matrix: codes without a sign": ("attend_matrix", "int8_t(four", "uchar(four"),
    "matrix: codes in another order": ("attend_matrix", "8 * j", "24 - 8 * j"),
    "matrix: the neighbour's scale": ("attend_matrix", "value_scales[vector]", "value_scales[vector ^ 1]"),
}
BARRIERS = [(kernel, i) for kernel in (ATTEND_VECTOR, ATTEND_MATRIX) for i in range(kernel.source.count(BARRIER))]


@dataclass(frozen=True)
class Faulty:
    """Starts kernels, some of them with other source."""

    cpu: CpuStarter
    broken: dict[str, Kernel]

    def __call__(self, kernel: Kernel, call: Call) -> list[mx.array]:
        return self.cpu(self.broken.get(kernel.name, kernel), call)


CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"window": 30, "pairing": "interleaved"},
    {"softcap": 0.5, "sinks": 0.5},
    {"loudness": 30.0},
    {"steps": 14, "window": 70},
)
IN_8_BITS: tuple[dict[str, Any], ...] = ({"kv_dtype": "int8"},)


def problems(
    cpu: CpuStarter, broken: dict[str, Kernel], changes: tuple[dict[str, Any], ...] = CHANGES
) -> Iterator[str]:
    """What is wrong with the answers, one case after the other; few shape classes, so that little is compiled."""
    common: dict[str, Any] = {"shared": (70, 0, 33), "num_dims": 32, "start": 8, "page_size": 32}
    start = Faulty(cpu, broken)
    for new_tokens, kernel, choose in ((FEW, ATTEND_VECTOR, always_vector), (MANY, ATTEND_MATRIX, choose_launch)):
        if any(name.startswith("hogwild_attend") for name in broken) and kernel.name not in broken:
            continue
        for more in changes:
            case = made_case(new_tokens=new_tokens, **common, **more)
            for cpu.order in (0, 1):
                try:
                    yield from verdict(case, start, choose=choose).problems
                except MetalError as error:
                    yield str(error)
        if "hogwild_merge_blocks" in broken and (block_errors(case, start, choose=choose) > 1).any():
            yield "the log-sum-exp of a block is off"


def test_without_a_fault_nothing_is_caught(seldom: CpuStarter) -> None:
    assert list(problems(seldom, {}, CHANGES + IN_8_BITS)) == []
    assert list(problems(seldom, {kernel.name: kernel for kernel in KERNELS})) == []


@pytest.mark.parametrize("name", [*FAULTS, *FAULTS_IN_8_BITS])
def test_a_fault_is_caught(seldom: CpuStarter, name: str) -> None:
    where, old, new = FAULTS.get(name) or FAULTS_IN_8_BITS[name]
    named = [kernel for kernel in KERNELS if where in ("", kernel.name.removeprefix("hogwild_"))]
    broken = {k.name: replace(k, header=k.header.replace(old, new), source=k.source.replace(old, new)) for k in named}
    broken = {kernel.name: broken[kernel.name] for kernel in named if broken[kernel.name] != kernel}
    assert broken, "the text is not in the source"
    assert next(problems(seldom, broken, CHANGES if name in FAULTS else IN_8_BITS), None)


@pytest.mark.parametrize(("kernel", "number"), BARRIERS, ids=[f"{k.name} {i}" for k, i in BARRIERS])
def test_a_missing_barrier_is_caught(seldom: CpuStarter, kernel: Kernel, number: int) -> None:
    parts = kernel.source.split(BARRIER)
    source = BARRIER.join(parts[: number + 1]) + BARRIER.join(["", *parts[number + 1 :]])[len(BARRIER) :]
    assert source.count(BARRIER) == kernel.source.count(BARRIER) - 1
    assert next(problems(seldom, {kernel.name: replace(kernel, source=source)}), None)
