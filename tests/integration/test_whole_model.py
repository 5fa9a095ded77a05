"""Three backends and the whole bundled model: the same tokens, greedy and drawn, and hidden states within 1e-4.

Sampled tokens are the same because draws come from the host, by worker and seed. All sessions run in one batch.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
from conftest import CERTAIN, PACKAGES, STYLE, load_bundled, need

from hogwild.cache import SharedCache
from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.core.plan import Row
from hogwild.core.sampling import SamplingParams
from hogwild.engine import Engine
from hogwild.model import Model
from hogwild.proof import prove_sharing

NUM_PASSES, MAX_STEP_TOKENS = 12, 5
PROBLEM = "Name some animals that live in the sea, and say one thing about each of them."
WARM = SamplingParams(temperature=0.8, top_p=0.95, top_k=60, min_p=0.01, repetition_penalty=1.1)
HOT = SamplingParams(temperature=1.3, top_p=0.9)
# Layout, sampling of each worker, seed, prompt style.
CASES = (
    ("combined", (WARM, HOT), 5, STYLE),
    ("combined", (WARM, HOT), 6, STYLE),
    ("interleaved", (WARM, HOT, WARM), 5, "hogwild"),
    ("interleaved", (CERTAIN, CERTAIN), 5, STYLE),
    ("contiguous", (CERTAIN, CERTAIN), 5, STYLE),
    ("combined", (CERTAIN, CERTAIN, CERTAIN), 5, STYLE),
)
rng = random.Random(7)
CODES = [f"{rng.randrange(1000, 10000)}" for _ in range(5)]


@cache
def events_of(backend: str) -> tuple[tuple[ev.Event, ...], ...]:
    """The events of each case, all sessions of one batch."""
    engine = Engine(load_bundled(backend))
    events: list[list[ev.Event]] = []
    for layout, sampling, seed, style in CASES:
        options = SessionOptions(
            num_workers=len(sampling),
            layout=LAYOUTS[layout],
            max_passes=NUM_PASSES,
            max_step_tokens=MAX_STEP_TOKENS,
            finisher_tokens=0,
            seed=seed,
            sampling=sampling,
        )
        engine.submit(PROBLEM, options, style)
        events.append([])
    for event in engine.events():
        events[event.session].append(event)
    return tuple(map(tuple, events))


def tokens_of(backend: str) -> list[list[tuple[int, int]]]:
    """For each case the (worker, token) pairs in the order of writing."""
    return [[(e.worker, e.token_id) for e in run if isinstance(e, ev.TokenWritten)] for run in events_of(backend)]


@pytest.mark.parametrize("backend", ["cuda", "mlx"])
def test_the_same_tokens_on_every_backend(backend: str):
    need(backend)
    assert tokens_of(backend) == tokens_of("reference")


def test_the_runs_are_worth_comparing():
    first, other_seed, *_ = runs = tokens_of("reference")
    num_workers = [len(sampling) for _, sampling, _, _ in CASES]
    assert all(len(run) >= NUM_PASSES * count for run, count in zip(runs, num_workers, strict=True))
    assert first != other_seed, "the seed makes no difference"
    for (layout, *_), count, events in zip(CASES, num_workers, events_of("reference"), strict=True):
        published = sum(isinstance(e, ev.StepPublished) for e in events)
        assert published >= count if LAYOUTS[layout].publish else published == 0


@pytest.mark.parametrize("backend", ["cuda", "mlx"])
def test_hidden_states_agree_layer_by_layer(backend: str):
    need(backend)
    expected, got = (_hidden_states(load_bundled(name)) for name in ("reference", backend))
    assert len(expected) == len(got) == load_bundled("reference").spec.num_layers
    for layer, (a, b) in enumerate(zip(expected, got, strict=True)):
        error = np.abs(a - b).max() / np.abs(a).max()
        assert error < 1e-4, f"layer {layer} differs by {error:.1e}"


def _hidden_states(model: Model) -> list[np.ndarray]:
    """A ragged pass over shared, published and repeated blocks."""
    cache = SharedCache(model.backend)
    encode = model.tokenizer.encode
    common = cache.block(encode("The solar system has eight planets. " * 12))
    separator = cache.block(encode("\n---\n"), [common])
    for step in range(5):
        common.link(cache.block(encode(f"Step {step}: planets are round.\n\n"), [common]))
    a, b, c = (cache.new_block(name) for name in "abc")
    rows = [
        Row((common, b, separator, c, separator, a), tuple(encode("Jupiter is the largest one, and")), logits="all"),
        Row((common, a, separator, c, separator, b), tuple(encode("Mars")), logits="all"),
        Row((common, a, separator, b, separator, c), tuple(encode("Saturn has rings")), logits="all"),
    ]
    result = cache.forward(rows, hidden_states=True)
    assert result.hidden_states is not None
    return [np.asarray(state, dtype=np.float64) for state in result.hidden_states]


@pytest.mark.parametrize("backend", list(PACKAGES))
def test_bob_reads_the_code_from_the_step_that_alice_is_writing(backend: str):
    """The proof of sharing holds for many codes."""
    need(backend)
    proofs = [prove_sharing(load_bundled(backend), code) for code in CODES]
    assert [proof.code for proof in proofs if not proof.holds] == []
    assert len({proof.without_alice for proof in proofs}) == 1, "without Alice's block nothing can depend on the code"
