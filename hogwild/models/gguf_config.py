"""GGUF metadata to the `config.json` of transformers, for the Llama family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import CheckpointError, ModelRefused

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Keys that change the arithmetic in a way no config of these families can say; harmless at the value given.
_NEUTRAL = {
    "expert_count": 0,
    "attention.scale": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.clamp_kqv": 0.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 1.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "use_parallel_residual": False,
    "attention.causal": True,
    "rope.scaling.attn_factor": 1.0,
}
# (factor, low_freq_factor, high_freq_factor, original context) of published models that store their frequencies
_LLAMA3_SCALINGS = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


class GgufMetadata:
    """Metadata of one file with the architecture's prefix; values are checked for their type when they are read."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.values = metadata
        self.architecture = self.text("general.architecture")

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number under `<architecture>.<key>`."""
        value = self.values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise CheckpointError(
                f"bad GGUF metadata {self.architecture}.{key}", expected="a number above 0", got=repr(value)[:80]
            )
        # stored as float32: the shortest decimal is what the authors wrote (1e-05, not 9.99999975e-06)
        return float(str(np.float32(value))) if isinstance(value, float) and np.float32(value) == value else value

    def count(self, key: str, default: int | None = None) -> int:
        """A positive whole number under `<architecture>.<key>`."""
        value = self.number(key, default)
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise CheckpointError(f"bad GGUF metadata {self.architecture}.{key}", expected="a count", got=repr(value))
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string under the full key."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise CheckpointError(f"bad GGUF metadata {key}", expected="a string", got=repr(value)[:80])
        return value

    def has(self, key: str) -> bool:
        """Whether `<architecture>.<key>` is there."""
        return f"{self.architecture}.{key}" in self.values


def config_from_metadata(
    metadata: GgufMetadata, *, vocab_size: int, tied: bool, has_bias: bool, rope_factors: NDArray[np.float32] | None
) -> dict[str, Any]:
    """A transformers config. `rope_factors` is the tensor `rope_freqs.weight` `[D / 2]`: divisors of the frequencies.

    Raises `ModelRefused` for another architecture or for arithmetic that the family's config cannot say.
    """
    architecture = metadata.architecture
    if architecture not in FAMILIES:
        raise ModelRefused(
            f"GGUF files of the architecture {architecture!r} are not read here",
            expected=", ".join(FAMILIES),
            got=architecture,
            remedy="load the model's safetensors folder instead",
        )
    _refuse_foreign_arithmetic(metadata)
    num_heads = metadata.count("attention.head_count")
    hidden_size = metadata.count("embedding_length")
    head_dim = metadata.count("attention.key_length", max(1, hidden_size // num_heads))
    config: dict[str, Any] = {
        "architectures": [FAMILIES[architecture]],
        "model_type": architecture,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": metadata.count("feed_forward_length"),
        "num_hidden_layers": metadata.count("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.count("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.count("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
    }
    if architecture == "llama":
        config |= {"attention_bias": has_bias, "mlp_bias": False}
    elif architecture == "qwen2":
        config |= {"use_sliding_window": False}
    else:
        config |= {"attention_bias": has_bias, "use_sliding_window": False}
    _check_heads(metadata, config)
    config["rope_scaling"] = _rope_scaling(metadata, config, rope_factors)
    return config


def _refuse_foreign_arithmetic(metadata: GgufMetadata) -> None:
    for key, neutral in _NEUTRAL.items():
        value = metadata.values.get(f"{metadata.architecture}.{key}", neutral)
        if value != neutral:
            raise ModelRefused(
                f"the GGUF file sets {metadata.architecture}.{key}", expected=repr(neutral), got=repr(value)[:80]
            )
    if metadata.has("attention.sliding_window"):
        raise ModelRefused(
            "the GGUF file has a sliding window but does not say which layers use it",
            remedy="load the model's safetensors folder instead",
        )


def _check_heads(metadata: GgufMetadata, config: Mapping[str, Any]) -> None:
    heads, kv_heads, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if heads % kv_heads:
        raise CheckpointError(
            "bad GGUF metadata: query heads are no multiple of K/V heads", got=f"{heads} and {kv_heads}"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.count(key, head_dim) != head_dim:
            raise ModelRefused(
                f"{key} differs from the head dimension", expected=str(head_dim), got=str(metadata.count(key))
            )
    if head_dim % 2:
        raise ModelRefused("an odd head dimension cannot be turned", got=str(head_dim))


def _rope_scaling(
    metadata: GgufMetadata, config: Mapping[str, Any], rope_factors: NDArray[np.float32] | None
) -> dict[str, Any] | None:
    kind = metadata.text(f"{metadata.architecture}.rope.scaling.type", "none")
    if rope_factors is not None:
        if kind not in ("none", "llama3"):
            raise ModelRefused("rope_freqs.weight together with another rope scaling", got=kind)
        return _llama3_scaling(config, rope_factors)
    if kind == "none":
        linear = metadata.number("rope.scale_linear", 1.0)
        return None if linear == 1.0 else {"rope_type": "linear", "factor": linear}
    factor = metadata.number("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = metadata.count("rope.scaling.original_context_length")
        scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        for name in ("beta_fast", "beta_slow"):
            if metadata.has(f"rope.scaling.yarn_{name}"):
                scaling[name] = metadata.number(f"rope.scaling.yarn_{name}")
        return scaling
    raise ModelRefused("unknown rope scaling in the GGUF file", expected="none, linear, yarn", got=kind)


def _llama3_scaling(config: Mapping[str, Any], rope_factors: NDArray[np.float32]) -> dict[str, Any]:
    """The published scaling whose factors the table holds; a table that none explains is refused."""
    head_dim, theta = config["head_dim"], config["rope_theta"]
    if rope_factors.shape != (head_dim // 2,):
        raise CheckpointError(
            "rope_freqs.weight has a wrong shape", expected=str((head_dim // 2,)), got=str(rope_factors.shape)
        )
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    for factor, low, high, context in _LLAMA3_SCALINGS:
        smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
        expected = 1.0 / ((1.0 - smooth) / factor + smooth)
        if np.allclose(rope_factors, expected, rtol=1e-5):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise ModelRefused("the frequency factors in rope_freqs.weight are of no known scaling")
