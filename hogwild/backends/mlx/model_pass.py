"""One pass of an unmodified mlx-lm model over the pool: its caches, and what each of them does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx.attention import PassReader, Tables
from hogwild.backends.mlx.hook import BlockCache
from hogwild.backends.mlx.kernels import KernelAttention, KernelReader
from hogwild.backends.mlx.layers import decoder_layers, refused, replace_caches
from hogwild.backends.mlx.pool import KVPool, SlotRows
from hogwild.backends.mlx.rope import Positions
from hogwild.core.plan import ForwardPlan

Reader = PassReader | KernelReader


class LayerCache(BlockCache):
    """One layer's end of the pool: writes the pass's K/V, then reads for all rows."""

    def __init__(self, layer: int, max_size: int | None) -> None:
        self.layer = layer
        self._pool: KVPool | None = None

    def begin(
        self, index: int, spec: LayerSpec, pool: KVPool, offset: Positions, write: SlotRows, read: Reader
    ) -> None:
        """Take part in a pass as the pool's layer `index`."""
        self._index, self._spec, self._pool = index, spec, pool
        self.offset, self._write, self._read = offset, write, read

    def store(self, keys: mx.array, values: mx.array) -> None:
        """Write to the pool."""
        assert self._pool is not None
        self._pool.write(self._index, keys, values, self._write)

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
        """Attention over the blocks that each token's row sees."""
        assert self._pool is not None
        if mask is not None:
            raise refused(self.layer, "it adds something of its own to the attention scores")
        return self._read.attend(
            queries,
            *self._pool.heads(self._index),
            rotary=self._spec.rotary,
            window=self._spec.window,
            scale=scale,
            sinks=sinks,
            softcap=softcap,
        )


class PassRunner:
    """Runs the model with our caches.

    Attributes:
        kernels: what attends; None for MLX's operations.
    """

    kernels: KernelAttention | None = None

    def __init__(
        self,
        model: Any,
        layers: Sequence[LayerSpec],
        num_heads: int,
        tables: Tables,
        latent: Collection[int] = (),
    ) -> None:
        """latent: which layers have latent attention, see `LatentCache`."""
        self._model, self._layers = model, layers
        self._num_heads, self._tables = num_heads, tables
        self._caches, self._ends = replace_caches(model, LayerCache, latent)

    def run(self, plan: ForwardPlan, pool: KVPool, reader: Reader | None = None) -> mx.array:
        """Logits `[T, V]`, not evaluated; so are the pool's arrays. reader: what attends, if not what always does."""
        if reader is None:
            reader = self.plain_reader(plan, pool) if self.kernels is None else self.kernels.reader(plan)
        offset = Positions(plan.positions)
        write = SlotRows(plan.write_slots, pool.num_slots)
        for index, (end, spec) in enumerate(zip(self._ends, self._layers, strict=True)):
            end.begin(index, spec, pool, offset, write, reader)
        tokens = mx.array(plan.token_ids.astype(np.int32))[:, None]
        logits: mx.array = self._model(tokens, cache=self._caches)
        for end in self._ends:
            end.forget()
        return logits[:, 0]

    def plain_reader(self, plan: ForwardPlan, pool: KVPool) -> PassReader:
        """Attention over the pool by MLX's operations."""
        head_dim = max(layer.key_dim for layer in self._layers)
        return PassReader(plan, self._tables, self._num_heads, head_dim, pool.num_slots)


@contextmanager
def recorded_layers(model: Any) -> Iterator[list[mx.array]]:
    """Within the block, every decoder layer's output `[T, 1, hidden]` is noted, in the order of the calls.

    The layers change their class for that long: code that looks at their type by `isinstance` or at their attributes
    sees no difference.
    """
    outputs: list[mx.array] = []
    layers = list(decoder_layers(model))
    classes = [type(layer) for layer in layers]
    recording = {cls: _recording(cls, outputs) for cls in classes}
    try:
        for layer in layers:
            layer.__class__ = recording[type(layer)]
        yield outputs
    finally:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = cls


def _recording(cls: type, outputs: list[mx.array]) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = cls.__call__(self, *args, **kwargs)
        outputs.append(output[0] if isinstance(output, tuple) else output)
        return output

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
