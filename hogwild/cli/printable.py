"""Text of models and users, made safe to show: no control character of theirs ever reaches the terminal."""

from __future__ import annotations

_CONTROL_PICTURES = 0x2400
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # they can make text read as something else

_SHOWN: dict[int, str] = {
    **{code: chr(_CONTROL_PICTURES + code) for code in range(0x20)},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys((*range(0x80, 0xA0), *_BIDI_CONTROLS, *range(0xD800, 0xE000)), _REPLACEMENT),
    ord("\n"): "\n",
    ord("\t"): "    ",
    0x2028: "\n",
    0x2029: "\n",
}


def printable(text: str) -> str:
    """`text` with control characters shown as symbols (ESC as ␛); line ends stay, a tab becomes four spaces."""
    return text.replace("\r\n", "\n").translate(_SHOWN)
