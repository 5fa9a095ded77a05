"""Sampling on the device, for all rows at once; the definition is in `hogwild.core.sampling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from hogwild.core.sampling import SampleRequest, SampleResult

_CHUNK = 256


def sample(logits: mx.array, requests: Sequence[SampleRequest], wide: Any) -> SampleResult:
    """One token for each row of `logits [n, V]`.

    wide: the dtype in which probabilities are computed and added: float64 where the device has it (CPU), else float32.
    """
    if not requests:
        return SampleResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))
    scores = _penalise(_ban(logits.astype(mx.float32), requests), requests)
    highest = scores.max(axis=-1)
    finite = mx.isfinite(highest) & ~mx.isnan(scores).any(axis=-1)
    tokens = mx.argmax(scores, axis=-1)
    if any(request.params.temperature > 0 for request in requests):
        greedy = mx.array([request.params.temperature == 0 for request in requests])
        tokens = mx.where(greedy, tokens, _draw(scores, requests, wide))
    mx.eval(tokens, finite)
    return SampleResult(np.array(tokens).astype(np.int64), np.array(finite))


def _ban(scores: mx.array, requests: Sequence[SampleRequest]) -> mx.array:
    rows, ids = _index([request.banned_ids for request in requests])
    if rows is None:
        return scores
    scores = mx.array(scores)
    scores[rows, ids] = mx.array(-mx.inf, mx.float32)
    return scores


def _penalise(scores: mx.array, requests: Sequence[SampleRequest]) -> mx.array:
    rows, ids = _index([request.history_ids for request in requests])
    if rows is None:
        return scores
    penalty = mx.array([request.params.repetition_penalty for request in requests], dtype=mx.float32)[rows]
    seen = scores[rows, ids]
    scores = mx.array(scores)
    scores[rows, ids] = mx.where(seen > 0, seen / penalty, seen * penalty)
    return scores


def _index(lists: Sequence[Any]) -> tuple[mx.array | None, mx.array | None]:
    """Row and column of every id, or None when there are none."""
    lengths = [len(ids) for ids in lists]
    if not sum(lengths):
        return None, None
    rows = np.repeat(np.arange(len(lists)), lengths).astype(np.int32)
    ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in lists]).astype(np.int32)
    return mx.array(rows), mx.array(ids)


def _draw(scores: mx.array, requests: Sequence[SampleRequest], wide: Any) -> mx.array:
    """The first id in vocabulary order whose cumulative probability exceeds the row's uniform number of the total."""
    params = [request.params for request in requests]
    temperature = mx.array([p.temperature or 1.0 for p in params], dtype=mx.float32)[:, None]
    scores = _keep_most_likely((scores / temperature).astype(wide), requests, wide)
    weights = mx.exp(scores - scores.max(axis=-1, keepdims=True))
    cumulative = _cumulative(weights)
    uniform = mx.array(np.array([[request.uniform] for request in requests]), dtype=wide)
    reached = (cumulative > uniform * cumulative[:, -1:]) & (weights > 0)
    last = scores.shape[-1] - 1 - mx.argmax((weights > 0)[:, ::-1], axis=-1)  # where rounding leaves none
    return mx.where(reached.any(axis=-1), mx.argmax(reached, axis=-1), last)


def _keep_most_likely(scores: mx.array, requests: Sequence[SampleRequest], wide: Any) -> mx.array:
    """Top-k, then top-p among those, then min-p: minus infinity for what they drop. Ties with a threshold stay."""
    params, vocab_size = [request.params for request in requests], scores.shape[-1]
    if any(0 < p.top_k < vocab_size or p.top_p < 1 for p in params):
        descending = -mx.sort(-scores, axis=-1)
        rank = mx.array([[min(p.top_k or vocab_size, vocab_size) - 1] for p in params])
        threshold = mx.take_along_axis(descending, rank, axis=-1)
        descending = mx.where(descending >= threshold, descending, -mx.inf)
        weights = mx.exp(descending - descending[:, :1])
        cumulative = _cumulative(weights)
        share = mx.array(np.array([[p.top_p] for p in params]), dtype=wide)
        needed = (cumulative - weights < share * cumulative[:, -1:]) & (weights > 0)
        all_of_it = mx.array([[p.top_p >= 1] for p in params])
        nucleus = mx.where(needed | all_of_it, descending, mx.inf).min(axis=-1, keepdims=True)
        scores = mx.where(scores >= mx.maximum(threshold, nucleus), scores, -mx.inf)
    if any(p.min_p > 0 for p in params):
        least = mx.array(np.array([[np.log(p.min_p) if p.min_p else -np.inf] for p in params]), dtype=wide)
        scores = mx.where(scores >= scores.max(axis=-1, keepdims=True) + least, scores, -mx.inf)
    return scores


def _cumulative(weights: mx.array) -> mx.array:
    """Cumulative sums over the last axis in two levels: the error grows with a level's length, not the vocabulary's."""
    num_rows, length = weights.shape
    num_chunks = -(-length // _CHUNK)
    padded = mx.pad(weights, [(0, 0), (0, num_chunks * _CHUNK - length)]).reshape(num_rows, num_chunks, _CHUNK)
    within = mx.cumsum(padded, axis=-1)
    totals = within[..., -1]
    before = mx.cumsum(totals, axis=-1) - totals
    return (within + before[..., None]).reshape(num_rows, -1)[:, :length]
