"""`hogwild bench` on the tiny shape, with every backend; what is misused gives one line and exit code 2."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hogwild.backends.registry import BACKENDS
from hogwild.bench import read_report, runner
from hogwild.cli.app import app
from hogwild.errors import PoolExhausted
from hogwild.models.shapes import SHAPES
from tests.tiny_models import write_tiny_model

NAMES = [name for name, entry in BACKENDS.items() if not entry.missing()]
TINY = ("--shape", "tiny", "--backend", "reference", "--device", "cpu", "--passes", "3", "--warmup", "1")


@pytest.fixture(autouse=True)
def small_copy(monkeypatch):
    """A copy of 1 MiB: the bandwidth of a cache, but a real one."""
    from hogwild.bench import copying

    measured = copying.host_copy_bandwidth(2**20)
    for name in NAMES:
        module = {"cuda": "torch"}.get(name, name)
        monkeypatch.setattr(f"hogwild.bench.yardstick_{module}.host_copy_bandwidth", lambda: measured)


def run(*arguments: str):
    return CliRunner().invoke(app, ["bench", *arguments])


def results(*arguments: str):
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_is_measured(name):
    arguments = (*TINY, "--backend", name, "--workers", "1,3", "--context", "100,256", "--dtype", "fp32")
    data = results(*arguments)
    cases = data["decode"]
    assert [(case["context"], case["workers"]) for case in cases] == [(100, 1), (100, 3), (256, 1), (256, 3)]
    for case in cases:
        assert len(case["step_ms"]) == len(case["batch_ms"]) == 3
        assert 0 < case["step_ms_p50"] <= case["step_ms_p99"] == max(case["step_ms"])
        assert 0 < case["forward_ms"] <= max(case["step_ms"])
        assert case["tokens_per_second"] == pytest.approx(case["workers"] * case["tokens_per_second_per_worker"])
        assert case["floor_reached"] == pytest.approx(case["floor_ms"] / case["step_ms_p50"])
        assert case["overhead"] > 0
        assert case["separate_kv_bytes"] == case["workers"] * case["context"] * 512
        assert 512 * case["distinct_tokens"] <= case["shared_kv_bytes"]
        assert case["bytes"]["kv_read"] + case["bytes"]["kv_written"] == 512 * case["distinct_tokens"]
    assert [case["speedup"] for case in cases][::2] == [1.0, 1.0]
    assert cases[3]["shared_kv_bytes"] < cases[3]["separate_kv_bytes"]
    assert [entry["context"] for entry in data["prefill"]] == [100, 256]
    assert all(entry["tokens_per_second"] > 0 for entry in data["prefill"])
    assert data["model"]["backend"] == name
    assert data["model"]["random_weights"] is True
    assert data["batch"]
    assert data["copy_bandwidth"] > 1e6
    assert data["machine"]["cores"] >= 1
    assert data["versions"]["numpy"]
    assert data["settings"]["seed"] == 0
    assert data["problem"] is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reference"])
def test_half_precision_and_the_model_of_a_folder(name, tmp_path):
    data = results(*TINY, "--backend", name, "--workers", "2", "--context", "128", "--dtype", "bf16")
    assert data["model"]["dtype"] == "bfloat16"
    folder = str(write_tiny_model(tmp_path / "m"))
    data = results("--model", folder, "--backend", name, "--passes", "1", "--workers", "2", "--context", "128")
    assert data["model"]["random_weights"] is False


def test_a_cache_in_8_bits():
    arguments = (*TINY, "--workers", "2", "--context", "128", "--passes", "1", "--kv-dtype", "int8")
    data = results(*arguments)
    (case,) = data["decode"]
    token = 2 * 2 * 2 * (16 + 4)
    assert data["model"]["kv_dtype"] == "int8"
    assert case["bytes"]["kv_read"] + case["bytes"]["kv_written"] == token * case["distinct_tokens"]
    assert case["shared_kv_bytes"] % token == 0
    assert case["separate_kv_bytes"] == 2 * 128 * token
    assert "attention: numpy, K/V in int8" in " ".join(run(*arguments, "--no-batch").stdout.split())


def test_published_steps_layouts_and_no_batch():
    arguments = (*TINY, "--workers", "2", "--context", "200", "--no-batch", "--step-tokens", "20")
    for layout in ("combined", "interleaved", "contiguous", "independent"):
        data = results(*arguments, "--layout", layout)
        case = data["decode"][0]
        assert (case["batch_ms"], case["overhead"], case["batch_problem"]) == ([], None, "not asked for")
        assert case["speedup"] is None
        assert data["prefill"] == []
        assert data["settings"]["layout"] == layout


def test_table_on_stdout_progress_on_stderr():
    result = run(*TINY, "--workers", "1,2", "--context", "128")
    assert result.exit_code == 0
    assert "tiny: reference backend, float32 on cpu" in result.stdout
    assert "prefill" in result.stdout
    assert "speed-up" in result.stdout
    assert "1.00×" in result.stdout
    assert "…" not in result.stdout
    assert "W=2, 128 tokens:" in result.stderr
    assert "\x1b" not in result.output


def test_csv_and_files(tmp_path):
    for suffix in (".json", ".csv"):
        result = run(*TINY, "--workers", "1", "--context", "64", "-o", "csv", "--output", str(tmp_path / f"r{suffix}"))
        assert result.exit_code == 0
        lines = list(csv.DictReader(io.StringIO(result.stdout)))
        assert [line["context"] for line in lines] == ["64"]
    assert (tmp_path / "r.csv").read_text() == result.stdout
    assert read_report(tmp_path / "r.json").decode[0].context == 64


def test_sizes_with_k():
    data = results(*TINY, "--workers", "1,1", "--context", "1k", "--passes", "1")
    assert [(case["workers"], case["context"]) for case in data["decode"]] == [(1, 1024)]


MISUSES = {
    "no worker": ("--workers", "0"),
    "too many": ("--workers", "65"),
    "not a number": ("--workers", "two"),
    "nothing": ("--workers", ""),
    "negative": ("--workers", "-1"),
    "no context": ("--context", "0"),
    "half a k": ("--context", "1.5k"),
    "huge": ("--context", "99999999999"),
    "too short": ("--context", "8"),
    "too long": ("--context", "8k"),
    "layout": ("--layout", "nope"),
    "layout file": ("--layout", "nope.json"),
    "shape": ("--shape", "nope"),
    "backend": ("--backend", "nope"),
    "dtype": ("--dtype", "int4"),
    "half precision in NumPy": ("--dtype", "bf16"),
    "device": ("--device", "nope"),
    "kernel": ("--attention", "kernel"),
    "K/V in a dtype that is not known": ("--kv-dtype", "int3"),
    "attention": ("--attention", "nope"),
    "passes": ("--passes", "0"),
    "warmup": ("--warmup", "-1"),
    "steps": ("--step-tokens", "-1"),
    "seed": ("--seed", "-1"),
    "seed text": ("--seed", "x"),
    "format": ("-o", "xml"),
    "no folder": ("--output", "no/such/folder/r.json"),
    "suffix": ("--output", "r.txt"),
    "model and shape": ("--model", "bundled"),
    "flag": ("--nope",),
}


@pytest.mark.parametrize("arguments", MISUSES.values(), ids=MISUSES.keys())
def test_misuse(arguments):
    result = run(*TINY, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    complaints = [line for line in result.stderr.splitlines() if not line.startswith("making random weights")]
    assert len(complaints) == 1, result.stderr
    assert complaints[0].startswith("error: ")


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("mine")
    result = run(*TINY, "--output", str(path))
    assert (result.exit_code, path.read_text()) == (2, "mine")
    assert "exists already" in result.stderr


def test_what_needs_too_much_memory_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr("hogwild.cli.bench.free_bytes", lambda *_: 10**6)
    result = run(*TINY)
    assert result.exit_code == 2
    assert "no room for this benchmark" in result.stderr


def test_a_batch_without_room_is_left_out(monkeypatch):
    monkeypatch.setattr("hogwild.bench.runner.free_bytes", lambda *_: 10**5)
    case = results(*TINY, "--workers", "4", "--context", "128")["decode"][0]
    assert case["batch_ms"] == []
    assert case["batch_problem"].startswith("no room: ")


def test_ctrl_c_keeps_what_was_measured(monkeypatch, tmp_path):
    """It comes while the second context is being measured."""
    original = runner.take_turns

    def interrupted(steps, rounds, warmup, stopped):
        done = getattr(interrupted, "done", 0)
        interrupted.done = done + 1
        if done:
            raise_ctrl_c()
        return original(steps, rounds, warmup, stopped)

    def raise_ctrl_c():
        import signal

        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runner, "take_turns", interrupted)
    path = tmp_path / "r.json"
    result = run(*TINY, "--workers", "1,2", "--context", "64,128", "--output", str(path), "-o", "csv")
    assert result.exit_code == 130
    assert "stopped: 2 of 4 cases are measured" in result.stderr
    assert len(result.stdout.splitlines()) == 3
    kept = read_report(path)
    assert [case.context for case in kept.decode] == [64, 64]
    assert kept.problem == "stopped by the user"


def test_a_device_that_runs_full_keeps_what_was_measured(monkeypatch):
    original = runner.build_views

    def full(cache, layout, workers, common, own_tokens):
        if workers == 2 and len(common) > 64:
            raise PoolExhausted("the device has no room")
        return original(cache, layout, workers, common, own_tokens)

    monkeypatch.setattr(runner, "build_views", full)
    result = run(*TINY, "--workers", "1,2", "--context", "64,128", "-o", "csv")
    assert result.exit_code == 2
    assert "2 of 4 cases are measured; the device has no room" in result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_a_framework_that_runs_out_of_memory_is_understood(monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(runner, "take_turns", full)
    result = run(*TINY, "--workers", "1", "--context", "64")
    assert result.exit_code == 2
    assert "the device has no room for contexts of 64 tokens" in result.stderr


def test_a_kernel_that_reads_where_it_must_not_is_no_lack_of_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runner._Bench, "_measure", broken)
    result = run(*TINY, "--workers", "1", "--context", "64")
    assert "illegal memory access" in str(result.exception)


def test_what_was_measured_is_kept_whatever_goes_wrong(monkeypatch, tmp_path):
    original, file = runner._Bench._measure, tmp_path / "kept.json"

    def broken(self, cases):
        if cases[0].context == 128:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return original(self, cases)

    monkeypatch.setattr(runner._Bench, "_measure", broken)
    result = run(*TINY, "--workers", "1", "--context", "64,128", "--output", str(file))
    assert str(result.exception) == "CUDA error: unspecified launch failure"
    kept = read_report(file)
    assert [case.context for case in kept.decode] == [64]
    assert kept.problem == "RuntimeError: CUDA error: unspecified launch failure"


def test_the_report_says_what_attended_in_the_end(monkeypatch):
    from hogwild.backends.reference import ReferenceBackend

    original, before = runner._Bench.run, ReferenceBackend.info.fget

    def run_and_fail(self):
        original(self)
        monkeypatch.setattr(
            ReferenceBackend, "info", property(lambda backend: replace(before(backend), attention="without graphs"))
        )

    monkeypatch.setattr(runner._Bench, "run", run_and_fail)
    assert results(*TINY, "--workers", "1", "--context", "64")["model"]["attention"] == "without graphs"


def test_help_names_every_shape():
    text = " ".join(run("--help").stdout.split())
    assert all(name in text for name in SHAPES)
