"""RMS normalisation by torch's own operation: one on an NVIDIA GPU, where a module of transformers starts six to eight.

Beside the products of a decoding pass these are more than half of all operations. A norm rounds once then, not twice.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from hogwild.backends.cuda.forwards import Forwards

_ROUNDINGS = 4  # of numbers of the module's dtype, by which the two may differ


def fused_norms(model: nn.Module) -> Forwards:
    """The norms that compute `weight * x / rms(x)`, as is tried; others, Gemma's for one, stay as they are."""
    norms = [module for module in model.modules() if "RMSNorm" in type(module).__name__]
    return Forwards((norm, partial(_forward, norm, *found)) for norm in norms if (found := _numbers(norm)) is not None)


def _forward(norm: nn.Module, weight: Tensor, epsilon: float, x: Tensor) -> Tensor:
    if x.dtype != weight.dtype:  # which of them the result has is for the module to say
        result: Tensor = type(norm).forward(norm, x)
        return result
    return rms_norm(x, weight.shape, weight, epsilon)


def _numbers(norm: nn.Module) -> tuple[Tensor, float] | None:
    """Weight and epsilon; None for a module that computes something else, or that somebody has changed."""
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if type(weight) is not nn.Parameter or weight.dim() != 1 or "forward" in norm.__dict__:
        return None
    return (weight, epsilon) if isinstance(epsilon, float) and _computes_so(norm, weight, epsilon) else None


def _computes_so(norm: nn.Module, weight: Tensor, epsilon: float) -> bool:
    x = torch.linspace(-2, 3, 3 * len(weight), dtype=torch.float64).view(3, -1).to(weight)
    try:
        own = norm(x)
    except Exception:  # one that takes more than x
        return False
    limit = _ROUNDINGS * torch.finfo(weight.dtype).eps
    return torch.allclose(own, rms_norm(x, weight.shape, weight, epsilon), rtol=limit, atol=limit)
