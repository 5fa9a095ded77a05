"""One model in two processes gives what it gives in one: tokens, keys and values of all heads, memory in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks_program import answers
from tiny_models import write_tiny_model

from hogwild.backends.ranks import Ranks, find_ranks
from hogwild.backends.registry import BACKENDS
from hogwild.errors import BackendUnavailable

PROGRAM = Path(__file__).with_name("ranks_program.py")
LAUNCHERS = {
    "cuda": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "mlx": [str(Path(sys.executable).with_name("mlx.launch")), "--backend", "ring", "-n", "2", "--"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model that two processes can hold, and one of three kv heads."""
    folder = tmp_path_factory.mktemp("models")
    fits = write_tiny_model(folder / "fits", "qwen3", num_attention_heads=8, num_key_value_heads=2)
    odd = write_tiny_model(folder / "odd", num_attention_heads=6, num_key_value_heads=3, hidden_size=96)
    return [str(fits), str(odd)]


def need(backend: str) -> None:
    if missing := BACKENDS[backend].missing():
        pytest.skip(f"needs {', '.join(missing)}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    root = str(PROGRAM.parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def result(*command: str) -> dict[str, Any]:
    done = run(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("backend", LAUNCHERS)
def test_two_processes_give_what_one_gives(backend: str, folders: list[str]) -> None:
    need(backend)
    program = [str(PROGRAM), *folders, backend]
    alone = json.loads(json.dumps(answers(*folders, backend)))  # tuples become lists
    # torchrun starts Python itself
    together = result(*LAUNCHERS[backend], *([sys.executable] if backend == "mlx" else []), *program)
    for other in together["runs"]:
        one = alone["runs"][0]
        assert other["tokens"] == one["tokens"]
        assert other["kv_shapes"] == one["kv_shapes"]
        assert other["spec"] == one["spec"]
        assert other["attention"] == one["attention"]
        np.testing.assert_allclose(other["keys"], one["keys"], atol=2e-4)
        np.testing.assert_allclose(other["logits"], one["logits"], atol=2e-3)
        assert np.shape(one["shares"]) == (3, 8, 3, 4)
        np.testing.assert_allclose(other["shares"], one["shares"], atol=1e-4)
    assert len({tuple(tokens) for tokens in one["tokens"]}) > 10, "the model says something"
    assert not alone["refusal"], "one process holds any number of heads"
    assert "dealt out evenly to 2 processes" in together["refusal"]
    assert "6 query heads and 3 kv heads" in together["refusal"]


@pytest.mark.slow
def test_the_command_speaks_once(folders: list[str]) -> None:
    need("cuda")
    options = ["--backend", "cuda", "--prompt-style", "plain", "--max-passes", "4", "--json", "--no-live"]
    done = run(*LAUNCHERS["cuda"], "-m", "hogwild", "generate", "Hello", "--model", folders[0], *options)
    assert done.returncode == 0, done.stderr[-3000:]
    json.loads(done.stdout)


@pytest.mark.slow
def test_a_command_that_loads_nothing_ends_too() -> None:
    need("cuda")
    done = run(*LAUNCHERS["cuda"], "-m", "hogwild", "--version")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("hogwild") == 1


def test_a_process_knows_whether_it_is_alone() -> None:
    assert find_ranks({}) is None
    assert find_ranks({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "x"}) is None
    assert find_ranks({"WORLD_SIZE": "4", "RANK": "3"}) is None, "another launcher's variables"
    many = {"WORLD_SIZE": "16", "RANK": "9", "LOCAL_RANK": "1", "MASTER_ADDR": "x"}
    assert find_ranks(many) == Ranks(9, 16, 1, "cuda")


def test_mlx_launch_names_its_processes_in_a_file(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:32323"], ["127.0.0.1:32324"]]')
    assert find_ranks({"MLX_RANK": "1", "MLX_HOSTFILE": str(hosts)}) == Ranks(1, 2, 1, "mlx")
    assert find_ranks({"MLX_RANK": "0", "MLX_WORLD_SIZE": "1"}) is None
    with pytest.raises(BackendUnavailable, match="how many"):
        find_ranks({"MLX_RANK": "0"})
