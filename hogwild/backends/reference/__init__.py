"""The reference backend: NumPy and nothing else.

In float64 it is the definition that the other backends are held against, in float32 (through BLAS) the light default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hogwild.backends.reference.backend import ReferenceBackend
from hogwild.backends.reference.weights import read_model
from hogwild.errors import OptionError

if TYPE_CHECKING:
    from hogwild.backends.options import LoadOptions
    from hogwild.models.checkpoint import Checkpoint

__all__ = ["ReferenceBackend", "load"]


def load(checkpoint: Checkpoint, options: LoadOptions) -> ReferenceBackend:
    """Load a model of the Llama family; `ModelRefused` names what cannot be computed exactly."""
    options.refuse_kernel("the reference backend computes with NumPy only")
    options.refuse_compile("reference")
    dtype = "float32" if options.dtype == "auto" else options.dtype
    if dtype not in ("float32", "float64"):
        raise OptionError(
            "the reference backend does not compute in half precision",
            expected="auto, float32 or float64",
            got=options.dtype,
            remedy="use the mlx or the cuda backend for half precision",
        )
    if options.device not in ("auto", "cpu"):
        raise OptionError("the reference backend runs on the CPU", expected="auto or cpu", got=options.device)
    return ReferenceBackend(read_model(checkpoint, dtype), kv_dtype=options.kv_dtype)
