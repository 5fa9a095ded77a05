"""Rows of one or more runs, read and put together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hogwild.errors import OptionError
from hogwild.eval.fingerprint import RUN_FILE, differences, read_run
from hogwild.eval.rows import Key, Row, RowError, row_from_line

NOT_COMPARED = frozenset(("seconds", "trace"))
SETTINGS = ("model", "options", "task", "scoring")
_SHOWN = 5


def read_runs(paths: Sequence[Path]) -> list[Row]:
    """All rows of these folders (`rows*.jsonl`, also in folders within) and files; the same row counts once.

    Raises `OptionError` for what is not there, holds no rows or is not understood, and, with the difference, for two
    rows of the same session that say different things (times apart) and for runs with other models or settings.
    """
    seen: dict[Key, tuple[str, Row]] = {}
    tasks: dict[Path, set[str]] = {}
    for path in paths:
        for file, place, row in _rows(_files(path)):
            tasks.setdefault(file.with_name(RUN_FILE), set()).add(row.task)
            if row.key in seen:
                _check_same(seen[row.key], (place, row))
            else:
                seen[row.key] = (place, row)
    _check_settings(tasks)
    if not seen:
        raise OptionError("there are no rows", expected="runs of hogwild eval", got=", ".join(map(str, paths)))
    return [row for _, row in seen.values()]


def count_missing(rows: Sequence[Row], paths: Sequence[Path]) -> int:
    """How many sessions these runs lack for every problem to have a row of every method and seed that occurs."""
    problems: dict[str, int] = {}
    for file in {file for path in paths for file in _files(path)}:
        record, own = file.with_name(RUN_FILE), {row.task for _, _, row in _rows([file])}
        if record.exists():
            asked = read_run(record)["fingerprint"].get("task", {}).get("problems", 0)
            problems |= {task: max(asked, problems.get(task, 0)) for task in own}
    missing = 0
    for task, number in problems.items():
        found = [row for row in rows if row.task == task]
        ways = {(row.method, row.workers) for row in found}, {row.seed for row in found}
        missing += number * len(ways[0]) * len(ways[1]) - len(found)
    return max(missing, 0)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.rglob("rows*.jsonl")) if path.is_dir() else []
    if not found:
        raise OptionError(
            f"{path} holds no run", expected="a folder with rows.jsonl, as hogwild eval writes it", got=str(path)
        )
    return found


def _rows(files: Sequence[Path]) -> Iterator[tuple[Path, str, Row]]:
    """Every row with its file and its line. A last line without its end was torn by a kill, and is no row yet."""
    for path in files:
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise OptionError(f"cannot read {path}", got=error.strerror or str(error)) from None
        for number, line in enumerate(lines, start=1):
            try:
                yield path, f"line {number} of {path}", row_from_line(line)
            except RowError as error:
                raise OptionError(f"line {number} of {path} is not a row", got=str(error)) from None


def _check_same(first: tuple[str, Row], second: tuple[str, Row]) -> None:
    found = list(differences(_compared(first[1]), _compared(second[1])))
    if found:
        raise OptionError(
            f"{first[0]} and {second[0]} contradict each other",
            got=_shortened(found),
            remedy="leave one of the runs out",
        )


def _compared(row: Row) -> Any:
    """A row as nested mappings, without times."""
    return _without_times(dataclasses.asdict(row))


def _without_times(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = {str(at): item for at, item in enumerate(value)}
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in NOT_COMPARED}
    return value


def _check_settings(places: Mapping[Path, set[str]]) -> None:
    """`OptionError` with the differences between runs of one task; of runs of other tasks only the model must agree."""
    records = [(path, tasks, read_run(path)["fingerprint"]) for path, tasks in places.items() if path.exists()]
    for (path, tasks, first), (other, other_tasks, second) in itertools.combinations(records, 2):
        names = SETTINGS if tasks & other_tasks else ("model",)
        found = list(differences({n: first.get(n) for n in names}, {n: second.get(n) for n in names}))
        if found:
            raise OptionError(
                f"{path.parent} and {other.parent} are runs with other settings",
                got=_shortened(found),
                remedy="make a report of each: what is compared must differ in its method alone",
            )


def _shortened(found: Sequence[str]) -> str:
    return "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
