"""The shim itself: it computes what Metal's functions compute, and reports threads that do not keep together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import mlx.core as mx
from metal_cpu import CpuStarter, MetalError

from hogwild.backends.mlx.kernels.source import Call, Kernel

HEADER = "using namespace metal;\n"


def run(
    seldom: CpuStarter, source: str, *inputs: Any, size: int = 64, dtype: Any = mx.float32, threads: int = 64
) -> Any:
    kernel = Kernel("probe", HEADER, source, tuple("abc"[: len(inputs)]), ("out",))
    arrays = [mx.array(x) if isinstance(x, np.ndarray) else x for x in inputs]
    (out,) = seldom(kernel, Call(arrays, [], (size, 1, 1), threads, [((size,), dtype)]))
    return np.array(out.astype(mx.float32))


FAULTS = {
    "only some lanes": "uint i = thread_position_in_grid.x; out[i] = i % 2 == 0 ? simd_sum(a[i]) : 0.0f;",
    "different operations": """
        uint i = thread_position_in_grid.x;
        out[i] = i % 2 == 0 ? simd_sum(a[i]) :
            simd_max(a[i]);""",
    "not reached by all": """
        uint i = thread_position_in_grid.x;
        if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
        out[i] = a[i];""",
    "different barriers": """
        uint i = thread_position_in_grid.x;
        if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
        else
            threadgroup_barrier(mem_flags::mem_threadgroup);
        out[i] = a[i];""",
    "bytes of threadgroup memory": """
        threadgroup float room[8193];
        room[thread_index_in_threadgroup] = 0.0f;
        out[thread_position_in_grid.x] = room[thread_index_in_threadgroup];""",
}


@pytest.mark.parametrize("message", FAULTS)
def test_threads_that_do_not_keep_together_are_reported(seldom: CpuStarter, message: str) -> None:
    with pytest.raises(MetalError, match=message):
        run(seldom, FAULTS[message], np.ones(64, np.float32))


def test_code_that_is_not_metal_does_not_compile(seldom: CpuStarter) -> None:
    with pytest.raises(MetalError, match="does not compile"):
        run(seldom, "out[0] = nothing;", np.ones(64, np.float32))


def test_simdgroup_functions(seldom: CpuStarter) -> None:
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    x[40] = np.nan
    i = "uint i = thread_position_in_grid.x; "
    halves = x.reshape(2, 32)
    np.testing.assert_allclose(run(seldom, i + "out[i] = simd_sum(a[i]);", x), halves.sum(1).repeat(32), rtol=1e-5)
    np.testing.assert_array_equal(run(seldom, i + "out[i] = simd_max(a[i]);", x), np.fmax.reduce(halves, 1).repeat(32))
    np.testing.assert_array_equal(run(seldom, i + "out[i] = simd_min(a[i]);", x), np.fmin.reduce(halves, 1).repeat(32))
    numbers, broken = np.array([1, np.nan] * 32, np.float32), np.array([np.nan] * 64, np.float32)
    for order, expected in ((0, 1), (2, np.nan)):
        seldom.order = order
        for function in ("max", "min"):
            found = run(seldom, i + f"out[i] = {function}(a[i], b[i]);", numbers, numbers[::-1].copy())
            np.testing.assert_array_equal(found, np.full(64, expected))
            assert np.isnan(run(seldom, i + f"out[i] = {function}(a[i], simd_{function}(a[i]));", broken)).all()
    seldom.order = 0
    np.testing.assert_array_equal(run(seldom, i + "out[i] = simd_broadcast(a[i], 7);", x), halves[:, 7].repeat(32))
    swapped = run(seldom, i + "out[i] = simd_shuffle_xor(a[i], 5);", x)
    np.testing.assert_array_equal(swapped, halves[:, np.arange(32) ^ 5].ravel())


def test_threadgroup_memory_is_shared_and_starts_as_nan(seldom: CpuStarter) -> None:
    source = """
        threadgroup float room[65];
        uint i = thread_index_in_threadgroup;
        room[i] = a[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        out[i] = i == 0 ? room[64] : room[63 - i];"""
    x = np.arange(64, dtype=np.float32)
    out = run(seldom, source, x)
    assert np.isnan(out[0])
    np.testing.assert_array_equal(out[1:], x[::-1][1:])


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_products_of_matrices(seldom: CpuStarter, dtype: str, transposed: bool, order: int) -> None:
    seldom.order = order
    rng = np.random.default_rng(0)
    x, y = (mx.array(rng.standard_normal((8, 16)).astype(np.float32)).astype(getattr(mx, dtype)) for _ in "xy")
    name = {"float32": "float", "float16": "half", "bfloat16": "bfloat"}[dtype]
    source = f"""
        simdgroup_matrix<{name}, 8, 8> x, y;
        simdgroup_matrix<float, 8, 8> z = make_filled_simdgroup_matrix<float, 8, 8>(0.5f);
        simdgroup_load(x, a + 8, 16);
        simdgroup_load(y, b, 16, ulong2(0, 0), {str(transposed).lower()});
        simdgroup_multiply_accumulate(z, x, y, z);
        z.thread_elements()[0] *= 2.0f;
        z.thread_elements()[1] *= 2.0f;
        simdgroup_store(z, out, 8);"""
    kernel = Kernel("product", HEADER, source, ("a", "b"), ("out",))
    (out,) = seldom(kernel, Call([x, y], [], (32, 1, 1), 32, [((8, 8), mx.float32)]))
    left, right = (np.array(m.astype(mx.float32)) for m in (x[:, 8:], y[:, :8]))
    np.testing.assert_allclose(
        np.array(out), 2 * (left @ (right.T if transposed else right) + 0.5), rtol=1e-5, atol=1e-5
    )
    seldom.order = 0
