"""Sampling in torch against the definition, written out for one row in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from numpy.typing import NDArray  # noqa: E402

from hogwild.backends.cuda import sampling  # noqa: E402
from hogwild.core.sampling import GREEDY, SampleRequest, SamplingParams  # noqa: E402
from hogwild.errors import TokenError  # noqa: E402

VOCAB = 3000


def by_definition(logits: NDArray[np.float32], request: SampleRequest) -> int:
    """One row, step by step."""
    params, scores = request.params, logits.astype(np.float64)
    scores[list(request.banned_ids)] = -np.inf
    for token in set(request.history_ids):
        scores[token] = (
            scores[token] / params.repetition_penalty
            if scores[token] > 0
            else scores[token] * params.repetition_penalty
        )
    if params.temperature == 0:
        return int(scores.argmax())
    scores = (scores - scores.max()) / params.temperature
    if params.top_k:
        scores[scores < np.sort(scores)[-min(params.top_k, len(scores))]] = -np.inf
    if params.top_p < 1:
        weights = np.sort(np.exp(scores))[::-1]
        needed = int((np.cumsum(weights) < params.top_p * weights.sum()).sum())
        scores[np.exp(scores) < weights[needed]] = -np.inf
    weights = np.exp(scores)
    weights[weights < params.min_p] = 0
    mass = np.cumsum(weights)
    return int(np.argmax(mass > request.uniform * mass[-1]))


def random_request(rng: np.random.Generator) -> SampleRequest:
    params = SamplingParams(
        temperature=float(rng.choice([0.0, 0.3, 1.0, 2.5])),
        top_k=int(rng.choice([0, 1, 5, 200, 5000])),
        top_p=float(rng.choice([0.05, 0.7, 0.95, 1.0])),
        min_p=float(rng.choice([0.0, 0.05, 0.5])),
        repetition_penalty=float(rng.choice([1.0, 1.3, 0.7])),
    )
    banned, history = rng.integers(0, VOCAB, 30), rng.integers(0, VOCAB, 40)
    seen = history.tolist() if params.repetition_penalty != 1 else ()
    return SampleRequest(params, float(rng.random()), banned.tolist(), seen)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_batches_follow_the_definition_row_by_row(spread: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        requests = [random_request(rng) for _ in range(int(rng.integers(1, 6)))]
        logits = (spread * rng.standard_normal((len(requests), VOCAB))).astype(np.float32)
        result = sampling.sample(torch.from_numpy(logits), requests)
        assert result.finite.all()
        assert result.token_ids.tolist() == [by_definition(row, r) for row, r in zip(logits, requests, strict=True)]


def test_top_p_looks_at_what_top_k_leaves() -> None:
    rng = np.random.default_rng(3)
    logits = rng.integers(0, 4, (6, VOCAB)).astype(np.float32)  # full of ties
    params = [SamplingParams(1.0, top_p, top_k) for top_p in (0.3, 0.999) for top_k in (1, 3, 20)]
    requests = [SampleRequest(entry, float(rng.random())) for entry in params]
    chosen = sampling.sample(torch.from_numpy(logits), requests).token_ids.tolist()
    assert chosen == [by_definition(row, request) for row, request in zip(logits, requests, strict=True)]
    cold = SampleRequest(SamplingParams(0.0))
    assert sampling.kinds_of([*requests, cold], VOCAB).top_p == 20, "no need to sort the whole vocabulary"
    assert sampling.kinds_of([*requests, SampleRequest(SamplingParams(1.0, 0.9))], VOCAB).top_p == VOCAB
    assert sampling.kinds_of([cold, SampleRequest(SamplingParams(1.0, 1.0, 5))], VOCAB).top_p == 0


def test_ties_stay_and_the_first_one_wins_greedily() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]])
    assert sampling.sample(logits, [SampleRequest(GREEDY)]).token_ids[0] == 1
    for params in (
        SamplingParams(1.0, top_k=2, top_p=1.0),
        SamplingParams(1.0, top_p=0.3),
        SamplingParams(1.0, 1.0, min_p=1.0),
    ):
        drawn = {int(sampling.sample(logits, [SampleRequest(params, u)]).token_ids[0]) for u in (0.0, 0.5, 0.99)}
        assert drawn == {1, 2, 4}


def test_a_uniform_number_next_to_one_draws_a_token_that_is_allowed() -> None:
    logits = torch.zeros(1, 100)
    request = SampleRequest(SamplingParams(1.0, 1.0), float(np.nextafter(1.0, 0.0)), banned_ids=range(60, 100))
    assert sampling.sample(logits, [request]).token_ids[0] == 59


def test_rows_that_are_not_finite_are_named() -> None:
    logits = torch.zeros(5, 8)
    logits[1, 3], logits[2], logits[3, 0] = float("nan"), float("-inf"), float("inf")
    requests = [SampleRequest(SamplingParams(), 0.5) for _ in range(4)] + [
        SampleRequest(SamplingParams(), 0.5, range(8))
    ]
    assert sampling.sample(logits, requests).finite.tolist() == [True, False, False, False, False]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    requests = [random_request(rng) for _ in range(6)]
    logits = torch.from_numpy(rng.standard_normal((6, VOCAB)).astype(np.float32))
    together = sampling.sample(logits, requests).token_ids.tolist()
    alone = [int(sampling.sample(logits[i : i + 1], [r]).token_ids[0]) for i, r in enumerate(requests)]
    assert together == alone


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(TokenError, match="outside the vocabulary"):
        sampling.sample(torch.zeros(1, 8), [SampleRequest(GREEDY, banned_ids=(8,))])


def test_no_rows_no_tokens() -> None:
    assert len(sampling.sample(torch.zeros(0, 8), []).token_ids) == 0
