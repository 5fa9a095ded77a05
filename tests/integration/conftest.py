"""The bundled model on every backend that is here, whole and cut, each loaded once."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from functools import cache

import pytest
from numpy.typing import NDArray

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.core.sampling import GREEDY
from hogwild.model import Model, load
from hogwild.models import Checkpoint, find_checkpoint
from hogwild.models.checkpoint import Weights
from hogwild.prompts import PromptStyle

PACKAGES = {"reference": ("numpy",), "cuda": ("torch", "transformers"), "mlx": ("mlx", "mlx_lm")}
STYLE = PromptStyle(
    name="parity",
    version=1,
    user="{problem} Answer in short paragraphs.",
    header="**{name} [{step}]:**",
    greetings=(" First of all,", " Another reason is that"),
    check=" Am I doing redundant work? (yes/no):",
    finish="\n\nThe final answer is \\boxed{",
    texts={"in_progress": "### Others\n\n", "separator": " [...]\n\n", "own_header": "### Mine\n\n"},
)
END_OF_TEXT = 2  # of the bundled model
CERTAIN = dataclasses.replace(GREEDY, banned_ids=(END_OF_TEXT,))  # nobody stops early
LAYERS = (0, 1, 27, 29)  # without the others it writes nonsense that a single changed token turns to other nonsense


@cache
def load_bundled(backend: str) -> Model:
    return load("bundled", backend=backend, dtype="float32", device="cpu")


@cache
def load_cut(backend: str) -> Model:
    """The bundled model with `LAYERS` alone: a fifth of the time. backend: a name, or a name and an attention."""
    checkpoint = _cut(find_checkpoint("bundled"))
    name, _, attention = backend.partition(" ")
    backend_of = find_backend(name).loader()
    loaded = backend_of(checkpoint, LoadOptions("float32", "cpu", attention or "auto"))
    return Model(checkpoint.name, loaded, checkpoint.tokenizer, checkpoint.generation_config)


def _cut(checkpoint: Checkpoint) -> Checkpoint:
    config = {**checkpoint.config, "num_hidden_layers": len(LAYERS)}
    return dataclasses.replace(checkpoint, name="cut", config=config, weights=_SomeLayers(checkpoint.weights))


class _SomeLayers:
    def __init__(self, weights: Weights) -> None:
        found = {name: re.fullmatch(r"(model\.layers\.)(\d+)(\..*)", name) for name in weights.names()}
        self._read = weights.read
        self._whole_names = {
            f"{match[1]}{LAYERS.index(int(match[2]))}{match[3]}" if match else name: name
            for name, match in found.items()
            if match is None or int(match[2]) in LAYERS
        }

    def names(self) -> tuple[str, ...]:
        return tuple(self._whole_names)

    def read(self, name: str) -> NDArray:
        return self._read(self._whole_names[name])


def need(backend: str) -> None:
    missing = [package for package in PACKAGES[backend.split()[0]] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"the {backend} backend needs {', '.join(missing)}")
