"""Attention without a model: every token attends to all that it sees in equal parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import IntArray
from hogwild.core.plan import ForwardPlan

NUM_LAYERS = 2


def even_shares(plan: ForwardPlan, columns: IntArray, num_columns: int) -> tuple[NDArray[np.float64], ...]:
    """What `Backend.attention_shares` gives, `[1, T, K]` for each of two layers."""
    shares = np.zeros((1, plan.num_tokens, num_columns))
    for group in plan.groups:
        for token in range(group.num_tokens):
            seen = group.sees(slice(token, token + 1), group.column_run, group.column_index)[0]
            slots = group.column_slots[seen]
            counts = np.bincount(columns[slots], minlength=num_columns)
            shares[0, group.token_start + token] = counts / len(slots)
    return (shares,) * NUM_LAYERS
