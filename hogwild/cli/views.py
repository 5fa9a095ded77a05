"""How a run is shown while it goes on: panes on a terminal, finished steps as plain text elsewhere, or nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live

from hogwild.cli.blocks import divided, finished_lines, unfinished_lines
from hogwild.cli.console import print_all, print_blocks, text_width
from hogwild.cli.panes import render_session
from hogwild.cli.summary import answer_text, summary
from hogwild.transcript import Transcript

_SECONDS_BETWEEN_FRAMES = 1 / 12
_SHARE_OF_TIME = 0.1


class View(Protocol):
    """Shows a transcript as it grows; a context manager."""

    def __enter__(self) -> View:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Show no more; the terminal is as before."""
        ...

    def update(self, transcript: Transcript) -> None:
        """Something has happened."""
        ...

    def finish(self, transcript: Transcript) -> None:
        """After the end: whatever was not yet printed, then answer and summary."""
        ...


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, transcript: Transcript) -> None:
        """Nothing."""

    def finish(self, transcript: Transcript) -> None:
        """Nothing."""


class StreamView(SilentView):
    """Prints each step when it is finished: workers interleave, so tokens cannot be printed as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_printed = 0

    def update(self, transcript: Transcript) -> None:
        """Print the steps that were finished since the last call."""
        if len(transcript.finished) > self._num_printed:
            width = text_width(self._console)
            print_blocks(self._console, finished_lines(transcript, self._num_printed, width))
            self._num_printed = len(transcript.finished)
            self._console.file.flush()

    def finish(self, transcript: Transcript) -> None:
        """Print unfinished steps, the answer and the summary."""
        self.update(transcript)
        width = text_width(self._console)
        print_blocks(self._console, unfinished_lines(transcript, width))
        print_blocks(self._console, [divided(answer_text(transcript), width)])
        print_all(self._console, summary(transcript))


class LiveView:
    """Panes on the terminal's second screen; afterwards the whole text stands in the first one's scrollback.

    Frames are drawn by the thread that computes, so no lock is needed; at most twelve a second, and in
    at most a tenth of the time.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False)
        self._next_frame = 0.0

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, transcript: Transcript) -> None:
        """Draw a frame, unless it is too early for one."""
        began = time.perf_counter()
        if began < self._next_frame and transcript.reason is None:
            return
        size = self._console.size
        self._live.update(render_session(transcript, size.width, size.height), refresh=True)
        ended = time.perf_counter()
        self._next_frame = max(began + _SECONDS_BETWEEN_FRAMES, ended + (ended - began) / _SHARE_OF_TIME)

    def finish(self, transcript: Transcript) -> None:
        """Print everything."""
        StreamView(self._console).finish(transcript)
