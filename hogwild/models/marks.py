"""Telling a template's own text from that of the messages in what it rendered.

A control token's text can only arise where all its characters stand together. So a mark (digits drawn anew for each
conversation) is put behind each character of a message that could begin a control token. What then still reads as a
control token after rendering was written by the template, whatever the template did to the messages.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

_MARK_DIGITS = 24


class Marker:
    """Marks for one conversation. `control_texts`: the texts that must not arise from messages."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        first_chars = sorted({text[0] for text in control_texts if text})
        self._first = re.compile(f"[{re.escape(''.join(first_chars))}]") if first_chars else None
        self.mark_text = "".join(secrets.choice("0123456789") for _ in range(_MARK_DIGITS))

    def mark(self, value: Any) -> Any:
        """A copy of nested lists and dicts with every string marked, keys included."""
        if isinstance(value, str):
            return value if self._first is None else self._first.sub(lambda found: found[0] + self.mark_text, value)
        if isinstance(value, dict):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item) for item in value]
        return value

    def unmark(self, text: str) -> str:
        """The text without marks."""
        return text.replace(self.mark_text, "")
