"""Three backends, one method: the same tokens in fp32 in every layout.

All layouts, with two and with three workers, run as the sessions of one batch: so the passes are ragged and mixed too.
The model is the bundled one with some of its layers; test_whole_model.py has all of them in shorter runs.
"""

from __future__ import annotations

from functools import cache

import pytest
from conftest import CERTAIN, STYLE, load_cut, need

from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.engine import Engine

PROBLEM = "What is the largest planet of the solar system, and why is it so large?"
NUM_PASSES = 104
CASES = [(layout, num_workers) for layout in sorted(LAYOUTS) for num_workers in (2, 3)]


@cache
def events_of(backend: str) -> dict[tuple[str, int], list[ev.Event]]:
    """Every case as a session of one batch: its events."""
    engine = Engine(load_cut(backend))
    sessions = {engine.submit(PROBLEM, _options(*case), STYLE).index: case for case in CASES}
    events: dict[tuple[str, int], list[ev.Event]] = {case: [] for case in CASES}
    for event in engine.events():
        events[sessions[event.session]].append(event)
    return events


def _options(layout: str, num_workers: int) -> SessionOptions:
    return SessionOptions(
        num_workers=num_workers,
        layout=LAYOUTS[layout],
        max_passes=NUM_PASSES,
        max_step_tokens=16,
        check_every=150,
        finish="all",
        finisher_tokens=4,
        sampling=CERTAIN,
    )


@pytest.mark.parametrize(("layout", "num_workers"), CASES)
@pytest.mark.parametrize("backend", ["cuda", "cuda plain", "mlx"])
def test_the_same_tokens_as_the_reference(backend: str, layout: str, num_workers: int):
    need(backend)
    expected, got = (events_of(name)[layout, num_workers] for name in ("reference", backend))
    tokens, others = (
        [(e.worker, e.token_id) for e in run if isinstance(e, ev.TokenWritten)] for run in (expected, got)
    )
    first = next((i for i, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1]), None)
    assert first is None, f"token {first} of {len(tokens)} differs: {tokens[first]} and {others[first]}"
    assert [e for e in got if _is_exact(e)] == [e for e in expected if _is_exact(e)]


@pytest.mark.parametrize(("layout", "num_workers"), CASES)
def test_the_runs_are_worth_comparing(layout: str, num_workers: int):
    events = events_of("reference")[layout, num_workers]
    sampled = [e for e in events if isinstance(e, ev.TokenWritten) and not e.forced]
    assert max(e.pass_index for e in events) == NUM_PASSES
    assert len(sampled) >= 0.9 * NUM_PASSES * num_workers
    assert len({e.token_id for e in sampled}) >= 30, "a model that repeats itself would hide an error"
    published = sum(isinstance(e, ev.StepPublished) for e in events)
    assert (published >= 4 * num_workers) if LAYOUTS[layout].publish else published == 0


def _is_exact(event: ev.Event) -> bool:
    """Everything but times and the name of the backend must be equal."""
    return not isinstance(event, ev.PassDone | ev.PromptRead | ev.SessionStarted)
