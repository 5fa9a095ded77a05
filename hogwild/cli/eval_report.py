"""`hogwild report`: tables and pictures from the runs of `hogwild eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hogwild.cli.console import remark

HELP = "\n\n".join(
    (
        "Puts the rows of all runs together (shards, too), refuses rows that contradict each other, and writes "
        "report.md with its tables (CSV) and pictures (PNG, SVG): accuracy over budget with 95 % intervals, cost, "
        "paired comparison, speed-up over workers, attention, a timeline of steps.",
        "docs/evaluation.md explains every number.",
    )
)
EPILOG = """[bold]Examples[/bold]

hogwild report runs/parallel

hogwild report runs/one runs/combined runs/shard-* --out figures --target 2048
"""

Runs = Annotated[
    list[Path],
    typer.Argument(help="Folders (or rows.jsonl files) of hogwild eval.", metavar="RUN", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write into.")]
Target = Annotated[
    int | None,
    typer.Option(
        "--target",
        help=r"Speed-up to the accuracy that one worker has at this budget of passes. \[default: its largest]",
        show_default=False,
    ),
]
Problem = Annotated[
    str | None,
    typer.Option(
        "--problem", help=r"The problem of the timeline. \[default: one that most methods have]", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the paths of the written files as JSON.")]


def command(
    runs: Runs, out: Out = Path("report"), target: Target = None, problem: Problem = None, as_json: Json = False
) -> None:
    """Read everything, then write everything."""
    from hogwild.report.runs import count_missing, read_runs
    from hogwild.report.write import Shown, write_report

    rows = read_runs(runs)
    missing = count_missing(rows, runs)
    remark(f"{len(rows):,} sessions" + (f"; the runs are not complete: {missing:,} are missing" if missing else ""))
    page, *others = write_report(rows, out, Shown(problem=problem, target=target), missing)
    if as_json:
        print(json.dumps({"page": str(page), "files": [str(path) for path in others]}))
    else:
        print(page.read_text(encoding="utf-8").split("\n\n## ")[1])
        remark(f"written: {page}, and {len(others)} files beside it")
