"""The MLX backend with its kernels: the contract of every backend, with the kernels' source run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm", reason="needs mlx-lm")

import mlx.core as mx
from metal_cpu import CpuStarter
from tiny_models import write_tiny_model

from hogwild.backends.mlx import MlxBackend, load
from hogwild.backends.mlx.kernels import KernelAttention
from hogwild.backends.mlx.kernels.source import Call, Kernel
from hogwild.backends.mlx.model_pass import LayerCache
from hogwild.backends.mlx.weights import load_weights
from hogwild.backends.options import LoadOptions
from hogwild.errors import HogwildError, ModelRefused, OptionError
from hogwild.models import find_checkpoint
from tests.backends.contract import (
    CASES,
    CHECKS,
    ModelCase,
    Subject,
    check_page_placement,
    check_publishing_is_exact,
)

SLOW = ("check_long_context",)  # 4,000 tokens
FAMILIES = [case for case in CASES if case.name in ("llama", "mistral-window", "llama-yarn")]


def open_with(
    start: Callable[[Kernel, Call], list[mx.array]],
    folder: Path,
    *,
    only_kernels: bool = True,
    dtype: Any = mx.float32,
    kv_dtype: str = "auto",
) -> MlxBackend:
    checkpoint = find_checkpoint(str(folder))
    with mx.stream(mx.cpu):
        model = load_weights(checkpoint, dtype, keep_quantised=False)
        kernels = KernelAttention(start)
        device = mx.Device(mx.cpu)
        return MlxBackend(model, checkpoint.config, device, kernels, only_kernels=only_kernels, kv_dtype=kv_dtype)


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ not in SLOW], ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_contract(cpu: CpuStarter, check: Callable[..., None], case: ModelCase, tmp_path: Path) -> None:
    cpu.order = 0
    subject = Subject(
        open=lambda folder: open_with(cpu, folder),
        from_numpy=lambda logits: mx.array(logits),
        placement_changes_bits=True,
    )
    check(subject, case, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_pass_the_check_at_load(cpu: CpuStarter, dtype: str, tmp_path: Path) -> None:
    backend = open_with(cpu, write_tiny_model(tmp_path / "m"), dtype=getattr(mx, dtype))
    assert backend.info.attention == "Metal kernels"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_check_at_load_starts_every_kernel(cpu: CpuStarter, kv_heads: int, tmp_path: Path) -> None:
    """However many query heads share a kv head: those of few rows, of many, and what adds up."""
    started = set()

    def start(kernel: Kernel, call: Call) -> list[mx.array]:
        started.add(kernel.name)
        return cpu(kernel, call)

    open_with(start, write_tiny_model(tmp_path / "m", num_key_value_heads=kv_heads))
    assert started == {"hogwild_attend_vector", "hogwild_attend_matrix", "hogwild_merge"}


def test_kernels_that_are_wrong_are_not_used(cpu: CpuStarter, tmp_path: Path) -> None:
    """The check at load finds them: `auto` takes MLX's operations and says why, `kernel` refuses the model."""

    def wrong(kernel: Kernel, call: Call) -> list[mx.array]:
        results = cpu(kernel, call)
        return [results[0] * 1.5, *results[1:]]

    def broken(kernel: Kernel, call: Call) -> list[mx.array]:
        raise RuntimeError("no such function")

    folder = write_tiny_model(tmp_path / "m")
    for start, why in ((wrong, "other logits"), (broken, "no such function")):
        backend = open_with(start, folder, only_kernels=False)
        assert backend.info.attention.startswith("mlx operations, not Metal kernels: ")
        assert why in backend.info.attention
        with pytest.raises(ModelRefused, match=why):
            open_with(start, folder)


@pytest.mark.parametrize("check", [check_publishing_is_exact, check_page_placement], ids=lambda check: check.__name__)
def test_contract_in_8_bits(cpu: CpuStarter, check: Callable[..., None], tmp_path: Path) -> None:
    cpu.order = 0
    subject = Subject(
        open=lambda folder: open_with(cpu, folder, kv_dtype="int8"),
        from_numpy=mx.array,
        tolerance=0.1,
        placement_changes_bits=True,
    )
    check(subject, FAMILIES[0], tmp_path)


def test_kernels_that_are_wrong_in_8_bits_alone_are_not_used(cpu: CpuStarter, tmp_path: Path) -> None:
    """They are held against MLX's operations over the same codes, which no rounding keeps apart."""

    def wrong(kernel: Kernel, call: Call) -> list[mx.array]:
        if "key_scales" in kernel.inputs and ("QUANTIZED", True) in call.template:
            scales = kernel.inputs.index("key_scales")
            inputs = [x * 1.01 if i == scales else x for i, x in enumerate(call.inputs)]
            return cpu(kernel, replace(call, inputs=inputs))
        return cpu(kernel, call)

    folder = write_tiny_model(tmp_path / "m")
    assert open_with(wrong, folder).info.attention == "Metal kernels"
    backend = open_with(wrong, folder, only_kernels=False, kv_dtype="int8")
    assert "over K/V in 8 bits" in backend.info.attention
    assert backend.info.kv_dtype == "int8"
    with pytest.raises(ModelRefused, match="over K/V in 8 bits"):
        open_with(wrong, folder, kv_dtype="int8")


def test_kernels_that_fail_in_8_bits_alone_are_not_used(cpu: CpuStarter, tmp_path: Path) -> None:
    """A kernel for codes is another one, which may not compile."""

    def broken(kernel: Kernel, call: Call) -> list[mx.array]:
        if ("QUANTIZED", True) in call.template:
            raise RuntimeError("no such function")
        return cpu(kernel, call)

    folder = write_tiny_model(tmp_path / "m")
    assert "no such function" in open_with(broken, folder, only_kernels=False, kv_dtype="int8").info.attention
    with pytest.raises(ModelRefused, match="no such function"):
        open_with(broken, folder, kv_dtype="int8")


def test_queries_of_another_dtype_than_keys_are_left_to_operations(
    cpu: CpuStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some models ask in float32 whatever they store; only a pass shows it."""
    attend = LayerCache.attend

    def asks_in_float32(self: LayerCache, queries: mx.array, *rest: Any, **options: Any) -> mx.array:
        return attend(self, queries.astype(mx.float32), *rest, **options).astype(queries.dtype)

    monkeypatch.setattr(LayerCache, "attend", asks_in_float32)
    folder = write_tiny_model(tmp_path / "m")
    backend = open_with(cpu, folder, only_kernels=False, dtype=mx.float16)
    assert "K is mlx.core.float16, but queries are mlx.core.float32" in backend.info.attention
    with pytest.raises(HogwildError, match="but queries are"):
        open_with(cpu, folder, dtype=mx.float16)


def test_a_model_that_the_kernels_do_not_compute_is_named(cpu: CpuStarter, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m", head_dim=12)
    assert "12 features" in open_with(cpu, folder, only_kernels=False).info.attention
    with pytest.raises(ModelRefused, match="12 and 12 features"):
        open_with(cpu, folder)


def test_on_the_cpu_kernels_are_refused_and_auto_is_plain(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(write_tiny_model(tmp_path / "m")))
    with pytest.raises(OptionError, match="Apple GPU"):
        load(checkpoint, LoadOptions(device="cpu", attention="kernel"))
    for attention in ("auto", "plain"):
        backend = load(checkpoint, LoadOptions(device="cpu", attention=attention))
        assert backend.info.attention == "mlx operations"
        backend.close()
