"""The exact answer to an attention case: float64, from the stored bits, as the method defines it.

Each row's view is laid out as one sequence (`hogwild.conformance.sequences`), without looking at the plan.

How far an honest implementation may be off is derived along with it: `_score_error` and `_moved`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType
from hogwild.conformance.sequences import RowSequence, Sequences, seen_columns
from hogwild.core.plan import Row

TOLERANCE: dict[DType, float] = {"float32": 1e-5, "float16": 2.5e-4, "bfloat16": 4e-3}
EPSILON: dict[DType, float] = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DEVIATIONS = 4.0  # times the unit roundoff: about nine standard deviations of a rounded product


@dataclass(frozen=True, slots=True)
class Exact:
    """What attention must give, and what rounding may do to it.

    Attributes:
        dtype: of the arithmetic that `moved` and `score_error` speak of.
        output: `[T, H, Dv]`.
        log_sum_exp: `[T, H]` of the visible scores, without sinks.
        moved: `[T, H, Dv]` how far rounded scores and probabilities may move the output.
        score_error: `[T, H]` how far rounding may move a visible score.
        block_log_sum_exp: `[T, H, M]` for each block of the token's view (at most M), -inf where it sees none of its
            keys; None unless asked for.
    """

    dtype: DType
    output: Array
    log_sum_exp: Array
    moved: Array
    score_error: Array
    block_log_sum_exp: Array | None = None

    def allowed(self, dtype: DType) -> Array:
        """`[T, H, Dv]` the largest error allowed: the tolerance, a rounded output, and `moved`."""
        assert dtype == self.dtype, f"made for {self.dtype}: call exact_attention(case, {dtype!r})"
        size = np.abs(self.output)
        allowed: Array = TOLERANCE[dtype] * (1 + size) + EPSILON[dtype] * size + self.moved
        return allowed


def exact_attention(
    case: AttentionCase, dtype: DType | None = None, *, by_block: bool = False, sequences: Sequences | None = None
) -> Exact:
    """Compute a case in float64.

    dtype: of the arithmetic that is to be judged (None: the case's own). sequences: the case's, if they are at hand.
    """
    dtype, sequences = dtype or case.dtype, sequences or Sequences(case)
    values = sequences.held(case.values).astype(np.float64)
    parts = [
        _attend(case, row, *scores, values.take(row.columns, axis=1), dtype, by_block)
        for row, scores in zip(sequences.rows, sequences.scores(), strict=True)
    ]
    output, log_sum_exp, moved, score_error, by_view = zip(*parts, strict=True)
    return Exact(
        dtype=dtype,
        output=np.concatenate(output),
        log_sum_exp=np.concatenate(log_sum_exp)[..., 0],
        moved=np.concatenate(moved),
        score_error=np.concatenate(score_error)[..., 0],
        block_log_sum_exp=_padded(by_view) if by_block else None,
    )


def _attend(
    case: AttentionCase, row: RowSequence, raw: Array, norm: Array, v: Array, dtype: DType, by_block: bool
) -> tuple[Array | None, ...]:
    """Of one row: output, log-sum-exp, how far they may move, and the blocks' log-sum-exps, `[n, H, ..]` each."""
    count = len(row.row.token_ids)
    seen = np.repeat(seen_columns(case, row.row), raw.shape[1] // count, axis=0)
    scores = np.where(seen, capped(case, raw), -np.inf)
    most = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - most)
    log_sum_exp = most + np.log(weights.sum(axis=-1, keepdims=True))
    sinks = -np.inf if case.sinks is None else by_kv_head(case, case.sinks.astype(np.float64), count)
    total = np.logaddexp(log_sum_exp, sinks)
    weights *= np.exp(most - total)
    output = weights @ v
    error = np.where(seen, _score_error(case, raw, norm, dtype), 0)
    moved = _moved(scores - total, weights, error, v, output, dtype)
    found = (output, log_sum_exp, moved, error.max(axis=-1, keepdims=True))
    blocks = by_token(_per_block(scores, row.row), count) if by_block else None
    return (*(by_token(x, count) for x in found), blocks)


def capped(case: AttentionCase, scores: Array) -> Array:
    """Scores `[..]` after the soft cap, if there is one; in their own dtype."""
    return scores if case.softcap is None else case.softcap * np.tanh(scores / case.softcap)


def _score_error(case: AttentionCase, raw: Array, norm: Array, dtype: DType) -> Array:
    """`[K, n * G, C]` how far a score may be off: the turned query is rounded to `dtype`, the rest is float32."""
    single, key_dim = EPSILON["float32"], case.keys.shape[2]
    rounding = single * (4 + key_dim**0.5) + (EPSILON[dtype] if dtype != "float32" else 0)
    error = (DEVIATIONS * rounding) * norm + (DEVIATIONS * 2 * single) * np.abs(raw)
    if case.softcap is None:
        return np.asarray(error)
    return capped(case, raw + error) - capped(case, raw - error) + DEVIATIONS * single * case.softcap


def _moved(log_weights: Array, weights: Array, error: Array, v: Array, output: Array, dtype: DType) -> Array:
    """`[K, n * G, Dv]`: independent errors of the scores and of the rounded probabilities, added up by their squares.

    A score that is off by e changes its weight w by w (exp(e) - 1), and by no more than 1; relative to the largest
    one, whose error counts too.
    """
    top = np.take_along_axis(error, log_weights.argmax(axis=-1)[..., None], axis=-1)
    error = np.sqrt(error * error + top * top)
    if error.max() < 1:
        change = weights * np.expm1(error)
    else:  # weights too small for a number may matter: in logarithms
        growth = np.log(np.expm1(np.minimum(error, 30.0))) + np.maximum(error - 30.0, 0)
        change = np.exp(np.minimum(log_weights + growth, 0))
    change = change**2 + (DEVIATIONS * EPSILON[dtype] * weights) ** 2
    # The sum of change * (v - output)^2 over columns, without an array of all differences.
    total = change @ (v * v) - 2 * output * (change @ v) + output * output * change.sum(axis=-1, keepdims=True)
    return np.asarray(np.sqrt(np.maximum(total, 0)))


def _per_block(scores: Array, row: Row) -> Array:
    """`[K, n * G, M]` log-sum-exp of the scores of each block of the view."""
    ends = np.cumsum([len(block) for block in row.view])
    parts = [np.logaddexp.reduce(part, axis=-1) for part in np.split(scores, ends[:-1], axis=-1)]
    return np.stack(parts, axis=-1)


def _padded(parts: tuple[Array, ...]) -> Array:
    """`[T, H, M]` of arrays that differ in their last axis, with -inf at the end."""
    width = max(part.shape[-1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[-1])), constant_values=-np.inf) for part in parts]
    )


def by_kv_head(case: AttentionCase, of_head: Array, count: int) -> Array:
    """`[H]` as `[K, n * G, 1]`."""
    return np.tile(of_head.reshape(case.keys.shape[0], -1), (1, count))[..., None]


def by_token(x: Array, count: int) -> Array:
    """`[K, n * G, D]` as `[n, H, D]`."""
    return x.reshape(x.shape[0], count, -1, x.shape[-1]).swapaxes(0, 1).reshape(count, -1, x.shape[-1])
