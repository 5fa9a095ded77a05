"""A course: a session whose every token is known, so that any backend can be led along it, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend
from hogwild.core.events import Event, SessionEnded, SessionStarted, TokenWritten, WorkerEnded, WorkerJoined
from hogwild.core.layout import layout_from_dict
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import GREEDY
from hogwild.engine import Engine
from hogwild.errors import HogwildError, TraceError
from hogwild.model import Model
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.tokenizer import Tokenizer
from hogwild.prompts import PromptStyle, find_style
from hogwild.trace import read_trace

if TYPE_CHECKING:
    from hogwild.core.feeds import Feed

Logits = NDArray[np.float32]
_BY_HAND = ("nan", "dismissed", "cancelled")  # ends of workers that no token says


@dataclass(frozen=True, slots=True)
class Course:
    """What a session was given and what came of it.

    Attributes:
        tokens: everything that was written, in order, headers included; None: what the backend itself likes best.
        num_prompt_tokens: of the recorded prompt; None: not known.
        ended: workers that ended with an end-of-text token, which is no token of theirs.
    """

    problem: str
    style: PromptStyle
    options: SessionOptions
    tokens: tuple[TokenWritten, ...] | None = None
    num_prompt_tokens: int | None = None
    ended: frozenset[int] = frozenset()


BUILT_IN = Course(
    "How many primes are there below one hundred?",
    replace(find_style("pair"), chat=False),
    SessionOptions(
        num_workers=3, max_passes=100, max_step_tokens=24, check_every=0, finisher_tokens=0, sampling=GREEDY
    ),
)
"""For a model without a trace: some 300 tokens of its own, in published steps."""


def read_course(path: Path) -> Course:
    """From a trace of `hogwild generate`, as far as its tokens alone decide what happens; `TraceError` for others."""
    events = read_trace(path)
    started = next(events, None)
    if not isinstance(started, SessionStarted):
        raise TraceError(f"{path} holds no session", expected="a trace of `hogwild generate --trace`")
    session = (event for event in events if event.session == started.session)
    return _course(started, list(takewhile(lambda event: not _is_by_hand(event), session)), path)


def _course(started: SessionStarted, events: list[Event], path: Path) -> Course:
    given: Mapping[str, Any] = started.options
    kept = ("num_workers", "max_passes", "max_tokens", "max_step_tokens", "check_every", "finish", "step_order", "seed")
    try:
        layout = layout_from_dict(given["layout"], started.layout)
        options = SessionOptions(
            **{name: given[name] for name in kept}, layout=layout, sampling=GREEDY, finisher_tokens=0
        )
        style = find_style(started.prompt_style.partition("/")[0])
    except (HogwildError, KeyError, TypeError) as error:
        raise TraceError(
            f"the session of {path} cannot be set up again",
            expected="options, layout and prompt style that this version of hogwild knows",
            got=str(error)[:160],
        ) from None
    joined = [event.worker for event in events if isinstance(event, WorkerJoined)]
    if max(joined, default=0) >= options.num_workers:
        raise TraceError(f"a worker joined the session of {path} later", expected="workers that were there at first")
    tokens = tuple(event for event in events if isinstance(event, TokenWritten))
    if not tokens:
        raise TraceError(f"nothing was written in {path}", expected="at least one token")
    ended = frozenset(event.worker for event in events if isinstance(event, WorkerEnded) and event.reason == "eos")
    return Course(started.problem, style, options, tokens, started.num_prompt_tokens, ended)


def _is_by_hand(event: Event) -> bool:
    stopped = isinstance(event, WorkerEnded) and event.reason in _BY_HAND
    return stopped or (isinstance(event, SessionEnded) and event.reason == "cancelled")


class Walk:
    """A backend on a course. Iterate: logits `[n, V]` of every token of each pass, the prompt's included.

    Attributes:
        prompt_ids: what every worker reads first.
        written: the tokens so far. A backend that is not led but leads gives the course for others, see `as_course`.
    """

    def __init__(self, backend: Backend, checkpoint: Checkpoint, course: Course) -> None:
        self.course = course
        self.written: list[TokenWritten] = []
        self._tokenizer: Tokenizer = checkpoint.tokenizer
        self._engine = Engine(Model(checkpoint.name, backend, checkpoint.tokenizer, {}))
        self._session = self._engine.submit(course.problem, course.options, course.style)
        self.prompt_ids = self._session.script.prompt_ids()
        self._left = {
            worker: [token.token_id for token in course.tokens or () if token.worker == worker and not token.forced]
            for worker in range(course.options.num_workers)
        }
        self._ended: set[int] = set()
        self._note(self._session.drain())

    def __iter__(self) -> Iterator[Logits]:
        while feeds := self._session.feeds():
            if self._is_over(feeds):
                return
            cache = self._engine.cache
            logits = cache.to_numpy(cache.forward([replace(feed.row, logits="all") for feed in feeds]))
            ends = np.cumsum([len(feed.row.token_ids) for feed in feeds]) - 1
            chosen = [self._choose(feed, logits[end]) for feed, end in zip(feeds, ends, strict=True)]
            self._session.commit(feeds, chosen, 0.0)
            self._note(self._session.drain())
            yield logits

    def as_course(self) -> Course:
        """What was written, for others."""
        return replace(self.course, tokens=tuple(self.written), ended=frozenset(self._ended))

    def _is_over(self, feeds: Iterable[Feed]) -> bool:
        """Whether the next token of some worker is not recorded."""
        workers = [feed.worker.index for feed in feeds if feed.worker is not None and feed.request is not None]
        missing = [worker for worker in workers if not self._left[worker] and worker not in self.course.ended]
        return self.course.tokens is not None and bool(missing)

    def _choose(self, feed: Feed, logits: Logits) -> int | None:
        if feed.request is None or feed.worker is None:
            return None
        worker = feed.worker.index
        if self.course.tokens is None:
            logits = logits.copy()
            logits[np.asarray(feed.request.banned_ids, dtype=np.int64)] = -np.inf
            chosen = int(logits.argmax())
            if chosen in self._tokenizer.eos_ids:
                self._ended.add(worker)
            return chosen
        return self._left[worker].pop(0) if self._left[worker] else min(self._tokenizer.eos_ids)

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, SessionStarted):
                expected, got = self.course.num_prompt_tokens, event.num_prompt_tokens
                if expected not in (None, got):
                    raise _strange(f"a prompt of {expected} tokens", f"{got} tokens")
            elif isinstance(event, TokenWritten):
                self._check(event)
                self.written.append(event)

    def _check(self, token: TokenWritten) -> None:
        recorded = self.course.tokens
        if recorded is None or len(self.written) >= len(recorded):
            return
        expected = recorded[len(self.written)]
        if _facts(token) != _facts(expected):
            place = f"token {len(self.written)} of the trace"
            raise _strange(f"{place}: {_facts(expected)}", f"{_facts(token)} (worker, step, id, forced)")


def _facts(token: TokenWritten) -> tuple[int, int, int, bool]:
    return token.worker, token.step, token.token_id, token.forced


def _strange(expected: str, got: str) -> TraceError:
    return TraceError(
        "the model does not write the session as the trace has it",
        expected=expected,
        got=got,
        remedy="give the trace of a run with this model, its tokenizer and this version of hogwild",
    )
