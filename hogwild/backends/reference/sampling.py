"""Sampling by the definition in `hogwild.core.sampling`, in float64, one row after the other.

Each filter is a threshold on the logits, so ties stay; the draw inverts the cumulative distribution in vocabulary
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core.sampling import SampleRequest, SampleResult, SamplingParams

Array = NDArray[np.float64]


def sample(logits: NDArray[Any], requests: Sequence[SampleRequest]) -> SampleResult:
    """One token for each row of `logits [n, V]`; rows with NaN, or with nothing left to choose, are not finite."""
    assert len(logits) == len(requests), "one request for each row"
    chosen = [_choose(row.astype(np.float64), request) for row, request in zip(logits, requests, strict=True)]
    return SampleResult(
        token_ids=np.array([0 if token is None else token for token in chosen], dtype=np.int64),
        finite=np.array([token is not None for token in chosen], dtype=np.bool_),
    )


def _choose(logits: Array, request: SampleRequest) -> int | None:
    """The token for one row, which is overwritten; None if the row is not finite."""
    if np.isnan(logits).any():
        return None
    logits[_ids(request.banned_ids, logits)] = -np.inf
    _penalise(logits, request)
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        return None
    if request.params.temperature == 0:
        return best
    return _draw((logits - logits[best]) / request.params.temperature, request)


def _ids(ids: Sequence[int] | NDArray[np.int64], logits: Array) -> NDArray[np.int64]:
    """Ids as an index; a tokenizer may know more ids than the model has logits."""
    index = np.asarray(ids, dtype=np.int64)
    return index[index < len(logits)]


def _penalise(logits: Array, request: SampleRequest) -> None:
    seen, penalty = _ids(request.history_ids, logits), request.params.repetition_penalty
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)


def _draw(scores: Array, request: SampleRequest) -> int:
    """The first of the kept tokens at which the cumulative probability exceeds `uniform`; `scores` have maximum 0."""
    kept = np.flatnonzero(scores >= _threshold(scores, request.params))
    cumulative = np.cumsum(np.exp(scores[kept]))
    place = int(np.searchsorted(cumulative, request.uniform * cumulative[-1], side="right"))
    return int(kept[min(place, len(kept) - 1)])


def _threshold(scores: Array, params: SamplingParams) -> float:
    """The lowest score that stays after top-k, top-p and min-p."""
    lowest = -np.inf
    if 0 < params.top_k < len(scores):
        lowest = float(np.partition(scores, -params.top_k)[-params.top_k])
    if params.top_p < 1:
        lowest = max(lowest, _nucleus(scores[scores >= lowest], params.top_p))
    if params.min_p > 0:
        lowest = max(lowest, float(np.log(params.min_p)))
    return lowest


def _nucleus(scores: Array, top_p: float) -> float:
    """The last score of the smallest set of most likely tokens whose probability reaches `top_p`.

    All tokens of less than (1 - p) / n of the total are less than 1 - p together, so none of them is needed; the others
    are few and cheap to sort. The factor leaves room for rounding.
    """
    weights = np.exp(scores)
    total = weights.sum()
    likely = np.sort(scores[weights >= 0.99 * (1 - top_p) * total / len(scores)])[::-1]
    place = int(np.searchsorted(np.cumsum(np.exp(likely)), top_p * total))
    return float(likely[min(place, len(likely) - 1)])
