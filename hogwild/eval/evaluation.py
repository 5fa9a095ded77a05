"""An evaluation in a folder: `run.json` says what shaped it, `rows.jsonl` holds its rows, `traces/` their sessions.

A folder that holds a part of it already is continued: rows that are there are not made again.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hogwild.core.events import Event, event_to_dict
from hogwild.engine import Engine
from hogwild.errors import OptionError
from hogwild.eval.fingerprint import check_same, fingerprint, method_data, problems_hash
from hogwild.eval.ledger import Ledger, write_whole
from hogwild.eval.methods import Method
from hogwild.eval.options import EvalOptions, Item, Shard, items
from hogwild.eval.problem import Problem, Score
from hogwild.eval.rows import Row
from hogwild.eval.runner import Runner
from hogwild.eval.scoring.scorer import Scorer
from hogwild.eval.tasks import find_task
from hogwild.model import Model
from hogwild.prompts import PromptScript
from hogwild.trace import trace_header

ROWS_FILE, TRACES = "rows.jsonl", "traces"


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be evaluated.

    Attributes:
        problems: of one task or of several; task: how they were asked for, as plain data, for the record.
        methods: each with its number of workers.
        seeds: each problem is worked on once with each.
        options: what all sessions have in common.
    """

    problems: Sequence[Problem]
    task: Mapping[str, Any]
    methods: Sequence[Method]
    seeds: Sequence[int]
    options: EvalOptions

    def items(self, shard: Shard) -> list[Item]:
        """Every row of a shard."""
        return list(items(self.problems, self.methods, self.seeds, shard))

    def check(self, model: Model, scorer: Scorer) -> None:
        """Raise what would fail in every row: a prompt that cannot be built, a package that judging needs."""
        for method in self.methods:
            text = self.problems[0].problem
            script = PromptScript(method.style, model.tokenizer, text, method.layout, method.num_start)
            script.prompt_ids()
            method.layout.check(method.num_start + method.num_late, script.text_names)
        for example in {find_task(problem.task).name: problem for problem in self.problems}.values():
            scorer.score_answer(example, example.answer)


class Folder:
    """The folder of one evaluation, or of one shard of it, opened to be written."""

    def __init__(self, path: Path, ledger: Ledger, facts: Mapping[str, Any], keeps_traces: bool) -> None:
        self.path, self.ledger = path, ledger
        self._facts, self.keeps_traces = facts, keeps_traces

    def take(self, row: Row, events: Sequence[Event]) -> Row:
        """Store a row, its trace before it; raises `WriteError`. Returns the row as it was stored."""
        if self.keeps_traces and events:
            row = replace(row, trace=self._write_trace(row, events))
        self.ledger.append(row)
        return row

    def _write_trace(self, row: Row, events: Sequence[Event]) -> str:
        name = f"{TRACES}/{trace_name(row)}"
        lines = [trace_header(self._facts), *map(event_to_dict, events)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_whole(self.path / name, gzip.compress(text.encode(), mtime=0))
        return name


@contextlib.contextmanager
def open_folder(
    out: Path, study: Study, model: str, facts: Mapping[str, Any], *, shard: Shard, traces: bool = False
) -> Iterator[Folder]:
    """Open the folder of a study, or of its shard; `OptionError` if it holds another study, or somebody writes there.

    `model` is its name; `facts` are part of the record that must stay the same.
    """
    path = out if shard.count == 1 else out / f"shard-{shard.number}-of-{shard.count}"
    task = {**study.task, "problems": len(study.problems), "problems_sha256": problems_hash(study.problems)}
    methods = {f"{method.name}/{method.num_workers}": method_data(method) for method in study.methods}
    try:
        (path / TRACES if traces else path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder {path}", got=error.strerror or str(error)) from None
    check_same(path, fingerprint(model, facts, study.options, task), methods)
    with Ledger(path / ROWS_FILE) as ledger:
        yield Folder(path, ledger, {"model": dict(facts)}, traces)


def evaluate(
    engine: Engine,
    study: Study,
    folder: Folder,
    scorer: Scorer,
    *,
    shard: Shard,
    concurrent: int = 1,
    seen: Callable[[Row], None] = lambda row: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Make every row that the folder lacks. `seen` is told each one after it was stored."""
    left = [item for item in study.items(shard) if item.key not in folder.ledger.keys]
    runner = Runner(
        engine,
        study.options,
        lambda problem, answer, text: judge(scorer, problem, answer, text),
        lambda row, events: seen(folder.take(row, events)),
        concurrent,
    )
    runner.work(left, is_stopped)


def judge(scorer: Scorer, problem: Problem, answer: str | None, text: str) -> Score:
    """The answer that was given or asked for; where nobody gave a program, the last one in what the workers wrote."""
    if answer is None and find_task(problem.task).grading == "code":
        return scorer.score(problem, text)
    return scorer.score_answer(problem, answer)


def trace_name(row: Row) -> str:
    """A file name that belongs to one key alone, and that a person can read."""
    digest = hashlib.sha256(json.dumps(row.key).encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "_", f"{row.problem}-{row.method}-{row.workers}-{row.seed}", flags=re.ASCII)
    return f"{readable[-80:]}-{digest}.jsonl.gz"
