"""A transcript says what the session did, and refuses events that cannot have happened."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.engine import Engine
from hogwild.errors import TraceError
from hogwild.transcript import Transcript, fold
from tests.cli import scripted
from tests.session.test_events import any_event


@functools.cache
def run(num_workers: int = 2, layout: str = "combined", max_passes: int = 40, **options):
    """A session of the scripted model, and its events."""
    engine = Engine(scripted.model(num_pieces=options.pop("num_pieces", len(scripted.NO_ANSWER))))
    settings = SessionOptions(num_workers, LAYOUTS[layout], max_passes, **options)
    session = engine.submit("x", settings)
    return session, tuple(engine.events())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("num_pieces", [len(scripted.NO_ANSWER), len(scripted.PIECES)])
def test_the_fold_agrees_with_the_session(layout, num_workers, num_pieces):
    session, events = run(num_workers, layout, finish="all", check_every=30, num_pieces=num_pieces)
    transcript = fold(events)
    assert transcript.reason == session.ended
    assert transcript.answer == session.answer
    assert transcript.num_passes == session.pass_index
    assert transcript.seconds == sum(event.seconds for event in events if isinstance(event, ev.PassDone))
    for worker, account in zip(session.workers, transcript.usage, strict=True):
        state = transcript.workers[worker.index]
        assert (state.name, state.ended) == (worker.name, worker.ended)
        assert (state.num_sampled, state.num_forced) == (account["sampled"], account["forced"])
        steps = [step for step in [*transcript.finished, *transcript.unfinished] if step.worker == worker.index]
        assert [step.number for step in steps] == list(range(1, len(steps) + 1))
        said = "".join(e.text for e in events if isinstance(e, ev.TokenWritten) and e.worker == worker.index)
        bare_header = state.step.text if state.step is not None and not state.step.num_sampled else ""
        assert said == "".join(step.text for step in steps) + bare_header
    published = [(e.worker, e.step) for e in events if isinstance(e, ev.StepPublished)]
    assert [(step.worker, step.number) for step in transcript.published] == published
    assert (published != []) == LAYOUTS[layout].publish
    assert len(transcript.answers) == sum(isinstance(event, ev.AnswerGiven) for event in events)
    assert len(transcript.checks) == sum(isinstance(event, ev.CheckAsked) for event in events)


def test_a_step_knows_its_forced_header_and_its_end():
    _, events = run(max_step_tokens=5, num_pieces=1)  # "alpha " for ever: every step ends by force
    first = fold(events).finished[0]
    assert first.header.startswith("**Alice [1]:** Hi, I'm Alice.")
    assert first.text == first.header + "alpha " * 5 + "\n\n"
    assert (first.reason, first.num_sampled) == ("limit", 5)
    assert first.num_forced == len(first.header) + 2
    assert first.published


def test_a_finished_step_stands_in_its_block_until_it_is_published():
    _, events = run()
    transcript, seen = Transcript(), 0
    for event in events:
        transcript.apply(event)
        if isinstance(event, ev.StepEnded):
            waiting = transcript.writing_of(event.worker)
            assert (waiting[-1].number, waiting[-1].reason) == (event.step, event.reason)
            seen += 1
        if isinstance(event, ev.StepPublished):
            assert event.step not in [step.number for step in transcript.writing_of(event.worker)]
    assert seen > 3


def test_rates_come_from_the_recorded_seconds():
    _, events = run(num_pieces=3, max_passes=10)
    timed = [dataclasses.replace(e, seconds=0.5) if isinstance(e, ev.PassDone) else e for e in events]
    transcript = fold(timed)
    assert transcript.seconds == 5.0
    assert transcript.tokens_per_second_of(0) == 2.0
    assert transcript.tokens_per_second == 4.0
    assert Transcript().tokens_per_second == 0.0


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e[1:],
        lambda e: [e[0], *e],
        lambda e: [*e, e[-1]],
        lambda e: [event for event in e if not isinstance(event, ev.WorkerJoined)],
        lambda e: [event for event in e if not isinstance(event, ev.StepEnded)],
        lambda e: [event for event in e if not isinstance(event, ev.TokenWritten)],
        lambda e: [e[0], *(dataclasses.replace(event, session=7) for event in e[1:])],
        lambda e: [dataclasses.replace(x, seconds=-1.0) if isinstance(x, ev.PassDone) else x for x in e],
        lambda e: [dataclasses.replace(x, seconds=float("inf")) if isinstance(x, ev.PassDone) else x for x in e],
        lambda e: [x for x in e for _ in range(1 + isinstance(x, ev.StepPublished))],
    ],
)
def test_events_that_cannot_follow_are_refused(change):
    _, events = run()
    fold(events)
    with pytest.raises(TraceError, match="cannot stand here"):
        fold(change(events))


@given(st.lists(any_event, max_size=8))
def test_any_events_are_folded_or_refused(events):
    transcript = Transcript()
    for event in events:
        before = repr(transcript)
        try:
            transcript.apply(event)
        except TraceError:
            assert repr(transcript) == before
