"""Any sampler, any layout, workers that come and go: the session keeps its accounts and ends within its budget.

Each invariant has a seeded fault that it catches.
"""

from __future__ import annotations

import random

import pytest
from fakes import STYLE, fake_engine
from hypothesis import given
from hypothesis import strategies as st
from invariants import Watch

from hogwild.core import events as ev
from hogwild.core.blocks import Block
from hogwild.core.finisher import Finisher
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.core.pool import Reservation
from hogwild.core.worker import Worker
from hogwild.core.writing import Writing

ALPHABET = ["a", " ", ".", "\n", "<", ">", "{", "}", "EOS", "NAN", "```", "$"]


def sampler(kind: str, seed: int):
    rng = random.Random(seed)

    def noise(view: str) -> str:
        if rng.random() < 0.002:
            return "NAN"
        return rng.choice([*("ab. \n" * 3), "}", "EOS" if rng.random() < 0.1 else "c"])

    recited = {"separators": "\n", "never": "x", "headers": "<B1>", "boxes": "\\boxed{1}.\n\n", "steps": "ab.\n\n"}
    if kind == "random":
        return noise
    text = recited[kind]
    return lambda view: text[rng.randrange(len(text))] if kind == "headers" else text[len(view) % len(text)]


options = st.fixed_dictionaries(
    {
        "num_workers": st.integers(1, 5),
        "layout": st.sampled_from([LAYOUTS[name] for name in sorted(LAYOUTS)]),
        "max_passes": st.integers(1, 60),
        "max_tokens": st.integers(1, 80),
        "max_step_tokens": st.integers(1, 20),
        "check_every": st.sampled_from([0, 1, 13]),
        "finish": st.sampled_from(["first", "all", "vote"]),
        "budgets": st.sets(st.integers(1, 60), max_size=3).map(lambda budgets: tuple(sorted(budgets))),
        "finisher_tokens": st.sampled_from([0, 1, 8]),
        "step_order": st.sampled_from(["with_step", "next_step"]),
    }
)
kinds = st.sampled_from(["random", "separators", "never", "headers", "boxes", "steps"])


def run_session(kind: str, seed: int, given_options: dict, context_size: int, changes: list[tuple[int, str]]) -> Watch:
    engine, _ = fake_engine(sampler(kind, seed), context_size)
    session = engine.submit("p", SessionOptions(**given_options), STYLE)
    watch = Watch(engine, session)
    for _ in range(400):
        watch.step()
        if session.ended:
            break
        for at, what in changes:
            if at == session.pass_index and what == "join" and len(session.workers) < 7:
                session.join()
            elif at == session.pass_index and what == "stop":
                session.stop_worker(session.workers[at % len(session.workers)])
            elif at == session.pass_index and what == "dismiss":
                session.dismiss(session.workers[at % len(session.workers)])
        watch.events += session.drain()
        watch.check()
    assert session.ended, "the session did not end within its budget"
    return watch


@given(
    kind=kinds,
    seed=st.integers(0, 1000),
    given_options=options,
    context_size=st.sampled_from([40, 90, 100_000]),
    changes=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["join", "stop", "dismiss"])), max_size=4),
)
def test_every_session_keeps_its_accounts_and_ends(kind, seed, given_options, context_size, changes):
    watch = run_session(kind, seed, given_options, context_size, changes)
    session = watch.session
    assert session.pass_index <= session.options.max_passes
    budgets = [event.budget for event in watch.of(ev.BudgetReached)]
    assert budgets == sorted(budgets)
    for worker in session.workers:
        assert worker.num_sampled <= session.pass_index
    assert sum(isinstance(event, ev.SessionEnded) for event in watch.events) == 1


def _lose_a_published_token(monkeypatch):
    link = Block.link

    def faulty(self, step):
        step.truncate(len(step) - 1)
        link(self, step)

    monkeypatch.setattr(Block, "link", faulty)


def _publish_in_reverse(monkeypatch):
    def faulty(self):
        for worker in reversed(self._workers):
            if worker.closing is not None and not worker.closing_ids:
                self._publish(worker)

    monkeypatch.setattr(Writing, "publish_closed", faulty)


def _publish_before_the_last_token(monkeypatch):
    begin = Writing._begin_closing

    def faulty(self, worker):
        begin(self, worker)
        worker.closing_ids = []

    monkeypatch.setattr(Writing, "_begin_closing", faulty)


def _finisher_keeps_its_pages(monkeypatch):
    monkeypatch.setattr(Finisher, "close", lambda self: None)


def _finisher_writes_the_real_blocks(monkeypatch):
    monkeypatch.setattr(Block, "fork", lambda self, name="": self)


def _reservation_leaks(monkeypatch):
    monkeypatch.setattr(Reservation, "close", lambda self: None)


def _stopped_worker_keeps_its_account(monkeypatch):
    monkeypatch.setattr(Worker, "release", lambda self, block: block.clear())


def _forced_tokens_are_not_counted(monkeypatch):
    force = Writing.force

    def faulty(self, worker, ids):
        force(self, worker, ids)
        worker.num_forced -= len(ids) > 0

    monkeypatch.setattr(Writing, "force", faulty)


FAULTS = [
    (_lose_a_published_token, "not the published steps"),
    (_publish_in_reverse, "in worker order"),
    (_publish_before_the_last_token, "account does not add up"),
    (_finisher_keeps_its_pages, "still held"),
    (_finisher_writes_the_real_blocks, "accounts differ|fill every"),
    (_reservation_leaks, "reservation leaked"),
    (_stopped_worker_keeps_its_account, "accounts differ|account does not add up"),
    (_forced_tokens_are_not_counted, "account does not add up"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__.strip("_") for fault, _ in FAULTS])
def test_a_seeded_fault_is_caught(fault, message, monkeypatch):
    given_options = {
        "num_workers": 3,
        "max_passes": 40,
        "max_step_tokens": 9,
        "budgets": (5, 17),
        "finisher_tokens": 4,
    }
    run_session("steps", 0, given_options, 100_000, [(6, "stop")])
    fault(monkeypatch)
    with pytest.raises(AssertionError, match=message):
        run_session("steps", 0, given_options, 100_000, [(6, "stop")])
