"""Sampled runs, not only greedy ones, are the same on all backends: draws come from the host, by worker and seed."""

from __future__ import annotations

from functools import cache

import pytest
from conftest import load_bundled, need

from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import SamplingParams
from hogwild.engine import Engine

NUM_PASSES = 12
PROBLEM = "Name some animals that live in the sea, and say one thing about each of them."
WARM = SamplingParams(temperature=0.8, top_p=0.95, top_k=60, min_p=0.01, repetition_penalty=1.1)
HOT = SamplingParams(temperature=1.3, top_p=0.9)
CASES = (("combined", 2, 5), ("combined", 2, 6), ("interleaved", 3, 5))


@cache
def tokens_of(backend: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each case, sessions of one batch, the (worker, token) pairs in the order of writing."""
    engine = Engine(load_bundled(backend))
    written: list[list[tuple[int, int]]] = []
    for layout, num_workers, seed in CASES:
        options = SessionOptions(
            num_workers=num_workers,
            layout=LAYOUTS[layout],
            max_passes=NUM_PASSES,
            max_step_tokens=14,
            finisher_tokens=0,
            seed=seed,
            sampling=(WARM, HOT, WARM)[:num_workers],
        )
        engine.submit(PROBLEM, options)
        written.append([])
    for event in engine.events():
        if isinstance(event, ev.TokenWritten):
            written[event.session].append((event.worker, event.token_id))
    return tuple(map(tuple, written))


@pytest.mark.parametrize("backend", ["cuda", "mlx"])
def test_the_same_draws_on_every_backend(backend: str):
    need(backend)
    assert tokens_of(backend) == tokens_of("reference")


def test_the_runs_are_worth_comparing():
    first, other_seed, _ = runs = tokens_of("reference")
    lengths = zip(map(len, runs), (num_workers for _, num_workers, _ in CASES), strict=True)
    assert all(length >= NUM_PASSES * num_workers for length, num_workers in lengths)
    assert first != other_seed, "the seed makes no difference"
