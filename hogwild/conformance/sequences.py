"""A case's rows, each view laid out as one sequence: every key turned from where it is stored to its place there,
every query from its own block to its place.

This reads views and blocks, not the plan, and makes its own angles, so that an error of the plan or of the core's
rotary tables is an error here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.conformance.cases import Array, AttentionCase
from hogwild.core.blocks import Block, IntArray
from hogwild.core.plan import Row
from hogwild.core.quantized import dequantize, quantize
from hogwild.core.rotary import RotarySpec

Float = type[np.float32] | type[np.float64]


@dataclass(frozen=True, slots=True)
class RowSequence:
    """One row's view as one sequence of C keys, the last n of which are its new tokens'."""

    row: Row
    tokens: slice  # where its new tokens stand in the packed dimension
    columns: IntArray  # [C] which of the case's columns each key is, see `Sequences`
    turns: IntArray  # [1 + C] how far its queries, and each key, are turned


class Sequences:
    """What is asked of a case more than once; all cases with the same blocks, queries and rotation may share it.

    The case's *columns* are the keys of the distinct blocks that its rows read, one block after the other. Features
    stand in another order here, the two of each pair side by side; scores do not depend on that.
    """

    def __init__(self, case: AttentionCase) -> None:
        self.case = case
        rows = [row for group in case.groups for row in group if row.token_ids]
        layout = _Layout(list(dict.fromkeys(block for row in rows for block in row.view)))
        self.slots = layout.slots
        ends = np.cumsum([len(row.token_ids) for row in rows]).tolist()
        self.rows = tuple(
            RowSequence(row, slice(end - len(row.token_ids), end), *layout.place(row.view))
            for row, end in zip(rows, ends, strict=True)
        )
        self._turned: dict[Float, list[tuple[Array, Array]]] = {}
        self._scores: list[tuple[Array, Array]] | None = None

    def turned(self, dtype: Float) -> list[tuple[Array, Array]]:
        """For each row its queries `[K, n * G, D]` and its view's keys `[K, C, D]`, each turned to its place.

        dtype: of the products that turn them; float32 takes angles that were rounded once.
        """
        if dtype not in self._turned:
            self._turned[dtype] = list(self._turn(dtype))
        return self._turned[dtype]

    def scores(self) -> list[tuple[Array, Array]]:
        """For each row the scores without a soft cap and the root of the sum of their squared terms, `[K, n * G, C]`.

        In float64.
        """
        if self._scores is None:
            scale = self.case.scale
            self._scores = [
                (q @ k.swapaxes(1, 2) * scale, np.sqrt((q * q) @ (k * k).swapaxes(1, 2)) * abs(scale))
                for q, k in self.turned(np.float64)
            ]
        return self._scores

    def held(self, pool: Array) -> Array:
        """The numbers that `pool [K, S, D]` holds in the case's columns, `[K, C', D]` float32."""
        found = pool.take(self.slots, axis=1)
        return dequantize(quantize(found)) if self.case.kv_dtype == "int8" else found

    def _turn(self, dtype: Float) -> Iterator[tuple[Array, Array]]:
        spec, (kv_heads, _, key_dim) = self.case.rotary, self.case.keys.shape
        order = pairs_side_by_side(spec, key_dim)
        queries = self.case.queries.take(order, axis=-1).astype(dtype)
        keys = self.held(self.case.keys).take(order, axis=-1).astype(dtype)
        distinct, which = np.unique(np.concatenate([row.turns for row in self.rows]), return_inverse=True)
        phases = _phases(distinct, spec, dtype)
        ends = np.cumsum([len(row.turns) for row in self.rows])
        for row, turn in zip(self.rows, np.split(which, ends[:-1]), strict=True):
            q, k = queries[row.tokens], keys.take(row.columns, axis=1)
            _turn_in_place(q, phases[turn[0]])
            _turn_in_place(k, phases[turn[1:]])
            yield q.reshape(len(q), kv_heads, -1, key_dim).swapaxes(0, 1).reshape(kv_heads, -1, key_dim), k


class _Layout:
    """Where the keys of some blocks stand when the blocks are laid side by side."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._number = {block: i for i, block in enumerate(blocks)}
        self._lengths = np.array([len(block) for block in blocks])
        self._starts = self._lengths.cumsum() - self._lengths
        self.slots = np.concatenate([block.slots for block in blocks])
        runs = np.concatenate([block.run_starts + start for block, start in zip(blocks, self._starts, strict=True)])
        moved = np.concatenate([block.run_starts - block.run_positions for block in blocks])
        # [C'] how much further each key stands in its block than the position at which it was encoded.
        self._moved = moved.repeat(np.diff(runs, append=len(self.slots)))

    def place(self, view: Sequence[Block]) -> tuple[IntArray, IntArray]:
        """The columns of a view `[C]`, and how far its queries, and each key, are turned `[1 + C]`."""
        numbers = [self._number[block] for block in view]
        lengths = self._lengths[numbers]
        first = lengths.cumsum() - lengths
        columns = np.arange(lengths.sum()) + (self._starts[numbers] - first).repeat(lengths)
        turns = first.repeat(lengths) + self._moved[columns]
        return columns, np.concatenate([first[-1:], turns])


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


def _phases(turns: IntArray, spec: RotarySpec, dtype: Float) -> Array:
    """Unit complex numbers `[N, pairs]` whose parts are of `dtype`."""
    angles = turns[:, None] * np.array(spec.inv_freq, dtype=np.float64)
    phases = np.empty(angles.shape, np.complex64 if dtype is np.float32 else np.complex128)
    phases.real, phases.imag = np.cos(angles), np.sin(angles)
    return phases


def _turn_in_place(x: Array, phases: Array) -> None:
    """Multiply the pairs, which are the first features of `x [.., D]`, by `phases`."""
    pairs = x[..., : 2 * phases.shape[-1]].view(phases.dtype)
    pairs *= phases
