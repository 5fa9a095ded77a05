"""Attention over shared blocks, as the function that transformers calls in each layer.

In each layer all keys and values of the pass are written first, then every token reads: scores of all columns side by
side, one softmax over them, and the values in the same way. Keys are read as they were written: a few long slices of
the pool where they lie, tiles of all others gathered in one operation; a query is turned once for each. Nothing loops
over blocks, pages or runs. All arithmetic is float32 or wider, whatever is stored.

Tiles are multiplied as `keys @ queries`, with the queries turned in columns: so neither operand is transposed, which
makes products of few keys several times faster on a CPU. Large results go to memory that the layers share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.angles import AngleTables, turn
from hogwild.backends.cuda.device_plan import Chunk, DevicePlan, GroupReader
from hogwild.backends.cuda.masks import PROBE_NAME, register_probe_mask
from hogwild.backends.cuda.stored import Stored
from hogwild.backends.cuda.workspace import Workspace
from hogwild.core.rotary import NO_ROTARY
from hogwild.errors import ModelRefused

ATTENTION_NAME = "hogwild_blocks"
PASS_KEYWORD = "hogwild_pass"

_Gathered = tuple[Stored, Stored]  # K and V of the tiles


class PassNotHanded(ModelRefused):
    """A model dropped the keyword argument that a pass travels in, before it reached a module of class `attention`."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(
            f"layer {getattr(module, 'layer_idx', '?')}: {type(module).__name__} does not take or hand on the keyword "
            "arguments of the model call",
            remedy="use a model whose layers pass them on, as transformers' own models do",
        )
        self.attention = type(module)


class Pass(Protocol):
    """What travels through the model as a keyword argument and answers for the attention of each layer."""

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """`[B, T, H, Dv]` for q `[B, H, T, Dk]`, k `[B, kv_heads, T, Dk]` and v `[B, kv_heads, T, Dv]`."""
        ...


def register_attention() -> None:
    """Make transformers know the attention function (again does no harm), with and without masks being measured."""
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionInterface.register(PROBE_NAME, _attention)
    register_probe_mask()


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
        raise PassNotHanded(module)
    return current.attend(module, query, key, value, attention_mask, options), None


class Pool(Protocol):
    """What a pass writes and reads, see `KVPool`."""

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None: ...
    def stored(self, layer: int) -> tuple[Stored, Stored]: ...


@dataclass(frozen=True, slots=True)
class SharedPass:
    """One pass over the pool by a plan."""

    plan: DevicePlan
    pool: Pool
    layers: Sequence[LayerSpec]
    tables: AngleTables
    workspace: Workspace = field(default_factory=Workspace)

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Write the layer's K/V, then read; `[1, T, H, Dv]`."""
        index: int = module.layer_idx  # type: ignore[assignment]
        self.pool.write(index, self.plan.write_slots, k[0], v[0])
        keys, values = self.pool.stored(index)
        scaling = options.get("scaling")
        layer = _Layer(
            spec=self.layers[index],
            tables=self.tables,
            workspace=self.workspace,
            keys=keys,
            values=values,
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
    workspace: Workspace
    keys: Stored
    values: Stored
    scaling: float
    softcap: float | None
    sinks: Tensor | None  # [H]

    def gather(self, group: GroupReader) -> _Gathered | None:
        """K and V of the tiles, `[kv_heads, M * size, D]`."""
        if not group.num_tiles:
            return None
        stored = {"keys": self.keys, "values": self.values}
        keys, values = (x.gather(group.tile_slots, name, self.workspace) for name, x in stored.items())
        return keys, values

    def attend(self, q: Tensor, group: GroupReader, chunk: Chunk, gathered: _Gathered | None) -> Tensor:
        """`[t, H, Dv]` for the chunk's queries `q [H, t, Dk]`, in float32 or wider."""
        heads, num_tokens = self.spec.num_kv_heads, q.shape[1]
        q = q.view(heads, -1, num_tokens, q.shape[-1])
        scores = self._scores(q, group, chunk, gathered)
        weights = self._weights(scores.view(heads, -1, num_tokens, scores.shape[-1]), chunk).flatten(1, 2)
        on_cpu = q.device.type == "cpu"  # elsewhere the host must not wait for the answer
        out = self._mix(weights, group, gathered, clean=not on_cpu)
        if on_cpu and out.isnan().any():
            out = self._mix(weights, group, gathered, clean=True)
        return out.view(-1, num_tokens, out.shape[-1]).transpose(0, 1)

    def _scores(self, q: Tensor, group: GroupReader, chunk: Chunk, gathered: _Gathered | None) -> Tensor:
        """Scores `[kv_heads, rows, C']` for `q [kv_heads, G, t, Dk]`: of the slices, then of the tiles."""
        heads, rows = q.shape[0], q.shape[1] * q.shape[2]
        scores = self.workspace.take("scores", (heads, rows, chunk.num_columns), q)
        column = 0
        for turned, part in zip(self._turned_rows(q, len(group.slices), chunk), group.slices, strict=True):
            for keys in self.keys.cut(part.start, part.stop).parts(q, self.workspace):
                end = column + keys.shape[1]
                torch.bmm(turned, keys.transpose(1, 2), out=scores[..., column:end])
                column = end
        if gathered is not None:
            tiles = self._tile_scores(self._turned_columns(q, group, chunk), group.tile_size, gathered[0])
            scores[..., column:].view(heads, rows, group.num_tiles, -1).copy_(tiles.permute(0, 3, 1, 2))
        return scores

    def _tile_scores(self, turned: Tensor, size: int, gathered: Stored) -> Tensor:
        """Scores `[kv_heads, M, size, rows]` for `turned [kv_heads, M, Dk, rows]`."""
        heads, num_tiles, _, rows = turned.shape
        scores = self.workspace.take("tiles", (heads, num_tiles, size, rows), turned)
        tile = 0
        for keys in gathered.parts(turned, self.workspace, multiple=size):
            end = tile + keys.shape[1] // size
            # One kv head at a time: those of a part are no single batch of matrices in memory.
            for head in range(heads):
                torch.bmm(keys[head].view(-1, size, keys.shape[2]), turned[head, tile:end], out=scores[head, tile:end])
            tile = end
        return scores

    def _turned_rows(self, q: Tensor, num_slices: int, chunk: Chunk) -> list[Tensor]:
        """The queries as they ask each slice, scaled; `[kv_heads, rows, Dk]` each."""
        if self.spec.rotary == NO_ROTARY:
            return [(q * self.scaling).flatten(1, 2)] * num_slices
        rotation = (self.spec.rotary, self.spec.key_dim)
        cos, sin = chunk.row_angles(rotation, self.scaling)
        turned = turn(q[:, None], cos, sin, self.tables.partners(rotation))
        return list(turned.flatten(2, 3).unbind(1))

    def _turned_columns(self, q: Tensor, group: GroupReader, chunk: Chunk) -> Tensor:
        """The queries as they ask each tile, scaled, in columns: `[kv_heads, M, Dk, rows]`."""
        columns = q.flatten(1, 2).transpose(1, 2).contiguous()  # so that products with the angles are vectorised
        if self.spec.rotary == NO_ROTARY:
            scaled = (columns * self.scaling).contiguous()
            return scaled[:, None].expand(-1, group.num_tiles, -1, -1)
        rotation = (self.spec.rotary, self.spec.key_dim)
        cos, sin = chunk.column_angles(rotation, self.scaling, q.shape[1])
        turned = self.workspace.take("turned", (q.shape[0], *cos.shape), q)
        torch.mul(columns[:, None], cos, out=turned)
        turned.addcmul_(columns.index_select(1, self.tables.partners(rotation))[:, None], sin)
        return turned

    def _weights(self, scores: Tensor, chunk: Chunk) -> Tensor:
        """Softmax over the columns that a token sees, `[kv_heads, G, t, C']`."""
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        first, hidden = chunk.hidden(self.spec.window)
        if first < scores.shape[-1]:
            scores[..., first:].masked_fill_(hidden, float("-inf"))
        if self.sinks is not None:
            sinks = self.sinks.to(scores.dtype).view(*scores.shape[:2], 1, 1).expand(-1, -1, scores.shape[2], 1)
            return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
        weights = self.workspace.take("weights", scores.shape, scores)
        return torch.softmax(scores, dim=-1, out=weights)

    def _mix(self, weights: Tensor, group: GroupReader, gathered: _Gathered | None, *, clean: bool) -> Tensor:
        """The values in the proportions of `weights [kv_heads, rows, C']`: `[kv_heads, rows, Dv]`.

        clean: with 0 for values that are not finite, which only slots hold that nobody wrote, see `KVPool.write`.
        """
        out: Tensor | None = None
        column = 0
        pieces = [self.values.cut(part.start, part.stop) for part in group.slices]
        pieces += gathered[1:] if gathered is not None else ()
        for values in (part for piece in pieces for part in piece.parts(weights, self.workspace)):
            part = weights[..., column : column + values.shape[1]]
            finite = values.nan_to_num(0.0, 0.0, 0.0) if clean else values
            out = torch.bmm(part, finite) if out is None else torch.baddbmm(out, part, finite)
            column += values.shape[1]
        assert out is not None, "a group reads at least its own tokens"
        return out
