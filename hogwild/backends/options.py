"""What a user may say about how a model is loaded; one dataclass for the API, the command line and the docs."""

from __future__ import annotations

from dataclasses import dataclass

from hogwild.errors import OptionError

ATTENTIONS = ("auto", "plain", "kernel")
DTYPES = ("auto", "float64", "float32", "float16", "bfloat16")
KV_DTYPES = ("auto", "int8")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: of weights and activations; "auto" takes the checkpoint's on a GPU and float32 on a CPU
            (quantised MLX weights stay quantised).
        attention: "plain" (the framework's operations), "kernel" (this project's kernels: on GPUs, and for torch in
            float32 on a CPU, built with the machine's C++ compiler), or "auto": kernels where they run and give the
            model's own logits, else plain; `BackendInfo.attention` says which, and why.
        device: "auto", or the backend's own name of one ("cpu", "cuda:1", "gpu").
        kv_dtype: how keys and values are stored: "auto" as `dtype`, "int8" as `hogwild.core.quantized` defines it.
        compile: let torch.compile make the model faster around its attention; the cuda backend alone has it.
    """

    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    kv_dtype: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise OptionError(f"unknown dtype {self.dtype!r}", expected=", ".join(DTYPES), got=self.dtype)
        if self.attention not in ATTENTIONS:
            raise OptionError(
                f"unknown attention {self.attention!r}", expected=", ".join(ATTENTIONS), got=self.attention
            )
        if self.kv_dtype not in KV_DTYPES:
            raise OptionError(f"unknown kv_dtype {self.kv_dtype!r}", expected=", ".join(KV_DTYPES), got=self.kv_dtype)

    def refuse_kernel(self, reason: str) -> None:
        """For a place where no kernel runs: `OptionError` with the reason if one is asked for."""
        if self.attention == "kernel":
            raise OptionError(
                "there is no attention kernel here", expected="--attention plain, or auto", got=f"kernel; {reason}"
            )

    def refuse_compile(self, backend: str) -> None:
        """For a backend that compiles nothing: `OptionError` if it is asked to."""
        if self.compile:
            raise OptionError(
                f"the {backend} backend does not compile models", expected="the cuda backend, or no compile"
            )
