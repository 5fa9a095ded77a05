"""What every backend's sampler must do: the definition of `hogwild.core.sampling`, in float64, with full sorts.

Checks take the `Subject` of `contract` and a backend that was opened with it. A device that adds up in float32 may
differ where a threshold or the drawn number falls on the edge between two tokens; `slack` says how wide the edge is, as
a share of the probability. With 0 the token must be equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from contract import Subject
from numpy.typing import NDArray

from hogwild.backends.base import Backend
from hogwild.core.sampling import GREEDY, SampleRequest, SamplingParams

Array = NDArray[np.float64]
PARAMS = (
    SamplingParams(),
    SamplingParams(temperature=1.0, top_p=1.0),
    SamplingParams(temperature=0.01),
    SamplingParams(temperature=100.0, top_p=0.999),
    SamplingParams(top_k=1),
    SamplingParams(top_k=7, top_p=1.0),
    SamplingParams(top_k=10**9, top_p=0.5),
    SamplingParams(top_p=1e-9),
    SamplingParams(min_p=0.1, top_p=1.0),
    SamplingParams(min_p=1.0),
    SamplingParams(temperature=1.3, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.3),
    SamplingParams(repetition_penalty=0.6),
    SamplingParams(temperature=0.0, repetition_penalty=1.7),
    GREEDY,
)


def probabilities(logits: NDArray[Any], request: SampleRequest) -> Array:
    """The distribution that a row is drawn from, `[V]`: banned ids, penalty, temperature, top-k, top-p, min-p."""
    params, x = request.params, np.array(logits, dtype=np.float64)
    x[list(request.banned_ids)] = -np.inf
    for token in set(request.history_ids):
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    if params.temperature == 0:
        return np.eye(len(x))[int(np.argmax(x))]
    x = (x - x.max()) / params.temperature
    if params.top_k:
        x[x < np.sort(x)[::-1][: params.top_k][-1]] = -np.inf
    if params.top_p < 1:
        order = np.sort(x)[::-1]
        enough = np.cumsum(np.exp(order)) >= params.top_p * np.exp(order).sum()
        x[x < order[int(np.argmax(enough))]] = -np.inf
    weights = np.exp(x)
    weights[weights < params.min_p * weights.max()] = 0
    return weights / weights.sum()


def is_right(token: int, distribution: Array, uniform: float, slack: float) -> bool:
    """Whether `token` is the one whose share of the cumulative distribution holds `uniform`."""
    end = np.cumsum(distribution)
    if slack == 0:
        return token == int(np.argmax(end > uniform * end[-1]))
    low, high = end[token] - distribution[token], end[token]
    return distribution[token] > 0 and low - slack <= uniform <= high + slack


def check_definition(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """Random rows, peaked and flat, all parameters, all in one batch."""
    rng = np.random.default_rng(7)
    size = backend.spec.vocab_size
    for sharpness in (0.3, 2.0, 9.0):
        logits = (sharpness * rng.standard_normal((len(PARAMS), size))).astype(np.float32)
        requests = [
            SampleRequest(
                params,
                float(rng.random()),
                tuple(rng.choice(size, 5, replace=False).tolist()),
                tuple(rng.integers(0, size, 30).tolist()) if params.repetition_penalty != 1 else (),
            )
            for params in PARAMS
        ]
        result = backend.sample(subject.from_numpy(logits), requests)
        assert result.finite.all()
        for row, request, token in zip(logits, requests, result.token_ids, strict=True):
            assert is_right(int(token), probabilities(row, request), request.uniform, slack), request.params


def check_draw_follows_the_distribution(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """A fine sweep of the uniform number, its ends included, walks through the vocabulary in order."""
    rng = np.random.default_rng(8)
    row = (1.5 * rng.standard_normal(backend.spec.vocab_size)).astype(np.float32)
    params = SamplingParams(temperature=0.9, top_p=0.9)
    uniforms = [*np.linspace(0, 1, 60, endpoint=False).tolist(), float(np.nextafter(1.0, 0.0))]
    requests = [SampleRequest(params, uniform) for uniform in uniforms]
    result = backend.sample(subject.from_numpy(np.tile(row, (len(uniforms), 1))), requests)
    distribution = probabilities(row, requests[0])
    assert (np.diff(result.token_ids) >= 0).all()
    for token, uniform in zip(result.token_ids, uniforms, strict=True):
        assert is_right(int(token), distribution, uniform, slack), uniform


def check_ties(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """Greedy takes the lowest id; tokens that tie with the last one kept by top-k or top-p stay."""
    size = backend.spec.vocab_size
    row = np.full(size, -30.0, dtype=np.float32)
    row[[3, 10, 20, 21]] = (2.0, 5.0, 5.0, 5.0)
    logits = subject.from_numpy(np.tile(row, (4, 1)))
    kept = SamplingParams(temperature=1.0, top_k=1, top_p=1.0), SamplingParams(temperature=1.0, top_p=0.2)
    requests = [
        SampleRequest(GREEDY), SampleRequest(GREEDY, banned_ids=(10,)), *(SampleRequest(params, 0.9) for params in kept)
    ]  # fmt: skip
    assert backend.sample(logits, requests).token_ids.tolist() == [10, 20, 21, 21]


def check_edges_of_the_draw(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """A number on the edge of two tokens means the second one; 0 never means a token without probability."""
    row = np.full(backend.spec.vocab_size, -3e4, dtype=np.float32)
    row[[4, 9]] = 1.0
    logits = subject.from_numpy(np.tile(row, (3, 1)))
    requests = [SampleRequest(SamplingParams(temperature=1.0, top_p=1.0), uniform) for uniform in (0.0, 0.499, 0.5)]
    assert backend.sample(logits, requests).token_ids.tolist() == [4, 4, 9]


def check_banned_tokens_never_come(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """Whatever the parameters; also when a single token is left."""
    size = backend.spec.vocab_size
    banned = tuple(token for token in range(size) if token != 17)
    logits = np.random.default_rng(9).standard_normal((len(PARAMS), size)).astype(np.float32)
    result = backend.sample(subject.from_numpy(logits), [SampleRequest(params, 0.999, banned) for params in PARAMS])
    assert result.finite.all()
    assert set(result.token_ids.tolist()) == {17}


def check_rows_that_are_not_finite(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """A row with NaN, or with nothing to choose from, is marked and leaves its neighbours alone."""
    size = backend.spec.vocab_size
    logits = np.random.default_rng(10).standard_normal((6, size)).astype(np.float32)
    clean = backend.sample(subject.from_numpy(logits), [SampleRequest(PARAMS[0], 0.4)] * 6)
    logits[1, 5], logits[3], logits[4, 7] = np.nan, -np.inf, -np.inf
    requests = [SampleRequest(PARAMS[0], 0.4)] * 6
    requests[5] = SampleRequest(GREEDY, banned_ids=tuple(range(size)))
    for params in (PARAMS[0], GREEDY):
        requests[1] = requests[3] = SampleRequest(params, 0.4)
        result = backend.sample(subject.from_numpy(logits), requests)
        assert result.finite.tolist() == [True, False, True, False, True, False]
        assert result.token_ids[[0, 2]].tolist() == clean.token_ids[[0, 2]].tolist()
    assert not backend.sample(subject.from_numpy(logits[1:2]), [SampleRequest(GREEDY, banned_ids=(5,))]).finite[0]


def check_no_rows(subject: Subject, backend: Backend, slack: float = 0.0) -> None:
    """Nothing to sample gives nothing."""
    empty = np.empty((0, backend.spec.vocab_size), dtype=np.float32)
    result = backend.sample(subject.from_numpy(empty), [])
    assert result.token_ids.shape == result.finite.shape == (0,)


SAMPLING_CHECKS = (
    check_definition,
    check_draw_follows_the_distribution,
    check_ties,
    check_edges_of_the_draw,
    check_banned_tokens_never_come,
    check_rows_that_are_not_finite,
    check_no_rows,
)
