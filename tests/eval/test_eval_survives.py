"""Runs that last: killed at random moments, torn files, full disks, two writers, changed settings."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_tiny_model

from hogwild.errors import OptionError, TraceError
from hogwild.eval import ledger as ledger_module
from hogwild.eval.fingerprint import weights
from hogwild.eval.ledger import Ledger, WriteError
from hogwild.eval.options import Shard
from hogwild.eval.rows import Row, RowError, row_from_line, row_to_line
from hogwild.report.runs import read_runs
from hogwild.trace import read_trace
from hogwild.transcript import fold
from tests.cli import scripted
from tests.eval.workbench import engine, results, rows, study, work

ROOT = Path(__file__).parents[2]
KILLS = 200
SMALL = study(count=1, seeds=(0,), methods=("one", "fork-join", "combined+check"))


def test_nothing_is_lost_or_doubled_by_two_hundred_kills(tmp_path):
    command = [sys.executable, "-m", "tests.eval.kill_program", str(tmp_path), str(KILLS), "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= KILLS
    assert counts["torn"] > 0, "no kill fell into the writing of a row"
    assert counts["acknowledged"] > 4 * counts["rows"], "the kills came too early"


def made(number: int, **other) -> Row:
    return Row(f"p/{number}", "parallel", "one", 0, 1, **{"status": "failed", "reason": "a reason, naïve", **other})


def test_a_line_that_was_torn_anywhere_is_repaired(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second = (f"{row_to_line(made(number))}\n".encode() for number in (1, 2))
    for length in range(len(second)):
        path.write_bytes(first + second[:length])
        with Ledger(path) as ledger:
            assert ledger.keys == {made(1).key}
            ledger.append(made(2))
        assert path.read_bytes() == first + second


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}\n", "line 1 of .* is not a row"),
        (b'{"problem": \n', "line 1 of .* is not a row"),
        (2 * f"{row_to_line(made(1))}\n".encode(), "line 2 of .* repeats a row"),
        (f"{row_to_line(made(1))}\n\n".encode(), "line 2 of .* is not a row"),
    ],
)
def test_a_file_that_is_broken_elsewhere_is_refused_and_left_alone(tmp_path, data, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(OptionError, match=message):
        Ledger(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("change", [{"seed": "0"}, {"status": "good"}, {"passes": 1.5}, {"seed": True}, {"new": 1}])
def test_a_row_of_another_form_is_refused(change):
    data = {**json.loads(row_to_line(made(1))), **change}
    with pytest.raises(RowError):
        row_from_line(json.dumps(data))


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Ledger(path), pytest.raises(OptionError, match="another process is writing"):
        Ledger(path)
    with Ledger(path) as ledger:
        ledger.append(made(1))


def test_a_full_disk_ends_the_run_with_every_acknowledged_row(tmp_path):
    """A limit on the size of files stands for the disk: the write that crosses it is cut short, the next one fails."""
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
            work(tmp_path, study())
        except WriteError as error:
            os._exit(3 if "go" in str(error) else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    data = (tmp_path / "rows.jsonl").read_bytes()
    assert data.endswith(b"\n")
    kept = rows(tmp_path)
    assert 0 < len(kept) < 28
    work(tmp_path, study())
    assert rows(tmp_path)[: len(kept)] == kept
    assert len(results(tmp_path)) == 28


def test_an_io_error_keeps_the_file_whole(tmp_path, monkeypatch):
    path, write = tmp_path / "rows.jsonl", os.write
    with Ledger(path) as ledger:
        ledger.append(made(1))
        monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(WriteError, match="Input/output error"):
            ledger.append(made(2))
        monkeypatch.undo()
        assert len(path.read_bytes().splitlines()) == 1
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))  # short writes are completed
        ledger.append(made(2))
    assert len(rows(tmp_path)) == 2


def test_a_fault_that_leaves_torn_lines_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module.os, "ftruncate", lambda file, length: None)
    with pytest.raises(AssertionError):
        test_a_line_that_was_torn_anywhere_is_repaired(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": (8, 25)}, r"options.budgets: \[8, 24\] -> \[8, 25\]"),
        ({"max_step_tokens": 11}, "options.max_step_tokens: 10 -> 11"),
        ({"count": 2}, "task.problems: 1 -> 2; task.problems_sha256"),
    ],
)
def test_a_changed_setting_is_refused_with_the_difference(tmp_path, change, message):
    work(tmp_path, SMALL)
    before = (tmp_path / "rows.jsonl").read_bytes()
    changed = study(**{"count": 1, "seeds": (0,), "methods": ("one",), **change})
    with pytest.raises(OptionError, match=message):
        work(tmp_path, changed)
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_a_changed_prompt_is_refused(tmp_path):
    work(tmp_path, SMALL)
    method = SMALL.methods[2]
    told = dataclasses.replace(method, style=dataclasses.replace(method.style, finish="So?"))
    with pytest.raises(OptionError, match=r"methods.combined\+check/2.prompts_hash"):
        work(tmp_path, dataclasses.replace(SMALL, methods=[told]))


def test_the_record_knows_weights_config_and_template(tmp_path):
    def same() -> bool:
        return weights(str(folder)) == before

    folder = write_tiny_model(tmp_path / "model")
    before = weights(str(folder))
    assert same()
    assert weights(str(write_tiny_model(tmp_path / "again"))) == before
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text() if (folder / name).exists() else ""
        (folder / name).write_text(f"{text} ")
        assert not same()
        before = weights(str(folder))
    (folder / "README.md").write_text("not a part of the model")
    assert same()
    write_tiny_model(folder, seed=1)
    assert weights(str(folder))["weights_sha256"] != before["weights_sha256"]


def test_methods_and_seeds_can_be_added(tmp_path):
    work(tmp_path, SMALL)
    more = study(count=1, seeds=(0, 1), methods=("one", "vote", "fork-join", "combined+check"))
    before = rows(tmp_path)
    work(tmp_path, more)
    assert rows(tmp_path)[: len(before)] == before
    assert len(results(tmp_path)) == 8
    work(tmp_path, SMALL)  # and the smaller study is still a part of it


def test_shards_are_disjoint_and_together_the_whole(tmp_path):
    given = study(count=5, seeds=(0,), methods=("one", "combined"))
    for number in (1, 2, 3):
        work(tmp_path / "parts", given, shard=Shard(number, 3))
    work(tmp_path / "whole", given)
    merged = read_runs([tmp_path / "parts"])
    assert len(merged) == 10
    assert {row.key: row.tokens for row in merged} == {row.key: row.tokens for row in rows(tmp_path / "whole")}


def test_a_trace_shows_the_session_of_its_row(tmp_path):
    work(tmp_path, SMALL, traces=True)
    for row in rows(tmp_path):
        transcript = fold(read_trace(tmp_path / row.trace))
        assert tuple(worker.num_sampled for worker in transcript.workers.values()) == row.tokens
        assert transcript.num_passes == row.passes


def test_a_trace_that_was_cut_off_is_an_error_of_its_own(tmp_path):
    work(tmp_path, SMALL, traces=True)
    path = tmp_path / rows(tmp_path)[0].trace
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TraceError):
        fold(read_trace(path))


def test_a_failure_is_one_row_with_its_reason_and_costs_the_others_nothing(tmp_path):
    """The backend fails whenever a certain problem is in the batch: it alone is blamed, whoever shares its passes."""
    given = study(count=3, seeds=(0,), methods=("one", "combined"))
    for name, concurrent in (("alone", 1), ("together", 4)):
        running = engine(num_pieces=len(scripted.NO_ANSWER))
        break_for(running, len(given.problems[1].problem))
        work(tmp_path / name, given, concurrent, engine=running)
    assert results(tmp_path / "alone") == results(tmp_path / "together")
    failed = [row for row in rows(tmp_path / "together") if row.status == "failed"]
    assert [row.problem for row in failed] == [given.problems[1].id] * 2
    assert all("RuntimeError: the device fell over" in row.reason for row in failed)
    work(tmp_path / "whole", given, engine=engine(num_pieces=len(scripted.NO_ANSWER)))
    good = {key: row for key, row in results(tmp_path / "whole").items() if key[1] != given.problems[1].id}
    assert good.items() <= results(tmp_path / "together").items()


def break_for(running, length: int) -> None:
    submit, forward, guilty = running.submit, running.model.backend.forward, []

    def watched(problem, options=None, style="hogwild"):
        session = submit(problem, options, style)
        guilty.extend([session] if len(problem) == length else [])
        return session

    def broken(plan, **how):
        if any(session.pass_index > 3 and not session.ended for session in guilty):
            raise RuntimeError("the device fell over")
        return forward(plan, **how)

    running.submit, running.model.backend.forward = watched, broken
