"""Which tasks there are, and the problems of one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hogwild.errors import OptionError
from hogwild.eval.problem import Problem
from hogwild.eval.tasks.base import Task
from hogwild.eval.tasks.code import CODE, HUMANEVAL, MBPP
from hogwild.eval.tasks.gym import GYM
from hogwild.eval.tasks.hub import read_hub
from hogwild.eval.tasks.maths import AIME, GSM8K, LIMO, MATH
from hogwild.eval.tasks.parallel import PARALLEL
from hogwild.eval.tasks.records import Record, read_jsonl, to_problems

TASKS: Mapping[str, Task] = {
    task.name: task for task in (PARALLEL, GSM8K, MATH, AIME, LIMO, HUMANEVAL, MBPP, CODE, GYM)
}
DEFAULT_COUNT = 100
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(:.+)?")


def find_task(spec: str) -> Task:
    """The task that `name` or `name:argument` means; `OptionError` if there is none."""
    name = spec.partition(":")[0]
    if name not in TASKS:
        raise OptionError(f"there is no task {name!r}", expected=", ".join(TASKS), got=spec)
    return TASKS[name]


def answer_tokens(spec: str, problems: Iterable[Problem]) -> int:
    """Most tokens of a forced answer: the task's own number; where problems are made, room for the longest answer too.

    A token has at least one character of an answer.
    """
    task = find_task(spec)
    longest = max(len(problem.answer.encode()) for problem in problems) if task.make is not None else 0
    return max(task.finisher_tokens, longest)


def load_problems(spec: str, *, data: str | None = None, count: int | None = None, seed: int = 0) -> list[Problem]:
    """The problems of a task.

    Args:
        spec: `name` or `name:argument`.
        data: a file `*.jsonl`, or `org/name[@revision][:files]` on the hub; by default the task's own.
        count: how many, from the first on; None: all, or 100 of a task that makes them.
        seed: for tasks that make their problems.

    Raises `OptionError` for anything that is not there or not fit, with the number of the line.
    """
    task, argument = find_task(spec), spec.partition(":")[2]
    if count is not None and count < 1:
        raise OptionError("the number of problems is out of range", expected="at least 1", got=str(count))
    if task.make is not None:
        if data is not None:
            raise OptionError(f"task {task.name} makes its problems", remedy="leave out --data, or name another task")
        return task.make(argument, DEFAULT_COUNT if count is None else count, seed)
    if argument:
        raise OptionError(f"task {task.name} takes no argument", expected=task.name, got=spec)
    if (data or task.data) is None:
        raise OptionError(f"task {task.name} has no data of its own", remedy="give some: --data FILE.jsonl")
    source = data or str(task.data)
    problems = list(itertools.islice(to_problems(_records(source), task.read, task.name, _label(source)), count))
    if not problems:
        raise OptionError(f"{source} holds no problems", expected="at least one record")
    return problems


def _records(source: str) -> Iterable[Record]:
    path = Path(source)
    if path.suffix == ".jsonl" and (path.exists() or not _HUB_NAME.fullmatch(source)):
        return read_jsonl(path)
    if _HUB_NAME.fullmatch(source):
        return read_hub(source)
    raise OptionError("where are the problems?", expected="FILE.jsonl, or org/name[@revision][:files]", got=source)


def _label(source: str) -> str:
    """What ids are made of: the same wherever the file lies."""
    return Path(source).name if source.endswith(".jsonl") and Path(source).exists() else source
