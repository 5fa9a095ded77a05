"""The model's own products, for passes of few tokens, by the C++ kernel."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hogwild.backends.cuda.forwards import Forwards
from hogwild.backends.cuda.native.library import Library

MOST = 32  # rows; with more torch's BLAS is as fast on Intel's processors


def few_rows(model: nn.Module, library: Library) -> Forwards:
    """The linear layers of a model, of which the library computes products of up to `MOST` rows.

    Layers of other classes and dtypes, and those that somebody has changed, stay as they are.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _suits(module)]
    return Forwards((layer, partial(_forward, library, layer.weight, layer.bias)) for layer in layers)


def _forward(library: Library, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    rows = x.numel() // weight.shape[1]
    return library.linear(x, weight, bias) if rows <= MOST else linear(x, weight, bias)


def _suits(layer: nn.Linear) -> bool:
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    are_plain = all(type(t) is nn.Parameter and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return are_plain and all(t.dtype == torch.float32 for t in tensors) and "forward" not in layer.__dict__
