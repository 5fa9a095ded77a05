"""Norms as one operation: the same numbers, in the passes alone, for the modules that compute so."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from hogwild.backends.cuda import backend as cuda_backend  # noqa: E402
from hogwild.backends.cuda.choice import PLAIN  # noqa: E402
from hogwild.backends.cuda.norms import fused_norms  # noqa: E402
from hogwild.conformance.families import FAMILIES, family  # noqa: E402
from hogwild.conformance.small_models import plain_logits, random_model, random_tokens  # noqa: E402

EXACT = [known.name for known in FAMILIES if "cuda" not in known.refused]


def made(name: str) -> Any:
    try:
        return random_model(family(name).config)
    except (ImportError, KeyError, ValueError) as error:  # an older transformers
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("name", EXACT)
def test_a_model_gives_the_same_logits(name: str) -> None:
    model, tokens = made(name), random_tokens()
    expected = plain_logits(model, tokens)
    with fused_norms(model).applied():
        given = plain_logits(model, tokens)
    assert abs(given - expected).max() <= 1e-5 * abs(expected).max()
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(("name", "in_a_layer"), [("llama", 2), ("qwen3", 4), ("olmo2", 4), ("gemma2", 0)])
def test_all_norms_are_replaced_but_those_that_compute_otherwise(name: str, in_a_layer: int) -> None:
    model = made(name)
    last = 1 if in_a_layer else 0
    assert len(fused_norms(model)) == in_a_layer * model.config.num_hidden_layers + last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_operation_rounds_once(dtype: Any) -> None:
    norm = made("llama").model.norm.to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 2)
    forwards, x = fused_norms(norm), torch.randn(2, 5, len(norm.weight), generator=torch.Generator().manual_seed(0))
    exact = x.to(dtype).double()
    exact = norm.weight.double() * exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    own = norm(x.to(dtype))
    with forwards.applied():
        given = norm(x.to(dtype))
        assert torch.equal(norm(x.double()), type(norm).forward(norm, x.double())), "of another dtype: its own way"
    limit = torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 0.51)  # a rounding is half of it at most
    assert given.dtype == own.dtype
    torch.testing.assert_close(given.double(), exact, rtol=limit, atol=0)


class Count(TorchDispatchMode):
    """Operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def test_a_pass_has_fewer_operations() -> None:
    model, counts = made("qwen3"), []
    forwards = fused_norms(model)
    for way in (cuda_backend.Forwards(), forwards):
        with way.applied(), Count() as counted:
            model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
        counts.append(counted.count)
    assert counts[0] - counts[1] >= 4 * len(forwards)


def test_a_module_that_somebody_has_changed_stays() -> None:
    norm = made("llama").model.norm
    norm.forward = type(norm).forward.__get__(norm)
    assert not len(fused_norms(norm))


def test_one_that_only_looks_so_stays() -> None:
    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x: Any) -> Any:
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps).tanh()

    assert not len(fused_norms(RMSNorm()))


def test_passes_on_a_gpu_have_them() -> None:
    model = made("llama")
    assert len(cuda_backend._forwards(model, PLAIN, torch.device("cuda")))
    assert not len(cuda_backend._forwards(model, PLAIN, torch.device("cpu")))
