"""Token ids to text while they arrive: what was given out never changes, and all of it equals the whole text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class ByteStreamDecoder:
    """For byte-level vocabularies: each token is a run of bytes; an unfinished character is held back."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; empty within a multi-byte character."""
        return self._utf8.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """What was held back, with replacement characters for broken bytes. The decoder can be used again."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class WindowStreamDecoder:
    """For any other vocabulary: tokens since the last certain text are decoded again behind one token of context.

    Arguments:
        held: tokens that are one byte each (`<0xE2>`); a run of them means something only as a whole and waits.
        skipped: tokens without text.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, held: frozenset[int], skipped: frozenset[int]
    ) -> None:
        self._decode, self._held_ids, self._skipped = decode, held, skipped
        self._context: list[int] = []
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; empty within a run of byte tokens."""
        if token_id in self._skipped:
            return ""
        self._held.append(token_id)
        return "" if token_id in self._held_ids else self._take()

    def flush(self) -> str:
        """What was held back, with replacement characters for broken bytes. The decoder can be used again."""
        text = self._take()
        self._context = []
        return text

    def _take(self) -> str:
        if not self._held:
            return ""
        before = self._decode(self._context) if self._context else ""
        after = self._decode([*self._context, *self._held])
        self._context, self._held = self._held[-1:], []
        return after[len(before) :]
