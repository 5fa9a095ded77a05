"""K/V in 8 bits on MLX: the bits of the definition, the contract, memory, long slices, broken tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs mlx")
pytest.importorskip("mlx_lm", reason="needs mlx-lm")

import contract  # noqa: E402
from contract import ModelCase, Subject  # noqa: E402
from mlx_models import load_folder  # noqa: E402

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.mlx import MlxBackend, stored  # noqa: E402
from hogwild.backends.mlx.pool import KVPool, SlotRows  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.conformance.small_models import logits_in_blocks, random_tokens  # noqa: E402
from hogwild.core.quantized import LEAST_SCALE, dequantize, quantize, vector_bytes  # noqa: E402
from hogwild.core.rotary import NO_ROTARY  # noqa: E402

CHECKS = (
    contract.check_publishing_is_exact,
    contract.check_publishing_changes_no_logits,
    contract.check_page_placement,
    contract.check_fork_leaves_the_other_side,
    contract.check_growth_keeps_bits,
)
CASE = ModelCase("llama")
ROUNDING = 0.1  # how far 8 bits may move a logit of the tiny model; without them 1e-4


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


Open = Callable[..., MlxBackend]


@pytest.fixture
def open_mlx() -> Iterator[Open]:
    """Loads a folder; what it loads is closed after the test."""
    with ExitStack() as opened:

        def load(folder: Path, kv_dtype: str = "int8") -> MlxBackend:
            backend = load_folder(folder, LoadOptions(dtype="float32", device="cpu", kv_dtype=kv_dtype))
            opened.callback(backend.close)
            return backend

        yield load


def inputs() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((3, 200, 24)).astype(np.float32)
    ties = rng.integers(-253, 254, (2, 300, 40)).astype(np.float32) / 2
    ties[..., 0] = 127  # so that the scale is 1 and halves stand between two codes
    return {
        "random": normal,
        "zero": np.array([[0.0] * 8, [-0.0] * 8], dtype=np.float32),
        "tiny": normal * np.float32(100 * LEAST_SCALE),
        "subnormal": normal * np.float32(1e-42),
        "huge": normal / np.abs(normal).max() * np.float32(3e38),
        "ties": ties,
        "all magnitudes": (normal * 10 ** rng.uniform(-40, 37, normal.shape)).astype(np.float32),
    }


@pytest.mark.parametrize("name", inputs())
def test_the_bits_of_the_definition(name: str) -> None:
    x = inputs()[name]
    found, expected = stored.quantize(mx.array(x)), quantize(x)
    np.testing.assert_array_equal(np.array(found.codes), expected.codes)
    np.testing.assert_array_equal(np.array(found.scales)[..., 0].view(np.uint32), expected.scales.view(np.uint32))
    numbers = np.array(stored.numbers(found))
    np.testing.assert_array_equal(numbers.view(np.uint32), dequantize(expected).view(np.uint32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_bits_of_sixteen_bit_input(dtype: str) -> None:
    x = mx.array(inputs()["random"]).astype(getattr(mx, dtype))
    found, expected = stored.quantize(x), quantize(np.array(x.astype(mx.float32)))
    np.testing.assert_array_equal(np.array(found.codes), expected.codes)
    np.testing.assert_array_equal(np.array(found.scales)[..., 0], expected.scales)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_has_no_scale(broken: float) -> None:
    x = np.ones((3, 8), dtype=np.float32)
    x[1, 5] = broken
    found = stored.quantize(mx.array(x))
    assert np.isnan(np.array(found.scales)[:, 0]).tolist() == [False, True, False]
    assert not np.array(found.codes)[1].any()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, tmp_path: Path, open_mlx: Open) -> None:
    check(Subject(open_mlx, mx.array, ROUNDING, placement_changes_bits=True), CASE, tmp_path)


def test_the_pool_stores_what_the_definition_says_of_its_input() -> None:
    """Also in 16 bits, in any slots, and after the pool has grown."""
    pool = KVPool([LayerSpec(NO_ROTARY, 3, 24, 16)], mx.float16, "int8")
    slots = np.array([5, 60, 7, 8])
    x = np.random.default_rng(0).standard_normal((3, 4, 40)).astype(np.float16)
    pool.reserve(64)
    given = mx.array(x).swapaxes(0, 1)[:, :, None]
    pool.write(0, given[..., :24], given[..., 24:], SlotRows(slots, 64))
    pool.reserve(200)
    for found, given in zip(pool.read(0, slots), (x[..., :24], x[..., 24:]), strict=True):
        np.testing.assert_array_equal(found, dequantize(quantize(given)).swapaxes(0, 1))
    dtypes = {x.dtype for held in pool.heads(0) for x in stored.arrays(held)}
    assert dtypes == {mx.int8, mx.float32}


def test_memory(tmp_path: Path, open_mlx: Open) -> None:
    backend = open_mlx(CASE.write(tmp_path))
    expected = sum(2 * layer.num_kv_heads * vector_bytes(layer.key_dim) for layer in backend.spec.layers)
    assert backend.spec.kv_bytes_per_token == expected
    assert (backend.info.kv_dtype, backend.info.dtype) == ("int8", "float32")
    assert open_mlx(CASE.write(tmp_path), "auto").info.kv_dtype == "auto"
    pool = KVPool(backend.spec.layers, mx.bfloat16, "int8")
    before = mx.get_active_memory()
    pool.reserve(1 << 14)
    held = mx.get_active_memory() - before
    assert expected << 14 <= held <= (expected << 14) * 1.01


def test_logits_move_by_what_8_bits_round_off(tmp_path: Path, open_mlx: Open) -> None:
    folder, tokens = CASE.write(tmp_path), random_tokens()
    rounded, exact = (logits_in_blocks(open_mlx(folder, kv_dtype), tokens) for kv_dtype in ("int8", "auto"))
    assert 0 < np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)


def test_what_the_first_layer_stores_is_the_same_as_without_and_rounded(tmp_path: Path, open_mlx: Open) -> None:
    folder, found = CASE.write(tmp_path), []
    for kv_dtype in ("int8", "auto"):
        cache = SharedCache(open_mlx(folder, kv_dtype))
        found.append(cache.read_kv(cache.block(random_tokens(40)), 0))
    for rounded, exact in zip(*found, strict=True):
        np.testing.assert_array_equal(rounded, dequantize(quantize(exact)))


def test_a_long_slice_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_mlx: Open) -> None:
    folder, tokens = CASE.write(tmp_path), random_tokens(200)
    whole = logits_in_blocks(open_mlx(folder), tokens)
    monkeypatch.setattr(stored, "PART", 48)
    parts = logits_in_blocks(open_mlx(folder), tokens)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)
    sizes = [x.shape[1] for x in stored.slice_parts(stored.quantize(mx.ones((2, 300, 8))), 10, 130)]
    assert sizes == [48, 48, 24]


def test_a_broken_token_reaches_its_readers_alone() -> None:
    pool = KVPool([LayerSpec(NO_ROTARY, 1, 8, 8)], mx.float32, "int8")
    pool.reserve(16)
    keys, values = np.ones((2, 2, 1, 1, 8), dtype=np.float32)
    values[1, 0, 0, 3] = np.inf
    pool.write(0, mx.array(keys), mx.array(values), SlotRows(np.array([0, 1]), 16))
    found_keys, found_values = pool.read(0, np.array([0, 1]))
    assert np.isnan(found_keys[1]).all()  # whoever sees it gets NaN through its scores
    assert np.isfinite(found_values).all()  # and whoever does not meets no NaN in the sum over values
    assert np.isfinite(found_keys[0]).all()
