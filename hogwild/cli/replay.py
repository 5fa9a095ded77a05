"""`hogwild replay`: show a trace as the run itself was shown."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hogwild.cli.app import INTERRUPTED
from hogwild.cli.console import can_show_live, results_console
from hogwild.cli.generate import show_end
from hogwild.cli.views import LiveView, SilentView, StreamView, View
from hogwild.core.events import Event, PassDone
from hogwild.errors import OptionError, TraceError
from hogwild.trace import read_header, read_trace
from hogwild.transcript import Transcript

HELP = (
    "On a terminal the panes grow as they did, in the recorded time; elsewhere, or with --no-live, the text is printed "
    "at once. What is printed in the end is what the run itself printed."
)
EPILOG = """[bold]Example[/bold]

hogwild replay run.jsonl --speed 4
"""
_LONGEST_WAIT_SECONDS = 3600.0

File = Annotated[
    Path, typer.Argument(help="What hogwild generate --trace FILE has written.", metavar="FILE", show_default=False)
]
Speed = Annotated[float, typer.Option("--speed", help="How many times faster than recorded.")]
NoLive = Annotated[bool, typer.Option("--no-live", help="No panes: print each step.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def command(file: File, speed: Speed = 1.0, no_live: NoLive = False, as_json: Json = False) -> None:
    """Fold the trace and show it."""
    if not (math.isfinite(speed) and speed > 0):
        raise OptionError("speed is out of range", expected="a positive number", got=str(speed))
    header = read_header(file)
    is_live = can_show_live() and not (no_live or as_json)
    console = results_console()
    view: View = LiveView(console) if is_live else SilentView() if as_json else StreamView(console)
    transcript = Transcript()
    try:
        with view:
            for events in _passes(read_trace(file), speed if is_live else math.inf):
                for event in events:
                    transcript.apply(event)
                view.update(transcript)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        show_end(transcript, header, view, as_json)


def _passes(events: Iterator[Event], speed: float) -> Iterator[list[Event]]:
    """The events of each pass, at their time; what stands before a broken line is given before its error is raised."""
    batch: list[Event] = []
    broken: TraceError | None = None
    due = time.perf_counter()
    try:
        for event in events:
            batch.append(event)
            if isinstance(event, PassDone):
                due += event.seconds / speed
                time.sleep(min(max(0.0, due - time.perf_counter()), _LONGEST_WAIT_SECONDS))
                yield batch
                batch = []
    except TraceError as error:
        broken = error
    yield batch
    if broken is not None:
        raise broken
