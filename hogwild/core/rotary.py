"""Rotary position embedding: which features turn, how fast, and exact tables for turning a query by an offset.

A key stays where it was written. A query that must see it from `offset` positions further away is turned by that
offset: a pure rotation, without any attention factor, since the model's own cos/sin carry that once already.

Covered: half-split, interleaved and partial rotations with a start dimension; default, linear, llama3 and yarn
frequencies. Not covered, hence refused: dynamic NTK and longrope, whose frequencies change with the length.

Sources: RoPE, arXiv 2104.09864; YaRN, arXiv 2309.00071 (eqs. 17-22); the llama3 rule as published with Llama 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import ModelRefused

MAX_OFFSET = 1 << 20
_LOW_BITS = 10
_LOW = 1 << _LOW_BITS

FloatArray = NDArray[np.floating[Any]]
_Config = Mapping[str, Any]
_Integers = NDArray[np.integer[Any]]
_Rule = tuple[NDArray[np.float64], float]  # frequencies and attention factor


@dataclass(frozen=True, slots=True)
class RotarySpec:
    """How one layer turns queries and keys with position.

    Features `start .. start + 2*len(inv_freq)` turn, pair i by `position * inv_freq[i]` radians. Pair i is made of the
    features (i, i + n/2) when `pairing` is "half", and (2i, 2i + 1) when it is "interleaved", counted from `start`.
    `factor` scales the model's own cos and sin (YaRN); a turn by an offset never applies it.
    """

    inv_freq: tuple[float, ...]
    pairing: Literal["half", "interleaved"] = "half"
    start: int = 0
    factor: float = 1.0

    @property
    def num_dims(self) -> int:
        """How many features turn; 0 for a layer without rotary embedding."""
        return 2 * len(self.inv_freq)


NO_ROTARY = RotarySpec(inv_freq=())


def exact_angles(positions: NDArray[np.int64], spec: RotarySpec) -> tuple[FloatArray, FloatArray]:
    """cos and sin of `positions * inv_freq` in float64, each `[*positions.shape, num_dims/2]`, without the factor."""
    angles = positions[..., None].astype(np.float64) * np.asarray(spec.inv_freq, dtype=np.float64)
    return np.cos(angles), np.sin(angles)


class OffsetTable:
    """cos and sin in float32 for every |offset| <= 2^20, within 1e-7 of the exact values (3e-8: rounded once).

    An offset is split as `high * 1024 + low`; two small tables of complex numbers in float64 are multiplied.
    """

    def __init__(self, spec: RotarySpec) -> None:
        self.spec = spec
        self._high = _Phases(np.arange(-MAX_OFFSET, MAX_OFFSET + 1, _LOW), spec)
        self._low = _Phases(np.arange(_LOW), spec)

    def __call__(self, offsets: _Integers) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin of `offsets * inv_freq`, each `[*offsets.shape, num_dims/2]` float32."""
        high, low = self.factors(offsets)
        phases = high.take((offsets + MAX_OFFSET) >> _LOW_BITS, axis=0)
        phases *= low.take(offsets & (_LOW - 1), axis=0)
        return phases.real.astype(np.float32), phases.imag.astype(np.float32)

    def factors(self, offsets: _Integers) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """The tables, each `[.., num_dims/2]`; the rows that `offsets` need are filled in.

        The phase of an offset is `high[(offset + MAX_OFFSET) >> 10] * low[offset & 1023]`.
        """
        assert not offsets.size or np.abs(offsets).max() <= MAX_OFFSET, "offset beyond 2^20"
        return self._high.known((offsets + MAX_OFFSET) >> _LOW_BITS), self._low.known(offsets & (_LOW - 1))


class _Phases:
    """Unit complex numbers at some positions; each is computed when it is first asked for, since most never are."""

    def __init__(self, positions: NDArray[np.int64], spec: RotarySpec) -> None:
        self._positions, self._spec = positions, spec
        self._values = np.empty((len(positions), len(spec.inv_freq)), dtype=np.complex128)
        self._known = np.zeros(len(positions), dtype=np.bool_)

    def known(self, which: _Integers) -> NDArray[np.complex128]:
        """All of them, `[len(positions), num_dims/2]`; those of `positions[which]` are right."""
        known = self._known[which]
        if not known.all():
            new = np.unique(which[~known])
            self._values.real[new], self._values.imag[new] = exact_angles(self._positions[new], self._spec)
            self._known[new] = True
        return self._values


def turn(x: FloatArray, cos: FloatArray, sin: FloatArray, spec: RotarySpec) -> FloatArray:
    """Rotate the turning features of `x [..., D]`; `cos`, `sin [..., num_dims/2]` broadcast against it.

    The result has the broadcast shape, for layers without rotary embedding too.
    """
    end = spec.start + spec.num_dims
    a, b = _pair(x[..., spec.start : end], spec)
    first, second = a * cos - b * sin, b * cos + a * sin
    if spec.pairing == "half":
        turned = np.concatenate([first, second], axis=-1)
    else:
        turned = np.stack([first, second], axis=-1).reshape(*first.shape[:-1], spec.num_dims)
    if spec.num_dims == x.shape[-1]:
        return turned
    lead = turned.shape[:-1]
    head, tail = (np.broadcast_to(part, (*lead, part.shape[-1])) for part in (x[..., : spec.start], x[..., end:]))
    return np.concatenate([head, turned, tail], axis=-1)


def _pair(x: FloatArray, spec: RotarySpec) -> tuple[FloatArray, FloatArray]:
    if spec.pairing == "half":
        middle = spec.num_dims // 2
        return x[..., :middle], x[..., middle:]
    return x[..., 0::2], x[..., 1::2]


def rotary_from_config(config: Mapping[str, Any], head_dim: int) -> RotarySpec:
    """The rotary spec of a Llama-family `config.json`, the same for all of its layers.

    Raises `ModelRefused` for rules that change with the length or the layer, and for incomplete ones.

    Frequencies are rounded to float32 as models store them, and kept as exact doubles of those.
    """
    scaling = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in scaling.values()):
        raise ModelRefused("the rotary embedding differs between layers", expected="one rule for all layers")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    rule = _RULES.get(kind)
    if rule is None:
        raise ModelRefused(
            f"rotary embedding of type {kind!r} is not computed here",
            expected=f"one of {', '.join(_RULES)}",
            got=kind,
            remedy="rules such as dynamic NTK and longrope change with the length, so stored keys would become wrong",
        )
    try:
        theta = float(_first(scaling.get("rope_theta"), config.get("rope_theta"), 10000.0))
        num_dims = _num_dims(head_dim, scaling, config)
        with np.errstate(all="ignore"):
            base = theta ** -(np.arange(0, num_dims, 2, dtype=np.float64) / num_dims)
            inv_freq, factor = rule(base, theta, num_dims, scaling, config)
        if not (np.isfinite([*inv_freq, factor]).all() and min(*inv_freq, factor) > 0):
            raise ValueError("its numbers are not positive and finite")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelRefused(
            f"the rotary embedding of type {kind!r} is not described completely",
            expected="every number that its rule needs",
            got=f"{type(error).__name__}: {error}",
        ) from error
    return RotarySpec(tuple(float(f) for f in inv_freq.astype(np.float32)), factor=factor)


def _first(*values: Any) -> Any:
    """The first value that is given, None if there is none."""
    return next((value for value in values if value is not None), None)


def _num_dims(head_dim: int, scaling: _Config, config: _Config) -> int:
    partial = float(_first(scaling.get("partial_rotary_factor"), config.get("partial_rotary_factor"), 1.0))
    num_dims = int(head_dim * partial)
    if not 0 < num_dims <= head_dim or num_dims % 2:
        raise ValueError(f"{partial} of {head_dim} features cannot be turned in pairs")
    return num_dims


def _original_length(scaling: _Config, config: _Config) -> float:
    """The context that the model was trained with before it was stretched."""
    own, outer = (where.get("original_max_position_embeddings") for where in (scaling, config))
    return float(_first(outer, own, config.get("max_position_embeddings")))


def _default(base: NDArray[np.float64], theta: float, dims: int, scaling: _Config, config: _Config) -> _Rule:
    return base, 1.0


def _linear(base: NDArray[np.float64], theta: float, dims: int, scaling: _Config, config: _Config) -> _Rule:
    return base / float(scaling["factor"]), 1.0


def _llama3(base: NDArray[np.float64], theta: float, dims: int, scaling: _Config, config: _Config) -> _Rule:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = _original_length(scaling, config) * base / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return base * (blend + (1 - blend) / float(scaling["factor"])), 1.0


def _yarn(base: NDArray[np.float64], theta: float, dims: int, scaling: _Config, config: _Config) -> _Rule:
    """NTK-by-parts: interpolate the slow pairs, keep the fast ones, ramp between; plus the attention factor."""
    original = _original_length(scaling, config)
    factor = float(_first(scaling["factor"], config["max_position_embeddings"] / original))

    def pair_of(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(scaling.get("beta_fast") or 32), pair_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return base * (1 - ramp) + base / factor * ramp, _yarn_attention_factor(factor, scaling)


def _yarn_attention_factor(factor: float, scaling: _Config) -> float:
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return magnitude(mscale) / magnitude(mscale_all) if mscale and mscale_all else magnitude(1.0)


_RULES = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
