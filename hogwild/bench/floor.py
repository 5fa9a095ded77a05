"""The physical floor of a pass: the bytes that it must move, divided by the bandwidth of a large copy.

    bytes = weights - embedding table + T rows of it          (a tied table is the head: it is read as a whole)
          + sum over layers of (K + V bytes of a token) × (distinct tokens that anybody sees, new ones included)
    floor = bytes / bandwidth

Each byte counts once, however many workers use it. In a layer with a sliding window a worker sees the last tokens of
its view only. K and V in 8 bits are counted with their scales. A mixture of experts is counted as if every expert were
used, which is more than a small pass reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hogwild.backends.base import LayerSpec, ModelSpec
from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.core.quantized import vector_bytes


@dataclass(frozen=True, slots=True)
class PassBytes:
    """What one pass must move: weights read, K/V read (written before), K/V written (new)."""

    weights: int
    kv_read: int
    kv_written: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.kv_read + self.kv_written


def pass_bytes(spec: ModelSpec, rows: Sequence[Row], kv_dtype: str = "auto") -> PassBytes:
    """Bytes of a pass that brings one token for each row; call it before the pass.

    kv_dtype: what the pool stores, as in `BackendInfo`.
    """
    num_features = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in spec.layers)
    element_bytes = None if kv_dtype == "int8" else spec.kv_bytes_per_token // num_features
    seen = sum(token_bytes(layer, element_bytes) * distinct_tokens(rows, layer.window) for layer in spec.layers)
    written = len(rows) * spec.kv_bytes_per_token
    embedding_rows = len(rows) * spec.lookup_bytes // spec.vocab_size
    return PassBytes(
        weights=spec.weight_bytes - spec.lookup_bytes + embedding_rows,
        kv_read=seen - written,
        kv_written=written,
    )


def token_bytes(layer: LayerSpec, element_bytes: int | None) -> int:
    """K and V of one token in a layer, with numbers of so many bytes, or in 8 bits if None."""
    dims = (layer.key_dim, layer.value_dim)
    return layer.num_kv_heads * sum(vector_bytes(dim) if element_bytes is None else dim * element_bytes for dim in dims)


def distinct_tokens(rows: Sequence[Row], window: int | None = None) -> int:
    """Tokens that some row's last token sees, each once, with all new tokens stored.

    A key at view position x is seen from the view's last position q when `q - x < window`.
    """
    new_tokens = {row.own: len(row.token_ids) for row in rows}
    seen: dict[Block, int] = {}  # what is seen of a block is always its end
    for row in rows:
        rest = window
        for block in reversed(row.view):
            length = len(block) + new_tokens.get(block, 0)
            part = length if rest is None else min(length, rest)
            seen[block] = max(seen.get(block, 0), part)
            rest = None if rest is None else rest - part
    return sum(seen.values())
