"""K/V in 8 bits on the reference and on torch: the contract holds, memory halves, and both store the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
from contract import ModelCase, Subject

from hogwild.backends import reference
from hogwild.backends.base import Backend
from hogwild.backends.options import LoadOptions
from hogwild.backends.reference import pool as reference_pool
from hogwild.backends.reference.backend import ReferenceBackend
from hogwild.backends.reference.weights import read_model
from hogwild.cache import SharedCache
from hogwild.conformance.small_models import logits_in_blocks, random_tokens
from hogwild.core.quantized import dequantize, quantize
from hogwild.models import find_checkpoint

CHECKS = (
    contract.check_publishing_is_exact,
    contract.check_publishing_changes_no_logits,
    contract.check_page_placement,
    contract.check_fork_leaves_the_other_side,
    contract.check_growth_keeps_bits,
    contract.check_dead_slots_are_never_read,
)
CASE = ModelCase("llama")
ROUNDING = 0.1  # how far 8 bits may move a logit of the tiny model; without them 1e-4


def open_reference(folder: Path, dtype: str = "float64", kv_dtype: str = "int8") -> Backend:
    return reference.load(find_checkpoint(str(folder)), LoadOptions(dtype=dtype, kv_dtype=kv_dtype))


def open_torch(folder: Path, dtype: str = "float32", kv_dtype: str = "int8") -> Backend:
    cuda = pytest.importorskip("hogwild.backends.cuda")
    return cuda.load(find_checkpoint(str(folder)), LoadOptions(dtype, "cpu", "plain", kv_dtype))


def open_poisoned(folder: Path) -> Backend:
    model = read_model(find_checkpoint(str(folder)), "float32")
    return ReferenceBackend(model, pool_fill=float("nan"), kv_dtype="int8")


Open = Callable[..., Backend]
BOTH = pytest.mark.parametrize("open_backend", [open_reference, open_torch])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@BOTH
def test_contract(open_backend: Open, check: Any, tmp_path: Path) -> None:
    poisoned = open_poisoned if open_backend is open_reference else None
    check(Subject(open_backend, lambda logits: logits, ROUNDING, poisoned, open_backend is open_torch), CASE, tmp_path)


def test_the_reference_computes_with_what_the_definition_says_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokens = CASE.write(tmp_path), random_tokens()
    got = logits_in_blocks(open_reference(folder), tokens)
    write = reference_pool.KVPool.write

    def write_rounded(self: Any, layer: int, slots: Any, *given: Any) -> None:
        write(self, layer, slots, *(dequantize(quantize(x)) for x in given))

    monkeypatch.setattr(reference_pool.KVPool, "write", write_rounded)
    plain = open_reference(folder, kv_dtype="auto")
    np.testing.assert_allclose(got, logits_in_blocks(plain, tokens), rtol=1e-6, atol=1e-6)


def test_torch_stores_what_the_reference_stores(tmp_path: Path) -> None:
    """Up to codes at the border of two integers, where the last bit of a float32 decides."""
    folder, tokens = CASE.write(tmp_path), random_tokens()
    logits = [logits_in_blocks(open_backend(folder), tokens) for open_backend in (open_reference, open_torch)]
    exact = logits_in_blocks(open_reference(folder, kv_dtype="auto"), tokens)
    apart, moved = (float(np.linalg.norm(logits[0] - other)) for other in (logits[1], exact))
    assert 0 < moved < 0.05 * np.linalg.norm(exact)
    assert apart < moved / 3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_quantises_as_the_definition_says(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from hogwild.backends.cuda.stored import quantize as quantize_torch

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 500, 24)).astype(np.float32))
    x = x.to(getattr(torch, dtype))
    x[0, 0], x[0, 1], x[0, 2, 5], x[0, 3, 5] = 0, 1e-45, float("nan"), float("-inf")
    x[1, 0] = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5] + 17 * [0.0])
    codes, scales = quantize_torch(x)
    expected = quantize(x.float().numpy())
    np.testing.assert_array_equal(codes.numpy(), expected.codes)
    np.testing.assert_array_equal(scales[..., 0].numpy(), expected.scales)


@BOTH
def test_a_token_takes_half_the_memory_of_16_bits(open_backend: Open, tmp_path: Path) -> None:
    folder = CASE.write(tmp_path)
    backend = open_backend(folder)
    layers = backend.spec.layers
    expected = sum(2 * layer.num_kv_heads * (layer.key_dim + 4) for layer in layers)
    assert backend.spec.kv_bytes_per_token == expected
    assert backend.info.kv_dtype == "int8"
    backend.reserve(1000)
    assert _held(backend) == 1000 * expected
    assert open_backend(folder, kv_dtype="auto").info.kv_dtype == "auto"


def _held(backend: Any) -> int:
    pool = backend.pool
    if isinstance(backend, ReferenceBackend):
        return sum(x.codes.nbytes + x.scales.nbytes for x in (*pool.keys, *pool.values))
    return sum(x.nbytes for arrays in (pool.keys, pool.values, pool.key_scales, pool.value_scales) for x in arrays)


@BOTH
def test_what_is_read_back_is_off_by_half_a_step(open_backend: Open, tmp_path: Path) -> None:
    folder, stored = CASE.write(tmp_path), []
    for kv_dtype in ("int8", "auto"):
        cache = SharedCache(open_backend(folder, kv_dtype=kv_dtype))
        stored.append(cache.read_kv(cache.block(random_tokens(30)), 0))
    for rounded, exact in zip(*stored, strict=True):
        step = np.abs(exact).max(axis=-1, keepdims=True) / 127
        assert 0 < (np.abs(rounded - exact) / step).max() < 0.51
