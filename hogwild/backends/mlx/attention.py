"""Attention over the pool with MLX operations: the plain form.

Per layer and group of rows: queries are turned once for each run that is read, by cos and sin made once per pass; long
stretches of the pool are read as slices, short tiles are gathered in one operation; the scores of all columns go
through one softmax. Nothing loops over blocks, pages or runs. All arithmetic is float32, whatever is stored; codes of 8
bits become numbers as they are read, some slots at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.mlx.pool import SlotRows, gather
from hogwild.backends.mlx.stored import Stored, slice_parts
from hogwild.core.blocks import IntArray
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.rotary import OffsetTable, RotarySpec
from hogwild.core.tiles import Tiles, cut

MAX_CHUNK_BYTES = 64 << 20
LOG2_E = math.log2(math.e)

Tables = Callable[[RotarySpec], OffsetTable]


class PassReader:
    """How one pass reads the pool; made once per pass, used by every layer."""

    def __init__(self, plan: ForwardPlan, tables: Tables, num_heads: int, head_dim: int, num_slots: int) -> None:
        self._groups = [
            GroupReader(group, plan.positions, tables, num_heads, head_dim, num_slots) for group in plan.groups
        ]

    def attend(
        self,
        queries: mx.array,
        keys: Stored,
        values: Stored,
        *,
        rotary: RotarySpec,
        window: int | None,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None = None,
    ) -> mx.array:
        """`queries [T, H, 1, Dk]`, one layer's pool `[kv_heads, slots, D]`; returns `[T, H, 1, Dv]`.

        softcap: scores become `softcap * tanh(score / softcap)`.
        """
        outputs: list[mx.array] = []
        for group in self._groups:
            for chunk in group.chunks:
                part = queries if chunk.last - chunk.first == len(queries) else queries[chunk.first : chunk.last]
                if outputs:  # one chunk after the other, so that their scores never exist at the same time
                    part = mx.depends(part, outputs[-1])
                outputs.append(chunk.attend(part, keys, values, rotary, window, scale, sinks, softcap))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


class GroupReader:
    """What the chunks of one group have in common.

    An *entry* is a run for which queries are turned: one for each slice and each tile. To turn them once for each run
    and to gather them for its tiles takes longer (measured: 11 ms against 3 for 1,000 tiles and 6 rows).
    """

    def __init__(
        self, group: GroupPlan, positions: IntArray, tables: Tables, num_heads: int, head_dim: int, num_slots: int
    ) -> None:
        self.group, self.tables = group, tables
        self.tiles: Tiles = cut(group)
        self.positions = positions[group.token_start : group.token_start + group.num_tokens]
        slice_runs = np.array([part.run for part in self.tiles.slices], dtype=np.int64)
        self.entry_run = np.concatenate([slice_runs, self.tiles.tile_run])
        self.tile_rows = SlotRows(self.tiles.tile_slots, num_slots)
        token_bytes = 4 * num_heads * max(1, self.tiles.num_columns + head_dim * len(self.entry_run))
        size = max(1, MAX_CHUNK_BYTES // token_bytes)
        self.chunks = [
            ChunkReader(self, start, min(start + size, group.num_tokens)) for start in range(0, group.num_tokens, size)
        ]

    @cached_property
    def num_gathered(self) -> int:
        """Tiles that are gathered."""
        return len(self.tiles.tile_run)


@dataclass(frozen=True, slots=True)
class Turn:
    """cos and sin for every entry and token, times the scale, spread over the head's features."""

    cos: mx.array  # [1, E, t or 1, 1, Dk]
    sin: mx.array  # the same, with the sign of each feature's part
    partner: mx.array  # [Dk] which feature is the other one of the pair


class ChunkReader:
    """Some tokens of a group, `start..stop` of it: few enough that their scores fit in `MAX_CHUNK_BYTES`."""

    def __init__(self, reader: GroupReader, start: int, stop: int) -> None:
        self._reader = reader
        self._start, self._stop = start, stop
        self.first, self.last = reader.group.token_start + start, reader.group.token_start + stop
        self._turns: dict[tuple[RotarySpec, float, int], Turn] = {}
        self._masks: dict[int | None, list[mx.array | None]] = {}

    def attend(
        self,
        queries: mx.array,
        keys: Stored,
        values: Stored,
        rotary: RotarySpec,
        window: int | None,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None,
    ) -> mx.array:
        """`queries [t, H, 1, Dk]` of this chunk; returns `[t, H, 1, Dv]`."""
        num_tokens, num_heads, _, key_dim = queries.shape
        kv_heads = keys.shape[0]
        shape = (kv_heads, num_tokens, num_heads // kv_heads)
        grouped = queries.reshape(num_tokens, kv_heads, -1, key_dim).swapaxes(0, 1)
        turned = self._turned(grouped, rotary, scale * LOG2_E)
        scores = self._scores(turned.reshape(kv_heads, -1, shape[1] * shape[2], key_dim), keys, shape, window, softcap)
        weights, total = _exponentials(scores.reshape(*shape, -1), sinks)
        mixed = self._mix(weights.reshape(kv_heads, shape[1] * shape[2], -1), values)
        outputs = (mixed.reshape(*shape, -1) / total).swapaxes(0, 1).reshape(num_tokens, num_heads, 1, -1)
        return outputs.astype(queries.dtype)

    def _turned(self, queries: mx.array, rotary: RotarySpec, scale: float) -> mx.array:
        """`[kv_heads, t, G, Dk]` to `[kv_heads, E, t, G, Dk]` in float32, scaled; E is 1 without rotation."""
        queries = queries.astype(mx.float32)[:, None]
        if not rotary.num_dims:
            return queries * scale
        turn = self._turn(rotary, scale, queries.shape[-1])
        return _rotate(queries, mx.take(queries, turn.partner, axis=-1), turn.cos, turn.sin)

    def _scores(
        self, turned: mx.array, keys: Stored, shape: tuple[int, int, int], window: int | None, softcap: float | None
    ) -> mx.array:
        """Capped and masked scores `[kv_heads, t * G, C']`, times `LOG2_E`, of `turned [kv_heads, E, t * G, Dk]`."""
        reader, num_entries = self._reader, turned.shape[1]
        parts = []
        for i, part in enumerate(reader.tiles.slices):
            entry = turned[:, min(i, num_entries - 1)]
            stretches = slice_parts(keys, part.start, part.stop)
            parts.append(_joined([entry @ x.astype(mx.float32).swapaxes(-1, -2) for x in stretches]))
        if reader.num_gathered:
            entries = turned if num_entries == 1 else turned[:, -reader.num_gathered :]
            gathered = gather(keys, reader.tile_rows).astype(mx.float32)
            tiles = gathered.reshape(keys.shape[0], reader.num_gathered, -1, gathered.shape[-1])
            scores = entries @ tiles.swapaxes(-1, -2)
            parts.append(scores.swapaxes(1, 2).reshape(keys.shape[0], shape[1] * shape[2], -1))
        if softcap is not None:
            parts = [_cap(part, mx.array(softcap * LOG2_E)) for part in parts]
        masks = self._masks_of(window)
        masked = [_hide(part, mask, shape) for part, mask in zip(parts, masks, strict=True)]
        return _joined(masked)

    def _mix(self, weights: mx.array, values: Stored) -> mx.array:
        """Sum of values, `[kv_heads, t * G, Dv]` float32, for `weights [kv_heads, t * G, C']`.

        Products in 16 bits would round each part's sum, and take many times as long on a CPU.
        """
        reader = self._reader
        parts = [x for part in reader.tiles.slices for x in slice_parts(values, part.start, part.stop)]
        if reader.num_gathered:
            parts.append(gather(values, reader.tile_rows))
        ends = list(accumulate(part.shape[1] for part in parts))[:-1]
        total = None
        for share, part in zip(mx.split(weights, ends, axis=-1), parts, strict=True):
            given = part.astype(mx.float32)
            total = share @ given if total is None else mx.addmm(total, share, given)
        assert total is not None
        return total

    def _turn(self, rotary: RotarySpec, scale: float, key_dim: int) -> Turn:
        key = (rotary, scale, key_dim)
        if key not in self._turns:
            group = self._reader.group
            offsets = group.offsets[:, self._reader.entry_run].T  # [E, R]
            cos, sin = self._reader.tables(rotary)(offsets)
            if len(group.offsets) > 1:
                rows = group.token_row[self._start : self._stop]
                cos, sin = cos[:, rows], sin[:, rows]
            self._turns[key] = _spread(cos, sin, rotary, scale, key_dim)
        return self._turns[key]

    def _masks_of(self, window: int | None) -> list[mx.array | None]:
        """For each slice, then for the tiles: `[t, 1, n]` which columns each token sees, or None when it sees all."""
        if window not in self._masks:
            self._masks[window] = [
                None if seen.all() else mx.array(seen[:, None]) for seen in self._visible_parts(window)
            ]
        return self._masks[window]

    def _visible_parts(self, window: int | None) -> Iterator[NDArray[np.bool_]]:
        reader, tiles, tokens = self._reader, self._reader.tiles, slice(self._start, self._stop)
        visible = reader.group.visible[tokens]
        first = None if window is None else reader.group.first_visible(window)[tokens]
        ends = np.cumsum([part.stop - part.start for part in tiles.slices], dtype=np.int64)
        for run, index in zip(np.split(tiles.column_run, ends), np.split(tiles.column_index, ends), strict=True):
            if len(run):
                seen = index < visible[:, run]
                yield seen if first is None else seen & (index >= first[:, run])


def _spread(cos: Any, sin: Any, rotary: RotarySpec, scale: float, key_dim: int) -> Turn:
    """Tables `[E, t, num_dims/2]` to one entry for each of the head's features; those that stand still get cos 1."""
    half = len(rotary.inv_freq)
    pair = np.arange(2 * half)
    if rotary.pairing == "half":
        frequency, other, second = pair % half, (pair + half) % (2 * half), pair >= half
    else:
        frequency, other, second = pair // 2, pair ^ 1, pair % 2 == 1
    turning = slice(rotary.start, rotary.start + 2 * half)
    full_cos = np.full((*cos.shape[:2], key_dim), scale, dtype=np.float32)
    full_sin = np.zeros_like(full_cos)
    full_cos[..., turning] = cos[..., frequency] * np.float32(scale)
    full_sin[..., turning] = np.where(second, sin[..., frequency], -sin[..., frequency]) * np.float32(scale)
    partner = np.arange(key_dim)
    partner[turning] = rotary.start + other
    return Turn(
        mx.array(full_cos[None, :, :, None]), mx.array(full_sin[None, :, :, None]), mx.array(partner.astype(np.int32))
    )


@partial(mx.compile, shapeless=True)
def _rotate(queries: mx.array, partners: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return queries * cos + partners * sin


@partial(mx.compile, shapeless=True)
def _cap(scores: mx.array, softcap: mx.array) -> mx.array:
    return mx.tanh(scores / softcap) * softcap


def _joined(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _hide(scores: mx.array, mask: mx.array | None, shape: tuple[int, int, int]) -> mx.array:
    """Minus infinity where `mask [t, 1, n]` is False, whatever stands there; `scores [kv_heads, t * G, n]`."""
    if mask is None:
        return scores
    return mx.where(mask, scores.reshape(*shape, -1), -mx.inf).reshape(scores.shape)


def _exponentials(scores: mx.array, sinks: mx.array | None) -> tuple[mx.array, mx.array]:
    """Weights of `[kv_heads, t, G, C']`, at most 1, and what divides them, `[kv_heads, t, G, 1]`.

    `sinks [H]` take their share and give no value. Powers of 2, of scores that come times `LOG2_E`: on a CPU they take
    MLX half the time of its exponentials.
    """
    top = scores.max(axis=-1, keepdims=True)
    if sinks is None:
        weights = mx.power(2.0, scores - top)
        return weights, weights.sum(axis=-1, keepdims=True)
    sink = sinks.astype(mx.float32).reshape(scores.shape[0], 1, scores.shape[2], 1) * LOG2_E
    top = mx.maximum(top, sink)
    weights = mx.power(2.0, scores - top)
    return weights, weights.sum(axis=-1, keepdims=True) + mx.power(2.0, sink - top)
