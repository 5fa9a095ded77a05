"""What workers wrote, as blocks of text: one for each step, each with its author."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from hogwild.cli.printable import printable
from hogwild.transcript import Step, Transcript

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
_CUT_CHARACTERS = 4096


def colour_of(worker: int) -> str:
    """The colour in which a worker appears everywhere."""
    return _COLOURS[worker % len(_COLOURS)]


def step_body(step: Step) -> Text:
    """A step's whole text; what was fed to the worker before it wrote stands in its colour."""
    header, rest = printable(step.header), printable(step.text[len(step.header) :])
    return Text.assemble((header, f"bold {colour_of(step.worker)}"), rest, overflow="fold")


def step_block(transcript: Transcript, step: Step, *, unfinished: bool = False) -> Text:
    """A step with its author, without the blank line that ended it.

    The author's name is put above the text unless the step's header says it.
    """
    name = transcript.workers[step.worker].name
    body = step_body(step)
    body.rstrip()
    if name in step.header and not unfinished:
        return body
    mark = " (unfinished)" if unfinished else ""
    title = Text(f"{printable(name)} [{step.number}]{mark}\n", style=f"bold {colour_of(step.worker)}")
    return Text(overflow="fold").append_text(title).append_text(body)


def finished_blocks(transcript: Transcript, start: int = 0) -> list[Text]:
    """The finished steps from number `start` on, in the order in which they ended."""
    return [step_block(transcript, step) for step in transcript.finished[start:]]


def unfinished_blocks(transcript: Transcript) -> list[Text]:
    """What was being written when the session ended, in worker order."""
    return [step_block(transcript, step, unfinished=True) for step in transcript.unfinished]


def tail_lines(blocks: Sequence[Text], width: int, height: int) -> list[Text]:
    """The last `height` lines of the blocks when they are wrapped to `width` columns, a blank line between two."""
    lines: list[Text] = []
    for block in reversed(blocks):
        if len(lines) >= height:
            break
        lines = [*wrapped(_recent(block), width), *([Text()] if lines else []), *lines]
    return lines[-height:] if height > 0 else []


def _recent(text: Text) -> Text:
    """The end of a very long text, cut seldom, so that its lines do not shift with every token."""
    start = max(0, len(text) // _CUT_CHARACTERS - 3) * _CUT_CHARACTERS
    return text[start:] if start else text


def wrapped(text: Text, width: int) -> list[Text]:
    """`text` in lines of at most `width` columns; what is wider than a line (or has wide characters) is divided."""
    return list(text.wrap(Console(width=width, color_system=None), width, overflow="fold"))
