"""Attention over shared blocks, as the function that transformers calls in each layer.

In each layer all keys and values of the pass are written first, then every token reads: scores of the stretches and of
the gathered tiles side by side, one softmax over them, and the values in the same way. Keys are read as they were
written; a query is turned once for each piece. Nothing loops over blocks, pages or runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.angles import AngleTables, turn
from hogwild.backends.cuda.columns import TILE, Stretch
from hogwild.backends.cuda.device_plan import Chunk, DevicePlan, GroupReader
from hogwild.backends.cuda.pool import KVPool
from hogwild.core.rotary import NO_ROTARY
from hogwild.errors import ModelRefused

ATTENTION_NAME = "hogwild_blocks"
PASS_KEYWORD = "hogwild_pass"


class Pass(Protocol):
    """What travels through the model as a keyword argument and answers for the attention of each layer."""

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """`[B, T, H, Dv]` for q `[B, H, T, Dk]`, k `[B, kv_heads, T, Dk]` and v `[B, kv_heads, T, Dv]`."""
        ...


def register_attention() -> None:
    """Make transformers know the attention function (again does no harm)."""
    AttentionInterface.register(ATTENTION_NAME, _attention)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    current: Pass | None = options.pop(PASS_KEYWORD, None)
    if current is None:
        raise ModelRefused(
            f"{type(module).__name__} does not hand the keyword arguments of the model call to its attention",
            remedy="use a model whose layers pass them on, as transformers' own models do",
        )
    return current.attend(module, query, key, value, attention_mask, options), None


@dataclass(frozen=True, slots=True)
class SharedPass:
    """One pass over the pool by a plan."""

    plan: DevicePlan
    pool: KVPool
    layers: Sequence[LayerSpec]
    tables: AngleTables

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Write the layer's K/V, then read; `[1, T, H, Dv]`."""
        index: int = module.layer_idx  # type: ignore[assignment]
        self.pool.write(index, self.plan.write_slots, k[0], v[0])
        scaling = options.get("scaling")
        layer = _Layer(
            spec=self.layers[index],
            tables=self.tables,
            keys=self.pool.keys[index],
            values=self.pool.values[index],
            scaling=q.shape[-1] ** -0.5 if scaling is None else scaling,
            softcap=options.get("softcap"),
            sinks=options.get("s_aux"),
        )
        wide = q[0] if q.dtype.itemsize >= 4 else q[0].float()
        out = q.new_empty(1, q.shape[2], q.shape[1], v.shape[-1])
        for group in self.plan.groups:
            gathered = layer.gather(group)
            for chunk in group.chunks:
                out[0, chunk.tokens] = layer.attend(wide[:, chunk.tokens], group, chunk, gathered)
        return out


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's arrays and numbers during a pass. Query rows of a kv head are ordered (G, t): H = kv_heads * G."""

    spec: LayerSpec
    tables: AngleTables
    keys: Tensor  # [kv_heads, slots, Dk]
    values: Tensor  # [kv_heads, slots, Dv]
    scaling: float
    softcap: float | None
    sinks: Tensor | None  # [H]

    def gather(self, group: GroupReader) -> tuple[Tensor, Tensor] | None:
        """K and V of the tiles that lie apart, `[kv_heads, M * TILE, D]` each."""
        if not group.num_gathered:
            return None
        return _gathered(self.keys, group.gathered), _gathered(self.values, group.gathered)

    def attend(self, q: Tensor, group: GroupReader, chunk: Chunk, gathered: tuple[Tensor, Tensor] | None) -> Tensor:
        """`[t, H, Dv]` for the chunk's queries `q [H, t, Dk]`, in float32 or wider."""
        heads, num_tokens = self.spec.num_kv_heads, q.shape[1]
        q = (q * self.scaling).view(heads, 1, -1, *q.shape[1:])
        parts = self._scores(q, group, chunk, gathered)
        scores = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        weights = self._weights(scores.view(heads, -1, num_tokens, scores.shape[-1]), chunk)
        out = self._mix(weights.flatten(1, 2), group, gathered)
        return out.view(-1, num_tokens, out.shape[-1]).transpose(0, 1)

    def _scores(
        self, q: Tensor, group: GroupReader, chunk: Chunk, gathered: tuple[Tensor, Tensor] | None
    ) -> list[Tensor]:
        """Scores of each stretch, then of the gathered tiles: `[kv_heads, rows, columns]` each."""
        parts, piece = [], 0
        for stretch in group.stretches:
            turned = self._turned(q, chunk, slice(piece, piece + stretch.num_pieces))
            parts.append(_stretch_scores(turned, self.keys, stretch))
            piece += stretch.num_pieces
        if gathered is not None:
            turned = self._turned(q, chunk, slice(piece, piece + group.num_gathered))
            heads, tiles, rows, dim = turned.shape
            keys = gathered[0].view(heads * tiles, TILE, dim).transpose(1, 2)
            scores = torch.bmm(turned.reshape(heads * tiles, rows, dim), keys)
            parts.append(_side_by_side(scores.view(heads, tiles, rows, TILE)))
        return parts

    def _turned(self, q: Tensor, chunk: Chunk, pieces: slice) -> Tensor:
        """The queries as each piece must be asked, `[kv_heads, pieces, rows, Dk]` in the pool's dtype."""
        if self.spec.rotary == NO_ROTARY:
            return q.to(self.keys.dtype).expand(-1, pieces.stop - pieces.start, -1, -1, -1).flatten(2, 3)
        rotation = (self.spec.rotary, self.spec.key_dim)
        cos, sin = chunk.angles(rotation)
        turned = turn(q, cos[pieces], sin[pieces], self.tables.partners(rotation))
        return turned.to(self.keys.dtype).flatten(2, 3)

    def _weights(self, scores: Tensor, chunk: Chunk) -> Tensor:
        """Softmax over the columns that a token sees, `[kv_heads, G, t, C']`; float32 inside, or wider."""
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores if scores.dtype.itemsize >= 4 else scores.float()
        scores = scores.masked_fill_(chunk.hidden(self.spec.window), float("-inf"))
        if self.sinks is None:
            return torch.softmax(scores, dim=-1).to(self.values.dtype)
        sinks = self.sinks.to(scores.dtype).view(*scores.shape[:2], 1, 1).expand(-1, -1, scores.shape[2], 1)
        return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1].to(self.values.dtype)

    def _mix(self, weights: Tensor, group: GroupReader, gathered: tuple[Tensor, Tensor] | None) -> Tensor:
        """The values in the proportions of `weights [kv_heads, rows, C']`: `[kv_heads, rows, Dv]`."""
        out: Tensor | None = None
        column = 0
        views = [self.values[:, stretch.start : stretch.stop] for stretch in group.stretches]
        for values in [*views, *(gathered[1:] if gathered is not None else ())]:
            part = weights[..., column : column + values.shape[1]]
            out = torch.bmm(part, values) if out is None else torch.baddbmm(out, part, values)
            column += values.shape[1]
        assert out is not None, "a group reads at least its own tokens"
        return out


def _stretch_scores(turned: Tensor, keys: Tensor, stretch: Stretch) -> Tensor:
    """Scores `[kv_heads, rows, columns]` of `turned [kv_heads, pieces, rows, D]` with a stretch of the pool."""
    keys = keys[:, stretch.start : stretch.stop]
    if stretch.uniform:
        return torch.bmm(turned[:, 0], keys.transpose(1, 2))
    heads, tiles, rows, dim = turned.shape
    scores = turned.new_empty(heads, tiles, rows, TILE)
    # One kv head at a time: the tiles of all heads are no single batch of matrices in the pool's memory.
    for head in range(heads):
        torch.bmm(turned[head], keys[head].view(tiles, TILE, dim).transpose(1, 2), out=scores[head])
    return _side_by_side(scores)


def _side_by_side(scores: Tensor) -> Tensor:
    """`[heads, tiles, rows, TILE]` as `[heads, rows, tiles * TILE]`."""
    return scores.transpose(1, 2).flatten(2, 3)


def _gathered(pool: Tensor, tiles: Tensor) -> Tensor:
    """Whole tiles of `pool [kv_heads, slots, D]`: `[kv_heads, M * TILE, D]`."""
    found = pool.view(pool.shape[0], -1, TILE * pool.shape[2]).index_select(1, tiles)
    return found.view(pool.shape[0], -1, pool.shape[2])
