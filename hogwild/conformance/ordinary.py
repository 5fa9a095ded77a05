"""Ordinary attention in a case's own dtype, rounded where engines round: the yardstick for what may be expected."""

from __future__ import annotations

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType, rounded
from hogwild.conformance.oracle import by_kv_head, by_token, capped
from hogwild.conformance.sequences import RowSequence, Sequences, seen_columns


def ordinary_attention(
    case: AttentionCase, dtype: DType | None = None, *, sequences: Sequences | None = None
) -> tuple[Array, Array]:
    """Output `[T, H, Dv]` and log-sum-exp `[T, H]` of plain attention over each row's view as one sequence.

    Queries and keys are turned in float32 and rounded to `dtype` (None: the case's own), as are probabilities and the
    output; scores, the softmax and sums are float32. A model without shared blocks would compute the same.
    sequences: the case's, if they are at hand.
    """
    sequences = sequences or Sequences(case)
    values = sequences.held(case.values)
    parts = [
        _attend(case, row, *turned, values.take(row.columns, axis=1), dtype or case.dtype)
        for row, turned in zip(sequences.rows, sequences.turned(np.float32), strict=True)
    ]
    output, log_sum_exp = (np.concatenate(part) for part in zip(*parts, strict=True))
    return output, log_sum_exp[..., 0]


def _attend(
    case: AttentionCase, row: RowSequence, turned_q: Array, turned_k: Array, v: Array, dtype: DType
) -> tuple[Array, Array]:
    count = len(row.row.token_ids)
    q, k = rounded(turned_q, dtype), rounded(turned_k, dtype)
    seen = np.repeat(seen_columns(case, row.row), q.shape[1] // count, axis=0)
    scores = np.where(seen, capped(case, q @ k.swapaxes(1, 2) * np.float32(case.scale)), np.float32(-np.inf))
    most = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    log_sum_exp = most + np.log(total)
    if case.sinks is not None:
        sinks = by_kv_head(case, case.sinks, count)
        weights *= np.exp(log_sum_exp - np.logaddexp(log_sum_exp, sinks))
    output = rounded(rounded(weights / total, dtype) @ v, dtype)
    return by_token(output, count), by_token(log_sum_exp, count)
