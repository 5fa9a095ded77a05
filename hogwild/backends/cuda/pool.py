"""The K/V pool on a torch device: one pair of arrays for each layer, addressed by slot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.stored import Stored
from hogwild.errors import PoolExhausted


class KVPool:
    """K `[kv_heads, slots, Dk]` and V `[kv_heads, slots, Dv]` of each layer, so that neighbouring slots are one view.

    Values are finite in every slot, written or not: a reader gives slots that it may not see the weight 0, and 0 times
    NaN would reach it. Keys need no such care, since the scores of those slots are replaced.

    kv_dtype: "int8": the arrays hold codes, and there are scales `[kv_heads, slots, 1]` beside them; else `dtype`.
    """

    def __init__(
        self, layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device, kv_dtype: str = "auto"
    ) -> None:
        self.layers, self.dtype, self.in_8_bits = tuple(layers), dtype, kv_dtype == "int8"
        stored = torch.int8 if self.in_8_bits else dtype
        heads = [layer.num_kv_heads for layer in layers]

        def empty(dims: list[int], dtype: torch.dtype) -> list[Tensor]:
            return [torch.empty(n, 0, dim, dtype=dtype, device=device) for n, dim in zip(heads, dims, strict=True)]

        self.keys = empty([layer.key_dim for layer in layers], stored)
        self.values = empty([layer.value_dim for layer in layers], stored)
        ones = [1] * len(layers) if self.in_8_bits else []
        self.key_scales = empty(ones, torch.float32) if ones else []
        self.value_scales = empty(ones, torch.float32) if ones else []
        self.num_slots = 0
        self.generation = 0  # how often the arrays have moved

    def reserve(self, num_slots: int) -> None:
        """Hold at least `num_slots` slots; what was written stays. `PoolExhausted` when the device has no room."""
        if num_slots <= self.num_slots:
            return
        self.generation += 1
        try:
            # Layer by layer, so that no more than one layer is held twice.
            for arrays in (self.keys, self.values, self.key_scales, self.value_scales):
                for layer, old in enumerate(arrays):
                    clear = arrays is self.values or arrays is self.value_scales
                    arrays[layer] = _grown(old, num_slots, clear=clear)
        except RuntimeError as error:
            if "illegal memory access" in str(error):  # of a kernel that was launched before
                raise
            raise PoolExhausted(
                "the device has no room for more K/V",
                expected=f"room for {num_slots} tokens",
                got=f"room for {self.num_slots} tokens",
                remedy="lower the number of workers, passes or concurrent problems, or use a smaller dtype",
            ) from error
        self.num_slots = num_slots

    @property
    def bytes_per_token(self) -> int:
        """K and V of all layers."""
        arrays = [*self.keys, *self.values, *self.key_scales, *self.value_scales]
        return sum(array.shape[0] * array.shape[2] * array.itemsize for array in arrays)

    def stored(self, layer: int) -> tuple[Stored, Stored]:
        """K and V of a layer."""
        if not self.in_8_bits:
            return Stored(self.keys[layer]), Stored(self.values[layer])
        key_scales, value_scales = self.key_scales[layer], self.value_scales[layer]
        return Stored(self.keys[layer], key_scales), Stored(self.values[layer], value_scales)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store K `[kv_heads, T, Dk]` and V `[kv_heads, T, Dv]` in `slots [T]`.

        A token whose V is not finite gets NaN keys and finite values: every reader that sees it becomes NaN, as it
        must, and nobody else.
        """
        total = values.sum((0, 2), dtype=torch.float32 if values.dtype.itemsize < 4 else values.dtype)
        # On a GPU the host must not wait for the answer, so all tokens go the long way.
        if values.device.type != "cpu" or not math.isfinite(total.sum()):
            zero_or_nan = (total - total).to(keys.dtype)
            keys, values = keys + zero_or_nan[:, None], values.nan_to_num(0.0, 0.0, 0.0)
        for stored, given in zip(self.stored(layer), (keys, values), strict=True):
            stored.write(slots, given)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of `slots [n]`."""
        keys, values = (stored.read(slots).transpose(0, 1) for stored in self.stored(layer))
        return keys, values


def _grown(old: Tensor, num_slots: int, *, clear: bool) -> Tensor:
    if old.shape[1] >= num_slots:
        return old
    new = old.new_empty(old.shape[0], num_slots, old.shape[2])
    new[:, : old.shape[1]] = old
    if clear:
        new[:, old.shape[1] :] = 0
    return new
