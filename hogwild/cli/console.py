"""Where text goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

_PLAIN_WIDTH = 100  # off a terminal, so that the same run gives the same text everywhere


def results_console() -> Console:
    """For results. Model text is never read as markup; off a terminal there are no colours and no fixed width."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def can_show_live() -> bool:
    """Whether a person looks at a terminal that can be drawn on."""
    return sys.stdout.isatty() and sys.stderr.isatty() and not Console(file=sys.stdout).is_dumb_terminal


def text_width(console: Console) -> int | None:
    """The width to which text is wrapped; None off a terminal, where lines stay as long as they were written."""
    return console.width if console.is_terminal else None


def print_blocks(console: Console, blocks: Iterable[Sequence[Text]]) -> None:
    """The lines of each block, then a blank line."""
    for lines in blocks:
        for line in (*lines, ""):
            console.print(line, soft_wrap=True)


def print_all(console: Console, renderables: Iterable[RenderableType]) -> None:
    """Each of them, then a blank line; off a terminal without blanks at the ends of lines."""
    for renderable in renderables:
        with console.capture() as capture:
            console.print(renderable)
        lines = capture.get().splitlines()
        console.file.write("".join(f"{line if console.is_terminal else line.rstrip()}\n" for line in [*lines, ""]))


def remark(text: str) -> None:
    """A line on stderr."""
    from hogwild.cli.printable import printable

    print(printable(text), file=sys.stderr, flush=True)
