"""Attention of one pass over the pool: the plain form.

Per layer, all new keys and values are written before this is called. Nothing loops over blocks, pages or runs: columns
are read in tiles of two sizes, whose places are fixed within their runs (`hogwild.backends.reference.tiles`). Rotary
pairs stand side by side in memory, so that a turn is one complex product.

The schedule changes no bit: neither the order of the rows, nor other rows, nor how many tokens a pass brings, nor where
pages lie. For each token, kv head and tile the same two products of the same shape are computed, `[G, D]` by
`[D, size]` and back, whatever else is in the pass; a column that is not seen adds an exact zero. The results of the
tiles are added one after another in the order of the row's own view, and those of tiles that it does not see are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.reference.pool import Stored
from hogwild.backends.reference.tiles import Tiles, cut
from hogwild.core.arrays import IntArray
from hogwild.core.plan import ForwardPlan, GroupPlan

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Turns = Callable[[IntArray], Array]
MAX_CHUNK_BYTES = 16 << 20  # twice as much or half of it is slower


class PassReader:
    """Reads for all tokens of a pass; made once per pass, used by every layer.

    turns: gives for offsets `[..]` the unit complex numbers `[.., D/2]` that a query's pairs are multiplied by.
    """

    def __init__(self, plan: ForwardPlan, turns: Turns, num_heads: int, head_dim: int, dtype: np.dtype[Any]) -> None:
        self._chunks: list[_Chunk] = []
        for group in plan.groups:
            tiles = cut(group)
            # Scores, turned queries and results of tiles take about the same.
            widest = max(sum(part.index.size for part in tiles), sum(map(len, tiles)) * head_dim)
            size = max(1, MAX_CHUNK_BYTES // (dtype.itemsize * num_heads * widest))
            starts = range(0, group.num_tokens, size)
            self._chunks += [_Chunk(group, tiles, slice(start, start + size), turns) for start in starts]

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array:
        """`queries [T, kv_heads, G, D]`, scaled, and one layer's pool `[kv_heads, slots, D or Dv]`: `[.., G, Dv]`."""
        outputs = np.empty((*queries.shape[:-1], values.shape[-1]), queries.dtype)
        for chunk in self._chunks:
            outputs[chunk.tokens] = chunk.attend(queries[chunk.tokens], keys, values, window)
        return outputs


class _Chunk:
    """Some tokens of a group, t of them, and the tiles that any of them sees: M tiles, C' columns with padding."""

    def __init__(self, plan: GroupPlan, tiles: Sequence[Tiles], own: slice, turns: Turns) -> None:
        rows, reach = plan.token_row[own], plan.reach()[own].max(axis=0)[plan.run_block]
        first = plan.token_start + own.start
        self.tokens = slice(first, first + len(rows))
        seen = [np.flatnonzero(part.index[:, 0] < reach[part.run]) for part in tiles]
        self._parts = parts = [part[which] for part, which in zip(tiles, seen, strict=True) if len(which)]
        self._column_run = np.concatenate([part.run.repeat(part.index.shape[1]) for part in parts])
        self._column_index = np.concatenate([part.index.ravel() for part in parts])
        self._plan, self._own = plan, own
        # For each part [m or 1, t, 1, D/2].
        self._turns = [turns(plan.offsets[rows][:, part.turning_run].T)[:, :, None] for part in parts]
        edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))
        self._orders = [(slice(a, b), _order(plan, parts, rows[a])) for a, b in pairwise(edges)]
        self._hidden: dict[int | None, Mask] = {}

    def attend(self, queries: Array, keys: Stored, values: Stored, window: int | None) -> Array:
        """`queries [t, kv_heads, G, D]`; returns `[t, kv_heads, G, Dv]`."""
        hidden = self._hidden_columns(window)
        scores = self._scores(queries, [_taken(keys, part) for part in self._parts])
        np.copyto(scores, -np.inf, where=hidden)
        weights = _exponentials(scores)
        parts = [_taken(values, part) for part in self._parts]
        mixed = self._mix(weights, parts)
        if np.isnan(mixed).any():
            mixed = self._without_unseen(weights, parts, hidden, mixed)
        return mixed

    def _scores(self, queries: Array, parts: Sequence[Array]) -> Array:
        """`[kv_heads, t, G, C']` for `queries [t, kv_heads, G, D]` and the keys of each part."""
        by_head = np.ascontiguousarray(queries.transpose(1, 0, 2, 3))
        scores = np.empty((*by_head.shape[:-1], len(self._column_index)), queries.dtype)
        for turn, part, of_part in zip(self._turns, parts, self._by_tile(scores), strict=True):
            out = of_part.transpose(0, 3, 1, 2, 4)
            np.matmul(turned(by_head[:, None], turn), part[:, :, None].swapaxes(-1, -2), out=out)
        return scores

    def _mix(self, weights: Array, parts: Sequence[Array]) -> Array:
        """The mean of the values `[t, kv_heads, G, Dv]`, by `weights` as `_scores` gives them."""
        kv_heads, t, group_size, _ = weights.shape
        # Beside the sums of weighted values stand those of the weights.
        sums = np.empty((kv_heads, sum(map(len, self._parts)), t, group_size, parts[0].shape[-1] + 1), weights.dtype)
        end = 0
        for weight, part in zip(self._by_tile(weights), parts, strict=True):
            start, end = end, end + part.shape[1]
            np.matmul(weight.transpose(0, 3, 1, 2, 4), part[:, :, None], out=sums[:, start:end, ..., :-1])
            sums[:, start:end, ..., -1] = np.einsum("...n->...", weight).transpose(0, 3, 1, 2)
        total = np.empty((kv_heads, *sums.shape[2:]), sums.dtype)
        for tokens, order in self._orders:
            of_row = sums[:, :, tokens] if order is None else sums[:, :, tokens].take(order, axis=1)
            # The last axis has two numbers or more, so NumPy adds along another one, term by term. It starts at 0, so
            # that no sum is -0, which a zero more would change.
            np.add.reduce(of_row, axis=1, initial=0, out=total[:, tokens])
        mean: Array = total[..., :-1] / total[..., -1:]
        return mean.transpose(1, 0, 2, 3)

    def _by_tile(self, scores: Array) -> list[Array]:
        """The columns of each part as `[kv_heads, t, G, m, size]`, in place."""
        shapes = [part.index.shape for part in self._parts]
        ends = list(accumulate(m * size for m, size in shapes))
        of_parts = [scores[..., end - m * size : end] for end, (m, size) in zip(ends, shapes, strict=True)]
        return [part.reshape(*scores.shape[:-1], *shape) for part, shape in zip(of_parts, shapes, strict=True)]

    def _hidden_columns(self, window: int | None) -> Mask:
        """`[t, C']` which columns a token may not see; made once per pass and window."""
        if window not in self._hidden:
            seen = self._plan.sees(self._own, self._column_run, self._column_index, window)
            self._hidden[window] = ~seen[:, None]
        return self._hidden[window]

    def _without_unseen(self, weights: Array, parts: Sequence[Array], hidden: Mask, mixed: Array) -> Array:
        """`mixed` again, where it holds NaN only because zero times a value that is not finite and not seen is NaN."""
        broken: list[Array] = [~np.isfinite(part) for part in parts]
        clean = [np.where(bad, 0, part) for bad, part in zip(broken, parts, strict=True)]
        broken_columns = np.concatenate([bad.any(axis=(0, 3)).ravel() for bad in broken])
        sees_broken = (~hidden & broken_columns).any(axis=-1)
        return np.where(sees_broken[..., None, None], mixed, self._mix(weights, clean))


def _order(plan: GroupPlan, parts: Sequence[Tiles], row: int) -> IntArray | None:
    """`[M]` the tiles in the order of a row's view; None: as they are.

    The farther away a block is, the earlier it stands in the view; the runs of a block are listed in order.
    """
    run = np.concatenate([part.run for part in parts])
    index = np.concatenate([part.index[:, 0] for part in parts])
    order = np.lexsort((index, run, -plan.run_turns[row, run]))
    return order if (np.diff(order) < 0).any() else None


def _taken(pool: Stored, tiles: Tiles) -> Array:
    """`[kv_heads, m, size, D]`."""
    if tiles.in_place:
        columns = pool[:, tiles.slots[0, 0] : tiles.slots[-1, -1] + 1]
    else:  # for plain numbers `take` is several times quicker than an index
        slots = tiles.slots.ravel()
        columns = np.take(pool, slots, axis=1) if isinstance(pool, np.ndarray) else pool[:, slots]
    return columns.reshape(len(columns), *tiles.slots.shape, -1)


def turned(x: Array, turn: Array) -> Array:
    """`x [.., D]` with its pairs multiplied by the complex `turn`, which broadcasts against `[.., D/2]`."""
    product: Array = x.view(turn.dtype) * turn
    return product.view(x.dtype)


def _exponentials(scores: Array) -> Array:
    """`exp(s - m)` in place, m being the greatest of the last axis; every row has a finite score or holds NaN."""
    scores -= scores.max(axis=-1, keepdims=True)
    return np.exp(scores, out=scores)
