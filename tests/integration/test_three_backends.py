"""Three backends, one method: the same tokens in fp32, and hidden states within 1e-4, in every layout.

All layouts, with two and with three workers, run as the sessions of one batch: so the passes are ragged and mixed too.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from conftest import load_bundled, need

from hogwild.cache import SharedCache
from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.core.plan import Row
from hogwild.core.sampling import GREEDY
from hogwild.engine import Engine
from hogwild.model import Model
from hogwild.prompts import PromptStyle

PROBLEM = "What is the largest planet of the solar system, and why is it so large?"
NUM_PASSES = 104
END_OF_TEXT = 2  # of the bundled model; nobody may stop early
STYLE = PromptStyle(
    name="parity",
    version=1,
    user="{problem} Answer in short paragraphs.",
    header="**{name} [{step}]:**",
    greetings=(" First of all,", " Another reason is that"),
    check=" Am I doing redundant work? (yes/no):",
    finish="\n\nThe final answer is \\boxed{",
    texts={"in_progress": "### Others\n\n", "separator": " [...]\n\n", "own_header": "### Mine\n\n"},
)
CASES = [(layout, num_workers) for layout in sorted(LAYOUTS) for num_workers in (2, 3)]


@cache
def events_of(backend: str) -> dict[tuple[str, int], list[ev.Event]]:
    """Every case as a session of one batch: its events."""
    engine = Engine(load_bundled(backend))
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
        sampling=dataclasses.replace(GREEDY, banned_ids=(END_OF_TEXT,)),
    )


@pytest.mark.parametrize(("layout", "num_workers"), CASES)
@pytest.mark.parametrize("backend", ["cuda", "mlx"])
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
    published = sum(isinstance(e, ev.StepPublished) for e in events)
    assert (published >= 4 * num_workers) if LAYOUTS[layout].publish else published == 0


def _is_exact(event: ev.Event) -> bool:
    """Everything but times and the name of the backend must be equal."""
    return not isinstance(event, ev.PassDone | ev.PromptRead | ev.SessionStarted)


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
