"""Whom a session says its workers attended to: who wrote what, by the text that each row sees."""

from __future__ import annotations

import re

import numpy as np
import pytest
from even_attention import NUM_LAYERS, even_shares
from fakes import STYLE, FakeBackend, FakeTokenizer

from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.engine import Engine
from hogwild.errors import OptionError
from hogwild.model import Model

PASSES = 48
STEP = re.compile(r"<([A-E])\d+>[^<\[|]*")
LAST_STEP = re.compile(r"<([A-E])\d+>[^<]*$")
TEXTS = re.compile(r"\[others\]|\[own\]|\|")


def say(view: str) -> str:
    """Steps of different lengths: three letters for A, four for B, and so on."""
    found = LAST_STEP.search(view)
    author = found[1] if found else "A"
    written = len(found[0].partition(">")[2]) if found else 0
    step = author.lower() * (3 + "ABCDE".index(author)) + ".\n\n"
    return step[written % len(step)]


class EvenBackend(FakeBackend):
    """`expected`: for each worker the parts of what its tokens see, by their views as text."""

    num_workers = 2

    def attention_shares(self, plan, columns, num_columns):
        self.expected = {}
        for group in plan.groups:
            of_row = {}
            for token in range(group.num_tokens):
                of_row.setdefault(group.token_row[token], []).append(self._seen(plan, group.token_start + token))
            for views in of_row.values():
                author = LAST_STEP.search(views[-1])[1] if "<" in views[-1] else None
                self.expected.setdefault(author, []).extend(self._by_text(view, author) for view in views)
        return even_shares(plan, columns, num_columns)

    def _by_text(self, view: str, author: str | None) -> list[float]:
        part = re.search(r"<[A-E]?\d*$", view)  # a header that is not complete is the row's own
        whole = view[: part.start()] if part else view
        letters = "ABCDE"[: self.num_workers]
        counts = {letter: sum(len(m[0]) for m in STEP.finditer(whole) if m[1] == letter) for letter in letters}
        if part:
            counts[author] += len(part[0])
        texts = sum(len(m[0]) for m in TEXTS.finditer(view))
        prompt = len(view) - sum(counts.values()) - texts - 1
        return [count / len(view) for count in (*counts.values(), prompt, texts, 1)]


def run(layout: str, workers: int, every: int) -> tuple[list[ev.Event], list[dict], EvenBackend]:
    backend = EvenBackend(say)
    backend.num_workers = workers
    engine = Engine(Model("fake", backend, FakeTokenizer(), {}), cache_tokens=64)
    options = SessionOptions(
        num_workers=workers, layout=LAYOUTS[layout], max_passes=PASSES, finisher_tokens=0, attention_every=every
    )
    session = engine.submit("how?", options, STYLE)
    events, expected = [], []
    while not session.ended:
        new = engine.step()
        events += new
        if any(isinstance(event, ev.AttentionMeasured) for event in new):
            expected.append(backend.expected)
    return events, expected, backend


@pytest.mark.parametrize("layout", ["combined", "interleaved"])
@pytest.mark.parametrize("workers", [2, 3])
def test_every_key_is_counted_to_its_author(layout: str, workers: int) -> None:
    events, expected, _ = run(layout, workers, every=3)
    measured = [event for event in events if isinstance(event, ev.AttentionMeasured)]
    assert [event.pass_index for event in measured] == list(range(3, PASSES + 1, 3))
    assert sum(isinstance(event, ev.StepPublished) for event in events) > 10
    names = "ABC"[:workers]
    for event, by_author in zip(measured, expected, strict=True):
        assert event.columns == (*names, "prompt", "texts", "first token")
        assert event.workers == tuple(range(workers))
        assert len(event.shares) == NUM_LAYERS
        for worker, name in enumerate(names):
            exact = np.mean(by_author[name], axis=0)
            assert np.abs(np.array(event.shares[0][worker]) - exact).max() < 1e-6, (event.pass_index, name)
    assert any(len(views) > 1 for by_author in expected for views in by_author.values()), "a pass with a header"


def test_independent_workers_pay_each_other_nothing() -> None:
    events, _, _ = run("independent", 3, every=5)
    measured = [event for event in events if isinstance(event, ev.AttentionMeasured)]
    assert measured
    for event in measured:
        shares = np.array(event.shares)
        own = shares[:, np.arange(3), np.arange(3)]
        assert (own > 0).all()
        assert (shares[:, :, :3].sum(axis=2) == own).all()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_measuring_changes_nothing_else(layout: str) -> None:
    without, _, plain = run(layout, 2, every=0)
    having, _, measured = run(layout, 2, every=1)
    assert plain.views == measured.views

    def others(events: list[ev.Event]) -> list[dict]:
        kept = [ev.event_to_dict(event) for event in events if not isinstance(event, ev.AttentionMeasured)]
        return [{k: v for k, v in event.items() if k not in ("seconds", "options")} for event in kept]

    assert others(without) == others(having)
    assert len(having) > len(without)


def test_a_pass_whose_measurement_fails_is_rolled_back() -> None:
    backend = EvenBackend(say)
    engine = Engine(Model("fake", backend, FakeTokenizer(), {}), cache_tokens=64)
    session = engine.submit("how?", SessionOptions(max_passes=12, finisher_tokens=0, attention_every=4), STYLE)
    while session.pass_index < 3:
        engine.step()
    before = [worker.own.token_ids.tolist() for worker in session.workers]
    backend.attention_shares = lambda *given: 1 / 0
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert [worker.own.token_ids.tolist() for worker in session.workers] == before
    assert session.pass_index == 3
    del backend.attention_shares
    events = list(engine.events())
    assert [event.pass_index for event in events if isinstance(event, ev.AttentionMeasured)] == [4, 8, 12]


def test_negative_intervals_are_refused() -> None:
    with pytest.raises(OptionError, match="attention_every is too small"):
        SessionOptions(attention_every=-1)
