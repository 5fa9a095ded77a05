"""What a Llama-family `config.json` says, and what is refused because it would be computed wrong.

Covered: `llama`, `mistral`, `qwen2`, `qwen3`. Defaults of absent keys are those of transformers' config classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hogwild.core.rotary import RotarySpec, rotary_from_config
from hogwild.errors import ModelRefused

_Config = Mapping[str, Any]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """One Llama-family architecture. `windows[i]` is the sliding window of layer i, None for full attention."""

    family: str
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    context_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    tied_head: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rotary: RotarySpec
    windows: tuple[int | None, ...]

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.windows)


def read_config(config: _Config) -> LlamaConfig:
    """Check and translate; raises `ModelRefused` naming the key and the reason."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise refusal(f"model_type {family!r} is not computed by the reference backend", ", ".join(FAMILIES), family)
    _refuse_variants(config)
    hidden_size, num_heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    num_kv_heads = _size(config, "num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise refusal("query heads do not divide among the key heads", f"a multiple of {num_kv_heads}", num_heads)
    head_dim = _size(config, "head_dim", 128 if family == "qwen3" else hidden_size // num_heads)
    attention_bias = _flag(config, "attention_bias") and family in ("llama", "qwen3")
    return LlamaConfig(
        family=family,
        hidden_size=hidden_size,
        intermediate_size=_size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        context_size=_size(config, "max_position_embeddings"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=_norm_eps(config),
        tied_head=_flag(config, "tie_word_embeddings"),
        qkv_bias=attention_bias or family == "qwen2",
        output_bias=attention_bias,
        mlp_bias=_flag(config, "mlp_bias") and family == "llama",
        qk_norm=family == "qwen3",
        rotary=_rotary(config, head_dim),
        windows=_windows(config, family),
    )


def refusal(problem: str, expected: str, got: object) -> ModelRefused:
    """A refusal with the remedy that is always the same."""
    return ModelRefused(problem, expected=expected, got=str(got), remedy="try the mlx or the cuda backend")


def _refuse_variants(config: _Config) -> None:
    if config.get("quantization_config") or config.get("quantization"):
        raise refusal("the weights are quantised (quantization_config)", "floating-point weights", "quantised ones")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise refusal("hidden_act is not computed here", "silu", activation)
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if config.get(key):
            raise refusal(f"a mixture of experts ({key}) is not computed here", "a dense MLP", config[key])
    for key in ("rope_traditional", "rope_interleaved"):
        if config.get(key):
            raise refusal(f"{key} is not known for this family", "half-split rotary embedding", config[key])


def _size(config: _Config, key: str, default: int | None = None) -> int:
    """A positive whole number; a key that is absent or null has its default, if there is one."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refusal(f"{key} in config.json cannot be used", "a positive whole number", config.get(key, "nothing"))
    return value


def _flag(config: _Config, key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise refusal(f"{key} in config.json cannot be used", "true or false", value)
    return bool(value)


def _norm_eps(config: _Config) -> float:
    value = config.get("rms_norm_eps", 1e-6)
    if not isinstance(value, float | int) or not 0 <= value < 1:
        raise refusal("rms_norm_eps in config.json cannot be used", "a small number", value)
    return float(value)


def _rotary(config: _Config, head_dim: int) -> RotarySpec:
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping) or any(isinstance(value, Mapping) for value in parameters.values()):
        raise refusal("the rotary embedding differs between layers", "one rule for all layers", parameters)
    try:
        spec = rotary_from_config(config, head_dim)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise refusal("the rotary embedding is not fully described", "every number of its rule", error) from error
    if spec.num_dims != head_dim:
        raise refusal("a partial rotary embedding is not known for this family", f"{head_dim} features", spec.num_dims)
    return spec


def _windows(config: _Config, family: str) -> tuple[int | None, ...]:
    """Which layers look only at the last tokens: all of Mistral's, the later ones of Qwen's, none of Llama's."""
    num_layers = _size(config, "num_hidden_layers")
    qwen = family.startswith("qwen")
    slides = family == "mistral" or (qwen and _flag(config, "use_sliding_window"))
    window = _size(config, "sliding_window", 4096) if slides and config.get("sliding_window", 4096) else None
    first = config.get("max_window_layers", 28) if qwen else 0
    rule = [_SLIDING if window is not None and i >= first else _FULL for i in range(num_layers)]
    kinds = list(config.get("layer_types") or rule)
    free = qwen and window is not None and len(kinds) == num_layers and set(kinds) <= {_SLIDING, _FULL}
    if kinds != rule and not free:
        raise refusal("layer_types disagrees with the other entries of config.json", str(rule), kinds)
    return tuple(window if kind == _SLIDING else None for kind in kinds)
