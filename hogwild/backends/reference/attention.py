"""Attention of one pass over the pool: the plain form.

Per layer, all new keys and values are written before this is called. A query is turned once for each slice and tile
that it meets (`hogwild.core.tiles`); slices are read in place, tiles are gathered at once; one softmax runs over all
columns. Nothing loops over blocks, pages or runs. Rotary pairs stand side by side in memory, so that a turn is one
complex product.

Where a block's pages lie changes no bit: slices and tiles are chosen by the lengths of the runs alone, and a slice
whose slots are scattered is gathered before the same product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.reference.pool import Stored
from hogwild.core.blocks import Int32Array, IntArray
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.tiles import cut

Array = NDArray[Any]
Turns = Callable[[IntArray], Array]
MAX_CHUNK_BYTES = 64 << 20
_BLOCK, _FEW_ROWS = 64, 16


class PassReader:
    """Reads for all tokens of a pass; made once per pass, used by every layer.

    turns: gives for offsets `[..]` the unit complex numbers `[.., D/2]` that a query's pairs are multiplied by.
    """

    def __init__(self, plan: ForwardPlan, turns: Turns, num_heads: int, head_dim: int, dtype: np.dtype[Any]) -> None:
        groups = [_Group(group, turns) for group in plan.groups]
        self._chunks = [chunk for group in groups for chunk in group.chunks(num_heads, head_dim, dtype)]

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array:
        """`queries [T, kv_heads, G, D]`, scaled, and one layer's pool `[kv_heads, slots, D or Dv]`: `[.., G, Dv]`."""
        outputs = np.empty((*queries.shape[:-1], values.shape[-1]), queries.dtype)
        for chunk in self._chunks:
            outputs[chunk.tokens] = chunk.attend(queries[chunk.tokens], keys, values, window)
        return outputs


class _Group:
    """Which slots the tokens of one group read, and as which columns."""

    def __init__(self, plan: GroupPlan, turns: Turns) -> None:
        self.plan, self.turns = plan, turns
        # Cut as if the columns lay side by side: the choice must not depend on where the pages are.
        self.tiles = cut(replace(plan, column_slots=np.arange(plan.num_columns, dtype=np.int32)))
        self.slice_slots = [_in_place(plan.column_slots[part.start : part.stop]) for part in self.tiles.slices]
        self.tile_slots = plan.column_slots[self.tiles.tile_slots]

    def chunks(self, num_heads: int, head_dim: int, dtype: np.dtype[Any]) -> list[_Chunk]:
        """The group's tokens, so few at a time that scores and turned queries take `MAX_CHUNK_BYTES` each at most."""
        widest = max(self.tiles.num_columns, len(self.tiles.tile_run) * head_dim)
        size = max(1, MAX_CHUNK_BYTES // (dtype.itemsize * num_heads * widest))
        count = self.plan.num_tokens
        return [_Chunk(self, start, min(start + size, count)) for start in range(0, count, size)]

    def read(self, pool: Stored) -> list[Array]:
        """The columns of each slice `[kv_heads, n, D]`, and last of all tiles `[kv_heads, M * size, D]`."""
        tiles = [_taken(pool, self.tile_slots)] if len(self.tile_slots) else []
        return [*(pool[:, slots] for slots in self.slice_slots), *tiles]


class _Chunk:
    """Some tokens of a group, t of them. S slices and M tiles; C' columns."""

    def __init__(self, group: _Group, start: int, stop: int) -> None:
        plan, tiles = group.plan, group.tiles
        rows = plan.token_row[start:stop]
        self.tokens = slice(plan.token_start + start, plan.token_start + stop)
        self._group, self._own = group, slice(start, stop)
        self._slice_turns = [group.turns(plan.offsets[rows, part.run]) for part in tiles.slices]  # S of [t, D/2]
        self._tile_turns = group.turns(plan.offsets[rows][:, tiles.tile_run].T)  # [M, t, D/2]
        self._hidden: dict[int | None, NDArray[np.bool_]] = {}

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array:
        """`queries [t, kv_heads, G, D]`; returns `[t, kv_heads, G, Dv]`."""
        t, kv_heads, group_size, _ = queries.shape
        by_head = np.ascontiguousarray(queries.transpose(1, 0, 2, 3))
        scores = self._scores(by_head, self._group.read(keys))
        hidden = self._hidden_columns(window)
        np.copyto(scores.reshape(kv_heads, t, group_size, -1), -np.inf, where=hidden[:, None])
        weights = _softmax(scores)
        parts = self._group.read(values)
        mixed = _mix(weights, parts).reshape(*by_head.shape[:-1], -1)
        if np.isnan(mixed).any():
            mixed = _without_unseen(weights, parts, hidden, mixed)
        return mixed.transpose(1, 0, 2, 3)

    def _scores(self, queries: Array, parts: Sequence[Array]) -> Array:
        """`[kv_heads, t * G, C']` for `queries [kv_heads, t, G, D]` and the keys of slices and tiles."""
        kv_heads, t, group_size, head_dim = queries.shape
        rows = t * group_size
        scores = np.empty((kv_heads, rows, self._group.tiles.num_columns), queries.dtype)
        column = 0
        for turn, part in zip(self._slice_turns, parts, strict=False):
            end = column + part.shape[1]
            turned_rows = turned(queries, turn[:, None]).reshape(kv_heads, rows, head_dim)
            _products(turned_rows, part, scores[..., column:end])
            column = end
        if column < scores.shape[-1]:
            per_tile = turned(queries[:, None], self._tile_turns[:, :, None]).reshape(kv_heads, -1, rows, head_dim)
            tiles = parts[-1].reshape(kv_heads, per_tile.shape[1], -1, head_dim)
            out = scores[..., column:].reshape(kv_heads, rows, per_tile.shape[1], -1).transpose(0, 2, 1, 3)
            np.matmul(per_tile, tiles.transpose(0, 1, 3, 2), out=out)
        return scores

    def _hidden_columns(self, window: int | None) -> NDArray[np.bool_]:
        """`[t, C']` which columns a token may not see; made once per pass and window."""
        if window not in self._hidden:
            plan, tiles = self._group.plan, self._group.tiles
            hidden = tiles.column_index >= plan.visible[self._own][:, tiles.column_run]
            if window is not None:
                first = plan.first_visible(window)[self._own]
                hidden |= tiles.column_index < first[:, tiles.column_run]
            self._hidden[window] = hidden
        return self._hidden[window]


def _in_place(slots: Int32Array) -> slice | Int32Array:
    """A slice where `slots` lie side by side, so that reading them copies nothing."""
    return slice(slots[0], slots[-1] + 1) if (np.diff(slots) == 1).all() else slots


def _taken(pool: Stored, slots: Int32Array) -> Array:
    # For plain numbers `take` is several times quicker than an index.
    return np.take(pool, slots, axis=1) if isinstance(pool, np.ndarray) else pool[:, slots]


def turned(x: Array, turn: Array) -> Array:
    """`x [.., D]` with its pairs multiplied by the complex `turn`, which broadcasts against `[.., D/2]`."""
    product: Array = x.view(turn.dtype) * turn
    return product.view(x.dtype)


def _products(rows: Array, keys: Array, out: Array) -> None:
    """`rows [kv_heads, r, D]` times `keys [kv_heads, n, D]`, to `out [kv_heads, r, n]`.

    For few rows in blocks of keys so small that BLAS reads them in place instead of repacking them (half the time).
    """
    kv_heads, num_rows, head_dim = rows.shape
    end = keys.shape[1] // _BLOCK * _BLOCK if num_rows <= _FEW_ROWS else 0
    if end:
        blocks = keys[:, :end].reshape(kv_heads, -1, _BLOCK, head_dim)
        block_out = out[..., :end].reshape(kv_heads, num_rows, -1, _BLOCK).transpose(0, 2, 1, 3)
        np.matmul(rows[:, None], blocks.transpose(0, 1, 3, 2), out=block_out)
    if end < keys.shape[1]:
        np.matmul(rows, keys[:, end:].transpose(0, 2, 1), out=out[..., end:])


def _softmax(scores: Array) -> Array:
    """Softmax over the last axis, in place; every row has a finite score or holds NaN."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _mix(weights: Array, parts: Sequence[Array]) -> Array:
    """Sum of values, `[kv_heads, t * G, D]`, for `weights [kv_heads, t * G, C']`."""
    ends = np.cumsum([part.shape[1] for part in parts])
    total = weights[..., : ends[0]] @ parts[0]
    for start, end, part in zip(ends, ends[1:], parts[1:], strict=False):
        total += weights[..., start:end] @ part
    return total


def _without_unseen(weights: Array, parts: Sequence[Array], hidden: NDArray[np.bool_], mixed: Array) -> Array:
    """`mixed` again, where it holds NaN only because zero times a value that is not finite and not seen is NaN."""
    broken: list[Array] = [~np.isfinite(part) for part in parts]
    clean = [np.where(bad, 0, part) for bad, part in zip(broken, parts, strict=True)]
    broken_columns = np.concatenate([bad.any(axis=(0, 2)) for bad in broken])
    sees_broken = np.asarray(~hidden & broken_columns).any(axis=1)
    return np.where(np.reshape(sees_broken, (-1, 1, 1)), mixed, _mix(weights, clean).reshape(mixed.shape))
