"""Small models of the kit, written to a folder of their own, and how they are loaded.

Weights are drawn from a seed and rounded to bfloat16, so that every dtype stores the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hogwild.backends.base import Backend
from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.conformance.cases import rounded
from hogwild.conformance.kit.copying import COPYING, copying_weights
from hogwild.conformance.kit.targets import Target
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.folder import FolderWeights
from hogwild.models.shapes import RandomWeights, byte_tokenizer

_BASE: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.15,
    "torch_dtype": "float32",
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _BASE,
    "llama3 rope": {
        **_BASE,
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 64,
        },
    },
    "qwen3": {**_BASE, "model_type": "qwen3", "num_key_value_heads": 1, "rope_theta": 1e6},
    "copying": {**_BASE, **COPYING},
}


@contextmanager
def small_model(name: str, seed: int) -> Iterator[Checkpoint]:
    """A model of that config, in a folder of its own."""
    from safetensors.numpy import save_file

    config = CONFIGS[name]
    weights = copying_weights(config, seed) if name == "copying" else _random_weights(config, seed)
    with TemporaryDirectory(prefix="hogwild-conform-") as place:
        folder = Path(place)
        tensors = {name: rounded(tensor, "bfloat16") for name, tensor in weights.items()}
        save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        tokenizer = byte_tokenizer(config["vocab_size"])
        yield Checkpoint(name, folder, "safetensors", config, {}, FolderWeights(folder), tokenizer)


def load_target(target: Target, checkpoint: Checkpoint, dtype: str) -> Backend:
    """The model on a target, by its own attention path."""
    attention = "plain" if target.path == "plain" else "kernel"
    options = LoadOptions(dtype=dtype, device=target.device, attention=attention)
    return find_backend(target.backend).loader()(checkpoint, options)


def load_exact(checkpoint: Checkpoint, dtype: str = "float64") -> Backend:
    """The model on the reference backend."""
    return find_backend("reference").loader()(checkpoint, LoadOptions(dtype=dtype))


def dtypes_of(target: Target) -> tuple[str, ...]:
    """In which the target computes models."""
    return ("float32",) if target.backend == "reference" or target.path == "c++" else ("float32", "float16", "bfloat16")


def _random_weights(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    drawn, rng = RandomWeights(config, seed), np.random.default_rng(seed)
    tensors = {name: drawn.read(name) for name in drawn.names()}
    return {name: x * rng.uniform(0.5, 1.5, x.shape) if x.ndim == 1 else x for name, x in tensors.items()}
