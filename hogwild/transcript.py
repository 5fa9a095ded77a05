"""The visible state of one session, folded from its events alone.

Everything that is shown (panes, plain text, summary, JSON, replay) is made from a `Transcript`, so a trace shows
exactly what the run did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from hogwild.core import events as ev
from hogwild.errors import TraceError


@dataclass(slots=True)
class Step:
    """One step of one worker, as far as it is written.

    Attributes:
        number: from 1, for each worker.
        header: the forced text that it begins with.
        text: all of it, the header included.
        reason: how it ended; None while it is being written.
        published: whether it stands in the common block.
    """

    worker: int
    number: int
    header: str = ""
    text: str = ""
    num_sampled: int = 0
    num_forced: int = 0
    reason: ev.StepReason | None = None
    published: bool = False


@dataclass(slots=True)
class WorkerState:
    """One worker: the step that it is writing (None between two), and its account of tokens."""

    index: int
    name: str
    step: Step | None = None
    num_steps: int = 0
    num_sampled: int = 0
    num_forced: int = 0
    ended: ev.WorkerReason | None = None


@dataclass(slots=True)
class Transcript:
    """A session as it stands after the events applied so far.

    Attributes:
        started: the event that opened the session: problem, model, options.
        workers: by index.
        finished: every finished step, in the order in which they ended.
        published: those that stand in the common block, in its order.
        prompt_seconds: the time that reading `num_prefilled` tokens of prompt and texts took.
        num_passes: decoding passes; seconds: the sum of their times.
        cache_tokens: K/V rows that the session held in the last pass; separate_tokens: rows in caches of one's own.
        attention: whom the workers attended to, in each pass in which it was measured.
        answers: every answer, in order; answer: the final one.
        reason: how the session ended; None while it has not.
    """

    started: ev.SessionStarted | None = None
    workers: dict[int, WorkerState] = field(default_factory=dict)
    finished: list[Step] = field(default_factory=list)
    published: list[Step] = field(default_factory=list)
    checks: list[ev.CheckAsked] = field(default_factory=list)
    answers: list[ev.AnswerGiven] = field(default_factory=list)
    budgets: list[ev.BudgetReached] = field(default_factory=list)
    prompt_seconds: float = 0.0
    num_prefilled: int = 0
    num_passes: int = 0
    seconds: float = 0.0
    cache_tokens: int = 0
    separate_tokens: int = 0
    attention: list[ev.AttentionMeasured] = field(default_factory=list)
    answer: str | None = None
    reason: ev.SessionReason | None = None
    usage: tuple[dict[str, int], ...] = ()

    def apply(self, event: ev.Event) -> None:
        """Take one event; `TraceError` when it cannot follow what came before, and nothing is changed then."""
        if isinstance(event, ev.SessionStarted) == (self.started is not None):
            raise _misplaced(event, "one session_started, before everything else")
        if self.started is not None and event.session != self.started.session:
            raise _misplaced(event, f"events of session {self.started.session} alone")
        if self.reason is not None:
            raise _misplaced(event, "nothing after the end of the session")
        self._take(event)

    @property
    def unfinished(self) -> list[Step]:
        """The steps that are being written and hold something that a worker said itself, in worker order."""
        steps = [self.workers[index].step for index in sorted(self.workers)]
        return [step for step in steps if step is not None and step.num_sampled]

    @property
    def num_sampled(self) -> int:
        """Tokens that all workers sampled."""
        return sum(worker.num_sampled for worker in self.workers.values())

    @property
    def num_forced(self) -> int:
        """Tokens that were fed to all workers: headers, checks, closing lines."""
        return sum(worker.num_forced for worker in self.workers.values())

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens of all workers in a second of decoding; 0 before the first pass."""
        return self.num_sampled / self.seconds if self.seconds > 0 else 0.0

    @property
    def kv_bytes_per_token(self) -> int:
        """K and V of all layers for one token."""
        return self.started.kv_bytes_per_token if self.started else 0

    def tokens_per_second_of(self, worker: int) -> float:
        """Sampled tokens of one worker in a second of decoding."""
        return self.workers[worker].num_sampled / self.seconds if self.seconds > 0 else 0.0

    def writing_of(self, worker: int) -> list[Step]:
        """A worker's steps that stand in its own block: finished but not published ones, then the current one."""
        own = [step for step in self.finished if step.worker == worker and not step.published]
        current = self.workers[worker].step
        return own if current is None else [*own, current]

    # One method for each kind of event -----------------------------------------------------------------------------

    @singledispatchmethod
    def _take(self, event: ev.Event) -> None:
        raise _misplaced(event, "a known kind of event")

    @_take.register
    def _(self, event: ev.SessionStarted) -> None:
        self.started = event

    @_take.register
    def _(self, event: ev.PromptRead) -> None:
        self.prompt_seconds = _duration(event, event.seconds)
        self.num_prefilled = event.num_tokens

    @_take.register
    def _(self, event: ev.WorkerJoined) -> None:
        if event.worker in self.workers:
            raise _misplaced(event, "every worker to join once")
        self.workers[event.worker] = WorkerState(event.worker, event.name)

    @_take.register
    def _(self, event: ev.TokenWritten) -> None:
        worker = self._worker(event, event.worker)
        step = worker.step or Step(event.worker, event.step)
        if step.number != event.step or worker.ended:
            raise _misplaced(event, f"step {step.number} of a worker that writes")
        worker.step = step
        if event.forced and not step.num_sampled:
            step.header += event.text
        step.text += event.text
        for account in (step, worker):
            account.num_forced += event.forced
            account.num_sampled += not event.forced

    @_take.register
    def _(self, event: ev.CheckAsked) -> None:
        self._worker(event, event.worker)
        self.checks.append(event)

    @_take.register
    def _(self, event: ev.StepEnded) -> None:
        worker = self._worker(event, event.worker)
        if worker.step is None or worker.step.number != event.step:
            raise _misplaced(event, "the step that the worker is writing")
        worker.step.reason = event.reason
        self.finished.append(worker.step)
        worker.step = None
        worker.num_steps += 1

    @_take.register
    def _(self, event: ev.StepPublished) -> None:
        self._worker(event, event.worker)
        waiting = [step for step in self.writing_of(event.worker) if step.reason and step.number == event.step]
        if not waiting:
            raise _misplaced(event, "a finished step that is not yet published")
        waiting[0].published = True
        self.published.append(waiting[0])

    @_take.register
    def _(self, event: ev.AnswerGiven) -> None:
        if event.worker != -1:
            self._worker(event, event.worker)
        self.answers.append(event)

    @_take.register
    def _(self, event: ev.WorkerEnded) -> None:
        self._worker(event, event.worker).ended = event.reason

    @_take.register
    def _(self, event: ev.PassDone) -> None:
        self.seconds += _duration(event, event.seconds)
        self.num_passes = event.pass_index
        self.cache_tokens, self.separate_tokens = event.cache_tokens, event.separate_tokens

    @_take.register
    def _(self, event: ev.AttentionMeasured) -> None:
        shape = [len(event.columns)] * len(event.workers)
        if not (event.shares and event.workers and all([len(row) for row in layer] == shape for layer in event.shares)):
            raise _misplaced(event, "shares [layer][reader][column]")
        for worker in event.workers:
            self._worker(event, worker)
        self.attention.append(event)

    @_take.register
    def _(self, event: ev.BudgetReached) -> None:
        self.budgets.append(event)

    @_take.register
    def _(self, event: ev.SessionEnded) -> None:
        self.reason, self.answer, self.usage = event.reason, event.answer, event.usage

    def _worker(self, event: ev.Event, index: int) -> WorkerState:
        if index not in self.workers:
            raise _misplaced(event, "a worker that has joined")
        return self.workers[index]


def fold(events: Iterable[ev.Event]) -> Transcript:
    """The state after all events of one session."""
    transcript = Transcript()
    for event in events:
        transcript.apply(event)
    return transcript


def _duration(event: ev.Event, seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise _misplaced(event, "a time of zero or more seconds")
    return seconds


def _misplaced(event: ev.Event, expected: str) -> TraceError:
    return TraceError("an event cannot stand here", expected=expected, got=repr(event)[:120])
