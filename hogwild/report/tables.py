"""Numbers as tables: Markdown for people, CSV for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hogwild.report.attention import kinds_of_sessions, sessions_of
from hogwild.report.curves import Comparison, Curve, Point, Speedup, holm
from hogwild.report.statistics import Interval

_DASH = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it shows, and its cells. `markdown` has the numbers for reading, `csv` all of them in full."""

    name: str
    title: str
    note: str
    markdown: str
    csv: str


def accuracy_table(curves: Sequence[Curve]) -> Table:
    """Accuracy in per cent with its interval, one column for each budget."""
    budgets = sorted({point.budget for curve in curves for point in curve.points})
    head = ["task", "method", "workers", *(f"{budget:,}" for budget in budgets), "problems × seeds", "failed"]
    lines = [
        [
            curve.task,
            curve.method,
            curve.workers,
            *(_cell(curve, budget) for budget in budgets),
            f"{len(curve.problems):,} × {curve.num_seeds}",
            curve.failures,
        ]
        for curve in curves
    ]
    note = (
        "Per cent of right answers after so many passes, and between which limits it lies with a probability of 95 % "
        "(bootstrap over problems). Sessions that failed count as wrong."
    )
    records = [_point_record(curve, point) for curve in curves for point in curve.points]
    return Table("accuracy", "Accuracy over budget", note, _markdown(head, lines, 2), _csv(records))


def cost_table(curves: Sequence[Curve]) -> Table:
    """What the sessions used by their largest budget, and how they ended."""
    head = ["task", "method", "workers", "budget", "passes", "seconds", "accuracy", "with an answer"]
    records = [_point_record(curve, curve.points[-1]) for curve in curves if curve.points]
    lines = [
        [
            record["task"],
            record["method"],
            record["workers"],
            f"{record['budget']:,}",
            f"{record['passes']:,.0f}",
            f"{record['seconds']:,.1f}",
            f"{_percent(record['accuracy'])}",
            f"{_percent(record['answered'])}",
        ]
        for record in records
    ]
    note = "Means over the sessions that did not fail; a session that has its answer stops before the budget."
    return Table("cost", "Cost at the largest budget", note, _markdown(head, lines, 2), _csv(records))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """At the largest budget, every method against one worker and against others with as many workers as itself.

    The CSV file has all pairs and all budgets.
    """
    largest = {(c.first.task, c.first.label, c.second.label): c for c in comparisons}
    shown = [c for c in largest.values() if c.second.workers in (1, c.first.workers)]
    adjusted = holm([comparison.paired.p for comparison in shown])
    head = ["task", "first", "second", "budget", "difference", "only first right", "only second right", "p", "p (Holm)"]
    lines = [
        [
            c.first.task,
            c.first.label,
            c.second.label,
            f"{c.budget:,}",
            _points_text(c.paired.difference),
            c.paired.first_only,
            c.paired.second_only,
            _p_text(c.paired.p),
            _p_text(p),
        ]
        for c, p in zip(shown, adjusted, strict=True)
    ]
    note = (
        "First minus second in percentage points, on the problems and seeds that both have, with the bootstrap "
        "interval of the paired difference. p: the exact test of McNemar (with several seeds its form for means of "
        "problems, by random signs); Holm: adjusted for the number of comparisons in this table."
    )
    records = [_comparison_record(comparison) for comparison in comparisons]
    return Table("comparison", "Paired comparison", note, _markdown(head, lines, 4), _csv(records))


def speedup_table(found: Sequence[Speedup], shown: Sequence[Speedup]) -> Table:
    """How many times less one method needs than one worker; `found` goes to the CSV file."""
    head = ["task", "method", "workers", "one worker's budget", "accuracy", "fewer passes", "fewer seconds"]
    lines = [
        [
            s.curve.task,
            s.curve.method,
            s.curve.workers,
            f"{s.budget:,}",
            _percent(s.target),
            _times_text(s.passes),
            _times_text(s.seconds),
        ]
        for s in shown
    ]
    note = (
        "How many times fewer passes, and seconds, a method uses until it is as accurate as one worker is at "
        "this budget (linear between budgets, means of what the sessions used, bootstrap over problems). "
        f"{_DASH}: it never is. A lower limit of 0 means that it is not in more than 2.5 % of the resamples."
    )
    return Table("speedup", "Speed-up", note, _markdown(head, lines, 2), _csv([_speedup_record(s) for s in found]))


def failure_table(curves: Sequence[Curve]) -> Table:
    """Reasons of failures, and how often each occurred."""
    counts: dict[tuple[str, str, str], int] = {}
    for curve in curves:
        for row in curve.rows:
            if row.status == "failed":
                key = (curve.task, curve.label, row.reason)
                counts[key] = counts.get(key, 0) + 1
    records = [
        {"task": task, "method": label, "reason": reason, "sessions": count}
        for (task, label, reason), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    lines = [list(record.values()) for record in records]
    head = ["task", "method", "reason", "sessions"]
    return Table("failures", "Failures", "Counted as wrong above.", _markdown(head, lines, 3), _csv(records))


def collaboration_table(curves: Sequence[Curve]) -> Table:
    """How workers took notice of each other, where the rows say so."""
    records = [record for curve in curves if (record := _collaboration_record(curve)) is not None]
    head = ["task", "method", "workers", "repeated", "quoting steps", "naming steps", "check: yes / no / unclear"]
    lines = [
        [
            r["task"],
            r["method"],
            r["workers"],
            _DASH if r["redundancy"] is None else _percent(r["redundancy"]),
            f"{r['quotes']:.2f}",
            f"{r['mentions']:.2f}",
            f"{r['check_yes']} / {r['check_no']} / {r['check_unclear']}",
        ]
        for r in records
    ]
    note = (
        "Repeated: share of a step's runs of four words that others had published before. Quoting, naming: steps in a "
        "session that hold eight words in a row of another worker's, or another's name."
    )
    return Table("collaboration", "Collaboration", note, _markdown(head, lines, 2), _csv(records))


def attention_table(curves: Sequence[Curve]) -> Table:
    """Where attention went, on average, for each method of which it was measured."""
    measured = [(curve, sessions) for curve in curves if (sessions := sessions_of(curve))]
    shares = [kinds_of_sessions(sessions) for _, sessions in measured]
    kinds = list(dict.fromkeys(kind for found in shares for kind in found))
    places = [{"task": curve.task, "method": curve.method, "workers": curve.workers} for curve, _ in measured]
    records = [
        {**place, "sessions": len(sessions), **{kind: found.get(kind) for kind in kinds}}
        for place, found, (_, sessions) in zip(places, shares, measured, strict=True)
    ]
    lines = [
        [*place.values(), *(_percent(found[kind]) if kind in found else _DASH for kind in kinds)]
        for place, found in zip(places, shares, strict=True)
    ]
    note = (
        "Shares of attention, means of heads, layers, passes, workers and sessions. What is missing to 100 % went to "
        "learned sinks, in models that have them."
    )
    head = ["task", "method", "workers", *kinds]
    return Table("attention", "Attention", note, _markdown(head, lines, 2), _csv(records))


def _collaboration_record(curve: Curve) -> dict[str, Any] | None:
    accounts = [row.collaboration for row in curve.rows if row.collaboration]
    if not accounts:
        return None
    shares = [account["redundancy"] for account in accounts if account.get("redundancy") is not None]
    answers = [answer for account in accounts for answer in account.get("checks") or ()]
    return {
        "task": curve.task,
        "method": curve.method,
        "workers": curve.workers,
        "sessions": len(accounts),
        "redundancy": sum(shares) / len(shares) if shares else None,
        **{name: _per_session(accounts, name) for name in ("quotes", "mentions")},
        **{f"check_{word}": answers.count(word) for word in ("yes", "no", "unclear")},
    }


def _per_session(accounts: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(sum(map(sum, account.get(name) or ())) for account in accounts) / len(accounts)


def _point_record(curve: Curve, point: Point) -> dict[str, Any]:
    return {
        "task": curve.task,
        "method": curve.method,
        "workers": curve.workers,
        "budget": point.budget,
        "accuracy": point.accuracy.value,
        "low": point.accuracy.low,
        "high": point.accuracy.high,
        "passes": point.passes,
        "seconds": point.seconds,
        "answered": point.answered,
        "problems": len(curve.problems),
        "seeds": curve.num_seeds,
        "failed": curve.failures,
    }


def _comparison_record(comparison: Comparison) -> dict[str, Any]:
    paired = comparison.paired
    return {
        "task": comparison.first.task,
        "first": comparison.first.label,
        "second": comparison.second.label,
        "budget": comparison.budget,
        "difference": paired.difference.value,
        "low": paired.difference.low,
        "high": paired.difference.high,
        "problems": paired.num_problems,
        "first_only": paired.first_only,
        "second_only": paired.second_only,
        "p": paired.p,
    }


def _speedup_record(speedup: Speedup) -> dict[str, Any]:
    record: dict[str, Any] = {
        "task": speedup.curve.task,
        "method": speedup.curve.method,
        "workers": speedup.curve.workers,
        "baseline": speedup.baseline.label,
        "budget": speedup.budget,
        "accuracy": speedup.target,
    }
    for name, interval in (("passes", speedup.passes), ("seconds", speedup.seconds)):
        record[name] = None if interval is None else interval.value
        record[f"{name}_low"] = None if interval is None else interval.low
        record[f"{name}_high"] = None if interval is None else interval.high
    return record


def _cell(curve: Curve, budget: int) -> str:
    point = next((point for point in curve.points if point.budget == budget), None)
    if point is None:
        return _DASH
    accuracy = point.accuracy
    return f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points_text(difference: Interval) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _times_text(ratio: Interval | None) -> str:
    return _DASH if ratio is None else f"{ratio.value:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[object]], num_texts: int) -> str:
    """A table whose first columns are text and whose others are numbers."""
    rule = ["---" if at < num_texts else "--:" for at in range(len(head))]
    rows = [head, rule, *([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
