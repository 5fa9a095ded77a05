"""What workers wrote, as lines of text with the author in the margin, where no model's text can be mistaken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from hogwild.cli.printable import printable
from hogwild.transcript import Step, Transcript

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
_MAX_MARGIN = 24
_CUT_CHARACTERS = 4096
Lines = list[Text]


def colour_of(worker: int) -> str:
    """The colour in which a worker appears everywhere."""
    return _COLOURS[worker % len(_COLOURS)]


def step_body(step: Step) -> Text:
    """A step's whole text, without the blank line that ended it; what was fed to its author stands in colour."""
    header, rest = printable(step.header), printable(step.text[len(step.header) :])
    body = Text.assemble((header, f"bold {colour_of(step.worker)}"), rest)
    if step.reason is not None:
        body.rstrip()
    return body


def step_lines(transcript: Transcript, step: Step, width: int | None) -> Lines:
    """A step in lines of at most `width` columns (None: as they were written), author and number in the margin."""
    style = f"bold {colour_of(step.worker)}"
    label = Text(f"{printable(transcript.workers[step.worker].name)} {step.number}", style=style)
    margin = _margin(transcript, width)
    label.truncate(margin, overflow="ellipsis", pad=True)
    bodies = divided(step_body(step), None if width is None else width - margin - 3)
    blank = Text(" " * margin)
    return [_line(blank if index else label, style, body) for index, body in enumerate(bodies)]


def finished_lines(transcript: Transcript, start: int, width: int | None) -> Iterable[Lines]:
    """The finished steps from number `start` on, in the order in which they ended."""
    return (step_lines(transcript, step, width) for step in transcript.finished[start:])


def unfinished_lines(transcript: Transcript, width: int | None) -> Iterable[Lines]:
    """What was being written when the session ended, in worker order, below a line that says so."""
    steps = transcript.unfinished
    if steps:
        yield [Text("unfinished:", style="bold")]
    for step in steps:
        yield step_lines(transcript, step, width)


def divided(text: Text, width: int | None) -> Lines:
    """`text` in lines of at most `width` columns; None: as it was written."""
    return list(text.split("\n", allow_blank=True)) if width is None else wrapped(text, width)


def wrapped(text: Text, width: int) -> Lines:
    """`text` in lines of at most `width` columns; what is wider than a line (or has wide characters) is divided."""
    width = max(2, width)  # a wide character must fit
    return list(text.wrap(Console(width=width, color_system=None), width, overflow="fold"))


def tail(steps: Sequence[Step], lines_of: Callable[[Step], Lines], height: int) -> Lines:
    """The last `height` lines of some steps, a blank line between two; no step is wrapped that cannot be seen."""
    lines: Lines = []
    for step in reversed(steps):
        if len(lines) >= height:
            break
        lines = [*lines_of(step), *([Text()] if lines else []), *lines]
    return lines[-height:] if height > 0 else []


def recent(text: Text) -> Text:
    """The end of a very long text, cut seldom, so that its lines do not shift with every token."""
    start = max(0, len(text) // _CUT_CHARACTERS - 3) * _CUT_CHARACTERS
    return text[start:] if start else text


def _margin(transcript: Transcript, width: int | None) -> int:
    longest = max(cell_len(printable(worker.name)) for worker in transcript.workers.values())
    return min(longest + 3, _MAX_MARGIN if width is None else min(_MAX_MARGIN, width // 3))


def _line(label: Text, style: str, body: Text) -> Text:
    line = Text(no_wrap=True).append_text(label).append(" │ ", style=style).append_text(body)
    line.rstrip()
    return line
