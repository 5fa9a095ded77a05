"""Whether a model can be computed exactly over shared blocks: found out when it is loaded, refused with the reason.

Refused: layers that do not take the attention interface (linear, recurrent and hybrid models, ALiBi, older models),
positions that enter otherwise than by a pure rotation of q and k (learned positions, scaled queries), frequencies that
change with the length (dynamic NTK, longrope), chunked or indexed attention, and anything whose logits differ from the
model's own plain forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.masks import OTHER_KEYS
from hogwild.backends.cuda.probe import NUM_TOKENS, Captured, ProbePass, run_probe
from hogwild.backends.cuda.rotary_fit import TOLERANCE, Fit, fit_rotary, frequencies
from hogwild.errors import HogwildError, ModelRefused

LENGTH_DEPENDENT = ("dynamic", "longrope")
_REMEDY = "use another model; this one cannot be computed exactly over shared blocks"
KNOWN_LAYERS = ("full_attention", "sliding_attention")
KNOWN_TENSORS = ("s_aux", "position_ids", "cache_position", "position_embeddings", "hidden_states")
_FORBIDDEN = {"attention_chunk_size": "chunked attention", "index_topk": "an indexer that chooses keys"}


Certified = tuple[list[nn.Module], tuple[LayerSpec, ...], int]


def certify_layers(model: nn.Module, config: Any, context_size: int) -> Certified:
    """The attention modules of a model, what they compute, and the most query heads that one of them has.

    `ModelRefused` for what is not explained.
    """
    _check_config(config)
    _check_rope_types(model)
    probe = _probe(model, config, context_size)
    candidates, dtype = frequencies(model), next(model.parameters()).dtype
    layers = [probe.layers[i] for i in sorted(probe.layers)]
    specs = []
    for index, layer in enumerate(layers):
        _check_layer(index, layer, probe)
        window = _window(index, layer)
        fit = fit_rotary(layer, probe.positions, candidates, dtype)
        if not fit.holds:
            raise _unexplained(index, layer, fit, dtype)
        specs.append(_spec(layer, fit, window))
    return [layer.module for layer in layers], tuple(specs), max(layer.q.shape[1] for layer in layers) // NUM_TOKENS


def refused(layer: int | None, reason: str, *, remedy: str = _REMEDY, **details: str | None) -> ModelRefused:
    """The error for a model that cannot be computed exactly."""
    where = "" if layer is None else f"layer {layer}: "
    return ModelRefused(f"{where}{reason}", remedy=remedy, **details)


def _check_config(config: Any) -> None:
    kinds = getattr(config, "layer_types", None) or ()
    for index, kind in enumerate(kinds):
        if kind not in KNOWN_LAYERS:
            raise refused(index, f"layers of type {kind!r} are not computed here", expected=", ".join(KNOWN_LAYERS))
    for name, reason in _FORBIDDEN.items():
        if getattr(config, name, None):
            raise refused(0, f"{reason} ({name}={getattr(config, name)})")


def _check_rope_types(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, Mapping) else [kinds]:
            if isinstance(kind, str) and any(word in kind for word in LENGTH_DEPENDENT):
                raise refused(
                    0,
                    f"rotary embedding of type {kind!r} in {name!r}: its frequencies change with the length, so stored "
                    "keys would become wrong",
                    remedy="use the variant of this model for short texts, or one with linear, llama3 or YaRN scaling",
                )


def _probe(model: nn.Module, config: Any, context_size: int) -> ProbePass:
    try:
        probe = run_probe(model, config.vocab_size, context_size)
    except HogwildError:
        raise
    except Exception as error:
        raise refused(None, f"{config.model_type}: a pass of single tokens failed", got=_one_line(error)) from error
    missing = sorted(set(range(config.num_hidden_layers)) - set(probe.layers))
    if missing:
        raise refused(
            missing[0],
            f"{config.model_type}: it does not use transformers' attention interface",
            got=f"{len(missing)} of {config.num_hidden_layers} layers without it",
        )
    return probe


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check_layer(index: int, layer: Captured, probe: ProbePass) -> None:
    if index in probe.repeated:
        raise refused(index, "it attends more than once")
    if getattr(layer.module, "is_causal", True) is False or layer.options.get("is_causal") is False:
        raise refused(index, "its attention is not causal")
    for name, value in layer.options.items():
        if isinstance(value, torch.Tensor) and name not in KNOWN_TENSORS:
            raise refused(index, f"its attention takes an argument {name!r} that is not known here")
    heads = [x.shape[1] for x in (layer.q, layer.k, layer.v)]
    if heads[0] % heads[1] or heads[1] != heads[2] or layer.q.shape[2] != layer.k.shape[2]:
        raise refused(index, "the shapes of its queries, keys and values do not fit", got=str(heads))


def _window(index: int, layer: Captured) -> int | None:
    """The window of the layer's mask; it must not ask for another one."""
    if layer.num_latest is None:
        raise refused(index, "the model makes no mask in transformers' way, so what it may see is not known")
    if layer.num_latest == OTHER_KEYS:
        raise refused(index, "its mask is neither causal nor a window (chunks, blocks, or one of its own)")
    window, stated = layer.num_latest or None, layer.options.get("sliding_window") or None
    if stated is not None and stated != window:
        raise refused(index, f"its attention is asked for a window of {stated}, but its mask shows {window or 'all'}")
    return window


def _unexplained(index: int, layer: Captured, fit: Fit, dtype: torch.dtype) -> ModelRefused:
    moved = float(np.abs(layer.v - layer.v[:1]).max()) / max(float(np.abs(layer.v).max()), 1e-30)
    if moved > TOLERANCE[dtype]:
        return refused(index, "the position changes its input (learned or absolute), not only its queries and keys")
    return refused(
        index,
        "no pure rotation with the model's own frequencies explains how its queries and keys move with position",
        expected="a difference that rounding explains",
        got=f"{fit.misfit:.1f} times that with the best one",
    )


def _spec(layer: Captured, fit: Fit, window: int | None) -> LayerSpec:
    return LayerSpec(
        rotary=fit.rotary,
        num_kv_heads=layer.num_kv_heads,
        key_dim=layer.k.shape[-1],
        value_dim=layer.v.shape[-1],
        window=window,
    )
