r"""Final answers: the last complete `\boxed{...}` of a text, with nested braces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

_OPENERS = (r"\boxed{", r"\fbox{")


def boxed_answer(text: str) -> str | None:
    r"""The content of the last closed `\boxed{...}`, e.g. `\frac{1}{2}`; None if there is none or it is empty."""
    starts = sorted(
        (at + len(opener) for opener in _OPENERS for at in _occurrences(text, opener)),
        reverse=True,
    )
    answers = (until_closing_brace(text[start:]) for start in starts)
    return next((answer.strip() for answer in answers if answer and answer.strip()), None)


def until_closing_brace(text: str) -> str | None:
    """What stands before the brace that closes an already opened one; None while it is still open.

    A brace after a backslash is a character, not a bracket.
    """
    depth, i = 1, 0
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[:i]
        i += 1
    return None


def majority(answers: Sequence[str]) -> str | None:
    """The most frequent answer; of equally frequent ones the one given first."""
    return Counter(answers).most_common(1)[0][0] if answers else None


def choose(answers: Sequence[str], policy: Literal["first", "all", "vote"]) -> str | None:
    """The answer that counts: the first one, the last one when all are waited for, or the majority's."""
    if not answers:
        return None
    return {"first": answers[0], "all": answers[-1], "vote": majority(answers)}[policy]


def _occurrences(text: str, part: str) -> list[int]:
    places, at = [], text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places
