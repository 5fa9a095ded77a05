"""A whole report: `report.md`, a CSV file for each table, a PNG and an SVG file for each picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hogwild.errors import OptionError
from hogwild.eval.rows import Row
from hogwild.report import tables
from hogwild.report.attention import has_attention
from hogwild.report.curves import Speedup, Study, study
from hogwild.report.pictures.accuracy import accuracy_figure, cost_figure
from hogwild.report.pictures.attention import attention_curve, attention_figure
from hogwild.report.pictures.speedup import speedup_figure
from hogwild.report.pictures.style import SETTINGS, looks
from hogwild.report.pictures.timeline import shown_sessions, timeline_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that can be drawn, and what stands below it."""

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a study a report shows.

    Attributes:
        problem: whose timeline is drawn; None: one that most methods have.
        target: the budget of one worker whose accuracy the speed-up is measured at; None: its largest.
    """

    problem: str | None = None
    target: int | None = None

    def speedups(self, made: Study) -> list[Speedup]:
        """One for each method; `OptionError` for a target that one worker has no right answer at."""
        largest = {(s.curve.task, s.curve.label): s for s in made.speedups}
        found = [s for s in made.speedups if s.budget == self.target] if self.target else list(largest.values())
        if self.target and not found:
            budgets = sorted({s.budget for s in made.speedups})
            raise OptionError(
                "one worker has no right answer at that budget",
                expected=", ".join(map(str, budgets)) or "sessions of one worker and of several",
                got=str(self.target),
            )
        return found


def make_tables(made: Study, shown: Shown) -> list[tables.Table]:
    """All tables that the sessions give something for."""
    found = [tables.accuracy_table(made.curves)]
    if any(curve.points for curve in made.curves):
        found.append(tables.cost_table(made.curves))
    if made.comparisons:
        found.append(tables.comparison_table(made.comparisons))
    if made.speedups:
        found.append(tables.speedup_table(made.speedups, shown.speedups(made)))
    if any(row.collaboration for row in made.rows):
        found.append(tables.collaboration_table(made.curves))
    if any(map(has_attention, made.rows)):
        found.append(tables.attention_table(made.curves))
    if any(row.status == "failed" for row in made.rows):
        found.append(tables.failure_table(made.curves))
    return found


def make_pictures(made: Study, shown: Shown) -> Iterator[Picture]:
    """All pictures that the sessions give something for.

    Raises `OptionError` for a problem without a session that could be drawn.
    """
    style, drawn = looks(curve.method for curve in made.curves), [curve for curve in made.curves if curve.points]
    if drawn:
        yield Picture("accuracy", _ACCURACY, lambda: accuracy_figure(drawn, style))
        yield Picture("cost", _COST, lambda: cost_figure(drawn, style))
    faster = shown.speedups(made)
    if any(found.passes or found.seconds for found in faster):
        yield Picture("speedup", _SPEEDUP, lambda: speedup_figure(faster, style))
    attending = attention_curve(made.curves)
    if attending is not None:
        yield Picture("attention", _ATTENTION, lambda: attention_figure(attending))
    sessions = shown_sessions(made.curves, shown.problem)
    if sessions:
        yield Picture("timeline", _TIMELINE, lambda: timeline_figure(sessions))
    elif shown.problem is not None:
        raise OptionError("no session of that problem has steps to draw", got=shown.problem)


def write_report(rows: Sequence[Row], folder: Path, shown: Shown | None = None, num_missing: int = 0) -> list[Path]:
    """Write everything into `folder`, over what a former report left there; returns the page, then all other files.

    `num_missing`: sessions that the runs still lack, for the page to say so.
    Raises `OptionError` if the folder cannot be written, and without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise OptionError("pictures need matplotlib", remedy="pip install 'hogwild[eval]'") from None
    made, chosen = study(rows), shown or Shown()
    found, pictures = make_tables(made, chosen), list(make_pictures(made, chosen))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_write(folder / f"{table.name}.csv", table.csv) for table in found]
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS}):
            for picture in pictures:
                written += _draw(picture, folder)
        page = _write(folder / "report.md", _page(made, found, pictures, num_missing))
    except OSError as error:
        raise OptionError(f"cannot write {folder}", got=error.strerror or str(error)) from None
    return [page, *written]


def _draw(picture: Picture, folder: Path) -> list[Path]:
    """The same picture twice; without the date and the program, so that the same rows give the same bytes."""
    figure, png, svg = picture.draw(), folder / f"{picture.name}.png", folder / f"{picture.name}.svg"
    figure.savefig(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # everything has its place now
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def _page(made: Study, found: Sequence[tables.Table], pictures: Sequence[Picture], num_missing: int) -> str:
    failed = sum(curve.failures for curve in made.curves)
    problems = len({(row.task, row.problem) for row in made.rows})
    methods = len({(curve.method, curve.workers) for curve in made.curves})
    facts = f"{len(made.rows):,} sessions on {problems:,} problems by {methods} methods; {failed:,} sessions failed."
    if num_missing:
        facts += f" The runs are not complete: {num_missing:,} sessions are missing."
    parts = ["# Evaluation", facts]
    parts += [f"![{picture.name}]({picture.name}.svg)\n\n{picture.caption}" for picture in pictures]
    for table in found:
        link = f"All numbers: [{table.name}.csv]({table.name}.csv)."
        parts.append(f"## {table.title}\n\n{table.markdown}\n\n{table.note} {link}")
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


_ACCURACY = "Accuracy after at most so many passes; bars: 95 % intervals (bootstrap over problems)."
_COST = "Accuracy against what the sessions used: a session that has its answer stops before its budget."
_SPEEDUP = (
    "How many times fewer passes and seconds a method needs than one worker for the same accuracy; bars: 95 % "
    "intervals, down to the axis where the method does not get there in more than 2.5 % of the resamples. A method "
    "that does not get there at all has no point."
)
_ATTENTION = (
    "Whom the workers attend to: softmax weights, added up over the keys of a text, means of heads and sessions. Top: "
    "each reader in the course of the session; a worker's text is its unfinished step and its published ones. Bottom: "
    "what each reader pays to all other workers together, from the first layer to the last; the mean share that each "
    "reader (row) pays to each text (column). Many models put attention that they have no use for on the first token."
)
_TIMELINE = "One session of each method: every bar is a step, from the pass of its first token to that of its last."
