r"""The final answer in a worker's text: the last complete box, a line "Answer: ...", a block of code.

What is given here is text that a model wrote, never the prompt.
"""

from __future__ import annotations

import re

from hogwild.core.answer import boxed_answer, fenced_blocks

_ANSWER_LINE = re.compile(r"(?:^|\b)(?:final\s+)?answer(?:\s+is)?\s*[:=]\s*(?P<answer>[^\n]*\S)", re.IGNORECASE)
_BARE_BOX = re.compile(r"\\boxed\s+(?P<token>\\?[^\s$.,{}]+)")


def find_answer(text: str) -> str | None:
    r"""The last complete `\boxed{...}`; in a text without any, the last line that begins "Answer:"; else None.

    A box that was begun and not closed does not count, and neither does an empty one.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    lines = [match["answer"] for match in _ANSWER_LINE.finditer(text)]
    return _bare(lines[-1]) if lines else None


def gold_answer(solution: str) -> str | None:
    r"""The answer of a written solution in a data set, where `\boxed 5` without braces occurs as well."""
    boxed = boxed_answer(solution)
    bare = [match["token"] for match in _BARE_BOX.finditer(solution)]
    return boxed if boxed is not None else bare[-1] if bare else None


def find_code(text: str) -> str | None:
    """The last fenced block of Python (or of no named language); one that the end of the text cuts off counts.

    A text without a fence is code itself if it compiles, or else what its last box holds.
    """
    boxed = boxed_answer(text) or ""
    for place in (text, boxed):
        blocks = [block.content for block in fenced_blocks(place) if block.is_python and block.content.strip()]
        if blocks:
            return blocks[-1]
    return next((place for place in (text, boxed) if place.strip() and _compiles(place)), None)


def _bare(line: str) -> str:
    """A line's content without emphasis, dollar signs around a formula, and a full stop at the end."""
    answer = line.strip().rstrip("*_`. ").lstrip("*_` ")
    while len(answer) > 1 and answer[0] == answer[-1] == "$":
        answer = answer[1:-1].strip()
    return answer


def _compiles(text: str) -> bool:
    try:
        compile(text, "answer", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
