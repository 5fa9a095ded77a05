"""The live view of a session: what is published above, one pane for each worker below, a status line at the end.

A pure function of the transcript and the size of the terminal.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hogwild.cli.blocks import Lines, colour_of, recent, step_body, step_lines, tail, wrapped
from hogwild.cli.printable import printable
from hogwild.cli.summary import note, state_text
from hogwild.cli.units import bytes_text, ratio_text
from hogwild.transcript import Transcript, WorkerState

MIN_PANE_WIDTH = 30
PANES_ABREAST = 4
_MIN_PANE_HEIGHT = 3
_FRAME = 4  # columns of a panel that are not text
_RATES_SHOWN = 4
_MAX_STATUS_LINES = 4


def render_session(transcript: Transcript, width: int, height: int) -> RenderableType:
    """The whole view, at most `height` lines of at most `width` columns."""
    status = _status_lines(transcript, width, height)
    room = max(0, height - len(status))
    num_workers = len(transcript.workers)
    per_row = _panes_abreast(num_workers, width, room)
    rows = -(-num_workers // per_row)
    if rows * _MIN_PANE_HEIGHT > room:
        return Group(*_one_line_each(transcript, width, room), *status)
    history = _history(transcript, width, min(room // 2, room - rows * _MIN_PANE_HEIGHT))
    panes = _panes(transcript, width, room - (history.height or 0 if history else 0), per_row)
    return Group(*([history] if history else []), *panes, *status)


def _panes_abreast(num_workers: int, width: int, room: int) -> int:
    """Side by side as long as each has its width; more than four in rows, unless the rows do not fit."""
    fitting = max(1, min(num_workers, width // MIN_PANE_WIDTH))
    per_row = min(fitting, PANES_ABREAST)
    while per_row < fitting and -(-num_workers // per_row) * _MIN_PANE_HEIGHT > room:
        per_row += 1
    return -(-num_workers // -(-num_workers // per_row)) if num_workers else 1


def _history(transcript: Transcript, width: int, height: int) -> Panel | None:
    """The most recent published steps, in as many lines as they need, at most `height` with the frame."""
    if not transcript.published or height < _MIN_PANE_HEIGHT or width <= _FRAME:
        return None
    lines = tail(transcript.published, lambda step: step_lines(transcript, step, width - _FRAME), height - 2)
    title = Text(f"published steps: {len(transcript.published)}")
    return Panel(_joined(lines), title=title, title_align="left", width=width, height=len(lines) + 2)


def _panes(transcript: Transcript, width: int, room: int, per_row: int) -> list[RenderableType]:
    workers = list(transcript.workers.values())
    rows = [workers[start : start + per_row] for start in range(0, len(workers), per_row)]
    heights = _shares(room, len(rows))
    return [_pane_row(transcript, row, width, height) for row, height in zip(rows, heights, strict=True)]


def _pane_row(transcript: Transcript, workers: list[WorkerState], width: int, height: int) -> RenderableType:
    grid = Table.grid()
    widths = _shares(width, len(workers))
    for pane_width in widths:
        grid.add_column(width=pane_width, no_wrap=True)
    panes = zip(workers, widths, strict=True)
    grid.add_row(*(_pane(transcript, worker, pane_width, height) for worker, pane_width in panes))
    return grid


def _pane(transcript: Transcript, worker: WorkerState, width: int, height: int) -> Panel:
    lines = _written(transcript, worker, width - _FRAME, height - 2)
    colour = f"dim {colour_of(worker.index)}" if worker.ended else colour_of(worker.index)
    title = Text(_pane_title(transcript, worker), style=f"bold {colour}")
    return Panel(_joined(lines), title=title, title_align="left", border_style=colour, width=width, height=height)


def _written(transcript: Transcript, worker: WorkerState, width: int, height: int) -> Lines:
    """The last lines of what stands in a worker's own block."""
    steps = transcript.writing_of(worker.index)
    return tail(steps, lambda step: wrapped(recent(step_body(step)), width), height)


def _pane_title(transcript: Transcript, worker: WorkerState) -> str:
    name = printable(worker.name)
    if worker.ended is not None:
        return f"{name}: {state_text(worker)}"
    number = worker.step.number if worker.step else worker.num_steps + 1
    return f"{name}: step {number}, {transcript.tokens_per_second_of(worker.index):.1f} tok/s"


def _one_line_each(transcript: Transcript, width: int, room: int) -> list[RenderableType]:
    """Too many workers for panes: the end of what each is writing, in one line."""
    workers = list(transcript.workers.values())
    shown = workers if len(workers) <= room else workers[: max(0, room - 1)]
    lines: list[RenderableType] = [_line(transcript, worker, width) for worker in shown]
    if len(shown) < len(workers) and room > 0:
        lines.append(_cut(Text(f"and {len(workers) - len(shown)} more workers", style="dim"), width))
    return lines


def _cut(line: Text, width: int) -> Text:
    line.truncate(width)
    return line


def _line(transcript: Transcript, worker: WorkerState, width: int) -> Text:
    name = Text(f"{printable(worker.name)}: ", style=f"bold {colour_of(worker.index)}")
    name.truncate(max(1, width // 2))
    end = _written(transcript, worker, width - name.cell_len, 1)
    return _cut(Text(no_wrap=True).append_text(name).append_text(end[0] if end else Text()), width)


def _status_lines(transcript: Transcript, width: int, height: int) -> list[Text]:
    most = max(1, min(_MAX_STATUS_LINES, height // 4))
    lines = wrapped(Text(_status(transcript), style="dim"), width)[:most]
    honest = note(transcript)
    if honest and len(honest) <= width and len(lines) < most:
        lines.append(Text(honest, style="dim italic"))
    return lines


def _status(transcript: Transcript) -> str:
    started = transcript.started
    if started is None or not transcript.num_passes:
        return f"reading the prompt: {started.num_prompt_tokens} tokens" if started else "starting"
    limit = started.options.get("max_passes")
    stored, separate = transcript.cache_tokens, transcript.separate_tokens
    return ", ".join(
        [
            f"pass {transcript.num_passes}/{limit}",
            f"{transcript.tokens_per_second:.1f} tok/s{_rates(transcript)}",
            f"cache {stored} tokens shared ({bytes_text(stored * transcript.kv_bytes_per_token)})",
            f"{separate} if separate ({ratio_text(stored, separate)})",
        ]
    )


def _rates(transcript: Transcript) -> str:
    """Each worker's speed; the panes' titles have it too, so many workers need it not."""
    workers = list(transcript.workers.values())
    if not 2 <= len(workers) <= _RATES_SHOWN:
        return ""
    rates = (f"{printable(w.name)} {transcript.tokens_per_second_of(w.index):.1f}" for w in workers)
    return f" ({', '.join(rates)})"


def _joined(lines: list[Text]) -> Text:
    text = Text("\n").join(lines)
    text.no_wrap = True
    return text


def _shares(total: int, count: int) -> list[int]:
    """`total` in `count` nearly equal whole parts."""
    return [total // count + (index < total % count) for index in range(count)]
