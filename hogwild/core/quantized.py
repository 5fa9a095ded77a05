"""Keys and values in 8 bits: the definition that every backend follows.

Each vector, one token's features in one kv head, has a scale of its own: `scale = max|x| / 127`, the nearest integers
to `x / scale` (ties to even), and back `code * scale`; all in float32. So a vector takes `D + 4` bytes, is off by half
a scale at most, and depends on nothing but itself: where pages lie and what is published changes no bit.

A scale below the smallest normal number counts as 0, since GPUs may flush it. A vector that is not finite gets the
scale NaN: its readers become NaN, as they must.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_CODE = 127
LEAST_SCALE = float(np.finfo(np.float32).tiny)
SCALE_BYTES = 4

_Index = Any  # into the leading axes, as NumPy takes it


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors in 8 bits.

    Attributes:
        codes: `[.., D]` int8, from -127 to 127.
        scales: `[..]` float32.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the vectors, `[.., D]`."""
        return self.codes.shape

    def __getitem__(self, index: _Index) -> NDArray[np.float32]:
        """Some vectors as numbers, `[.., D]`; `index` counts vectors, not features."""
        return dequantize(Quantized(self.codes[index], self.scales[index]))


def quantize(x: NDArray[np.floating[Any]]) -> Quantized:
    """The nearest codes of vectors `x [.., D]`."""
    single = x.astype(np.float32)
    largest = np.abs(single).max(axis=-1)
    scales = largest / np.float32(LARGEST_CODE)
    scales = np.where(scales >= LEAST_SCALE, scales, np.float32(0))
    finite = np.isfinite(largest)
    codes = np.rint(single / np.where(finite & (scales > 0), scales, np.float32(1))[..., None])
    codes = np.where(finite[..., None], np.clip(codes, -LARGEST_CODE, LARGEST_CODE), 0)
    return Quantized(codes.astype(np.int8), np.where(finite, scales, np.float32(np.nan)))


def dequantize(x: Quantized) -> NDArray[np.float32]:
    """What the codes stand for, `[.., D]`."""
    return x.codes.astype(np.float32) * x.scales[..., None]


def vector_bytes(num_features: int) -> int:
    """Bytes of a vector in 8 bits."""
    return num_features + SCALE_BYTES
