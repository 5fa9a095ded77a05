"""A part of the generated cases under AddressSanitizer: no kernel reads or writes outside of its arrays.

Arrays in device memory come from malloc, between red zones; arrays in threadgroup memory and registers have theirs too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import metal_cpu
from metal_cpu import CpuStarter

HERE = Path(__file__).parent
FIRST, NUM_CASES = 600, 6


@pytest.fixture(scope="module")
def sanitized(cpu: CpuStarter) -> subprocess.CompletedProcess[str]:
    """The cases, and then a faulty one; in one process, since it takes longest to start."""
    library = sanitizer()
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    settings = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": paths,
        metal_cpu.SANITIZED: "1",
    }
    command = [sys.executable, str(HERE / "sanitized_cases.py"), str(cpu.folder), str(FIRST), str(FIRST + NUM_CASES)]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def sanitizer() -> str:
    """The library of AddressSanitizer, which must be loaded before everything else."""
    asked = [metal_cpu.compiler(), "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"{metal_cpu.compiler()} has no AddressSanitizer here")
    return str(Path(path).resolve())


def test_no_access_outside_of_an_array(sanitized: subprocess.CompletedProcess[str]) -> None:
    expected = [*(f"case {seed}" for seed in range(FIRST, FIRST + NUM_CASES)), "done"]
    assert sanitized.stdout.splitlines() == expected, sanitized.stderr[-3000:]


def test_an_access_outside_is_found(sanitized: subprocess.CompletedProcess[str]) -> None:
    assert sanitized.stdout.splitlines()[-1] == "done"
    assert sanitized.returncode != 0
    assert "heap-buffer-overflow" in sanitized.stderr
