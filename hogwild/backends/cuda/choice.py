"""Which attention a model gets: kernels in Triton or in C++, or torch's operations, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.kernels import why_no_kernel
from hogwild.backends.cuda.native import why_no_native
from hogwild.backends.cuda.native.compiler import BuildError
from hogwild.backends.cuda.native.library import Library, shared_library
from hogwild.backends.options import LoadOptions


@dataclass(frozen=True, slots=True)
class Choice:
    """What attends.

    kernels: "Triton", "C++", or "" for torch's operations. library: the C++ kernels. why_not: why there are no kernels
    although they were wanted.
    """

    kernels: str = ""
    library: Library | None = None
    why_not: str = ""

    def __str__(self) -> str:
        return f"{self.kernels} kernels" if self.kernels else f"torch operations{self.why_not}"

    def without_kernels(self, reason: object) -> Choice:
        """Torch's operations in the place of these kernels."""
        return Choice(why_not=f", not {self}: {reason}")


PLAIN = Choice()


def choose_attention(
    options: LoadOptions, layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device
) -> Choice:
    """Kernels where some run, unless torch's operations are asked for.

    `OptionError` if kernels are asked for and none run.
    """
    if options.attention == "plain":
        return PLAIN
    wanted = Choice("Triton")
    reason = why_no_kernel(layers, dtype, device)
    if reason is not None and device.type == "cpu":
        wanted, reason = _native(dtype)
    if reason is None:
        return wanted
    options.refuse_kernel(f"no {wanted}: {reason}")
    return wanted.without_kernels(reason)


def _native(dtype: torch.dtype) -> tuple[Choice, str | None]:
    """The C++ kernels, and why there are none."""
    reason = why_no_native(dtype)
    if reason is None:
        try:
            return Choice("C++", shared_library()), None
        except BuildError as error:
            reason = str(error)
    return Choice("C++"), reason
