"""Attention over the pool with MLX operations: the plain form.

Per layer and group of rows: queries are turned once for each run that is read, by cos and sin made once per pass; long
stretches of the pool are read as slices, short tiles are gathered in one operation; the scores of all columns go
through one softmax. Nothing loops over blocks, pages or runs. All arithmetic is float32, whatever is stored; codes of 8
bits become numbers as they are read, some slots at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from hogwild.backends.mlx.pool import SlotRows, gather
from hogwild.backends.mlx.powers import weights_of
from hogwild.backends.mlx.rope import rotate
from hogwild.backends.mlx.stored import Stored, slice_parts
from hogwild.backends.mlx.turns import Turn, spread
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.rotary import OffsetTable, RotarySpec
from hogwild.core.tiles import Slice, Tiles, cut

MAX_CHUNK_BYTES = 64 << 20
LOG2_E = math.log2(math.e)

Tables = Callable[[RotarySpec], OffsetTable]


class PassReader:
    """How one pass reads the pool; made once per pass, used by every layer."""

    def __init__(self, plan: ForwardPlan, tables: Tables, num_heads: int, head_dim: int, num_slots: int) -> None:
        self._groups = [GroupReader(group, tables, num_heads, head_dim, num_slots) for group in plan.groups]

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

    def __init__(self, group: GroupPlan, tables: Tables, num_heads: int, head_dim: int, num_slots: int) -> None:
        self.group, self.tables = group, tables
        self.tiles: Tiles = cut(group)
        slice_runs = np.array([part.run for part in self.tiles.slices], dtype=np.int64)
        self.entry_run = np.concatenate([slice_runs, self.tiles.tile_run])
        self.stretches = _side_by_side(self.tiles.slices)
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

    @cached_property
    def tile_size(self) -> int:
        """Slots of a tile."""
        return len(self.tiles.tile_slots) // self.num_gathered

    def parts(self, by_column: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
        """Of `[.., C']` the columns of each slice, then those of the tiles."""
        edges = list(accumulate((part.stop - part.start for part in self.tiles.slices), initial=0))
        if self.num_gathered:
            edges.append(self.tiles.num_columns)
        return (by_column[..., start:stop] for start, stop in pairwise(edges))


def _side_by_side(slices: Iterable[Slice]) -> list[tuple[int, int]]:
    """The slots of the slices: values need no turn, so those of several runs may be read at once."""
    found: list[tuple[int, int]] = []
    for part in slices:
        start = found.pop()[0] if found and found[-1][1] == part.start else part.start
        found.append((start, part.stop))
    return found


@dataclass(frozen=True, slots=True)
class Mask:
    """What takes part in a choice of scores, spread over their shape `[kv_heads, t * G, n]` once per pass."""

    seen: mx.array
    hidden: mx.array  # -inf


class ChunkReader:
    """Some tokens of a group, `start..stop` of it: few enough that their scores fit in `MAX_CHUNK_BYTES`."""

    def __init__(self, reader: GroupReader, start: int, stop: int) -> None:
        self._reader = reader
        self._start, self._stop = start, stop
        self.first, self.last = reader.group.token_start + start, reader.group.token_start + stop
        self._turns: dict[tuple[RotarySpec, float, int], Turn] = {}
        self._masks: dict[tuple[int | None, int, int], list[Mask | None]] = {}

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
        kv_heads = keys.shape[0]
        turned = self._turned(queries, kv_heads, rotary, scale * LOG2_E)
        scores = self._scores(turned, keys, window, softcap)
        weights, total = _exponentials(scores, None if sinks is None else self._spread_sinks(sinks, kv_heads))
        outputs = _by_token(self._mix(weights, values) / total, len(queries))
        return outputs.astype(queries.dtype)

    def _turned(self, queries: mx.array, kv_heads: int, rotary: RotarySpec, scale: float) -> mx.array:
        """`[t, H, 1, Dk]` to `[E * kv_heads, t * G, Dk]` in float32, scaled; E is 1 without rotation."""
        num_tokens, num_heads, _, dim = queries.shape
        group_size = num_heads // kv_heads
        single = queries.astype(mx.float32)
        if rotary.num_dims:
            turn = self._turn(rotary, scale, dim)
            by_head = _by_head(single, (num_tokens, kv_heads, group_size, *turn.features))
            turned = rotate(by_head, turn.partners(by_head), turn.cos, turn.sin)
        else:
            turned = _by_head(single, (num_tokens, kv_heads, group_size, dim)) * scale
        return turned.reshape(-1, num_tokens * group_size, dim)

    def _scores(self, turned: mx.array, keys: Stored, window: int | None, softcap: float | None) -> mx.array:
        """Capped and masked scores `[kv_heads, t * G, C']`, times `LOG2_E`, of `turned [E * kv_heads, t * G, Dk]`."""
        tiles, num_tiles, kv_heads = self._reader.tiles, self._reader.num_gathered, keys.shape[0]
        entries = [turned] * (len(tiles.slices) + 1)
        if len(turned) > kv_heads:
            entries = list(mx.split(turned, [kv_heads * i for i in range(1, len(entries))]))
        parts = []
        for entry, part in zip(entries, tiles.slices, strict=False):
            stretches = slice_parts(keys, part.start, part.stop)
            parts.append(_joined([entry @ x.astype(mx.float32).swapaxes(-1, -2) for x in stretches]))
        if num_tiles:
            gathered = gather(keys, self._reader.tile_rows.of(kv_heads, self._reader.tile_size)).astype(mx.float32)
            entry = entries[-1].reshape(-1, kv_heads, *turned.shape[1:])
            scores = entry @ gathered.swapaxes(-1, -2)  # [tiles, kv_heads, t * G, size]
            parts.append(scores.transpose(1, 2, 0, 3).reshape(kv_heads, turned.shape[1], -1))
        if softcap is not None:
            parts = [_cap(part, mx.array(softcap * LOG2_E)) for part in parts]
        return _joined(
            [
                part if mask is None else mx.where(mask.seen, part, mask.hidden)
                for part, mask in zip(parts, self._masks_of(window, kv_heads, turned.shape[1]), strict=True)
            ]
        )

    def _spread_sinks(self, sinks: mx.array, kv_heads: int) -> mx.array:
        """`[H]` to `[kv_heads, t * G, 1]`, times `LOG2_E`."""
        by_head = sinks.astype(mx.float32).reshape(kv_heads, 1, -1) * LOG2_E
        spread = mx.broadcast_to(by_head, (kv_heads, self.last - self.first, by_head.shape[-1]))
        return spread.reshape(kv_heads, -1, 1)

    def _mix(self, weights: mx.array, values: Stored) -> mx.array:
        """Sum of values, `[kv_heads, t * G, Dv]` float32, for `weights [kv_heads, t * G, C']`.

        Products in 16 bits would round each part's sum, and take many times as long on a CPU.
        """
        reader = self._reader
        parts = [x for start, stop in reader.stretches for x in slice_parts(values, start, stop)]
        if reader.num_gathered:
            parts.append(gather(values, reader.tile_rows.of(values.shape[0])))
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
            self._turns[key] = spread(cos, sin, rotary, scale, key_dim)
        return self._turns[key]

    def _masks_of(self, window: int | None, kv_heads: int, num_rows: int) -> list[Mask | None]:
        """For each slice, then for the tiles: which columns each row sees, or None when it sees all."""
        key = (window, kv_heads, num_rows)
        if key not in self._masks:
            self._masks[key] = [
                None if seen.all() else _mask(seen.repeat(num_rows // len(seen), axis=0), kv_heads)
                for seen in self._reader.parts(self._seen(window))
            ]
        return self._masks[key]

    def _seen(self, window: int | None) -> NDArray[np.bool_]:
        """`[t, C']` which columns each token sees."""
        group, tiles, tokens = self._reader.group, self._reader.tiles, slice(self._start, self._stop)
        return group.sees(tokens, tiles.column_run, tiles.column_index, window)


def _mask(seen: NDArray[np.bool_], kv_heads: int) -> Mask:
    shape = (kv_heads, *seen.shape)
    return Mask(mx.broadcast_to(mx.array(seen), shape), mx.broadcast_to(mx.array(-mx.inf), shape))


@partial(mx.compile, shapeless=True)
def _cap(scores: mx.array, softcap: mx.array) -> mx.array:
    return mx.tanh(scores / softcap) * softcap


def _joined(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _by_head(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """`[t, H, 1, D]` to `[kv_heads, t, G, *features]`; shape: `(t, kv_heads, G, *features)`."""
    num_tokens, kv_heads, *rest = shape
    return x.reshape(kv_heads, 1, *rest) if num_tokens == 1 else x.reshape(shape).swapaxes(0, 1)


def _by_token(x: mx.array, num_tokens: int) -> mx.array:
    """`[kv_heads, t * G, D]` to `[t, H, 1, D]`."""
    if num_tokens > 1:
        x = x.reshape(len(x), num_tokens, -1, x.shape[-1]).swapaxes(0, 1)
    return x.reshape(num_tokens, -1, 1, x.shape[-1])


def _exponentials(scores: mx.array, sinks: mx.array | None) -> tuple[mx.array, mx.array]:
    """Weights of `[kv_heads, t * G, C']`, at most 1, and what divides them, `[kv_heads, t * G, 1]`.

    `sinks [kv_heads, t * G, 1]` take their share and give no value. Powers of 2, of scores that come times `LOG2_E`: on
    a CPU they take MLX half the time of its exponentials.
    """
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = mx.maximum(top, sinks)
    weights = weights_of(scores, top)
    total = weights.sum(axis=-1, keepdims=True)
    return weights, total if sinks is None else total + weights_of(sinks, top)
