"""The kernels, and a whole model with them, on a real Apple GPU: `python -m pytest tests/metal/test_apple_gpu.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm", reason="needs mlx-lm")

import mlx.core as mx
import numpy as np
from run_case import block_errors, verdict
from test_backend import FAMILIES, SLOW
from test_generated_cases import OTHER_SEEDS, always_matrix, always_vector, generated
from tiny_models import write_tiny_model

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx import load
from hogwild.backends.mlx.kernels.attention import Chooser
from hogwild.backends.mlx.kernels.launch import choose_launch
from hogwild.backends.mlx.kernels.source import start_on_gpu
from hogwild.backends.mlx.pool import KVPool, SlotRows
from hogwild.backends.options import LoadOptions
from hogwild.conformance.cases import attention_case
from hogwild.core.rotary import NO_ROTARY
from hogwild.models import find_checkpoint
from tests.backends.contract import CHECKS, Subject

pytestmark = pytest.mark.metal

PER_TEST = 50
TOLERANCE = 1e-3  # of a model's logits: its own RoPE takes the GPU's fast sine
KERNELS = LoadOptions("float32", "gpu", "kernel")


@pytest.fixture(autouse=True)
def on_the_gpu() -> Iterator[None]:
    """What stands around the kernels too; other tests leave the CPU as the default."""
    with mx.stream(mx.gpu):
        yield


@pytest.mark.parametrize("first", range(0, 600, PER_TEST))
def test_cases(first: int) -> None:
    verdicts = [verdict(generated(seed, 70), start_on_gpu) for seed in range(first, first + PER_TEST)]
    assert not [f"{found.case}: {problem}" for found in verdicts for problem in found.problems]


@pytest.mark.parametrize("choose", [always_vector, always_matrix], ids=["vector", "matrix"])
def test_other_launches(choose: Chooser) -> None:
    verdicts = [verdict(generated(seed, 70), start_on_gpu, choose=choose) for seed in OTHER_SEEDS]
    assert not [f"{found.case}: {problem}" for found in verdicts for problem in found.problems]


def test_log_sum_exp_of_each_block() -> None:
    for seed in range(400, 430):
        assert block_errors(attention_case(seed), start_on_gpu, choose=choose_launch).max() <= 1, seed


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_models_pass_the_check_at_load(dtype: str, kv_dtype: str, tmp_path: Path) -> None:
    options = LoadOptions(dtype, KERNELS.device, KERNELS.attention, kv_dtype)
    backend = load(find_checkpoint(str(write_tiny_model(tmp_path / "m"))), options)
    assert backend.info.attention == "Metal kernels"
    assert backend.info.device == "gpu"


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ not in SLOW], ids=lambda check: check.__name__)
def test_contract(check: Callable[..., None], tmp_path: Path) -> None:
    subject = Subject(
        open=lambda folder: load(find_checkpoint(str(folder)), KERNELS),
        from_numpy=mx.array,
        tolerance=TOLERANCE,
        placement_changes_bits=True,
    )
    check(subject, FAMILIES[0], tmp_path)


def test_a_write_changes_the_pool_in_place() -> None:
    """A copy of it would need its memory a second time."""
    num_slots = 100_000
    pool = KVPool([LayerSpec(NO_ROTARY, 4, 64, 64)], mx.float32)
    pool.reserve(num_slots)
    size, new = num_slots * pool.bytes_per_token, mx.ones((8, 4, 1, 64))
    for first in range(0, 80, 8):
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        pool.write(0, new, new, SlotRows(np.arange(first, first + 8), num_slots))
        pool.evaluate()
        assert held > size
        assert mx.get_peak_memory() < held + size / 10
