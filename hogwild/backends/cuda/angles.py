"""cos and sin of offsets on the device, spread over all features of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hogwild.backends.base import LayerSpec
from hogwild.core.arrays import IntArray
from hogwild.core.rotary import NO_ROTARY, OffsetTable, RotarySpec, exact_angles

Rotation = tuple[RotarySpec, int]  # how a layer turns, and its key dimension


class AngleTables:
    """cos, signed sin and partners for each way in which a model's layers turn.

    A query x turned by an offset is `x * cos + x[partners] * sin`: `partners` names the feature that each one is paired
    with, and `sin` carries the sign. Features that do not turn have cos 1 and sin 0.
    """

    def __init__(self, layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device) -> None:
        rotations = {(layer.rotary, layer.key_dim) for layer in layers if layer.rotary != NO_ROTARY}
        self._device = device
        self._tables = {} if dtype == torch.float64 else {spec: OffsetTable(spec) for spec, _ in rotations}
        self._partners = {rotation: self.to_device(_partners(rotation)) for rotation in rotations}

    def partners(self, rotation: Rotation) -> Tensor:
        """The feature that each feature is paired with, `[D]`."""
        return self._partners[rotation]

    def offset_table(self, spec: RotarySpec) -> OffsetTable:
        """The angles of one way to turn, in float32."""
        return self._tables[spec]

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """A numpy array as a tensor on the device. Nothing waits for what the device is computing."""
        return torch.from_numpy(np.array(array)).to(self._device, non_blocking=True)

    def __call__(self, offsets: IntArray, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """cos and signed sin of `offsets [...]`, each `[..., D]`; float32, for float64 models float64."""
        spec, key_dim = rotation
        cos, sin = self._tables[spec](offsets) if self._tables else exact_angles(offsets, spec)
        first, second = pairs_of(spec)
        full_cos = np.ones((*offsets.shape, key_dim), cos.dtype)
        full_sin = np.zeros_like(full_cos)
        full_cos[..., first], full_cos[..., second] = cos, cos
        full_sin[..., first], full_sin[..., second] = -sin, sin
        return self.to_device(full_cos), self.to_device(full_sin)


def turn(x: Tensor, cos: Tensor, sin: Tensor, partners: Tensor) -> Tensor:
    """Rotate `x [..., D]` by angles that broadcast against it, see `AngleTables`."""
    return torch.addcmul(x * cos, x.index_select(-1, partners), sin)


def pairs_of(spec: RotarySpec) -> tuple[IntArray, IntArray]:
    """The first and the second feature of each pair."""
    pairs = np.arange(len(spec.inv_freq))
    if spec.pairing == "half":
        return spec.start + pairs, spec.start + len(pairs) + pairs
    return spec.start + 2 * pairs, spec.start + 2 * pairs + 1


def _partners(rotation: Rotation) -> IntArray:
    spec, key_dim = rotation
    first, second = pairs_of(spec)
    partners = np.arange(key_dim)
    partners[first], partners[second] = second, first
    return partners
