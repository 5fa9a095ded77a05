"""What `import hogwild` offers, and that it loads nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hogwild

HEAVY = ("numpy", "torch", "mlx", "mlx_lm", "transformers", "tokenizers", "gguf", "jinja2", "rich", "typer")
PUBLIC = {
    "Block",
    "Engine",
    "HogwildError",
    "LAYOUTS",
    "Layout",
    "Model",
    "PromptStyle",
    "Result",
    "Row",
    "SampleRequest",
    "SamplingParams",
    "SessionOptions",
    "SharedCache",
    "__version__",
    "errors",
    "events",
    "load",
    "others",
    "solve",
    "stream",
}


def test_the_public_names_are_these_and_each_is_there():
    assert set(hogwild.__all__) == PUBLIC
    assert set(dir(hogwild)) >= PUBLIC
    missing = [name for name in hogwild.__all__ if getattr(hogwild, name, None) is None]
    assert missing == []


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse(Path(hogwild.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: (node.module, alias.asname)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hogwild")
        for alias in node.names
    }
    assert set(seen) == PUBLIC - {"__version__"}
    for name, (module, shown) in seen.items():
        assert shown == name
        home = importlib.import_module(f"{module}.{name}" if name in ("errors", "events") else str(module))
        assert getattr(hogwild, name) is (home if name in ("errors", "events") else getattr(home, name))


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'solved'"):
        hogwild.solved  # noqa: B018


def test_importing_loads_no_library():
    code = f"import sys, hogwild; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_high_level_api_loads_no_framework():
    code = (
        f"import sys, hogwild; hogwild.solve, hogwild.SharedCache; print([n for n in {HEAVY[1:]} if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_error_is_a_hogwild_error():
    kinds = [kind for kind in vars(hogwild.errors).values() if isinstance(kind, type)]
    assert len(kinds) > 5
    assert all(issubclass(kind, hogwild.HogwildError) for kind in kinds)
