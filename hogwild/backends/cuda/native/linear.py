"""The model's own products, for passes of few tokens, by the C++ kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hogwild.backends.cuda.native.library import Library

FEWEST, MOST = 3, 32  # rows; with fewer torch reads the weights once too, with more its BLAS is as fast


class FewRows:
    """The linear layers of one model, computed by the library while `applied`; other users of the model see torch's.

    Layers of other classes and dtypes, and those that somebody has changed, stay as they are.
    """

    def __init__(self, model: nn.Module, library: Library) -> None:
        self._library = library
        layers = [module for module in model.modules() if type(module) is nn.Linear and _suits(module)]
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = [
            (layer, partial(self._forward, layer.weight, layer.bias)) for layer in layers
        ]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Take the products of `FEWEST` to `MOST` rows."""
        for layer, forward in self._forwards:
            layer.__dict__["forward"] = forward  # what nn.Module's own assignment does, in a tenth of its time
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                del layer.__dict__["forward"]

    def _forward(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        rows = x.numel() // weight.shape[1]
        return self._library.linear(x, weight, bias) if FEWEST <= rows <= MOST else linear(x, weight, bias)


def _suits(layer: nn.Linear) -> bool:
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    are_plain = all(type(t) is nn.Parameter and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return are_plain and all(t.dtype == torch.float32 for t in tensors) and "forward" not in layer.__dict__
