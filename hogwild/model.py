"""A loaded model: its backend, tokenizer and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hogwild.backends.base import Backend, ModelSpec
from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.core.sampling import GREEDY, SamplingParams

if TYPE_CHECKING:
    from hogwild.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """What `load` returns.

    Attributes:
        name: what was asked for.
        backend: computes; owns weights and K/V pool.
        tokenizer: text to ids and back, chat template.
        generation_config: the defaults that the model's authors give.
    """

    name: str
    backend: Backend
    tokenizer: Tokenizer
    generation_config: Mapping[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model."""
        return self.backend.spec

    def default_sampling(self) -> SamplingParams:
        """The authors' sampling parameters where they give them, ours elsewhere."""
        given = self.generation_config
        if given.get("do_sample") is False:
            return GREEDY
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return SamplingParams(**{name: given[name] for name in names if given.get(name) is not None})

    def close(self) -> None:
        """Free the model's memory."""
        self.backend.close()


def load(
    name: str = "bundled",
    *,
    backend: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "auto",
    kv_dtype: str = "auto",
    compile: bool = False,
) -> Model:
    """Load a model.

    Args:
        name: a folder with safetensors, a GGUF file, `org/name[@revision]`, or "bundled".
        backend: "auto", "reference", "mlx" or "cuda".
        dtype: see `LoadOptions`.
        device: see `LoadOptions`.
        attention: see `LoadOptions`.
        kv_dtype: see `LoadOptions`.
        compile: see `LoadOptions`.

    Raises:
        ModelNotFound, CheckpointError, ModelRefused, BackendUnavailable, OptionError.
    """
    from hogwild.models import find_checkpoint  # reads files: imported only when a model is loaded

    options = LoadOptions(dtype, device, attention, kv_dtype, compile)
    loader = find_backend(backend).loader()
    checkpoint = find_checkpoint(name)
    return Model(name, loader(checkpoint, options), checkpoint.tokenizer, checkpoint.generation_config)
