"""A Llama-family decoder in NumPy, over packed tokens.

Sources: RMSNorm, arXiv 1910.07467; rotary embedding, arXiv 2104.09864; gated SiLU, arXiv 2002.05202; grouped heads,
arXiv 2305.13245. Names follow transformers' checkpoints.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.reference.attention import PassReader, turned
from hogwild.backends.reference.pool import Stored
from hogwild.backends.reference.weights import Layer, Model
from hogwild.core.arrays import IntArray
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import OffsetTable, exact_angles

Array = NDArray[Any]


class Pool(Protocol):
    """Keys and values of each layer, see `hogwild.backends.reference.pool`."""

    keys: list[Stored]
    values: list[Stored]

    def write(self, layer: int, slots: IntArray, keys: Array, values: Array) -> None: ...


class Reader(Protocol):
    """What attends in a pass, see `PassReader`."""

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array: ...


class Decoder:
    """The forward of one model. Within a head, rotary pairs stand side by side (see `weights`)."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._complex = np.result_type(model.dtype, np.complex64)
        self._table = OffsetTable(model.config.rotary) if model.dtype == np.float32 else None

    def reader(self, plan: ForwardPlan) -> PassReader:
        """Attention over the pool by a plan."""
        config = self.model.config
        return PassReader(plan, self.turns, config.num_heads, config.head_dim, self.model.dtype)

    def __call__(self, plan: ForwardPlan, pool: Pool, reader: Reader, outputs: list[Array] | None = None) -> Array:
        """Logits `[L, V]` of the plan's logit tokens; each layer's output `[T, hidden_size]` is added to `outputs`."""
        config = self.model.config
        rotary = (self._angles(plan.positions) * config.rotary.factor).astype(self._complex)[:, None]
        hidden = self.model.embedding[plan.token_ids]
        for index, layer in enumerate(self.model.layers):
            hidden = hidden + self._attention(index, layer, hidden, plan.write_slots, pool, reader, rotary)
            hidden = hidden + _mlp(layer, rms_norm(hidden, layer.mlp_norm, config.norm_eps))
            if outputs is not None:
                outputs.append(hidden)
        wanted = rms_norm(hidden[plan.logit_tokens], self.model.final_norm, config.norm_eps)
        return self.model.head(wanted)

    def turns(self, offsets: IntArray) -> Array:
        """Unit complex numbers `[*offsets.shape, D/2]` that turn a query by each offset, without the YaRN factor."""
        if self._table is None:
            return self._angles(offsets)
        cos, sin = self._table(offsets)
        return _complex(cos, sin, self._complex)

    def _angles(self, positions: IntArray) -> Array:
        return _complex(*exact_angles(positions, self.model.config.rotary), np.dtype(np.complex128))

    def _attention(
        self,
        index: int,
        layer: Layer,
        hidden: Array,
        write_slots: IntArray,
        pool: Pool,
        reader: Reader,
        rotary: Array,
    ) -> Array:
        """`[T, hidden_size]`: all new keys and values are written first, then every token reads."""
        config = self.model.config
        num_tokens, heads, kv_heads, dim = len(hidden), config.num_heads, config.num_kv_heads, config.head_dim
        joined = layer.qkv(rms_norm(hidden, layer.input_norm, config.norm_eps)).reshape(num_tokens, -1, dim)
        queries, keys, values = np.split(joined, [heads, heads + kv_heads], axis=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = rms_norm(queries, layer.query_norm, config.norm_eps)
            keys = rms_norm(keys, layer.key_norm, config.norm_eps)
        keys, queries = (turned(x, rotary) for x in (keys, queries))
        pool.write(index, write_slots, keys.transpose(1, 0, 2), values.transpose(1, 0, 2))
        queries = (queries * dim**-0.5).reshape(num_tokens, kv_heads, -1, dim)
        mixed = reader.attend(queries, pool.keys[index], pool.values[index], config.windows[index])
        return layer.output(mixed.reshape(num_tokens, -1))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x` divided by the root of its mean square over the last axis, times `weight`."""
    mean_square = np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1]
    normed: Array = x / np.sqrt(mean_square + x.dtype.type(eps)) * weight
    return normed


def _mlp(layer: Layer, x: Array) -> Array:
    gate, up = np.split(layer.gate_up(x), 2, axis=-1)
    return layer.down(gate / (1 + np.exp(-gate)) * up)


def _complex(cos: Array, sin: Array, dtype: np.dtype[Any]) -> Array:
    numbers = np.empty(cos.shape, dtype)
    numbers.real, numbers.imag = cos, sin
    return numbers
