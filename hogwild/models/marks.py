"""Telling a template's own text from that of the messages in what it rendered.

A control token's text can only arise where all its characters stand together. So a mark (digits drawn anew for each
conversation, the same read backwards) is put around each character of a message that could begin a control token. What
then still reads as one after rendering was written by the template, whatever that cut, joined or replaced.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

_HALF_MARK_DIGITS = 16


class Marker:
    """Marks for one conversation. `control_texts`: the texts that must not arise from messages."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        first_chars = sorted({text[0] for text in control_texts if text})
        self._first = re.compile(f"[{re.escape(''.join(first_chars))}]") if first_chars else None
        half = "".join(secrets.choice("0123456789") for _ in range(_HALF_MARK_DIGITS))
        self.mark_text = half + half[::-1]

    def mark(self, value: Any) -> Any:
        """A copy of nested lists and dicts with every string marked, keys included."""
        if isinstance(value, str):
            return value if self._first is None else self._first.sub(self._surrounded, value)
        if isinstance(value, dict):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item) for item in value]
        return value

    def _surrounded(self, found: re.Match[str]) -> str:
        return f"{self.mark_text}{found[0]}{self.mark_text}"

    def surrounds(self, text: str, start: int, end: int) -> bool:
        """Whether a match is a single marked character of a message: a control token of one character."""
        marked = text.endswith(self.mark_text, 0, start) and text.startswith(self.mark_text, end)
        return end - start == 1 and marked

    def unmark(self, text: str) -> str:
        """The text without marks."""
        return text.replace(self.mark_text, "")
