"""Which rotation a layer applies: the model's rotary modules give the frequencies, the probe's vectors decide."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hogwild.backends.cuda.probe import Captured, FloatArray
from hogwild.core.rotary import NO_ROTARY, RotarySpec, exact_angles, turn

FREQUENCIES = "inv_freq"
TOLERANCE = {torch.float64: 2e-5, torch.float32: 5e-5, torch.float16: 8e-3, torch.bfloat16: 4e-2}
# The model multiplies position and frequency in float32, so that its own angles are off by about 2^-24 of themselves.
_ANGLE_ERROR = 2.0**-22
_PAIRINGS: tuple[Literal["half", "interleaved"], ...] = ("half", "interleaved")


@dataclass(frozen=True, slots=True)
class Fit:
    """A rotation, and by how much it misses what was seen, in units of what rounding explains."""

    rotary: RotarySpec
    misfit: float

    @property
    def holds(self) -> bool:
        """Whether the rotation explains the layer."""
        return self.misfit <= 1.0


def frequencies(model: nn.Module) -> tuple[RotarySpec, ...]:
    """The frequencies, with their attention factors, in the rotary modules of a model; exact float32 values."""
    found: dict[RotarySpec, None] = {}
    for module in model.modules():
        for name, value in (vars(module) | dict(module.named_buffers(recurse=False))).items():
            if not (isinstance(value, torch.Tensor) and name.endswith(FREQUENCIES)) or "original" in name:
                continue
            factor = getattr(module, name.removesuffix(FREQUENCIES) + "attention_scaling", 1.0)
            found[RotarySpec(tuple(value.flatten().double().tolist()), factor=float(factor or 1.0))] = None
    return tuple(found)


def fit_rotary(
    layer: Captured, positions: NDArray[np.int64], candidates: Sequence[RotarySpec], dtype: torch.dtype
) -> Fit:
    """The rotation that explains best how the layer's q and k move with position."""
    fits = [
        Fit(spec, max(_misfit(x, positions, spec, TOLERANCE[dtype]) for x in (layer.q, layer.k)))
        for spec in _placed(candidates, layer.q.shape[-1])
    ]
    return min(fits, key=lambda fit: fit.misfit)


def _misfit(x: FloatArray, positions: NDArray[np.int64], spec: RotarySpec, tolerance: float) -> float:
    """The largest difference, or change of length, over all positions; infinite when the vectors say nothing."""
    size = float(np.linalg.norm(x[0]))
    if not np.isfinite(x).all() or size == 0.0:
        return float("inf")
    cos, sin = exact_angles(positions[1:, None] - positions[0], spec)
    error = _lengths(turn(x[:1], cos, sin, spec) - x[1:]) / size
    stretch = np.abs(_lengths(x[1:]) / size - 1)
    return float(max((error / (tolerance + positions[1:] * _ANGLE_ERROR)).max(), (stretch / tolerance).max()))


def _lengths(x: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt((x**2).sum((1, 2))))


def _placed(candidates: Sequence[RotarySpec], key_dim: int) -> Iterator[RotarySpec]:
    """No rotation, then each candidate in either pairing and direction, at the start and at the end of the head."""
    yield NO_ROTARY
    for spec in candidates:
        starts = {0, key_dim - spec.num_dims} if spec.num_dims <= key_dim else ()
        for start in sorted(starts):
            for pairing, sign in itertools.product(_PAIRINGS, (1, -1)):
                yield RotarySpec(tuple(sign * f for f in spec.inv_freq), pairing, start, spec.factor)
