"""What stands around the kernels: tables, launches, and that nothing waits for the GPU inside a pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import mlx.core as mx
from made_case import made_case
from metal_cpu import CpuStarter
from run_case import attend, to_numpy

from hogwild.backends.mlx.kernels.launch import CAPACITIES, MATRIX_TILE, MAX_TOKENS, choose_launch
from hogwild.backends.mlx.kernels.source import ATTEND_MATRIX, Call, Kernel, start_on_gpu
from hogwild.backends.mlx.kernels.tables import HEADER, pack_tables, rotary_tables
from hogwild.core.rotary import MAX_OFFSET, RotarySpec, exact_angles
from hogwild.core.work import cut_work


def test_tables_hold_the_work_list() -> None:
    work = cut_work(made_case(num_sessions=2).plan, tile=32, query_tile=2, num_items=4)
    packed = np.array(pack_tables(work))
    parts = [work.items, work.segments, work.turns, work.offsets, work.column_slots, work.tokens, work.order]
    parts += [work.column_index]
    for start, part in zip(packed[: len(parts)], parts, strict=True):
        np.testing.assert_array_equal(packed[start : start + part.size], part.ravel())
    assert packed.dtype == np.int32
    assert len(packed) == HEADER + sum(part.size for part in parts)


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_angles_are_exact_to_6e_8(cpu: CpuStarter, theta: float) -> None:
    """The kernels' own code turns (1, 0) by offsets up to +-2^20."""
    spec = RotarySpec(tuple((theta ** -(np.arange(0, 64, 2) / 64)).astype(np.float32).tolist()))
    rng = np.random.default_rng(0)
    edges = [0, 1, -1, 1023, 1024, -1024, -1025, MAX_OFFSET, -MAX_OFFSET]
    offsets = np.concatenate([edges, rng.integers(-MAX_OFFSET, MAX_OFFSET, 503)]).astype(np.int32)
    source = """
        const Rotary rotary = {0, 32, 0};
        const Angles angles = angles_of(offsets[threadgroup_position_in_grid.y], rotary, high, low);
        for (int f = thread_index_in_simdgroup; f < 64; f += 32) {
          out[64 * threadgroup_position_in_grid.y + f] = turned(query, f, rotary, angles);
        }"""
    kernel = Kernel("angles", ATTEND_MATRIX.header, source, ("query", "offsets", "high", "low"), ("out",))
    query = mx.array(np.repeat([1.0, 0.0], 32).astype(np.float32))
    inputs = [query, mx.array(offsets), *rotary_tables(spec)]
    (out,) = cpu(kernel, Call(inputs, [], (32, len(offsets), 1), 32, [((len(offsets), 64), mx.float32)]))
    cos, sin = exact_angles(offsets.astype(np.int64), spec)
    assert np.abs(np.array(out) - np.concatenate([cos, sin], axis=1)).max() <= 6e-8


def test_launches_keep_to_the_limits() -> None:
    """At most 1024 threads and 32 KB, chunks that a kernel can hold, all rows computed."""
    dims, groups, tokens = range(8, 257, 8), range(1, 33), (1, 2, 3, 4, 8, 9, 16, 17, 100, 1000)
    for dim, group_size, num_tokens, itemsize in itertools.product(dims, groups, tokens, (2, 4)):
        launch = choose_launch(num_tokens, group_size, dim, itemsize)
        assert launch.threads <= 1024
        assert 1 <= launch.query_tile <= min(MAX_TOKENS, num_tokens)
        assert launch.rows * launch.row_blocks >= launch.query_tile * group_size
        assert launch.stored_rows >= launch.query_tile * group_size
        assert dim <= launch.capacity
        if launch.is_matrix:
            stride = launch.capacity + 16 // itemsize
            used = itemsize * stride * (launch.rows + launch.keys) + 4 * launch.rows * (launch.keys + 8)
            assert used <= 32768
            assert launch.capacity // 8 % launch.simdgroups == launch.rows % launch.simdgroups == 0
        else:
            assert 4 * launch.simdgroups * (launch.capacity + 2 * launch.rows) <= 32768
    assert set(MATRIX_TILE) == {capacity * itemsize for capacity in CAPACITIES for itemsize in (2, 4)}


def test_a_pass_is_one_graph(tmp_path: Path) -> None:
    """Attention is traced for the GPU as a whole: a step that read a number back could not be."""
    for new_tokens in ((1, 1), (9, 1, 3)):
        case = made_case(new_tokens=new_tokens)

        def traced(scale: mx.array, case: object = case) -> list[mx.array]:
            attended = attend(case, start_on_gpu, by_block=True)
            return [attended.output * scale, attended.log_sum_exp, attended.by_block]

        mx.export_function(str(tmp_path / "pass"), traced, mx.array(1.0))


def test_one_start_of_each_kernel_for_all_sessions(cpu: CpuStarter) -> None:
    names = []

    def start(kernel: Kernel, call: Call) -> list[mx.array]:
        names.append(kernel.name)
        return cpu(kernel, call)

    attend(made_case(num_sessions=3), start)
    assert names == ["hogwild_attend_vector", "hogwild_merge"]


def test_a_class_is_compiled_once(cpu: CpuStarter) -> None:
    """Other lengths, heads, widths up to the capacity, windows and rotations need no other kernel."""
    counting = CpuStarter(cpu.folder)
    for more in (
        {},
        {"shared": (500,)},
        {"key_dim": 40},
        {"window": 5},
        {"start": 16, "num_dims": 32},
        {"kv_heads": 5},
    ):
        to_numpy(attend(made_case(new_tokens=(20, 3), **more), counting).output)
    assert counting.num_compiled == 2
