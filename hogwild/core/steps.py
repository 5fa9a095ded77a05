"""Where a step ends: at a blank line after the end of a sentence, outside code fences and display formulas."""

from __future__ import annotations

import re

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*\Z")
_FENCE = re.compile(r"^[ ]{0,3}(```|~~~)", re.MULTILINE)
# Full stops, question and exclamation marks: Latin, CJK, Arabic, Urdu, Devanagari, Armenian, Ethiopic, Tibetan, Khmer.
SENTENCE_ENDS = frozenset(".?!…‥。．｡？！؟۔।॥։።፧།។៕")
_CLOSERS = "\"'”’»）)]}】」』*_`~"


def ends_sentence(text: str) -> bool:
    """Whether `text` ends with the end of a sentence; closing quotes, brackets and emphasis may follow the mark."""
    body = text.rstrip().rstrip(_CLOSERS)
    return bool(body) and body[-1] in SENTENCE_ENDS


def is_open(text: str) -> bool:
    """Whether a code fence or a display formula was begun and not closed."""
    if len(_FENCE.findall(text)) % 2 or text.count("$$") % 2:
        return True
    return any(text.count(begin) > text.count(end) for begin, end in ((r"\[", r"\]"), (r"\begin{", r"\end{")))


def ends_step(text: str) -> bool:
    """Whether a worker's step, which holds `text` so far, is finished."""
    return _BLANK_LINE.search(text) is not None and ends_sentence(text) and not is_open(text)
