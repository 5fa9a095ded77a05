"""`hogwild conform --model`: a model is led along a trace, and a wrong one is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hogwild.backends.reference import attention
from hogwild.cli.app import app
from hogwild.conformance.kit import own_model
from hogwild.conformance.kit.course import read_course
from hogwild.conformance.kit.own_model import check_own_model
from hogwild.conformance.kit.targets import find_targets
from hogwild.errors import TraceError
from tests.tiny_models import write_tiny_model


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_tiny_model(tmp_path_factory.mktemp("own") / "model"))


@pytest.fixture(scope="module")
def trace(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three workers, sampled, with published steps."""
    file = tmp_path_factory.mktemp("own") / "run.jsonl"
    options = ("--max-passes", "30", "--workers", "3", "--max-step-tokens", "7", "--json", "--trace", str(file))
    code, text = run("generate", "Why?", "--model", str(folder), "--backend", "reference", *options)
    assert code == 0, text
    return file


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes where there is no trace."""
    options = replace(own_model.BUILT_IN.options, max_passes=25, max_step_tokens=7)
    monkeypatch.setattr(own_model, "BUILT_IN", replace(own_model.BUILT_IN, options=options))


def changed(trace: Path, to: Path, change: Callable[[dict], dict]) -> Path:
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    to.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))
    return to


def test_a_model_is_led_along_a_trace(folder: Path, trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code, text = run(
        *("conform", "--model", str(folder), "--trace", str(trace), "--backend", "reference", "--json", str(file))
    )
    assert code == 0, text
    (check,) = json.loads(file.read_text())["checks"]
    assert (check["level"], check["statement"], check["passed"]) == ("model", "L1", True)
    tokens = read_course(trace).tokens
    assert tokens is not None
    assert check["count"] > len(tokens) - 3 > 80  # every token but each worker's last was fed, and the prompt


@pytest.mark.usefixtures("short")
def test_without_a_trace_it_leads_itself(folder: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    targets = [target for target in find_targets("cuda")[0] if target.path == "plain"]
    missing: list[str] = []
    checks = list(check_own_model(targets, str(folder), None, missing))
    assert [check.statement for check in checks] == ["L1", "L2", "L2", "L2"]
    assert all(check.passed for check in checks), checks
    assert not missing


@pytest.mark.usefixtures("short")
def test_a_family_that_the_reference_does_not_know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the framework's own forward is the yardstick."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from hogwild.backends.reference import config

    monkeypatch.setattr(config, "FAMILIES", ())
    targets = [target for target in find_targets("cuda")[0] if target.path == "plain"]
    missing: list[str] = []
    checks = list(check_own_model(targets, str(folder), None, missing))
    assert [check.name for check in checks if check.statement == "L1"] == [
        "float32 against cuda float32",
        "float32 against its plain forward",
    ]
    assert all(check.passed for check in checks), checks
    assert "reference" in missing[0]


def test_a_fault_is_seen(folder: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is planted when the target is loaded: the yardstick has run by then, and was right."""
    (target,) = find_targets("reference")[0]
    turned, load = attention.turned, own_model.load_target

    def load_faulty(*given: Any) -> Any:
        monkeypatch.setattr(attention, "turned", lambda x, turn: turned(x, turn.conj()))
        return load(*given)

    monkeypatch.setattr(own_model, "load_target", load_faulty)
    (check,) = check_own_model([target], str(folder), trace, [])
    assert not check.passed
    assert check.worst > 20


def test_strange_traces(folder: Path, trace: Path, tmp_path: Path) -> None:
    def other_header(line: dict) -> dict:
        return {**line, "token_id": line["token_id"] + 1} if line.get("forced") else line

    def other_prompt(line: dict) -> dict:
        return {**line, "num_prompt_tokens": 7} if "num_prompt_tokens" in line else line

    def other_style(line: dict) -> dict:
        return {**line, "prompt_style": "my/1"} if "prompt_style" in line else line

    for number, change in enumerate((other_header, other_prompt)):
        file = changed(trace, tmp_path / f"{number}.jsonl", change)
        code, text = run("conform", "--model", str(folder), "--trace", str(file), "--backend", "reference")
        assert code == 2
        assert "does not write the session as the trace has it" in text
    with pytest.raises(TraceError, match="cannot be set up again"):
        read_course(
            changed(trace, tmp_path / "s.jsonl", lambda x: {**x, "prompt_style": "my/1"} if "prompt_style" in x else x)
        )
    (tmp_path / "garbage.jsonl").write_text("{}")
    code, text = run("conform", "--model", str(folder), "--trace", str(tmp_path / "garbage.jsonl"))
    assert (code, "not a trace" in text) == (2, True)
