"""Sampling on the device, for all rows at once; the definition is in `hogwild.core.sampling`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from hogwild.core.arrays import IntArray
from hogwild.core.sampling import SampleRequest, SampleResult, SamplingParams
from hogwild.errors import TokenError

_CHUNK = 256
_FIRST = 1024  # on a CPU so many of the most likely tokens are ranked before the whole vocabulary is


def sample(logits: mx.array, requests: Sequence[SampleRequest], wide: Any) -> SampleResult:
    """One token for each row of `logits [n, V]`; one evaluation.

    wide: the dtype in which scores and probabilities are computed: float64 where the device has it (CPU), else float32.
    Raises `TokenError` for a banned or seen id outside the vocabulary.
    """
    assert len(logits) == len(requests), f"{len(logits)} rows of logits, {len(requests)} requests"
    if not requests:
        return SampleResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))
    if all(request.params.temperature == 0 and request.params.repetition_penalty == 1 for request in requests):
        return _most_likely(logits, requests)
    scores = _penalise(_ban(logits.astype(wide), requests), requests)
    finite = mx.isfinite(scores.max(axis=-1)) & ~mx.isnan(scores).any(axis=-1)
    tokens = mx.argmax(scores, axis=-1)
    if any(request.params.temperature > 0 for request in requests):
        greedy = mx.array([request.params.temperature == 0 for request in requests])
        tokens = mx.where(greedy, tokens, _draw(scores, requests))
    mx.eval(tokens, finite)
    return SampleResult(np.array(tokens).astype(np.int64), np.array(finite))


def _most_likely(logits: mx.array, requests: Sequence[SampleRequest]) -> SampleResult:
    """On the host: NumPy finds the largest of 49,152 numbers in 6 us, MLX on a CPU in 90. NaN is larger than all."""
    scores = np.asarray(logits.astype(mx.float32))
    index = _index([request.banned_ids for request in requests], scores.shape[-1])
    if index is not None:
        scores = scores.copy()
        scores[index] = -np.inf
    tokens = scores.argmax(axis=-1)
    return SampleResult(tokens, np.isfinite(scores[np.arange(len(tokens)), tokens]))


def _ban(scores: mx.array, requests: Sequence[SampleRequest]) -> mx.array:
    index = _index([request.banned_ids for request in requests], scores.shape[-1])
    if index is None:
        return scores
    scores = mx.array(scores)
    scores[_on_device(index)] = mx.array(-mx.inf, scores.dtype)
    return scores


def _penalise(scores: mx.array, requests: Sequence[SampleRequest]) -> mx.array:
    params = [request.params for request in requests]
    seen = [r.history_ids if r.params.repetition_penalty != 1.0 else () for r in requests]
    index = _index(seen, scores.shape[-1])
    if index is None:
        return scores
    where = _on_device(index)
    penalty = _column(params, lambda p: p.repetition_penalty, scores.dtype)[where[0], 0]
    values = scores[where]
    scores = mx.array(scores)
    scores[where] = mx.where(values > 0, values / penalty, values * penalty)
    return scores


def _index(lists: Sequence[Any], vocab_size: int) -> tuple[IntArray, IntArray] | None:
    """Row and column of every id, or None when there are none."""
    lengths = [len(ids) for ids in lists]
    if not sum(lengths):
        return None
    ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in lists])
    bad = ids[(ids < 0) | (ids >= vocab_size)]
    if len(bad):
        raise TokenError("a token id is outside the vocabulary", expected=f"0..{vocab_size - 1}", got=str(int(bad[0])))
    rows = np.repeat(np.arange(len(lists)), lengths)
    return rows, ids


def _on_device(index: tuple[IntArray, IntArray]) -> tuple[mx.array, mx.array]:
    return mx.array(index[0].astype(np.int32)), mx.array(index[1].astype(np.int32))


def _column(params: Sequence[SamplingParams], read: Callable[[SamplingParams], float], dtype: Any) -> mx.array:
    """One parameter of each row, `[n, 1]`."""
    return mx.array(np.array([[float(read(p))] for p in params]), dtype=dtype)


def _draw(scores: mx.array, requests: Sequence[SampleRequest]) -> mx.array:
    """The first id in vocabulary order whose cumulative probability exceeds the row's uniform number of the total."""
    params = [request.params for request in requests]
    scores = scores - scores.max(axis=-1, keepdims=True)
    scores = _keep(scores / _column(params, lambda p: p.temperature or 1.0, scores.dtype), params)
    weights = mx.exp(scores)
    cumulative = _cumulative(weights)
    uniform = mx.array(np.array([[request.uniform] for request in requests]), dtype=scores.dtype)
    reached = (cumulative > uniform * cumulative[:, -1:]) & (weights > 0)
    # The product may round up to the total, which nothing exceeds: then it is the last id that was kept.
    last = scores.shape[-1] - 1 - mx.argmax((weights > 0)[:, ::-1], axis=-1)
    return mx.where(reached.any(axis=-1), mx.argmax(reached, axis=-1), last)


def _keep(scores: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """Hide what top-k, then top-p, then min-p drop; ties with a threshold stay. The best score is 0."""
    if any(p.top_k for p in params):
        most = min(max(p.top_k for p in params), scores.shape[-1])
        last = _column(params, lambda p: min(p.top_k or most, most) - 1, mx.int32)
        threshold = mx.take_along_axis(_ranked(scores, most), last, axis=-1)
        off = _column(params, lambda p: p.top_k, mx.int32) == 0
        scores = mx.where((scores >= threshold) | off, scores, -mx.inf)
    if any(p.top_p < 1 for p in params):
        top_p = _column(params, lambda p: p.top_p, scores.dtype)
        scores = mx.where((scores >= _nucleus(scores, top_p)) | (top_p >= 1), scores, -mx.inf)
    if any(p.min_p for p in params):
        scores = mx.where(mx.exp(scores) >= _column(params, lambda p: p.min_p, scores.dtype), scores, -mx.inf)
    return scores


def _nucleus(scores: mx.array, top_p: mx.array) -> mx.array:
    """The score `[n, 1]` of the last token that is needed to reach the probability `top_p [n, 1]`."""
    size = scores.shape[-1]
    goal = top_p * mx.exp(scores).sum(axis=-1, keepdims=True)
    count = min(_FIRST, size) if mx.default_device() == mx.Device(mx.cpu) else size
    ranked = _ranked(scores, count)
    mass = _cumulative(mx.exp(ranked))
    if count < size and not ((mass[:, -1:] >= goal) | (top_p >= 1)).all().item():
        ranked = _ranked(scores, size)
        mass = _cumulative(mx.exp(ranked))
    last = mx.minimum((mass < goal).sum(axis=-1, keepdims=True), ranked.shape[-1] - 1)
    return mx.take_along_axis(ranked, last, axis=-1)


def _ranked(scores: mx.array, count: int) -> mx.array:
    """The `count` highest scores of each row, highest first."""
    highest = scores if count == scores.shape[-1] else mx.topk(scores, count, axis=-1)
    return mx.sort(highest, axis=-1)[:, ::-1]


def _cumulative(weights: mx.array) -> mx.array:
    """Cumulative sums over the last axis in two levels: the error grows with a level's length, not the vocabulary's."""
    num_rows, length = weights.shape
    num_chunks = -(-length // _CHUNK)
    padded = mx.pad(weights, [(0, 0), (0, num_chunks * _CHUNK - length)]).reshape(num_rows, num_chunks, _CHUNK)
    within = mx.cumsum(padded, axis=-1)
    totals = within[..., -1]
    before = mx.cumsum(totals, axis=-1) - totals
    return (within + before[..., None]).reshape(num_rows, -1)[:, :length]
