r"""Final answers: the last complete `\boxed{...}` of a text, with nested braces; programs in fenced blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_OPENERS = (r"\boxed{", r"\fbox{")
_FENCE = re.compile(r"^[ ]{0,3}(?P<mark>```+|~~~+)[ ]*(?P<language>[\w+-]*)[^\n`]*\n", re.MULTILINE)
_PYTHON = frozenset(("", "python", "python3", "py", "py3"))
_FINAL = re.compile(r"[^\n]*\bfinal program\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FencedBlock:
    """A fenced block of code: its content, and where in the text it ends.

    Attributes:
        is_python: whether Python is named as its language, or none.
        is_closed: whether its end was written, or is only the end of the text.
    """

    content: str
    end: int
    is_python: bool
    is_closed: bool


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


def fenced_blocks(text: str) -> list[FencedBlock]:
    """Every fenced block of a text, in order."""
    blocks, at = [], 0
    while (opening := _FENCE.search(text, at)) is not None:
        closing = _closing_fence(opening["mark"]).search(text, opening.end())
        content = text[opening.end() : closing.start() if closing else len(text)]
        at = closing.end() if closing else len(text)
        blocks.append(FencedBlock(content, at, opening["language"].lower() in _PYTHON, closing is not None))
    return blocks


def final_program(text: str) -> str | None:
    """The last closed block of Python after which the next line says that it is the final program; else None."""
    blocks = [block for block in fenced_blocks(text) if block.is_python and block.is_closed and block.content.strip()]
    final = [block.content.strip() for block in blocks if _FINAL.match(text[block.end :].lstrip())]
    return final[-1] if final else None


def until_closing_fence(text: str) -> str | None:
    """What stands before the line that closes an already opened fenced block; None while it is still open."""
    closing = _closing_fence("```").search(text)
    return text[: closing.start()] if closing else None


def majority(answers: Sequence[str]) -> str | None:
    """The most frequent answer; of equally frequent ones the one given first."""
    return Counter(answers).most_common(1)[0][0] if answers else None


def choose(answers: Sequence[str], policy: Literal["first", "all", "vote"]) -> str | None:
    """The answer that counts: the first one, the last one when all are waited for, or the majority's."""
    if not answers:
        return None
    return {"first": answers[0], "all": answers[-1], "vote": majority(answers)}[policy]


def _closing_fence(mark: str) -> re.Pattern[str]:
    return re.compile(rf"^[ ]{{0,3}}{re.escape(mark)}[`~]*[ \t]*$", re.MULTILINE)


def _occurrences(text: str, part: str) -> list[int]:
    places, at = [], text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places
