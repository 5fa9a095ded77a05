"""Which rotation a layer applies: the rotary modules of the model are candidates, the probe's vectors decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from hogwild.core.rotary import NO_ROTARY, RotarySpec, exact_angles, turn

FloatArray = NDArray[np.float64]
_FREQUENCY_NAMES = ("_freqs", "freqs", "_rope_freqs")
# Angles beyond this many radians are left out: fp32 arithmetic (and Metal's fast sine) is too coarse there. The slow
# pairs, which a length-dependent rule changes most, stay below it even at the end of the context.
_MAX_ANGLE = 512.0
_ANGLE_ERROR = 2e-6  # relative, of an angle computed in fp32


@dataclass(frozen=True, slots=True)
class Samples:
    """Vectors of the same tokens at several positions: `[P, N, D]`, where `positions[0]` is 0; eps: of their dtype."""

    positions: NDArray[np.int64]
    vectors: FloatArray
    eps: float


def candidates(model: Any) -> tuple[RotarySpec, ...]:
    """Every rotation that a rotary module of the model could stand for; found by their attributes, not by model."""
    found = {spec: None for _, module in model.named_modules() for spec in specs_of(module)}
    return tuple(found)


def fit(samples: Sequence[Samples], specs: Sequence[RotarySpec]) -> RotarySpec | None:
    """The rotation that explains all samples as `R(p) x(0)` best, or None when none does within rounding."""
    head_dim = samples[0].vectors.shape[-1]
    placed = [placed for spec in specs for placed in _places(spec, head_dim)]
    misfits = [(max(_misfit(sample, spec) for sample in samples), spec) for spec in (NO_ROTARY, *placed)]
    misfit, best = min(misfits, key=lambda pair: pair[0])
    return best if misfit <= 1.0 else None


def _misfit(samples: Samples, spec: RotarySpec) -> float:
    """The largest deviation in units of what rounding explains; infinite when the vectors say nothing."""
    size = np.abs(samples.vectors).max()
    if not np.isfinite(size) or size == 0.0:
        return float("inf")
    worst = 0.0
    for position, seen in zip(samples.positions[1:], samples.vectors[1:], strict=True):
        cos, sin = exact_angles(np.array([position]), spec)
        expected = np.asarray(turn(samples.vectors[0], cos, sin, spec))
        angle = _angle_of_feature(int(position), spec, expected.shape[-1])
        allowed = size * (1e-5 + 8 * samples.eps + _ANGLE_ERROR * angle)
        error = np.where(angle <= _MAX_ANGLE, np.abs(expected - seen) / allowed, 0.0)
        worst = max(worst, float(error.max()))
    return worst


def _angle_of_feature(position: int, spec: RotarySpec, head_dim: int) -> FloatArray:
    angles = position * np.asarray(spec.inv_freq)
    features = np.concatenate([angles, angles]) if spec.pairing == "half" else np.repeat(angles, 2)
    turned = np.zeros(head_dim)
    turned[spec.start : spec.start + spec.num_dims] = features
    return turned


def _places(spec: RotarySpec, head_dim: int) -> Iterator[RotarySpec]:
    """The same rotation at the start and at the end of the head."""
    starts = {0, head_dim - spec.num_dims} if spec.num_dims <= head_dim else ()
    for start in sorted(starts):
        yield RotarySpec(spec.inv_freq, spec.pairing, start, spec.factor)


def specs_of(module: Any) -> Iterator[RotarySpec]:
    """The rotations that a module could stand for, at the start of a head; two if it does not say what a pair is."""
    inverse = _inverse_frequencies(module)
    if inverse is None:
        return
    rounded = tuple(float(f) for f in inverse.astype(np.float32))
    factor = float(getattr(module, "mscale", None) or getattr(module, "_scale", None) or 1.0)
    traditional = getattr(module, "traditional", None)
    both: tuple[Literal["half", "interleaved"], ...] = ("half", "interleaved")
    for pairing in both if traditional is None else (both[int(bool(traditional))],):
        yield RotarySpec(rounded, pairing, factor=factor)


def _inverse_frequencies(module: Any) -> FloatArray | None:
    """Radians per position of each pair; MLX keeps the inverse in `freqs`, infinite for pairs that stand still."""
    for name in _FREQUENCY_NAMES:
        periods = getattr(module, name, None)
        if isinstance(periods, mx.array):
            return 1.0 / np.array(periods.astype(mx.float32), dtype=np.float64)
    if isinstance(module, nn.RoPE):
        exponents = np.arange(0, module.dims, 2, dtype=np.float64) / module.dims
        inverse: FloatArray = float(module.scale) * float(module.base) ** -exponents
        return inverse
    return None
