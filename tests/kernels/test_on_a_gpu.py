"""What only an NVIDIA GPU can show, with the tests marked `gpu` in `tests/backends/test_cuda_graphs.py`.

    python -m pytest -m gpu tests/kernels tests/backends/test_cuda_graphs.py

Most of the time goes to compiling the kernels, anew for almost every generated case; with pytest-xdist by all cores.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed: it exists for Linux only")
pytest.importorskip("transformers")

from hogwild.backends.base import Backend
from hogwild.backends.cuda import load
from hogwild.backends.options import LoadOptions
from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.models import find_checkpoint
from tests.tiny_models import write_tiny_model

pytestmark = pytest.mark.gpu

HERE = Path(__file__).parent
CHECKS = [str(HERE / name) for name in ("triton_checks.py", "whole_model.py")]
NUM_PASSES, MOST_WORKERS, PROMPT_TOKENS = 120, 5, 90


def test_the_checks_of_the_interpreter() -> None:
    """In a process of its own: this one may have imported Triton for another test."""
    together = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *together, *CHECKS]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(HERE.parents[1])
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_long_run_is_that_of_torchs_operations(dtype: str, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(write_tiny_model(tmp_path / "model")))
    kernels, plain = (load(checkpoint, LoadOptions(dtype, "cuda", attention)) for attention in ("kernel", "plain"))
    found, expected = logits_of_a_run(kernels), logits_of_a_run(plain)
    assert kernels.info.attention == "Triton kernels, decoding as CUDA graphs"
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < (1e-4 if dtype == "float32" else 1e-1)


def logits_of_a_run(backend: Backend) -> Any:
    """Workers come, go and publish; the pool and the tables grow, so that graphs are captured again and again."""
    cache, rng = SharedCache(backend, num_tokens=16), np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, backend.spec.vocab_size, count).tolist())

    common = cache.block(tokens(PROMPT_TOKENS))
    own = [cache.new_block() for _ in range(MOST_WORKERS)]
    found = []
    for step in range(NUM_PASSES):
        writing = own[: 1 + step // 7 % MOST_WORKERS]
        views = [(common, *(other for other in writing if other is not block), block) for block in writing]
        found.append(cache.to_numpy(cache.forward([Row(view, tokens(1)) for view in views])))
        if step % 9 == 8:
            common.link(own[0])
            own[0] = cache.new_block()
    return np.concatenate(found)
