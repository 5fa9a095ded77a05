"""`--attention-every`: what the summary, the JSON object and the replay of a trace say of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from even_attention import NUM_LAYERS, even_shares

from hogwild.cli import generate
from hogwild.cli.app import app
from tests.cli import scripted


class Backend(scripted.Backend):
    def attention_shares(self, plan: Any, columns: Any, num_columns: int) -> Any:
        return even_shares(plan, columns, num_columns)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def load(name: str, **options: object) -> scripted.Model:
        return scripted.Model(name, Backend(num_pieces=len(scripted.NO_ANSWER)), scripted.Tokenizer(), {})

    monkeypatch.setattr(generate, "load", load)

    def command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            app(list(map(str, arguments)))
        assert not end.value.code
        return capsys.readouterr().out

    return command


def test_the_summary_and_the_replay_say_whom_each_worker_read(run: Any, tmp_path: Any) -> None:
    options = ["--max-passes", 12, "--attention-every", 5, "--no-live", "--trace", tmp_path / "trace.jsonl"]
    lines = [line for line in run("generate", "What?", *options).splitlines() if line.startswith("attention")]
    assert len(lines) == 2
    for line, name in zip(lines, ("Alice", "Bob"), strict=True):
        assert line.split()[1] == f"{name}:"
        assert all(f" % {column}" in line for column in ("Alice", "Bob", "prompt", "texts", "first token"))
        assert abs(sum(int(part.split()[-1]) for part in line.split(" %")[:-1]) - 100) <= 3
    again = run("replay", tmp_path / "trace.jsonl", "--no-live").splitlines()
    assert [line for line in again if line.startswith("attention")] == lines


def test_json_has_every_measurement(run: Any) -> None:
    options = ["--max-passes", 12, "--json"]
    data = json.loads(run("generate", "What?", *options, "--attention-every", 5))
    assert [measured["pass"] for measured in data["attention"]] == [5, 10]
    assert [len(data["attention"][0]["shares"]), data["attention"][0]["workers"]] == [NUM_LAYERS, [0, 1]]
    assert data["attention"][0]["columns"][:3] == ["Alice", "Bob", "prompt"]
    without = json.loads(run("generate", "What?", *options))
    assert without["attention"] == []
    assert without["steps"] == data["steps"]
