"""What a report says about rows whose results are known; and what it does with rows that do not fit together."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_rows import budget, failed, row, write_run

from hogwild.errors import OptionError
from hogwild.eval.rows import Row
from hogwild.report.curves import Study, holm, ordered, state_at, study, to_curves
from hogwild.report.runs import count_missing, read_runs
from hogwild.report.statistics import mcnemar_p, mean_interval
from hogwild.report.write import Shown, make_tables, write_report

TWO = (100, 200)


def numbers(made: Study, name: str, **options: Any) -> list[dict[str, str]]:
    """The records of one table."""
    table = next(table for table in make_tables(made, Shown(**options)) if table.name == name)
    return list(csv.DictReader(io.StringIO(table.csv)))


def one(problem: str, correct: list[bool], **other: Any) -> Row:
    return row(problem, correct, TWO, method="one", workers=1, **other)


# Runs put together -----------------------------------------------------------------------------------------------


def test_shards_are_put_together_and_the_same_row_counts_once(tmp_path: Path) -> None:
    rows = [row(f"p{n}", [True]) for n in range(4)]
    write_run(tmp_path / "a", rows[:2])
    write_run(tmp_path / "b" / "shard-1", rows[2:], "rows-1-of-2.jsonl")
    later = dataclasses.replace(rows[1], seconds=99.0, trace="traces/x")
    again = write_run(tmp_path / "c", [later])
    assert read_runs([tmp_path / "a", tmp_path / "b", again]) == rows
    assert read_runs([tmp_path / "a" / "rows.jsonl"]) == rows[:2]


def test_rows_that_contradict_each_other_are_refused_with_the_difference(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [row("p", [True, True])])
    second = write_run(tmp_path / "b", [row("p", [True, False], reason="max_passes")])
    with pytest.raises(OptionError, match=r"line 1 of .*a.* and line 1 of .*b.* contradict") as error:
        read_runs([first, second])
    assert 'reason: "answer" -> "max_passes"' in str(error.value)
    assert "budgets.1.correct: true -> false" in str(error.value)


def record(folder: Path, **changes: Any) -> None:
    """What `hogwild eval` writes beside the rows."""
    made = {"model": {"name": "m"}, "code": "x", "options": {"budgets": [100, 200]}, "task": {"count": 2}, **changes}
    data = {"run": "hogwild eval", "version": 1, "fingerprint": made, "methods": {}}
    (folder / "run.json").write_text(json.dumps(data))


def test_runs_with_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", [row("p", [True])]), write_run(tmp_path / "b", [one("p", [True, True])])
    other = write_run(tmp_path / "c", [row("p", [True], task="other")])
    record(first)
    record(second, code="y")
    record(other, task={"count": 9}, options={"budgets": [7]})
    assert len(read_runs([first, second, other])) == 3
    record(second, options={"budgets": [100]})
    with pytest.raises(OptionError, match=r"a and .*b are runs with other settings.*budgets: \[100, 200\] -> \[100\]"):
        read_runs([first, second, other])
    record(second)
    record(other, model={"name": "larger"})
    with pytest.raises(OptionError, match=r'model\.name: "m" -> "larger"'):
        read_runs([first, second, other])


def test_sessions_that_the_shards_lack_are_counted(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [row("p0", [True]), one("p0", [True, True]), row("p0", [True], seed=1)])
    second = write_run(tmp_path / "b", [row("p1", [True])])
    assert count_missing(read_runs([tmp_path]), [tmp_path]) == 0, "nobody knows how many there should be"
    for folder in (first, second):
        record(folder, task={"problems": 3})
    rows = read_runs([first, second])
    assert count_missing(rows, [tmp_path]) == 3 * 2 * 2 - 4
    write_report([failed("p")], tmp_path / "report", num_missing=8)  # without pictures, which take time
    page = (tmp_path / "report" / "report.md").read_text()
    assert "The runs are not complete: 8 sessions are missing." in page


def test_a_torn_last_line_is_no_row_yet_and_any_other_broken_line_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, [row("p", [True]), row("q", [True])])
    whole = (run / "rows.jsonl").read_bytes()
    (run / "rows.jsonl").write_bytes(whole[:-20])
    assert [found.problem for found in read_runs([run])] == ["p"]
    (run / "rows.jsonl").write_bytes(b"{}\n" + whole)
    with pytest.raises(OptionError, match=r"line 1 of .*rows\.jsonl is not a row"):
        read_runs([run])


@pytest.mark.parametrize("content", [None, b"", b'{"problem": "torn'])
def test_an_empty_run_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(OptionError, match=r"holds no run|there are no rows"):
        read_runs([tmp_path])
    with pytest.raises(OptionError, match="holds no run"):
        read_runs([tmp_path / "nowhere"])


# Accuracy --------------------------------------------------------------------------------------------------------


def test_accuracy_is_a_mean_over_problems_of_means_over_seeds_and_failures_are_wrong() -> None:
    rows = [
        *(row("p", [False, True], TWO, seed=seed) for seed in range(3)),
        row("q", [True, True], TWO, seed=0),
        row("q", [False, False], TWO, seed=1),
        failed("r"),
    ]
    records = numbers(study(rows), "accuracy")
    assert [record["budget"] for record in records] == ["100", "200"]
    assert float(records[0]["accuracy"]) == pytest.approx((0 + 0.5 + 0) / 3)
    assert float(records[1]["accuracy"]) == pytest.approx((1 + 0.5 + 0) / 3)
    expected = mean_interval([1, 0.5, 0])
    assert (float(records[1]["low"]), float(records[1]["high"])) == (expected.low, expected.high)
    assert (records[1]["problems"], records[1]["seeds"], records[1]["failed"]) == ("3", "3", "1")
    assert float(records[1]["answered"]) == pytest.approx(5 / 6)
    assert float(records[1]["passes"]) == 200
    failures = numbers(study(rows), "failures")
    assert failures == [{"task": "math", "method": "combined", "reason": "MemoryError", "sessions": "1"}]


def test_a_session_that_ended_stays_as_it_was_and_an_unknown_budget_is_left_out() -> None:
    early = dataclasses.replace(row("p", [True], (100,)), passes=60)
    running = row("q", [True], (100,))
    assert state_at(early, 200) == early.budgets[-1]
    assert state_at(running, 200) is None
    assert state_at(early, 50) is None
    assert [p.budget for p in to_curves([early, row("r", [False, True], TWO)])[0].points] == [100, 200]
    assert [p.budget for p in to_curves([running, row("r", [False, True], TWO)])[0].points] == [100]


def test_the_table_for_reading_rounds_what_the_csv_file_has() -> None:
    made = study([one("p", [True, True]), one("q", [False, True]), row("p", [True, True], TWO)])
    table = make_tables(made, Shown())[0]
    assert "| math | one | 1 | 50.0 [0.0, 100.0] | 100.0 [" in table.markdown
    assert table.markdown.count("\n") == 3


def test_methods_stand_in_one_order_however_the_rows_came() -> None:
    names = ["mine", "combined+check", "vote", "combined", "one", "one+check"]
    assert ordered(names) == ["one", "one+check", "vote", "combined", "combined+check", "mine"]
    curves = to_curves([row("p", [True], method=name) for name in names])
    assert [curve.method for curve in curves] == ordered(names)


# Comparison ------------------------------------------------------------------------------------------------------


def test_two_methods_are_compared_on_what_both_have() -> None:
    outcomes = {"a": (True, False), "b": (True, False), "c": (True, True), "d": (False, True), "e": (True, False)}
    rows = [row(name, [True, ours], TWO) for name, (ours, _) in outcomes.items()]
    rows += [one(name, [True, theirs]) for name, (_, theirs) in outcomes.items()]
    rows.append(one("only here", [True, True]))
    record = numbers(study(rows), "comparison")[-1]
    assert (record["first"], record["second"], record["budget"]) == ("combined", "one", "200")
    assert float(record["difference"]) == pytest.approx(0.4)
    assert (record["first_only"], record["second_only"], record["problems"]) == ("3", "1", "5")
    assert float(record["p"]) == mcnemar_p(3, 1)


def test_adjusted_p_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# Speed-up --------------------------------------------------------------------------------------------------------


def timed(problem: str, method: str, workers: int, budgets: list[tuple[int, bool, int, float]]) -> Row:
    states = tuple(budget(at, right, passes, seconds) for at, right, passes, seconds in budgets)
    made = row(problem, method=method, workers=workers, passes=states[-1].passes)
    return dataclasses.replace(made, budgets=states)


def test_speed_up_is_the_ratio_of_costs_at_the_same_accuracy() -> None:
    """One worker is right on 0, 1/2, all at 100, 200, 400 passes; two on all at 100, but a pass takes twice as long."""
    rows = [
        timed("p", "one", 1, [(100, False, 100, 10), (200, True, 200, 20), (400, True, 400, 40)]),
        timed("q", "one", 1, [(100, False, 100, 10), (200, False, 200, 20), (400, True, 400, 40)]),
        timed("p", "combined", 2, [(100, True, 100, 20), (200, True, 100, 20), (400, True, 100, 20)]),
        timed("q", "combined", 2, [(100, True, 100, 20), (200, True, 100, 20), (400, True, 100, 20)]),
    ]
    last = numbers(study(rows), "speedup")
    assert [(r["budget"], float(r["passes"]), float(r["seconds"])) for r in last] == [("200", 2, 1), ("400", 4, 2)]


def test_costs_between_budgets_are_interpolated() -> None:
    """The target is 1/2. Two workers: 1/4 at 100 passes, 3/4 at 200: half way, at 150 passes."""
    one_rows = [timed(f"p{n}", "one", 1, [(100, False, 100, 1), (300, n < 2, 300, 3)]) for n in range(4)]
    two_rows = [timed(f"p{n}", "combined", 2, [(100, n < 1, 100, 1), (200, n < 3, 200, 2)]) for n in range(4)]
    record = numbers(study([*one_rows, *two_rows]), "speedup")[0]
    assert float(record["passes"]) == pytest.approx(300 / 150)
    assert float(record["passes_low"]) <= 2 <= float(record["passes_high"])


def test_an_accuracy_that_is_never_reached_has_no_speed_up() -> None:
    rows = [one(f"p{n}", [False, True]) for n in range(3)] + [row(f"p{n}", [False, False], TWO) for n in range(3)]
    record = numbers(study(rows), "speedup")[0]
    assert (record["passes"], record["seconds"]) == ("", "")
    with pytest.raises(OptionError, match="no right answer at that budget; expected: 200; got: 100"):
        make_tables(study(rows), Shown(target=100))


def test_speed_up_over_simulated_sessions_covers_the_truth() -> None:
    """Two workers need half the passes of one for each problem, exactly: the ratio is 2 in every resample."""
    rows = []
    for n in range(40):
        needed = 20 * (n + 1)
        for method, workers, factor in (("one", 1, 1.0), ("combined", 2, 0.5)):
            budgets = [int(at * factor) for at in (100, 200, 400, 800)]
            states = [(at, needed * factor <= at, min(at, int(needed * factor)), 1.0) for at in budgets]
            rows.append(timed(f"p{n}", method, workers, states))
    record = numbers(study(rows), "speedup")[-1]
    assert float(record["passes"]) == pytest.approx(2)
    assert float(record["passes_low"]) == pytest.approx(2)
    assert float(record["passes_high"]) == pytest.approx(2)


# Collaboration ---------------------------------------------------------------------------------------------------


def test_collaboration_is_averaged_over_sessions() -> None:
    accounts = [
        {"redundancy": 0.2, "quotes": [[0, 1], [2, 0]], "mentions": [[0, 0], [0, 0]], "checks": ["yes", "no"]},
        {"redundancy": None, "quotes": [[0, 0], [0, 0]], "mentions": [[0, 4], [0, 0]], "checks": ["no"]},
        {"redundancy": 0.4, "quotes": [[0, 0], [0, 0]], "mentions": [[0, 0], [0, 0]], "checks": []},
    ]
    rows = [row(f"p{n}", [True], collaboration=account) for n, account in enumerate(accounts)]
    record = numbers(study([*rows, one("p0", [True, True])]), "collaboration")[0]
    assert float(record["redundancy"]) == pytest.approx(0.3)
    assert (float(record["quotes"]), float(record["mentions"])) == (1.0, pytest.approx(4 / 3))
    assert (record["check_yes"], record["check_no"], record["check_unclear"]) == ("1", "2", "0")


@pytest.mark.parametrize(
    "rows",
    [
        [row("p", [True])],
        [one("p", [True, False])],
        [failed("p"), failed("q", "time limit")],
        [failed("p"), one("p", [True, True])],
        [row("p", [False, False], TWO), one("p", [False, False])],
        [row("p", [True], TWO), row("p", [True], TWO, task="other")],
    ],
    ids=["one session", "one worker", "all failed", "one failed", "all wrong", "two tasks"],
)
def test_small_studies_have_finite_numbers(rows: list[Row]) -> None:
    for table in make_tables(study(rows), Shown()):
        for record in csv.DictReader(io.StringIO(table.csv)):
            for name, value in record.items():
                if name in ("accuracy", "low", "high", "passes", "seconds", "difference", "p") and value:
                    assert math.isfinite(float(value)), (table.name, name)
        assert "nan" not in table.markdown
