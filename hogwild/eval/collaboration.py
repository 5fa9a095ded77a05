"""How workers took notice of each other: repetition, quotations and answers to the check in their text; attention.

Everything is computed from a session's events after the fact; nothing here changes what a run does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hogwild.core import events as ev
from hogwild.eval.attention import Attention, attention

CheckAnswer = Literal["yes", "no", "unclear"]
NGRAM, QUOTE = 4, 8
_WORD = re.compile(r"\w+")
_YES_NO = re.compile(r"\W*(?P<word>yes|yeah|yep|no|nope|not at all|not really)\b", re.IGNORECASE)
Ngrams = frozenset[tuple[str, ...]]


@dataclass(slots=True)
class WrittenStep:
    """One step, and when it was written. Passes count from 1.

    Attributes:
        number: from 1, for each worker.
        header: the forced text that it begins with; text: what the worker sampled after it.
        first_pass, last_pass: the passes that gave its first and its last sampled token.
        published_pass: the pass after which it stood in the common block; None if it never did.
        is_checked: whether it began with the check question.
    """

    worker: int
    number: int
    first_pass: int
    header: str = ""
    text: str = ""
    last_pass: int = 0
    published_pass: int | None = None
    is_checked: bool = False


@dataclass(frozen=True, slots=True)
class Collaboration:
    """The account of one session.

    Attributes:
        redundancy: mean share of repeated n-grams over the steps of all workers; None if no step could be judged.
        quotes: `[reader][author]`: steps of the reader that hold a passage of the author's, word by word.
        mentions: `[reader][named]`: steps of the reader that call another worker by name.
        checks: answers to the check question, in the order in which they were asked.
        attention: whom they attended to; None if it was not measured.
    """

    redundancy: float | None
    quotes: list[list[int]]
    mentions: list[list[int]]
    checks: list[CheckAnswer] = field(default_factory=list)
    attention: Attention | None = None


def measure(events: Iterable[ev.Event]) -> Collaboration:
    """The account of one session from its events, in their order."""
    listed = list(events)
    steps = written_steps(listed)
    names = {event.worker: event.name for event in listed if isinstance(event, ev.WorkerJoined)}
    problem = next((event.problem for event in listed if isinstance(event, ev.SessionStarted)), "")
    shares = [share for share in redundancies(steps, problem) if share is not None]
    return Collaboration(
        redundancy=sum(shares) / len(shares) if shares else None,
        quotes=quotes(steps, len(names), problem),
        mentions=mentions(steps, [names[worker] for worker in sorted(names)]),
        checks=[check_answer(step.text) for step in steps if step.is_checked],
        attention=attention(listed),
    )


def written_steps(events: Iterable[ev.Event]) -> list[WrittenStep]:
    """Every step in which a worker said something, in the order of their first tokens."""
    steps: dict[tuple[int, int], WrittenStep] = {}
    for event in events:
        if isinstance(event, ev.TokenWritten):
            step = steps.setdefault((event.worker, event.step), WrittenStep(event.worker, event.step, event.pass_index))
            _write(step, event)
        elif isinstance(event, ev.CheckAsked):
            checked = WrittenStep(event.worker, event.step, event.pass_index)
            steps.setdefault((event.worker, event.step), checked).is_checked = True
        elif isinstance(event, ev.StepPublished):
            steps[event.worker, event.step].published_pass = event.pass_index
    return sorted((step for step in steps.values() if step.last_pass), key=lambda step: (step.first_pass, step.worker))


def redundancies(steps: Sequence[WrittenStep], problem: str = "", n: int = NGRAM) -> list[float | None]:
    """For each step, the share of its n-grams of words that stood in others' published steps before it was finished.

    What also stands in the problem does not count. None for a step without any n-gram of its own.
    """
    known = ngrams(problem, n)
    grams = [ngrams(step.text, n) - known for step in steps]
    shares: list[float | None] = []
    for step, own in zip(steps, grams, strict=True):
        read = [
            other_grams
            for other, other_grams in zip(steps, grams, strict=True)
            if other.worker != step.worker and _was_published(other, step.last_pass)
        ]
        shares.append(len(own & frozenset().union(*read)) / len(own) if own else None)
    return shares


def quotes(steps: Sequence[WrittenStep], num_workers: int, problem: str = "", n: int = QUOTE) -> list[list[int]]:
    """`[reader][author]`: how many of the reader's steps repeat `n` words in a row that the author had written before.

    "Before" means that the author's step ended no later than the reader's, whether it was published or not; where two
    end in the same pass, neither quotes the other. What stands in the problem does not count.
    """
    known = ngrams(problem, n)
    grams = [ngrams(step.text, n) - known for step in steps]
    counts = [[0] * num_workers for _ in range(num_workers)]
    for step, own in zip(steps, grams, strict=True):
        authors = {
            other.worker
            for other, other_grams in zip(steps, grams, strict=True)
            if other.worker != step.worker and other.last_pass < step.last_pass and own & other_grams
        }
        for author in authors:
            counts[step.worker][author] += 1
    return counts


def mentions(steps: Sequence[WrittenStep], names: Sequence[str]) -> list[list[int]]:
    """`[reader][named]`: how many of the reader's steps hold the name of another worker as a word of its own."""
    patterns = [re.compile(rf"\b{re.escape(name)}\b") for name in names]
    counts = [[0] * len(names) for _ in names]
    for step in steps:
        for named, pattern in enumerate(patterns):
            counts[step.worker][named] += named != step.worker and pattern.search(step.text) is not None
    return counts


def check_answer(text: str) -> CheckAnswer:
    """What a worker answered to "am I doing redundant work?", from the beginning of its step."""
    found = _YES_NO.match(text)
    if found is None:
        return "unclear"
    return "yes" if found["word"].lower().startswith("y") else "no"


def ngrams(text: str, n: int) -> Ngrams:
    """All runs of `n` words, in small letters."""
    words = _WORD.findall(text.lower())
    return frozenset(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _write(step: WrittenStep, event: ev.TokenWritten) -> None:
    if event.forced and not step.last_pass:
        step.header += event.text
    elif not event.forced:
        step.first_pass = step.first_pass if step.last_pass else event.pass_index
        step.last_pass = event.pass_index
        step.text += event.text


def _was_published(step: WrittenStep, last_pass: int) -> bool:
    return step.published_pass is not None and step.published_pass < last_pass
