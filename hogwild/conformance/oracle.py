"""The exact answer to an attention case: float64, from the stored bits, as the method defines it.

Each row's view is laid out as one sequence (`hogwild.conformance.sequences`), without looking at the plan.

How far an honest implementation may be off is derived along with it: `_score_error` and `_moved`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType
from hogwild.conformance.sequences import Sequences

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
    dtype, rows = dtype or case.dtype, sequences or Sequences(case)
    raw, norms = rows.exact_scores()
    scores = np.where(rows.seen, capped(case, raw), -np.inf)
    most = rows.largest(scores)
    weights = np.exp(scores - rows.spread(most))
    log_sum_exp = most + np.log(rows.sums(weights))
    sinks = -np.inf if case.sinks is None else rows.by_line(case.sinks.astype(np.float64))
    total = np.logaddexp(log_sum_exp, sinks)
    weights *= rows.spread(np.exp(most - total))
    values = rows.at_keys(case.values).astype(np.float64)
    output = rows.mixed(weights, values)
    error = np.where(rows.seen, _score_error(case, raw, norms, dtype), 0)
    at_most = error[rows.first(scores == rows.spread(most))]
    change = _change(scores - rows.spread(total), weights, error, rows.spread(at_most), dtype)
    # The sum of change * (value - output)^2 over keys, without an array of all differences.
    moved = rows.mixed(change, values * values) - 2 * output * rows.mixed(change, values)
    moved += output * output * rows.by_token(rows.sums(change))[..., None]
    return Exact(
        dtype=dtype,
        output=output,
        log_sum_exp=rows.by_token(log_sum_exp),
        moved=np.sqrt(np.maximum(moved, 0)),
        score_error=rows.by_token(rows.largest(error)),
        block_log_sum_exp=_by_block(rows, scores) if by_block else None,
    )


def capped(case: AttentionCase, scores: Array) -> Array:
    """Scores `[..]` after the soft cap, if there is one; in their own dtype."""
    return scores if case.softcap is None else case.softcap * np.tanh(scores / case.softcap)


def _score_error(case: AttentionCase, raw: Array, norms: Array, dtype: DType) -> Array:
    """`[Z]` how far a score may be off: the turned query is rounded to `dtype`, the rest is float32."""
    single, key_dim = EPSILON["float32"], case.keys.shape[2]
    rounding = single * (4 + key_dim**0.5) + (EPSILON[dtype] if dtype != "float32" else 0)
    error = (DEVIATIONS * rounding) * norms + (DEVIATIONS * 2 * single) * np.abs(raw)
    if case.softcap is None:
        return np.asarray(error)
    return capped(case, raw + error) - capped(case, raw - error) + DEVIATIONS * single * case.softcap


def _change(log_weights: Array, weights: Array, error: Array, at_most: Array, dtype: DType) -> Array:
    """`[Z]`: squares of independent changes of a weight, by errors of the scores and by its own rounding.

    A score that is off by e changes its weight w by w (exp(e) - 1), and by no more than 1; relative to the largest
    one, whose error, `at_most`, counts too.
    """
    error = np.sqrt(error * error + at_most * at_most)
    if error.max() < 1:
        change = np.minimum(weights * np.expm1(error), 1)
    else:  # weights too small for a number may matter: in logarithms
        growth = np.log(np.expm1(np.minimum(error, 30.0))) + np.maximum(error - 30.0, 0)
        change = np.exp(np.minimum(log_weights + growth, 0))
    return np.asarray(change * change + (DEVIATIONS * EPSILON[dtype] * weights) ** 2)


def _by_block(rows: Sequences, scores: Array) -> Array:
    """`[T, H, M]` log-sum-exp of the scores `[Z]` of each block of a view, with -inf at the end."""
    parts = []
    for row in rows.rows:
        ends = np.cumsum([len(block) for block in row.row.view])
        of_row = scores[row.scores].reshape(-1, ends[-1])
        parts.append([np.logaddexp.reduce(part, axis=-1) for part in np.split(of_row, ends[:-1], axis=-1)])
    lines = np.full((len(rows.line_lengths), max(map(len, parts))), -np.inf)
    ends = np.cumsum([len(part[0]) for part in parts])
    for part, of_row in zip(parts, np.split(lines, ends[:-1]), strict=True):
        of_row[:, : len(part)] = np.stack(part, axis=-1)
    return np.stack([rows.by_token(column) for column in lines.T], axis=-1)
