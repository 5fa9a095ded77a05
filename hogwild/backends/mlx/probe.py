"""Certification of a loaded model: which rotation, heads and window each layer has, or a refusal.

For a single token attention returns its value at any position, so tokens fed alone at several positions have the same
hidden states in every layer, and a layer's queries and keys differ by the rotation of the position and nothing else.
Whatever no pure rotation explains is refused: learned positions, rules that change with the length, a norm after RoPE.

A layer that attends to one array as keys and as values has latent attention: it is probed once more behind a
`LatentCache`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx.hook import BlockCache
from hogwild.backends.mlx.layers import refused, replace_caches
from hogwild.backends.mlx.put_right import put_right
from hogwild.backends.mlx.rotary_fit import Samples, candidates, fit
from hogwild.backends.mlx.stated import check_rules, check_stated
from hogwild.backends.mlx.windows import choose_windows
from hogwild.core.rotary import RotarySpec
from hogwild.errors import HogwildError, ModelRefused

NUM_TOKENS = 2


class ProbeCache(BlockCache):
    """Records what a layer writes and asks, for tokens that see themselves only."""

    def __init__(self, layer: int, max_size: int | None) -> None:
        self.layer, self.max_size = layer, max_size
        self.keys: list[mx.array] = []
        self.values: list[mx.array] = []
        self.queries: list[mx.array] = []
        self.masks: list[mx.array | None] = []
        self.masks_made: dict[int, tuple[mx.array, int | None]] = {}
        self.is_latent = False

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array | None:
        """A mask that hides nothing and is known again by its identity, so that each layer's window is found."""
        mask = mx.array([[True]])
        self.masks_made[id(mask)] = (mask, kwargs.get("window_size"))
        return mask

    def store(self, keys: mx.array, values: mx.array) -> None:
        """Note the new K/V; a token sees itself alone."""
        self.keys.append(keys)
        self.values.append(values)

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        mask: mx.array | None = None,
        sinks: mx.array | None = None,
        softcap: float | None = None,
    ) -> mx.array:
        """Ordinary attention of each token to itself."""
        self.queries.append(queries)
        self.masks.append(mask)
        self.is_latent = keys is values
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=None, sinks=sinks)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the probe found; `dtype` is that of keys and values, `latent` the layers with latent attention."""

    layers: tuple[LayerSpec, ...]
    num_heads: int
    vocab_size: int
    dtype: Any
    positions: NDArray[np.int64] = field(repr=False)
    latent: frozenset[int] = frozenset()


def certify(model: Any, config: Mapping[str, Any], context_size: int) -> Certificate:
    """Probe every attention layer, or raise `ModelRefused` with the layer and the reason."""
    positions = np.unique([0, 1, min(509, context_size - 1), context_size // 2, context_size - 1])
    positions = positions[positions < context_size].astype(np.int64)
    check_rules(config, context_size)
    put_right(model, config)
    vocab_size, probes = _run(model, positions, config)
    latent = frozenset(i for i, probe in enumerate(probes) if probe.is_latent)
    if latent:
        vocab_size, probes = _run(model, positions, config, latent)
    if not probes:
        raise ModelRefused("the model has no attention layer", got=str(config.get("model_type")))
    windows = _windows(probes, latent, config, context_size)
    specs = candidates(model)
    layers = tuple(
        _certify_layer(probe, positions, specs, window) for probe, window in zip(probes, windows, strict=True)
    )
    heads = {probe.queries[0].shape[1] for probe in probes}
    check_stated(layers, config)
    return Certificate(layers, max(heads), vocab_size, probes[0].keys[0].dtype, positions, latent)


def _run(
    model: Any, positions: NDArray[np.int64], config: Mapping[str, Any], latent: Collection[int] = ()
) -> tuple[int, list[ProbeCache]]:
    """Feed a few tokens alone at every position; returns the vocabulary's size and what was seen."""
    caches, probes = replace_caches(model, ProbeCache, latent)
    text = config.get("text_config") or config
    vocab_size = int(text.get("vocab_size") or 0)
    tokens = np.linspace(1, max(vocab_size - 1, 2), NUM_TOKENS + 2).astype(np.int64)[1:-1]
    offsets = mx.array(np.repeat(positions, NUM_TOKENS).astype(np.int32))
    for probe in probes:
        probe.offset = offsets
    try:
        logits = model(mx.array(np.tile(tokens, len(positions)))[:, None], cache=caches)
        mx.eval([(probe.keys, probe.values, probe.queries) for probe in probes])
    except HogwildError:
        raise
    except Exception as error:  # foreign model code: whatever it raises means that it does not take our caches
        raise ModelRefused(
            "mlx-lm's code fails on single tokens with one position each, so blocks cannot be shared",
            got=f"{type(error).__name__}: {error}",
            remedy="load it with dtype float32" if "only supports float32" in str(error) else "use another model",
        ) from error
    return int(logits.shape[-1]), probes


def _certify_layer(
    probe: ProbeCache, positions: NDArray[np.int64], specs: Sequence[RotarySpec], window: int | None
) -> LayerSpec:
    if not probe.keys or not probe.queries:
        raise refused(probe.layer, "its scores are formed outside the attention function that can be replaced")
    if len(probe.keys) > 1:
        raise refused(probe.layer, "it stores keys more than once in a pass")
    keys, values = probe.keys[0], probe.values[0]
    _check_shapes(probe)
    if not _still(_samples(values, positions)):
        raise refused(
            probe.layer, "the position changes its input (learned or absolute), not only its queries and keys"
        )
    rotary = fit([_samples(x, positions) for x in (keys, *probe.queries)], specs)
    if rotary is None:
        raise refused(probe.layer, "no pure rotation explains how its queries and keys change with the position")
    return LayerSpec(rotary, keys.shape[1], keys.shape[-1], values.shape[-1], window)


def _check_shapes(probe: ProbeCache) -> None:
    keys, values = probe.keys[0], probe.values[0]
    for queries in probe.queries:
        good = (
            keys.ndim == values.ndim == queries.ndim == 4
            and keys.shape[:3] == values.shape[:3]
            and queries.shape[2] == keys.shape[2] == 1
            and queries.shape[-1] == keys.shape[-1]
            and queries.shape[1] % keys.shape[1] == 0
        )
        if not good:
            shapes = f"queries {queries.shape}, keys {keys.shape}, values {values.shape}"
            raise refused(probe.layer, f"queries, keys and values do not fit together: {shapes}")


def _samples(x: mx.array, positions: NDArray[np.int64]) -> Samples:
    vectors = np.array(x.astype(mx.float32), dtype=np.float64)
    return Samples(positions, vectors.reshape(len(positions), -1, x.shape[-1]), float(mx.finfo(x.dtype).eps))


def _still(samples: Samples) -> bool:
    size = np.abs(samples.vectors).max()
    return bool(np.abs(samples.vectors - samples.vectors[:1]).max() <= size * (1e-5 + 8 * samples.eps))


def _windows(
    probes: Sequence[ProbeCache], latent: Collection[int], config: Mapping[str, Any], context_size: int
) -> list[int | None]:
    made = {key: entry for probe in probes for key, entry in probe.masks_made.items()}
    for i in latent:
        if any(window is not None for _, window in made.values()):
            raise refused(probes[i].layer, "latent attention beside layers with a window is not known here")
    return choose_windows([(probe.layer, _window(probe, made)) for probe in probes], config, context_size)


def _window(probe: ProbeCache, made: Mapping[int, tuple[mx.array, int | None]]) -> int | None:
    found = {probe.max_size} - {None}
    for mask in probe.masks:
        if mask is None:
            continue
        if id(mask) not in made:
            raise refused(probe.layer, "it adds something of its own to the attention scores (a bias or scores)")
        found |= {made[id(mask)][1]} - {None}
    if len(found) > 1:
        raise refused(probe.layer, f"its cache and its mask name different windows: {sorted(map(str, found))}")
    return next(iter(found), None)
