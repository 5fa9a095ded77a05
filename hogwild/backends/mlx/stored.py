"""Vectors as the pool stores them: as numbers of the model's dtype, or in 8 bits as codes and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import mlx.core as mx

from hogwild.core.quantized import LARGEST_CODE, LEAST_SCALE

PART = 2048  # slots of a slice that are turned back into numbers at once


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors in 8 bits, see `hogwild.core.quantized`.

    Attributes:
        codes: `[.., D]` int8.
        scales: `[.., 1]` float32.
    """

    codes: mx.array
    scales: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the vectors, `[.., D]`."""
        return self.codes.shape


Stored = mx.array | Quantized


def arrays(stored: Stored) -> tuple[mx.array, ...]:
    """What is in memory; the last axis is that of the features, or 1."""
    return (stored.codes, stored.scales) if isinstance(stored, Quantized) else (stored,)


def each(change: Callable[[mx.array], mx.array], stored: Stored) -> Stored:
    """The same change of the leading axes for all arrays."""
    if isinstance(stored, Quantized):
        return Quantized(change(stored.codes), change(stored.scales))
    return change(stored)


def quantize(x: mx.array) -> Quantized:
    """The nearest codes of vectors `x [.., D]`, the bits of `hogwild.core.quantized.quantize`."""
    return Quantized(*_quantize(x))


def numbers(stored: Stored) -> mx.array:
    """`[.., D]` to compute with; codes become float32."""
    if isinstance(stored, Quantized):
        return _numbers(stored.codes, stored.scales)
    return stored


def slice_parts(stored: Stored, start: int, stop: int) -> list[mx.array]:
    """The numbers of `start..stop` on the second axis: one slice in place, or some slots at a time from codes."""
    if not isinstance(stored, Quantized):
        return [stored[:, start:stop]]
    edges = [*range(start, stop, PART), stop]
    return [_numbers(stored.codes[:, a:b], stored.scales[:, a:b]) for a, b in pairwise(edges)]


@partial(mx.compile, shapeless=True)
def _quantize(x: mx.array) -> tuple[mx.array, mx.array]:
    single = x.astype(mx.float32)
    largest = mx.abs(single).max(axis=-1, keepdims=True)
    scales = largest / LARGEST_CODE
    scales = mx.where(scales >= LEAST_SCALE, scales, 0.0)
    finite = mx.isfinite(largest)
    codes = mx.round(single / mx.where(finite & (scales > 0), scales, 1.0))
    codes = mx.where(finite, mx.clip(codes, -LARGEST_CODE, LARGEST_CODE), 0.0)
    return codes.astype(mx.int8), mx.where(finite, scales, float("nan"))


@partial(mx.compile, shapeless=True)
def _numbers(codes: mx.array, scales: mx.array) -> mx.array:
    return codes.astype(mx.float32) * scales
