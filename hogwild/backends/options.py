"""What a user may say about how a model is loaded; one dataclass for the API, the command line and the docs."""

from __future__ import annotations

from dataclasses import dataclass

from hogwild.errors import OptionError

DTYPES = ("auto", "float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: of weights, activations and K/V; "auto" takes the checkpoint's on a GPU and float32 on a CPU
            (quantised MLX weights stay quantised).
        device: "auto", or the backend's own name of one ("cpu", "cuda:1", "gpu").
    """

    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise OptionError(f"unknown dtype {self.dtype!r}", expected=", ".join(DTYPES), got=self.dtype)
