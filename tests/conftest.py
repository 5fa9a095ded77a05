"""What all tests share: options, markers that need a device, hypothesis profiles, a fast BLAS for MLX."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

# Before numpy or torch is loaded. Small matrices gain nothing from a second thread, and on a busy machine each product
# waits for a thread that is not running: measured, a pass took 4.7 s with two threads and 0.4 s with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, suppress_health_check=_QUIET)
settings.register_profile("deep", deadline=None, max_examples=2000, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _preload_openblas() -> None:
    """MLX's Linux wheel bundles a slow reference BLAS; one that is loaded globally before MLX takes its place.

    Torch comes first: loaded later, it would take its products from there too, which makes those with few rows four
    times slower (measured: 0.85 ms instead of 0.19 for 2 rows).
    """
    if platform.system() == "Linux" and importlib.util.find_spec("mlx") is not None:
        if importlib.util.find_spec("torch") is not None:
            importlib.import_module("torch")
        for library in sorted(Path("/usr/lib").glob("*/openblas-pthread/libopenblas.so.0")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _compute_on_the_cpu() -> None:
    """On a Mac MLX computes on the GPU by default. The tests expect a CPU's numbers, but for those marked `metal`."""
    if platform.system() == "Darwin" and importlib.util.find_spec("mlx") is not None:
        mlx = importlib.import_module("mlx.core")
        mlx.set_default_device(mlx.cpu)


def pytest_configure(config: pytest.Config) -> None:
    """Before collection, since a test module may import mlx.core at once. The user's own caches are left alone."""
    if config.pluginmanager.hasplugin("cacheprovider"):  # the tests that tests start have the same environment
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("user-cache"))
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        _preload_openblas()
    _compute_on_the_cpu()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests that take more than a minute")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--run-slow") else "takes more than a minute: give --run-slow",
        "gpu": _why_no_nvidia_gpu() if _any_marked(items, "gpu") else None,
        "metal": _why_no_apple_gpu() if _any_marked(items, "metal") else None,
    }
    for item in items:
        for name, reason in reasons.items():
            if reason is not None and item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _any_marked(items: list[pytest.Item], name: str) -> bool:
    return any(item.get_closest_marker(name) is not None for item in items)


@functools.cache
def _why_no_nvidia_gpu() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "needs torch and an NVIDIA GPU: torch is not installed"
    if importlib.import_module("torch").version.cuda is None:
        return "needs an NVIDIA GPU: this torch is built for none"
    # In a process of its own: asking torch would start CUDA in this one, and later forks would fail.
    probe = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    here = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return None if here else "needs an NVIDIA GPU: torch finds none"


def _why_no_apple_gpu() -> str | None:
    if importlib.util.find_spec("mlx") is not None and importlib.import_module("mlx.core").metal.is_available():
        return None
    return f"needs MLX and an Apple GPU: this is {platform.system()} on {platform.machine()}"
