"""Rows of evaluations that never ran, for tests and for looking at pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hogwild.eval.rows import BudgetRow, Row, StepRow, row_to_line

BUDGETS = (256, 512, 1024, 2048, 4096)


def budget(at: int, correct: bool, passes: int | None = None, seconds: float | None = None) -> BudgetRow:
    used = at if passes is None else passes
    return BudgetRow(
        at, used, 0.05 * used if seconds is None else seconds, "1" if correct else "2", correct, "made", 2 * used
    )


def row(problem: str, correct: Sequence[bool] = (), budgets: Sequence[int] = BUDGETS, **other: Any) -> Row:
    """A session that was right or wrong at each budget."""
    states = tuple(budget(at, right) for at, right in zip(budgets, correct, strict=False))
    fields: dict[str, Any] = {"task": "math", "method": "combined", "seed": 0, "workers": 2, "status": "done"}
    fields |= {"reason": "answer", "passes": states[-1].passes if states else 0, "budgets": states}
    return Row(problem=problem, **{**fields, **other})


def failed(problem: str, reason: str = "MemoryError", **other: Any) -> Row:
    return row(problem, status="failed", reason=reason, **other)


def write_run(folder: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{row_to_line(one)}\n" for one in rows), encoding="utf-8")
    return folder


def simulated(
    tasks: Sequence[str] = ("gsm8k", "math"), num_problems: int = 60, seeds: int = 2, attention: bool = True
) -> list[Row]:
    """A whole study: one worker, voting, and two layouts with two and four workers."""
    source = random.Random(7)
    rows = []
    for task in tasks:
        hardness = [source.lognormvariate(6.6 if task == "gsm8k" else 7.4, 0.9) for _ in range(num_problems)]
        for method, speeds in _METHODS.items():
            for workers, speed in speeds.items():
                for number, hard in enumerate(hardness):
                    for seed in range(seeds):
                        needed = hard / speed * source.lognormvariate(0, 0.3)
                        rows.append(
                            _session(source, (task, f"{task}/{number}", method, workers, seed), needed, attention)
                        )
    return rows


_METHODS = {
    "one": {1: 1.0},
    "vote": {2: 1.05, 4: 1.15},
    "interleaved": {2: 1.2, 4: 1.45},
    "combined": {2: 1.4, 4: 1.9},
    "combined+check": {2: 1.5, 4: 2.0},
}


def _session(source: random.Random, place: tuple[str, str, str, int, int], needed: float, attention: bool) -> Row:
    task, problem, method, workers, seed = place
    if source.random() < 0.01:
        return failed(problem, task=task, method=method, workers=workers, seed=seed)
    pace = 0.04 * (1 + 0.06 * workers) * source.lognormvariate(0, 0.05)
    end = min(BUDGETS[-1], int(needed))
    states = tuple(
        budget(at, needed <= at and source.random() < 0.97, min(at, end), pace * min(at, end)) for at in BUDGETS
    )
    collaboration = _account(source, workers, end, attention) if workers > 1 else None
    steps = _steps(source, workers, end, method != "vote" and workers > 1)
    return Row(
        problem, task, method, seed, workers, "done", "answer", end, pace * end, (end,) * workers, states, steps,
        collaboration,
    )  # fmt: skip


def _steps(source: random.Random, workers: int, end: int, publishes: bool) -> tuple[StepRow, ...]:
    steps = []
    for worker in range(workers):
        at, number = 1, 1
        while at < end:
            last = min(end, at + int(source.gammavariate(3, 25)))
            published = last + 1 if publishes and last < end else None
            kind = "sentence" if last < end else "unfinished"
            checked = number % 6 == 0
            steps.append(StepRow(worker, number, at, last, published, last - at + 1, 100, kind, checked))
            at, number = last + 1, number + 1
    return tuple(steps)


def _account(source: random.Random, workers: int, end: int, attention: bool) -> dict[str, Any]:
    pairs = [[source.randint(0, 3) * (a != b) for b in range(workers)] for a in range(workers)]
    account: dict[str, Any] = {"redundancy": source.betavariate(2, 8), "quotes": pairs, "mentions": pairs}
    account["checks"] = source.choices(["yes", "no", "unclear"], [1, 6, 1], k=3)
    if attention:
        names = ["Alice", "Bob", "Carol", "Dave"][:workers]
        passes = list(range(64, max(65, end), 64))
        shares = [_table(source, workers, 0.15 + 0.45 * (1 - 0.99 ** (t + 1))) for t in range(len(passes))]
        layers = [_table(source, workers, source.uniform(0.2, 0.8)) for _ in range(28)]
        columns = [*names, "prompt", "texts", "first token"]
        account["attention"] = {"columns": columns, "passes": passes, "shares": shares, "layers": layers}
    return account


def _table(source: random.Random, workers: int, shared: float) -> list[list[float]]:
    return [_shares(source, workers, reader, shared) for reader in range(workers)]


def _shares(source: random.Random, workers: int, reader: int, shared: float) -> list[float]:
    weights = [source.uniform(0.8, 1.2) * (3.0 if other == reader else 0.6) for other in range(workers)]
    return [*(weight / sum(weights) * (1 - shared) for weight in weights), 0.5 * shared, 0.2 * shared, 0.3 * shared]
