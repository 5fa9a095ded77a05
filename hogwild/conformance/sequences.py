"""A case's rows, each view laid out as one sequence: every key turned from where it is stored to its place there,
every query from its own block to its place.

This reads views and blocks, not the plan, and makes its own angles, so that an error of the plan or of the core's
rotary tables is an error here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.conformance.cases import Array, AttentionCase
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.core.quantized import dequantize, quantize
from hogwild.core.rotary import RotarySpec

Float = type[np.float32] | type[np.float64]


@dataclass(frozen=True, slots=True)
class RowSequence:
    """One row's part of the arrays of `Sequences`; it brings n tokens to a view of C keys."""

    row: Row
    tokens: slice  # of T
    keys: slice  # of N
    scores: slice  # of Z; `[kv_heads, n, G, C]` in one piece


class Sequences:
    """What is asked of a case more than once; cases with the same blocks, queries, keys and window may share it.

    All rows stand one after the other: T new tokens; N keys, those of each row's view; Z scores, which are L *lines*,
    one for each row, kv head, token and query head of its group. `[Z]` arrays hold something of each score.
    """

    def __init__(self, case: AttentionCase) -> None:
        self.case = case
        rows = [row for group in case.groups for row in group if row.token_ids]
        layout = _Layout(list(dict.fromkeys(block for row in rows for block in row.view)))
        columns, turns = zip(*(layout.place(row.view) for row in rows), strict=True)
        counts, lengths = [len(row.token_ids) for row in rows], [len(part) for part in columns]
        sizes = [case.queries.shape[1] * n * length for n, length in zip(counts, lengths, strict=True)]
        self.rows = tuple(map(RowSequence, rows, _slices(counts), _slices(lengths), _slices(sizes)))
        self._slots = layout.slots[np.concatenate(columns)]
        self._key_turns = np.concatenate([part[1:] for part in turns])
        self._query_turns = np.repeat([part[0] for part in turns], counts)
        self.line_lengths = np.repeat(lengths, np.multiply(case.queries.shape[1], counts))
        self._line_starts = self.line_lengths.cumsum() - self.line_lengths
        self._shape = (case.keys.shape[0], case.queries.shape[1] // case.keys.shape[0])
        self._line_place = np.concatenate([self._places(row.tokens) for row in self.rows])
        self.seen = np.concatenate([self._of_heads(seen_columns(case, row)) for row in rows])
        self._turned: dict[Float, tuple[Array, Array]] = {}
        self._scores: tuple[Array, Array] | None = None

    def turned(self, dtype: Float) -> tuple[Array, Array]:
        """The queries `[T, kv_heads, G, D]`, and the keys `[kv_heads, N, D]` that they meet, each turned to its place.

        Features stand in another order, the two of each pair side by side; scores do not depend on that. dtype: of the
        products that turn them; float32 takes angles that were rounded once.
        """
        if dtype not in self._turned:
            spec = self.case.rotary
            order = pairs_side_by_side(spec, self.case.keys.shape[2])
            queries = self.case.queries.take(order, axis=2).astype(dtype)
            keys = self.at_keys(self.case.keys).take(order, axis=2).astype(dtype)
            _turn_in_place(queries, _phases(self._query_turns, spec, dtype)[:, None])
            _turn_in_place(keys, _phases(self._key_turns, spec, dtype))
            self._turned[dtype] = queries.reshape(len(queries), *self._shape, -1), keys
        return self._turned[dtype]

    def exact_scores(self) -> tuple[Array, Array]:
        """In float64, the scores `[Z]` without a soft cap, and the roots of the sums of their squared terms."""
        if self._scores is None:
            (q, k), scale = self.turned(np.float64), self.case.scale
            norms = np.sqrt(self.products(q * q, k * k))
            self._scores = self.products(q, k) * scale, norms * abs(scale)
        return self._scores

    def products(self, queries: Array, keys: Array) -> Array:
        """`[Z]` for `queries [T, kv_heads, G, D]` and `keys [kv_heads, N, D]`."""
        products = np.empty(len(self.seen), queries.dtype)
        for row in self.rows:
            q = queries[row.tokens].swapaxes(0, 1).reshape(len(keys), -1, keys.shape[2])
            k = keys[:, row.keys].swapaxes(1, 2)
            np.matmul(q, k, out=products[row.scores].reshape(*q.shape[:2], -1))
        return products

    def mixed(self, weights: Array, values: Array) -> Array:
        """Sums `[T, H, Dv]` of `values [kv_heads, N, Dv]` times `weights [Z]`."""
        kv_heads, group_size = self._shape
        sums = np.empty((len(self.case.queries), kv_heads, group_size, values.shape[2]), weights.dtype)
        for row in self.rows:
            part = weights[row.scores].reshape(kv_heads, -1, row.keys.stop - row.keys.start) @ values[:, row.keys]
            sums[row.tokens] = part.reshape(kv_heads, -1, group_size, part.shape[2]).swapaxes(0, 1)
        return sums.reshape(len(sums), -1, values.shape[2])

    def at_keys(self, pool: Array) -> Array:
        """The numbers that `pool [kv_heads, S, D]` holds for each key, `[kv_heads, N, D]` float32."""
        found = pool.take(self._slots, axis=1)
        return dequantize(quantize(found)) if self.case.kv_dtype == "int8" else found

    def largest(self, x: Array) -> Array:
        """`[L]` the largest of each line of `x [Z]`."""
        return np.asarray(np.maximum.reduceat(x, self._line_starts))

    def first(self, marked: NDArray[np.bool_]) -> IntArray:
        """`[L]` which is the first of Z that is marked in each line; `marked [Z]`, one in a line at least."""
        which: IntArray = np.minimum.reduceat(np.where(marked, np.arange(len(marked)), len(marked)), self._line_starts)
        return which

    def sums(self, x: Array) -> Array:
        """`[L]` the sum of each line of `x [Z]`."""
        return np.asarray(np.add.reduceat(x, self._line_starts))

    def spread(self, x: Array) -> Array:
        """`[Z]` from one number for each line, `x [L]`."""
        return x.repeat(self.line_lengths)

    def by_token(self, x: Array) -> Array:
        """`[T, H]` from one number for each line, `x [L]`."""
        placed = np.empty(len(x), x.dtype)
        placed[self._line_place] = x
        return placed.reshape(self.case.queries.shape[:2])

    def by_line(self, of_head: Array) -> Array:
        """`[L]` from one number for each query head, `of_head [H]`."""
        return np.asarray(of_head[self._line_place % len(of_head)])

    def _places(self, tokens: slice) -> IntArray:
        """Where each of a row's lines stands in `[T, H]`."""
        heads = np.arange(self.case.queries.shape[1]).reshape(self._shape)
        return (np.arange(tokens.start, tokens.stop)[:, None] * heads.size + heads[:, None]).ravel()

    def _of_heads(self, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        kv_heads, group_size = self._shape
        return np.broadcast_to(seen[:, None], (kv_heads, len(seen), group_size, seen.shape[1])).ravel()


class _Layout:
    """Where the keys of some blocks stand when the blocks are laid side by side: their columns."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._number = {block: i for i, block in enumerate(blocks)}
        self._lengths = np.array([len(block) for block in blocks])
        self._starts = self._lengths.cumsum() - self._lengths
        self.slots = np.concatenate([block.slots for block in blocks])
        runs = np.concatenate([block.run_starts + start for block, start in zip(blocks, self._starts, strict=True)])
        moved = np.concatenate([block.run_starts - block.run_positions for block in blocks])
        # How much further each key stands in its block than the position at which it was encoded.
        self._moved = moved.repeat(np.diff(runs, append=len(self.slots)))

    def place(self, view: Sequence[Block]) -> tuple[IntArray, IntArray]:
        """The columns of a view `[C]`, and how far its queries, and each key, are turned `[1 + C]`."""
        numbers = [self._number[block] for block in view]
        lengths = self._lengths[numbers]
        first = lengths.cumsum() - lengths
        columns = np.arange(lengths.sum()) + (self._starts[numbers] - first).repeat(lengths)
        turns = first.repeat(lengths) + self._moved[columns]
        return columns, np.concatenate([first[-1:] - view[-1].origin, turns])


def pairs_side_by_side(spec: RotarySpec, head_dim: int) -> IntArray:
    """The features in another order: each pair's two together, then those that do not turn."""
    count = len(spec.inv_freq)
    pairs = np.arange(2 * count).reshape(2, count).T if spec.pairing == "half" else np.arange(2 * count)
    turning = spec.start + pairs.ravel()
    still = np.arange(head_dim)
    return np.concatenate([turning, still[: spec.start], still[spec.start + 2 * count :]])


def seen_columns(case: AttentionCase, row: Row) -> NDArray[np.bool_]:
    """`[n, C]` which keys of its view each new token of a row sees."""
    length, count = sum(len(block) for block in row.view), len(row.token_ids)
    distance = np.arange(length - count, length)[:, None] - np.arange(length)
    seen: NDArray[np.bool_] = distance >= 0
    return seen if case.window is None else seen & (distance < case.window)


def _slices(counts: Sequence[int]) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _phases(turns: IntArray, spec: RotarySpec, dtype: Float) -> Array:
    """Unit complex numbers `[N, pairs]` whose parts are of `dtype`."""
    distinct, which = np.unique(turns, return_inverse=True)
    angles = distinct[:, None] * np.array(spec.inv_freq, dtype=np.float64)
    phases = np.empty(angles.shape, np.complex64 if dtype is np.float32 else np.complex128)
    phases.real, phases.imag = np.cos(angles), np.sin(angles)
    return phases.take(which, axis=0)


def _turn_in_place(x: Array, phases: Array) -> None:
    """Multiply the pairs, which are the first features of `x [.., D]`, by `phases`."""
    pairs = x[..., : 2 * phases.shape[-1]].view(phases.dtype)
    pairs *= phases
