"""torch.compile of a model's forward, with attention as one operation that the compiler does not look into.

An operation takes tensors and numbers, so it finds the pass that is running in a context variable. The compiler sees
nothing of plans, pools and kernels: one compiled forward serves passes of a single token, another one all that are
longer. What cannot be compiled runs as it is; `failure` says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from hogwild.backends.cuda.attention import PASS_KEYWORD, Pass
from hogwild.errors import HogwildError

_RUNNING: ContextVar[tuple[Pass, Sequence[nn.Module]]] = ContextVar("hogwild_running")

torch.library.define(
    "hogwild::attend",
    "(Tensor q, Tensor k, Tensor v, Tensor? sinks, int layer, float? scaling, float? softcap) -> Tensor",
)


@torch.library.impl("hogwild::attend", "CompositeExplicitAutograd")
def _attend(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, layer: int, scaling: float | None, softcap: float | None
) -> Tensor:
    current, modules = _RUNNING.get()
    return current.attend(modules[layer], q, k, v, None, {"scaling": scaling, "softcap": softcap, "s_aux": sinks})


@torch.library.register_fake("hogwild::attend")  # type: ignore[untyped-decorator]
def _shape(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


class _Opaque:
    """What the compiler meets in the place of a pass; always the same, so that nothing is compiled twice."""

    def attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        attended: Tensor = torch.ops.hogwild.attend(
            q, k, v, options.get("s_aux"), module.layer_idx, options.get("scaling"), options.get("softcap")
        )
        return attended


class CompiledModel:
    """A model's forward, compiled when it is first called.

    modules: the attention module of each layer. backend: torch's name of a compiler.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module], backend: str = "inductor") -> None:
        self._compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=backend)
        self._modules, self._opaque = tuple(modules), _Opaque()
        self.failure: str | None = None

    def __call__(self, token_ids: Tensor, positions: Tensor, current: Pass) -> Tensor | None:
        """Logits `[T, V]` of all tokens of `token_ids [1, T]`; None once something could not be compiled."""
        if self.failure is not None:
            return None
        running = _RUNNING.set((current, self._modules))
        try:
            logits: Tensor = self._compiled(
                input_ids=token_ids, position_ids=positions, use_cache=False, **{PASS_KEYWORD: self._opaque}
            ).logits[0]
        except (HogwildError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch, its compiler and the C++ compiler raise errors of many kinds
            self.failure = _first_line(error)
            self.warn()
            return None
        finally:
            _RUNNING.reset(running)
        return logits

    def warn(self) -> None:
        """Say that the model runs without being compiled, if so."""
        if self.failure is not None:
            warnings.warn(f"the model is not compiled: {self.failure}", RuntimeWarning, stacklevel=2)


def _first_line(error: Exception) -> str:
    """The kind of an error and the first line that says something; compilers add pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
