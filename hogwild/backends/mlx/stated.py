"""What a model's config states, against what mlx-lm's code was found to compute: the same, or refused by name.

The probe finds what mlx-lm computes; whether the model was trained with that, only its config can say. Known gaps of
mlx-lm: files that never read `rope_scaling`, `partial_rotary_factor` or the activation function; longrope with the
factors of long texts for all; chunked attention without chunks; a router without its correction. What can be put right
simply is: see `put_right`, `windows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx.layers import refused
from hogwild.core.rotary import RotarySpec, rotary_from_config
from hogwild.errors import ModelRefused

_CONFIG_IS_THE_RULE = ("llama", "mistral", "qwen2", "qwen3")
_STRETCHES = ("linear", "llama3", "yarn")
_CHANGING = {"longrope": "longrope", "su": "longrope", "dynamic": "dynamic NTK"}
_LEFT_OUT = {"ernie4_5_moe": "it leaves out the router's correction of the experts' scores"}

_Config = Mapping[str, Any]


def check_rules(config: _Config, context_size: int) -> None:
    """Raise `ModelRefused` for what the config states and stored keys cannot follow, whoever computes it."""
    text = text_of(config)
    for kind in _kinds(scaling_of(text)):
        if kind in _CHANGING:
            raise _impossible(
                f"{_CHANGING[kind]}: frequencies change with the length, so stored keys would become wrong",
                got=f"rope_scaling of type {kind!r}",
                remedy="use the variant of this model for short texts, or one with linear, llama3 or YaRN scaling",
            )
    chunk = text.get("attention_chunk_size")
    if chunk and int(chunk) < context_size:
        raise _impossible(
            "chunked attention: what a token sees depends on its absolute position", got=f"chunks of {chunk}"
        )
    if text.get("index_topk"):
        raise _impossible("an indexer chooses the keys of each query", got=f"index_topk={text['index_topk']}")
    if text.get("model_type") in _LEFT_OUT:
        raise _left_out(_LEFT_OUT[str(text["model_type"])], f"model_type {text['model_type']!r}")


def check_stated(layers: Sequence[LayerSpec], config: _Config) -> None:
    """Raise `ModelRefused` if the layers found are not those that the config states."""
    text = text_of(config)
    scaling = scaling_of(text)
    _check_share(layers, text)
    for rule in _rules(text, scaling):
        turning = [layer.rotary for layer in layers if layer.rotary.num_dims]
        if turning and not any(_same(rotary, stated_rotary(rule, rotary.num_dims)) for rotary in turning):
            found = kind_of(scaling_of(rule))
            raise _left_out("no layer turns by the frequencies that its config states", f"rope_scaling {found!r}")
    if config.get("model_type") in _CONFIG_IS_THE_RULE:
        for i, layer in enumerate(layers):
            if not _same(layer.rotary, rotary_from_config(config, layer.key_dim)):
                raise refused(i, "mlx-lm turns its keys by other frequencies than the model's config states")


def _check_share(layers: Sequence[LayerSpec], text: _Config) -> None:
    share = share_of(text)
    if share is None:
        return
    for i, layer in enumerate(layers):
        stated = int(layer.key_dim * share)
        if layer.rotary.num_dims not in (0, stated):
            raise refused(i, f"mlx-lm turns {layer.rotary.num_dims} features of each head, its config states {stated}")


def _rules(text: _Config, scaling: _Config) -> Iterator[_Config]:
    """Configs of one rotary rule each, for every rule that some layer must have."""
    of_types = {key: value for key, value in scaling.items() if isinstance(value, Mapping)}
    if not of_types and _is_known(scaling, text):
        yield text
    for layer_type, rule in of_types.items():
        if _is_known(rule, rule) and layer_type in (text.get("layer_types") or of_types):
            yield {**text, "rope_scaling": None, "rope_parameters": dict(rule)}


def _is_known(scaling: _Config, rule: _Config) -> bool:
    kind = kind_of(scaling)
    return kind in _STRETCHES or (kind == "default" and rule.get("rope_theta") is not None)


def stated_rotary(text: _Config, num_dims: int) -> RotarySpec:
    """The config's rule for `num_dims` turning features, whatever share of the head they are."""
    whole = {**scaling_of(text), "partial_rotary_factor": 1.0}
    return rotary_from_config({**text, "rope_scaling": whole}, num_dims)


def _same(found: RotarySpec, stated: RotarySpec) -> bool:
    """Whether they are as fast and as large; which way they turn (nanochat: the other) is in no config."""
    return (
        found.num_dims == stated.num_dims
        and np.allclose(np.abs(found.inv_freq), stated.inv_freq, rtol=1e-5, atol=0)
        and abs(found.factor - stated.factor) <= 1e-5
    )


def text_of(config: _Config) -> _Config:
    """The part of a config that says how text is computed."""
    found: _Config = config.get("text_config") or config
    return found


def scaling_of(text: _Config) -> _Config:
    """Its rotary rule, under the older or the newer name."""
    found: _Config = text.get("rope_scaling") or text.get("rope_parameters") or {}
    return found


def share_of(text: _Config) -> float | None:
    """The share of each head that turns, if it is stated."""
    share = scaling_of(text).get("partial_rotary_factor") or text.get("partial_rotary_factor")
    return None if share is None else float(share)


def kind_of(scaling: _Config) -> str:
    """The name of a rotary rule."""
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def _kinds(scaling: _Config) -> Iterator[str]:
    """The rules of all layer types. A "dynamic" one with `alpha` (Hunyuan) does not change with the length."""
    for rule in (scaling, *scaling.values()):
        if isinstance(rule, Mapping) and "alpha" not in rule:
            yield kind_of(rule)


def _impossible(reason: str, *, got: str, remedy: str = "use another model") -> ModelRefused:
    return ModelRefused(f"the model cannot be computed over shared blocks: {reason}", got=got, remedy=remedy)


def _left_out(reason: str, got: str) -> ModelRefused:
    return ModelRefused(
        f"mlx-lm computes another model than its config states: {reason}",
        got=got,
        remedy="use another model or the cuda backend",
    )
