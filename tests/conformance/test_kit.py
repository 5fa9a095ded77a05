"""`hogwild conform`: it passes here, and each seeded fault makes it fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.backends.cuda.pool import KVPool
from hogwild.cli.app import app
from hogwild.conformance.kit import golden
from hogwild.conformance.kit.attention import check_attention
from hogwild.conformance.kit.logits import check_choices, logit_errors
from hogwild.conformance.kit.models import check_models
from hogwild.conformance.kit.report import Check
from hogwild.conformance.kit.targets import Target, find_targets
from hogwild.conformance.kit.written import check_sessions
from hogwild.errors import CheckpointError
from tests.conformance.kit_faults import FAULTS, MODEL_FAULTS
from tests.conformance.kit_faults_elsewhere import MLX_FAULTS, REFERENCE_FAULTS

SEEN_AT_LOAD = {"keys_of_another_layer", "keys_turned_in_place_of_the_query"}
CASES, DRAWS = 8, 6  # the kit is asked for a few cases at a time, until it sees the fault


@pytest.fixture(scope="module")
def torch_plain() -> Target:
    (target,) = (target for target in find_targets("cuda")[0] if target.path == "plain")
    return target


def fails(target: Target) -> bool:
    """Whether one of the draws contains a failed comparison with the exact answer."""
    for seed in range(DRAWS):
        checks = list(check_attention([target], CASES, seed))
        if any(not check.passed for check in checks if check.statement == "oracle"):
            return True
    return False


def test_nothing_fails_without_a_fault(torch_plain: Target) -> None:
    assert not fails(torch_plain)
    checks = list(check_models([torch_plain], names=("copying",), dtypes=("float32", "bfloat16")))
    assert {check.statement for check in checks} == {"oracle", "L1", "L2"}
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_attention_is_seen(name: str, torch_plain: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    assert fails(torch_plain)


@pytest.mark.parametrize(
    ("backend", "name"), [*(("reference", name) for name in REFERENCE_FAULTS), *(("mlx", name) for name in MLX_FAULTS)]
)
def test_a_fault_of_another_backend_is_seen(backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx_lm")
    (target,) = (target for target in find_targets(backend)[0] if target.path == "plain")
    (REFERENCE_FAULTS | MLX_FAULTS)[name](monkeypatch)
    assert fails(target)


@pytest.mark.parametrize("is_apples", [True, False])
def test_metal_kernels_are_a_target_where_metal_is(is_apples: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mx = pytest.importorskip("mlx.core")
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: is_apples)
    assert [target.path for target in find_targets("mlx")[0]] == (["plain", "metal"] if is_apples else ["plain"])


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_fault_of_whole_models_is_seen(name: str, torch_plain: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the layers, or already by the backend's own check at load."""
    MODEL_FAULTS[name](monkeypatch)
    (check,) = check_models([torch_plain], names=("llama",), dtypes=("float32",))
    assert not check.passed
    assert ("refused at load" in check.name) == (name in SEEN_AT_LOAD), check.name


def test_a_fault_is_seen_in_16_bits_too(torch_plain: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the layers, by the divergence, by the share of choices, and by choices that nothing explains.

    The fault shows in long passes alone, so that the check at load does not see it.
    """
    write = KVPool.write

    def shifted(self: KVPool, layer: int, slots: Any, k: Any, v: Any) -> None:
        write(self, layer, slots, k if len(slots) < 20 else k.roll(1, dims=1), v)

    monkeypatch.setattr(KVPool, "write", shifted)
    checks = list(check_models([torch_plain], names=("copying",), dtypes=("bfloat16",)))
    assert [check.statement for check in checks] == ["oracle", "L2", "L2", "L2"]
    assert not any(check.passed for check in checks), checks


def choices(found: np.ndarray, exact: np.ndarray) -> list[Check]:
    """Statement L2 where the ordinary forward errs by 0.01."""
    noise = 0.01 * np.random.default_rng(1).standard_normal(exact.shape)
    return list(check_choices("models", "t", "x", logit_errors(found, exact), logit_errors(exact + noise, exact)))


def test_a_choice_must_be_explained() -> None:
    rng = np.random.default_rng(0)
    exact = 3 * rng.standard_normal((1000, 50))
    exact[:, 7] += 20
    exact[:2, 8] = exact[:2, 7] - (0.02, 0.5)
    found = exact + 0.01 * rng.standard_normal(exact.shape)
    found[0, 8] = found[0, 7] + 0.001
    assert all(check.passed for check in choices(found, exact))  # one differs, by a margin that rounding explains
    found[1] = exact[1] + rng.standard_normal(50)
    found[1, 8] = found[1, 7] + 0.001  # a token that is wrong altogether does not explain itself
    explained, kl, share = choices(found, exact)
    assert not explained.passed
    assert explained.problems == ("token 1: margin 0.5",)
    assert share.passed
    found[2:7, 9] = found[2:7, 7] + 1  # six of a thousand
    explained, kl, share = choices(found, exact)
    assert not kl.passed
    assert (share.passed, share.worst) == (False, 0.007)
    found[3] = np.nan
    assert all(check.worst == np.inf for check in choices(found, exact)[:2])


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) + len(MODEL_FAULTS) >= 20


def test_every_backend_writes_the_same_tokens() -> None:
    """Statement L1, and the same again on each of them."""
    checks = list(check_sessions(find_targets()[0]))
    assert {check.statement for check in checks} >= {"L0", "L1"}
    assert all(check.passed for check in checks), [check.problems for check in checks if not check.passed]


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["conform", *arguments])
    return done.exit_code, done.stdout + done.stderr


def test_the_command_writes_a_report_and_compares_two(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code, text = run("--backend", "reference", "--level", "rotary,attention", "--cases", "9", "--json", str(file))
    assert code == 0, text
    assert "passed:" in text
    report = json.loads(file.read_text())
    assert report["passed"] is True
    assert {check["level"] for check in report["checks"]} == {"rotary", "attention"}
    assert report["versions"]["numpy"]
    code, text = run("--compare", str(file), str(file))
    assert code == 0
    assert text.count("passed") >= 2


def test_the_command_fails_with_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS["offset_off_by_one"](monkeypatch)
    code, text = run("--backend", "reference", "--level", "attention", "--cases", "8")
    assert code == 1
    assert "FAILED" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--level", "everything"), "no level 'everything'"),
        (("--level", "model"), "level model and --model belong together"),
        (("--trace", "x.jsonl"), "a trace without a model"),
        (("--json", "/no/such/folder/x.json"), "no folder"),
        (("--compare", "missing.json", "missing.json"), "cannot read missing.json"),
    ],
)
def test_misuse_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    code, text = run("--backend", "reference", *arguments)
    assert code == 2
    assert message in text


def test_broken_golden_files_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    shutil.copytree(golden.FOLDER, folder)
    answers = folder / "attention.npz"
    answers.write_bytes(answers.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="checksum differs"):
        golden.read_golden(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        golden.read_golden(tmp_path / "none")
