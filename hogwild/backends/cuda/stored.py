"""Keys or values of a layer as they are stored, and as numbers that are computed with.

Pools of float32 and wider are read where they lie. Those of 16 and of 8 bits are widened part by part, so that scores,
probabilities and sums never leave float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hogwild.backends.cuda.workspace import Workspace
from hogwild.core.quantized import LARGEST_CODE, LEAST_SCALE

WIDENED = 1 << 22  # numbers that are widened at once


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes `[.., D]` int8 and scales `[.., 1]` float32 of vectors `x [.., D]`, as `hogwild.core.quantized`."""
    single = x.float()
    largest = single.abs().amax(-1, keepdim=True)
    scales = largest / LARGEST_CODE
    scales = scales.where(scales >= LEAST_SCALE, 0.0)
    finite = largest.isfinite()
    divisor = scales.where((scales > 0) & finite, 1.0)
    codes = (single / divisor).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes.where(finite, 0.0).to(torch.int8), scales.where(finite, torch.nan)


@dataclass(frozen=True, slots=True)
class Stored:
    """One layer's K or V.

    Attributes:
        numbers: `[kv_heads, slots, D]`; int8: codes.
        scales: `[kv_heads, slots, 1]` of codes.
    """

    numbers: Tensor
    scales: Tensor | None = None

    def write(self, slots: Tensor, x: Tensor) -> None:
        """Store `x [kv_heads, T, D]` in `slots [T]`."""
        if self.scales is None:
            self.numbers.index_copy_(1, slots, x)
        else:
            codes, scales = quantize(x)
            self.numbers.index_copy_(1, slots, codes)
            self.scales.index_copy_(1, slots, scales)

    def read(self, slots: Tensor) -> Tensor:
        """The numbers of those slots, `[kv_heads, n, D]`; float32 where they are stored in 8 bits."""
        found = self.numbers.index_select(1, slots)
        return found if self.scales is None else found.float() * self.scales.index_select(1, slots)

    def as_numbers(self, dtype: torch.dtype) -> Tensor:
        """All slots as numbers of `dtype`, which is that of the pool if it is not in 8 bits; without a copy then."""
        return self.numbers if self.scales is None else (self.numbers * self.scales).to(dtype)

    def gather(self, slots: Tensor, name: str, workspace: Workspace) -> Stored:
        """Those slots side by side, until `name` is taken from the workspace again."""
        shape = (*self.numbers.shape[:1], len(slots), *self.numbers.shape[2:])
        numbers = torch.index_select(self.numbers, 1, slots, out=workspace.take(name, shape, self.numbers))
        return Stored(numbers, None if self.scales is None else self.scales.index_select(1, slots))

    def cut(self, start: int, stop: int) -> Stored:
        """The slots `start..stop`."""
        return Stored(self.numbers[:, start:stop], None if self.scales is None else self.scales[:, start:stop])

    def parts(self, like: Tensor, workspace: Workspace, multiple: int = 1) -> Iterator[Tensor]:
        """All slots in the dtype of `like`, `[kv_heads, n, D]`, some at a time; each valid until the next one.

        n is a multiple of `multiple`, if their number is.
        """
        heads, count, dim = self.numbers.shape
        if self.numbers.dtype == like.dtype:
            yield self.numbers
            return
        size = max(1, WIDENED // (heads * dim * multiple)) * multiple
        for start in range(0, count, size):
            part = self.cut(start, min(start + size, count))
            wide = workspace.take("widened", part.numbers.shape, like).copy_(part.numbers)
            yield wide if part.scales is None else wide.mul_(part.scales)
