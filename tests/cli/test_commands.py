"""The commands, flag by flag, with the scripted model; what is misused gives one line and exit code 2."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hogwild.backends.registry import BACKENDS, BackendEntry
from hogwild.cli import generate as generate_module
from hogwild.cli.app import COMMANDS, app
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import GREEDY, SamplingParams
from hogwild.trace import read_trace
from hogwild.transcript import fold
from tests.cli import scripted
from tests.tiny_models import write_tiny_model

DEFAULTS = SessionOptions()


@pytest.fixture
def loaded(monkeypatch):
    """Put the scripted model in place of any other; the list holds what was asked for."""
    asked = []

    def load(name, **options):
        asked.append({"name": name, **options})
        return scripted.model(name, **loaded_settings)

    loaded_settings = {"num_pieces": len(scripted.NO_ANSWER)}
    monkeypatch.setattr(generate_module, "load", load)
    asked_with = type("Asked", (list,), {})(asked)
    asked_with.settings, asked_with.calls = loaded_settings, asked
    return asked_with


def run(*arguments: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def report(*arguments: str, stdin: str | bytes | None = None, passes: int = 5):
    result = run("generate", *arguments, "--max-passes", str(passes), "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def misused(*arguments: str, stdin: str | bytes | None = None) -> str:
    """The one line on stderr of a command that must fail with 2."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [
        line for line in result.stderr.splitlines() if not line.startswith("loading ") and " is loaded: " not in line
    ]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.stderr
    return lines[0]


# Generate ----------------------------------------------------------------------------------------------------------


def test_the_result_goes_to_stdout_and_the_rest_to_stderr(loaded):
    result = run("generate", "What?", "--max-passes", "30")
    assert result.exit_code == 0
    assert "│ **Alice [1]:**" in result.stdout
    assert "answer: alpha" in result.stdout
    assert "limit of passes" in result.stdout
    assert "loading bundled" in result.stderr
    assert "loading" not in result.stdout
    assert "\x1b" not in result.output
    assert "far too small to reason" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(["a\nproblem"], None), (["-p", "a\nproblem"], None), (["-p", "-"], "a\nproblem"), (["-"], "a\nproblem")],
)
def test_the_problem_comes_from_any_place(loaded, arguments, stdin):
    assert report(*arguments, stdin=stdin)["problem"] == "a\nproblem"


def test_json_is_everything_and_nothing_else(loaded):
    data = report("x", passes=40)
    assert [worker["name"] for worker in data["workers"]] == ["Alice", "Bob"]
    assert all(worker["sampled"] == 40 and "alpha" in worker["text"] for worker in data["workers"])
    assert data["steps"][0]["text"].startswith("**")
    assert data["published"][0] == [data["steps"][0]["worker"], data["steps"][0]["step"]]
    assert data["timing"]["passes"] == 40
    assert data["timing"]["decode_seconds"] > 0
    assert data["cache"]["separate_tokens"] > data["cache"]["tokens"] > 0
    assert data["cache"]["bytes"] == 16 * data["cache"]["tokens"]
    assert data["model"]["backend"] == "scripted"
    assert data["versions"]["numpy"]
    assert data["options"]["num_workers"] == 2
    assert data["usage"]["sampled"] == 80


def test_defaults_are_those_of_the_dataclasses(loaded):
    options = report("x", passes=DEFAULTS.max_passes)["options"]
    for name in ("num_workers", "max_passes", "max_tokens", "max_step_tokens", "check_every", "finish", "seed"):
        assert options[name] == getattr(DEFAULTS, name), name
    assert options["layout"]["name"] == DEFAULTS.layout.name
    assert options["sampling"][0]["top_k"] == 7  # the model's own
    assert options["sampling"][0]["top_p"] == SamplingParams().top_p
    options = dict.fromkeys(("dtype", "device", "attention", "kv_dtype"), "auto")
    assert loaded.calls == [{"name": "bundled", "backend": "auto", **options, "compile": False}]


@pytest.mark.parametrize(
    ("flag", "value", "name", "expected"),
    [
        ("--workers", "3", "num_workers", 3),
        ("--layout", "contiguous", "layout", "contiguous"),
        ("--max-tokens", "77", "max_tokens", 77),
        ("--max-step-tokens", "9", "max_step_tokens", 9),
        ("--finisher-tokens", "3", "finisher_tokens", 3),
        ("--check-every", "0", "check_every", 0),
        ("--finish", "vote", "finish", "vote"),
        ("--budgets", "2, 4", "budgets", [2, 4]),
        ("--seed", "12", "seed", 12),
    ],
)
def test_session_flags_reach_the_session(loaded, flag, value, name, expected):
    got = report("x", flag, value)["options"][name]
    assert (got["name"] if name == "layout" else got) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--temperature", "0.3"], {"temperature": 0.3, "top_k": 7}),
        (["--temperature", "0"], {"temperature": 0.0}),
        (["--top-p", "0.5"], {"top_p": 0.5, "top_k": 7}),
        (["--top-k", "0"], {"top_k": 0}),
        (["--min-p", "0.1"], {"min_p": 0.1}),
        (["--repetition-penalty", "1.3"], {"repetition_penalty": 1.3}),
        (["--greedy"], {"temperature": GREEDY.temperature}),
        (["--greedy", "--temperature", "0", "--repetition-penalty", "1.2"], {"repetition_penalty": 1.2}),
    ],
)
def test_sampling_flags_change_what_they_name(loaded, arguments, expected):
    sampling = report("x", *arguments)["options"]["sampling"][0]
    assert {name: sampling[name] for name in expected} == expected


def test_seeds_decide_the_run(loaded):
    first, again, other = (report("x", "--seed", seed)["steps"] for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_model_flags_reach_the_loader(loaded):
    given = {"dtype": "float64", "device": "cpu", "attention": "plain", "kv_dtype": "int8"}
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    report("x", "--model", "m", "--backend", "reference", *flags, "--compile")
    assert loaded.calls == [{"name": "m", "backend": "reference", **given, "compile": True}]


def test_limits_are_kept(loaded):
    data = report("x", "--max-tokens", "60", passes=200)
    assert all(worker["sampled"] + worker["forced"] <= 60 for worker in data["workers"])
    assert {worker["ended"] for worker in data["workers"]} == {"max_tokens"}
    assert [entry["passes"] for entry in report("x", "--budgets", "2,3")["budgets"]] == [2, 3, 5]


def test_a_fixed_cache_that_is_too_small_is_refused(loaded):
    line = misused("generate", "x", "--cache-tokens", "64", "--max-cache-tokens", "64")
    assert "K/V pool has no room" in line
    assert report("x", "--cache-tokens", "16")["timing"]["passes"] == 5


def test_layouts_and_styles_may_be_files(loaded, tmp_path):
    layout, style = tmp_path / "mine.json", tmp_path / "mine.toml"
    layout.write_text('{"view": ["common", {"others": ["author"]}, "own"]}')
    style.write_text('name = "short"\nversion = 3\nuser = "{problem}"\nheader = "{name}: "\nnames = ["Zoe"]\n')
    data = report("x", "--layout", str(layout), "--prompt-style", str(style))
    assert (data["layout"], data["prompt_style"]) == ("mine", "short/3")
    assert [worker["name"] for worker in data["workers"]] == ["Zoe", "Worker 2"]


def test_an_answer_ends_the_run_and_is_shown(loaded):
    loaded.settings["num_pieces"] = len(scripted.PIECES)
    result = run("generate", "x")
    assert "answer: 391 (" in result.stdout
    assert "answered" in result.stdout


def test_what_was_written_before_an_error_is_kept(loaded, tmp_path):
    loaded.settings["fail_after"] = 40
    trace = tmp_path / "t.jsonl"
    result = run("generate", "x", "--trace", str(trace))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: the device has no room"
    assert "cut off" in result.stdout
    assert "│ **Alice [1]:**" in result.stdout
    assert fold(read_trace(trace)).num_sampled > 20


# Replay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["combined", "independent"])
def test_a_replay_prints_what_the_run_printed(loaded, tmp_path, layout):
    trace = str(tmp_path / "t.jsonl")
    original = run("generate", "x", "-n", "3", "--layout", layout, "--max-passes", "40", "--trace", trace)
    again = run("replay", trace)
    assert original.exit_code == again.exit_code == 0
    assert again.stdout == original.stdout
    assert len(again.stdout) > 500


def test_a_replay_gives_the_same_json(loaded, tmp_path):
    trace = str(tmp_path / "t.jsonl")
    original = run("generate", "x", "--max-passes", "9", "--trace", trace, "--json")
    assert run("replay", trace, "--json").stdout == original.stdout


def test_a_torn_trace_is_shown_as_far_as_it_goes(loaded, tmp_path):
    trace = tmp_path / "t.jsonl"
    run("generate", "x", "--max-passes", "30", "--trace", str(trace))
    lines = trace.read_bytes().splitlines(keepends=True)
    trace.write_bytes(b"".join(lines[:-20]) + lines[-20][:9])
    result = run("replay", str(trace))
    assert result.exit_code == 2
    assert f"line {len(lines) - 19}, is cut off" in result.stderr
    assert "│ **Alice [1]:**" in result.stdout


def test_a_real_model_runs_and_is_replayed(tmp_path):
    folder, trace = str(write_tiny_model(tmp_path / "tiny")), str(tmp_path / "t.jsonl")
    arguments = ["--model", folder, "--backend", "reference", "--max-passes", "30", "--max-step-tokens", "6"]
    original = run("generate", "x", *arguments, "--greedy", "--trace", trace)
    assert original.exit_code == 0, original.stderr
    assert "reference backend, float32 on cpu" in original.stderr
    assert run("replay", trace).stdout == original.stdout
    transcript = fold(read_trace(trace))
    assert transcript.num_passes == 30
    assert len(transcript.published) >= 6
    assert transcript.started.options["sampling"][0]["temperature"] == 0


# Info --------------------------------------------------------------------------------------------------------------


def test_info_tells_what_is_here():
    text = run("info").stdout
    for word in ("versions", "numpy", "backends", "reference", "memory", "total", "this is what auto takes"):
        assert word in text
    data = json.loads(run("info", "--json").stdout)
    assert data["versions"]["python"]
    assert [state["name"] for state in data["backends"] if state["is_auto"]]
    assert {state["name"] for state in data["backends"]} == {"reference", "mlx", "cuda"}
    assert all((state["device"] is None) == (state["problem"] is not None) for state in data["backends"])


def test_info_tells_why_a_backend_is_missing(monkeypatch):
    absent = BackendEntry("mlx", "hogwild.backends.mlx", ("no_such_package",), "pip install it")
    broken = BackendEntry("cuda", "tests.cli.no_such_module", ("numpy",), "")
    for entry in (absent, broken):
        monkeypatch.setitem(BACKENDS, entry.name, entry)
    text = run("info").stdout
    assert "not installed: no_such_package; pip install it" in text
    assert "does not load: ModuleNotFoundError" in text
    assert "reference  device cpu" in text


def test_info_of_a_model(tmp_path):
    folder = write_tiny_model(tmp_path / "tiny")
    arguments = ("info", "--model", str(folder), "--backend", "reference")
    facts = json.loads(run(*arguments, "--json").stdout)["model"]
    assert (facts["family"], facts["num_layers"], facts["num_heads"], facts["num_kv_heads"]) == ("llama", 3, 4, 2)
    assert facts["weight_bytes"] == 4 * facts["num_parameters"]
    assert facts["kv_bytes_per_token"] == 2 * 3 * 2 * 16 * 4
    assert "4 for queries, 2 for keys and values, of 16" in run(*arguments).stdout


# Misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "no problem is given"),
        (["generate", ""], "the problem is empty"),
        (["generate", "-p", " \n"], "the problem is empty"),
        (["generate", "-p", "-"], "the problem is empty"),
        (["generate", "x", "-p", "y"], "given twice"),
        (["generate", "\udcff"], "not valid Unicode"),
        (["generate", "x", "--workers", "0"], "num_workers is too small"),
        (["generate", "x", "--workers", "-1"], "num_workers is too small"),
        (["generate", "x", "--workers", "65"], "too many workers"),
        (["generate", "x", "--workers", "two"], "--workers"),
        (["generate", "x", "--layout", "nice"], "there is no layout 'nice'"),
        (["generate", "x", "--layout", "missing.json"], "cannot read the layout"),
        (["generate", "x", "--prompt-style", "nice"], "there is no prompt style 'nice'"),
        (["generate", "x", "--prompt-style", "missing.toml"], "cannot read the prompt style"),
        (["generate", "x", "--max-passes", "0"], "max_passes is too small"),
        (["generate", "x", "--max-tokens", "0"], "max_tokens is too small"),
        (["generate", "x", "--max-step-tokens", "0"], "max_step_tokens is too small"),
        (["generate", "x", "--check-every", "-1"], "check_every is too small"),
        (["generate", "x", "--seed", "-1"], "seed is too small"),
        (["generate", "x", "--budgets", "4,2"], "budgets"),
        (["generate", "x", "--budgets", "0"], "budgets"),
        (["generate", "x", "--budgets", "1,,2"], "budgets"),
        (["generate", "x", "--budgets", "1e3"], "budgets"),
        (["generate", "x", "--budgets", "64", "--max-passes", "63"], "beyond the last pass"),
        (["generate", "x", "--temperature", "-1"], "temperature is out of range"),
        (["generate", "x", "--temperature", "nan"], "temperature is out of range"),
        (["generate", "x", "--temperature", "hot"], "--temperature"),
        (["generate", "x", "--top-p", "0"], "top_p is out of range"),
        (["generate", "x", "--top-p", "1.1"], "top_p is out of range"),
        (["generate", "x", "--top-k", "-1"], "top_k is out of range"),
        (["generate", "x", "--min-p", "2"], "min_p is out of range"),
        (["generate", "x", "--repetition-penalty", "0"], "repetition_penalty is out of range"),
        (["generate", "x", "--greedy", "--temperature", "1"], "contradict"),
        (["generate", "x", "--finish", "soon"], "finish is unknown"),
        (["generate", "x", "--dtype", "int1"], "unknown dtype"),
        (["generate", "x", "--attention", "fast"], "unknown attention"),
        (["generate", "x", "--backend", "abacus"], "there is no backend 'abacus'"),
        (["generate", "x", "--cache-tokens", "0"], "--cache-tokens"),
        (["generate", "x", "--max-cache-tokens", "15"], "--max-cache-tokens"),
        (["generate", "x", "--cache-tokens", "64", "--max-cache-tokens", "32"], "larger than it may grow"),
        (["generate", "x", "--trace", "/no/such/folder/t.jsonl"], "cannot write the trace"),
        (["generate", "x", "--trace", "."], "cannot write the trace"),
        (["generate", "x", "--colour"], "No such option"),
        (["generate", "x", "y"], "unexpected extra argument"),
        (["replay"], "Missing argument"),
        (["replay", "missing.jsonl"], "cannot read the trace"),
        (["replay", "."], "cannot read the trace"),
        (["replay", "missing.jsonl", "--speed", "0"], "speed is out of range"),
        (["replay", "missing.jsonl", "--speed", "nan"], "speed is out of range"),
        (["info", "--model", "no/such/folder/here"], "no model"),
        (["info", "--model", "missing.gguf", "--backend", "reference"], "no model"),
        (["dance"], "No such command"),
        (["--dance"], "No such option"),
    ],
)
def test_misuse_is_told_before_a_model_is_loaded(loaded, arguments, message):
    assert message.lower() in misused(*arguments).lower()
    assert loaded.calls == []


def test_a_layout_that_reads_what_nobody_writes_is_told_before_a_model_is_loaded(loaded, tmp_path):
    path = tmp_path / "l.json"
    for view, message in (
        ('["common", "text:nothing", "own"]', "reads a block that nobody writes"),
        ('["common", "worker:2", "own"]', "reads the block of a worker that is not there"),
        ('["common", "poem", "own"]', "not understood"),
        ('["common"]', "no place to write"),
    ):
        path.write_text(f'{{"view": {view}}}')
        assert message in misused("generate", "x", "--layout", str(path))
    path.write_text("{")
    assert "is not a JSON file" in misused("generate", "x", "--layout", str(path))
    assert loaded.calls == []


def test_bytes_that_are_no_text_are_refused(loaded):
    assert "not valid Unicode" in misused("generate", "-p", "-", stdin=b"\xff\xfe")


def test_a_prompt_longer_than_the_context(loaded, tmp_path):
    loaded.settings["context_size"] = 500
    trace = tmp_path / "t.jsonl"
    result = run("generate", "x" * 600, "--prompt-style", "plain", "--trace", str(trace))
    assert result.exit_code == 2
    assert "error: the prompt is longer than the model's context" in result.stderr
    assert not trace.exists()


def broken_models(folder):
    """Names of models that cannot be loaded, with what must be said of them."""
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(20))
    (folder / "text.gguf").write_text("hello")
    tiny = write_tiny_model(folder / "cut")
    whole = (tiny / "model.safetensors").read_bytes()
    (tiny / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    garbage = write_tiny_model(folder / "garbage")
    (garbage / "model.safetensors").write_bytes(b"\xff" * 100)
    foreign = write_tiny_model(folder / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    names = ("broken.gguf", "text.gguf", "cut", "garbage", "empty", "notes.txt")
    return {
        **{name: name for name in names},
        "foreign": "'mamba' is not computed by the reference backend",
        "missing": "no model",
        "missing.gguf": "no model",
    }


@pytest.mark.parametrize("command", ["generate", "info"])
def test_models_that_cannot_be_loaded(tmp_path, command):
    for name, message in broken_models(tmp_path).items():
        arguments = ["generate", "x"] if command == "generate" else ["info"]
        line = misused(*arguments, "--model", str(tmp_path / name), "--backend", "reference")
        assert message in line


# Help --------------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands():
    for arguments in ((), ("--help",), ("-h",)):
        result = run(*arguments)
        assert result.exit_code == 0
        assert all(name in result.stdout for name in COMMANDS)
        assert "\x1b" not in result.stdout


def test_help_of_generate_teaches():
    text = run("generate", "--help").stdout
    for word in ("Sampling", "Limits", "Examples", "combined", "independent", "--min-p", "the model's own", "-p -"):
        assert word in text
    assert f"[default: {DEFAULTS.max_passes}]" in text


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("hogwild ")
