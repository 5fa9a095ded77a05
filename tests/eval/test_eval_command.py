"""`hogwild eval` as a person meets it: files, exit codes, messages, seeds, shards."""

from __future__ import annotations

import json
import os
import signal

import pytest

from hogwild.backends.options import LoadOptions
from hogwild.cli import eval_flags, eval_run
from hogwild.cli.app import app
from hogwild.errors import OptionError
from hogwild.eval import ledger
from hogwild.eval.options import Shard
from hogwild.trace import read_trace
from hogwild.transcript import fold
from tests.cli import scripted
from tests.eval.workbench import rows

SMALL = ["--task", "parallel:2", "--count", "2", "--methods", "one,combined", "--budgets", "8,16"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command with the scripted model; the exit code, what it printed, and its remarks."""
    monkeypatch.setattr(eval_run, "load_model", lambda name, backend, options: scripted.model())
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            app(["eval", *map(str, arguments)])
        return (end.value.code or 0, *capsys.readouterr())

    return run


def test_a_run_and_its_folder(command, tmp_path):
    code, printed, remarks = command("--out", tmp_path / "run", *SMALL, "--concurrent", 2, "--traces")
    assert (code, printed) == (0, f"{tmp_path / 'run'}\n")
    assert "4 of 4 sessions" in remarks
    assert "tokens/s" in remarks
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["fingerprint"]) == {"model", "code", "options", "task", "scoring"}
    assert set(record["methods"]) == {"one/1", "combined/2"}
    made = rows(tmp_path / "run")
    assert [(row.method, row.workers) for row in made].count(("combined", 2)) == 2
    for row in made:
        assert fold(read_trace(tmp_path / "run" / str(row.trace))).num_passes == row.passes


def test_the_same_command_again_does_nothing_and_another_one_refuses(command, tmp_path):
    out = tmp_path / "run"
    command("--out", out, *SMALL)
    before = (out / "rows.jsonl").read_bytes()
    code, _, remarks = command("--out", out, *SMALL)
    assert code == 0
    assert "4 of 4 sessions, 4 of them from before" in remarks
    assert (out / "rows.jsonl").read_bytes() == before
    code, _, remarks = command("--out", out, *SMALL, "--temperature", 0.5)
    assert code == 2
    assert "options.sampling.temperature: 0.7 -> 0.5" in remarks
    code, _, remarks = command("--out", out, *SMALL, "--no-resume")
    assert code == 2
    assert "holds a run" in remarks


def test_how_the_model_is_loaded(command, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(eval_run, "load_model", lambda *given: asked.append(given) or scripted.model())
    options = ["--dtype", "float32", "--kv-dtype", "int8", "--attention", "plain", "--compile"]
    where = ["--out", tmp_path / "run", "--model", "some/model", "--backend", "reference"]
    assert command(*where, *SMALL, *options)[0] == 0
    loaded = LoadOptions(dtype="float32", attention="plain", kv_dtype="int8", compile=True)
    assert asked == [("some/model", "reference", loaded)]


def test_own_data(command, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text('{"problem": "17 * 23?", "answer": 391}\n{"problem": "1 + 1?", "answer": 2}\n')
    code, _, remarks = command("--out", tmp_path / "run", *SMALL[4:], "--task", "gsm8k", "--data", data)
    assert code == 0, remarks
    assert {row.problem for row in rows(tmp_path / "run")} == {"mine.jsonl/0", "mine.jsonl/1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "two"], "there is no method 'two'; expected: one, vote"),
        (["--methods", ","], "no method is given"),
        (["--task", "chess"], "there is no task 'chess'"),
        (["--budgets", "0"], "max_passes is too small; expected: at least 1"),
        (["--budgets", "many"], "--budgets is not understood"),
        (["--seeds", "3-1"], "--seeds is not understood"),
        (["--shard", "3/2"], "there is no such shard; expected: 1/2 to 2/2"),
        (["--shard", "2"], "--shard is not understood"),
        (["--workers", "0"], "with 0 workers; expected: 1 to 64"),
        (["--workers", "63", "--methods", "fork-join"], "method fork-join with 63 workers; expected: 1 to 62"),
        (["--prompt-style", "plain", "--methods", "combined+check"], "has no check question"),
        (["--data", "no.jsonl", "--task", "gsm8k"], "cannot read no.jsonl"),
        (["--concurrent", "0"], "concurrent"),
        (["--on", "moon"], "--on is not understood; expected: local or ray"),
        (["--gpus-per-engine", "2"], "--gpus-per-engine goes with --on ray"),
        (["--on", "ray", "--gpus-per-engine", "2", "--backend", "mlx"], "needs the cuda backend"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(command, tmp_path, arguments, message):
    code, printed, remarks = command("--out", tmp_path / "run", *SMALL, *arguments)
    assert (code, printed) == (2, "")
    assert message in remarks
    assert remarks.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_failures_are_counted_and_the_exit_code_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_run, "load_model", lambda *_: scripted.model(context_size=900))
    code, _, remarks = command("--out", tmp_path / "run", *SMALL)
    assert code == 1
    assert "2 failed" in remarks
    assert "2 rows of" in remarks


def test_a_disk_that_takes_no_record_ends_the_run_with_a_remedy(command, tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger, "_write_all", full)
    code, printed, remarks = command("--out", tmp_path / "run", *SMALL)
    assert (code, printed) == (1, "")
    assert "run.json; got: No space left on device; remedy: make room" in remarks
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*"))


def test_ctrl_c_stops_between_passes_and_the_rest_follows(command, tmp_path, monkeypatch):
    def interrupted(*_):
        model = scripted.model(num_pieces=len(scripted.NO_ANSWER))
        forward = model.backend.forward

        def counted(plan, **how):
            if model.backend.num_passes == 200:
                os.kill(os.getpid(), signal.SIGINT)
            return forward(plan, **how)

        model.backend.forward = counted
        return model

    monkeypatch.setattr(eval_run, "load_model", interrupted)
    code, _, remarks = command("--out", tmp_path / "run", *SMALL)
    assert code == 130
    assert "the same command goes on" in remarks
    assert 0 < len(rows(tmp_path / "run")) < 4
    monkeypatch.setattr(eval_run, "load_model", lambda *_: scripted.model(num_pieces=len(scripted.NO_ANSWER)))
    assert command("--out", tmp_path / "run", *SMALL)[0] == 0
    assert len({row.key for row in rows(tmp_path / "run")}) == 4


def test_a_slurm_array_writes_shards(command, tmp_path, monkeypatch):
    for task in (4, 6):
        values = {"ID": task, "COUNT": 2, "MIN": 4, "STEP": 2}
        for name, value in values.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        code, _, remarks = command("--out", tmp_path / "run", *SMALL)
        assert code == 0
        assert f"shard {task // 2 - 1}/2" in remarks
    parts = [rows(tmp_path / "run" / f"shard-{number}-of-2") for number in (1, 2)]
    assert [len(part) for part in parts] == [2, 2]
    assert len({row.key for part in parts for row in part}) == 4


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard()),
        ({"ID": "0", "COUNT": "8", "MIN": "0"}, Shard(1, 8)),
        ({"ID": "8", "COUNT": "8", "MIN": "1"}, Shard(8, 8)),
        ({"ID": "x", "COUNT": "8"}, None),
        ({"ID": "1"}, None),
        ({"ID": "9", "COUNT": "3", "MIN": "0"}, None),
    ],
)
def test_variables_of_slurm(environment, shard):
    given = {f"SLURM_ARRAY_TASK_{name}": value for name, value in environment.items()}
    if shard is not None:
        assert eval_flags.read_shard(None, given) == shard
    else:
        with pytest.raises(OptionError):
            eval_flags.read_shard(None, given)
    assert eval_flags.read_shard("2/3", given) == Shard(2, 3)


@pytest.mark.parametrize(("text", "seeds"), [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("5, 1-2,2", (5, 1, 2))])
def test_seeds(text, seeds):
    assert eval_flags.read_seeds(text) == seeds
