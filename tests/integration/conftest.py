"""The bundled model on every backend that is here, loaded once."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest

from hogwild.model import Model, load

PACKAGES = {"reference": ("numpy",), "cuda": ("torch", "transformers"), "mlx": ("mlx", "mlx_lm")}


@cache
def load_bundled(backend: str, dtype: str = "float32") -> Model:
    return load("bundled", backend=backend, dtype=dtype, device="cpu")


def need(backend: str) -> None:
    missing = [package for package in PACKAGES[backend] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"the {backend} backend needs {', '.join(missing)}")


@pytest.fixture(params=list(PACKAGES))
def model(request: pytest.FixtureRequest) -> Model:
    need(request.param)
    return load_bundled(request.param)
