"""Ordinary attention in a case's own dtype, rounded where engines round: the yardstick for what may be expected."""

from __future__ import annotations

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType, rounded
from hogwild.conformance.oracle import capped
from hogwild.conformance.sequences import Sequences


def ordinary_attention(
    case: AttentionCase, dtype: DType | None = None, *, sequences: Sequences | None = None
) -> tuple[Array, Array]:
    """Output `[T, H, Dv]` and log-sum-exp `[T, H]` of plain attention over each row's view as one sequence.

    Queries and keys are turned in float32 and rounded to `dtype` (None: the case's own), as are probabilities and the
    output; scores, the softmax and sums are float32. A model without shared blocks would compute the same.
    sequences: the case's, if they are at hand.
    """
    dtype, rows = dtype or case.dtype, sequences or Sequences(case)
    q, k = (rounded(x, dtype) for x in rows.turned(np.float32))
    scores = capped(case, rows.products(q, k) * np.float32(case.scale))
    scores = np.where(rows.seen, scores, np.float32(-np.inf))
    most = rows.largest(scores)
    weights = np.exp(scores - rows.spread(most))
    total = rows.sums(weights)
    log_sum_exp = most + np.log(total)
    share = 1 / total
    if case.sinks is not None:
        share *= np.exp(log_sum_exp - np.logaddexp(log_sum_exp, rows.by_line(case.sinks)))
    weights = rounded(weights * rows.spread(share), dtype)
    return rounded(rows.mixed(weights, rows.at_keys(case.values)), dtype), rows.by_token(log_sum_exp)
