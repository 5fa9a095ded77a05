"""`hogwild conform`: does this machine compute the same thing?"""

from __future__ import annotations

import datetime
import itertools
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hogwild.bench.machine import commit, machine_facts
from hogwild.cli.console import can_show_live, print_all, remark, results_console
from hogwild.cli.environment import versions
from hogwild.conformance.kit.attention import check_attention, check_rotary
from hogwild.conformance.kit.golden import check_golden
from hogwild.conformance.kit.models import check_models
from hogwild.conformance.kit.own_model import check_own_model
from hogwild.conformance.kit.report import Check, Progress, Report, read_report, to_json
from hogwild.conformance.kit.targets import Target, choose_target, find_targets
from hogwild.conformance.kit.written import check_sessions
from hogwild.errors import OptionError

HELP = "\n\n".join(
    (
        "Every backend found here, with each of its attention paths, is compared with exact answers in float64. "
        "Needs no network and no model. Exit code 1 when something failed.",
        "docs/conformance.md explains the levels and the statements L0, L1 and L2.",
    )
)
EPILOG = """[bold]Examples[/bold]

hogwild conform --json mine.json

hogwild conform --backend mlx --level attention --cases 6000 --seed 1

hogwild conform --model Qwen/Qwen3-8B --trace run.jsonl

hogwild conform --compare mine.json docs/conform-example.json
"""
LEVELS = ("rotary", "attention", "models", "sessions")  # and "model", which needs one
DEFAULT_CASES = 400


def _flag(name: str, text: str, *more: str, **settings: Any) -> Any:
    return typer.Option(name, *more, help=text, **settings)


BackendName = Annotated[str, _flag("--backend", "auto (every one that is here), reference, mlx or cuda.", "-b")]
TargetName = Annotated[
    str | None,
    _flag(
        "--target",
        "Only this one, as the table names it; triton-interpreted: the Triton kernels on the CPU (slow: few cases).",
        show_default=False,
    ),
]
Level = Annotated[
    str,
    _flag("--level", f"all, or some of {', '.join(LEVELS)}, model, with commas. [default: all, or model with --model]"),
]
OwnModel = Annotated[
    str | None,
    _flag("--model", "Check this model of yours, and nothing else unless --level says so.", "-m", show_default=False),
]
Trace = Annotated[
    Path | None,
    _flag("--trace", "Lead it along this trace of hogwild generate --trace, token by token.", show_default=False),
]
Cases = Annotated[int, _flag("--cases", "Generated attention cases for each target.", min=1)]
Seed = Annotated[int, _flag("--seed", "Of cases and models; 0 are the numbered ones.", min=0)]
Json = Annotated[Path | None, _flag("--json", "Write the report to this file.", show_default=False)]
Compare = Annotated[
    tuple[Path, Path] | None,
    _flag("--compare", "Set two reports side by side, and do nothing else.", show_default=False),
]


def command(
    backend: BackendName = "auto",
    target: TargetName = None,
    level: Level = "",
    model: OwnModel = None,
    trace: Trace = None,
    cases: Cases = DEFAULT_CASES,
    seed: Seed = 0,
    json_file: Json = None,
    compare: Compare = None,
) -> None:
    """Check, show a table, and write a report."""
    console = results_console()
    if compare is not None:
        print_all(console, [_side_by_side(*map(read_report, compare))])
        return
    if trace is not None and model is None:
        raise OptionError("a trace without a model", expected="--model, the one that wrote it", got=f"--trace {trace}")
    levels = _levels(level or ("all" if model is None else "model"), model)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise OptionError(f"there is no folder {json_file.parent}", expected="an existing folder", got=str(json_file))
    targets, missing = find_targets(backend) if target is None else (choose_target(target), [])
    settings = {
        "backend": backend,
        "target": target,
        "levels": levels,
        "cases": cases,
        "seed": seed,
        "model": model and _without_folder(model),
    }
    report = _new_report(targets, missing, settings)
    started = time.perf_counter()
    status = Console(file=sys.stderr)
    with status.status("starting") as shown:
        show: Progress = (lambda text: shown.update(text)) if can_show_live() else (lambda text: None)
        checks = run_levels(levels, targets, cases, seed, show)
        own = [] if model is None else check_own_model(targets, model, trace, report.skipped, show)
        for check in itertools.chain(checks, own):
            report.checks.append(check)
            if not check.passed:
                remark(f"failed: {check.level} {check.statement}, {check.name}, {check.target}")
    report.seconds = round(time.perf_counter() - started, 1)
    print_all(console, [_table(report)])
    for check in report.checks:
        for problem in check.problems:
            remark(f"{check.target}, {check.name}: {problem}")
    verdict = "passed" if report.passed else "FAILED"
    console.print(f"{verdict}: {len(report.checks)} checks in {report.seconds:.0f} s")
    if json_file is not None:
        _write(json_file, report)
    if not report.passed:
        raise typer.Exit(1)


def run_levels(levels: list[str], targets: list[Target], cases: int, seed: int, show: Progress) -> Iterator[Check]:
    """The checks of some levels, in their order."""
    if "rotary" in levels:
        yield from check_rotary()
    if "attention" in levels:
        yield from check_golden(targets)
        yield from check_attention(targets, cases, seed, show)
    if "models" in levels:
        yield from check_models(targets, seed, show)
    if "sessions" in levels:
        yield from check_sessions(targets, seed, show)


def _levels(given: str, model: str | None) -> list[str]:
    wanted = [name.strip() for name in given.split(",")]
    if "all" in wanted:
        wanted = [*LEVELS, *(["model"] if model is not None else [])]
    for name in wanted:
        if name not in (*LEVELS, "model"):
            raise OptionError(f"there is no level {name!r}", expected=f"all, {', '.join(LEVELS)}, model", got=name)
    if ("model" in wanted) != (model is not None):
        raise OptionError("level model and --model belong together", expected="both or none", got=f"--level {given}")
    return wanted


def _new_report(targets: list[Target], missing: list[str], settings: dict[str, Any]) -> Report:
    return Report(
        command=shlex.join(["hogwild", *map(_without_folder, sys.argv[1:])]),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine_facts(),
        versions=versions(),
        settings=settings,
        targets=[{"name": x.name, "backend": x.backend, "path": x.path, "device": x.device} for x in targets],
        skipped=missing,
    )


def _without_folder(argument: str) -> str:
    """An absolute path by its name alone: reports are sent to others."""
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def _table(report: Report) -> Table:
    table = Table("level", "", "what", "target", "count", "worst", "limit", "", box=None)
    for check in report.checks:
        limit = "" if check.limit is None else f"{check.limit:.2g}"
        worst = f"{check.worst:.2e} {check.measure}"
        row = (check.level, check.statement, check.name, check.target, str(check.count), worst, limit)
        table.add_row(*row, "ok" if check.passed else "FAILED")
    return table


def _side_by_side(left: Report, right: Report) -> Table:
    """Both reports' worst numbers, check by check; empty where a report has not that check."""
    table = Table("level", "", "what", "target", "first", "second", box=None)
    for title in ("system", "processor"):
        table.add_row("machine", "", title, "", str(left.machine.get(title)), str(right.machine.get(title)))
    table.add_row("commit", "", "", "", str(left.commit), str(right.commit))
    ours, theirs = ({_key(check): check for check in report.checks} for report in (left, right))
    for key in dict.fromkeys([*ours, *theirs]):
        table.add_row(*key, _cell(ours.get(key)), _cell(theirs.get(key)))
    table.add_row("verdict", "", "", "", *("passed" if report.passed else "FAILED" for report in (left, right)))
    return table


def _key(check: Check) -> tuple[str, str, str, str]:
    """What two reports have in common; names say further what was seen."""
    name = check.name.partition(", worst")[0].replace(" (not promised)", "")
    return check.level, check.statement, name.partition(":")[0] if check.statement == "L0" else name, check.target


def _cell(check: Check | None) -> str:
    return "" if check is None else f"{check.worst:.2e}{'' if check.passed else ' FAILED'}"


def _write(path: Path, report: Report) -> None:
    try:
        path.write_text(to_json(report), encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write {path}", got=error.strerror or str(error)) from None
    remark(f"the report is in {path}")
