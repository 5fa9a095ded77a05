"""The core knows nobody, and `import hogwild` is fast and loads no framework."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hogwild.core

ROOT = Path(hogwild.core.__file__).parents[2]
CORE = sorted((ROOT / "hogwild" / "core").rglob("*.py"))
FRAMEWORKS = ("torch", "mlx", "mlx_lm", "transformers", "gguf", "tokenizers", "triton", "jax")


def imported(source: str, package: str) -> list[str]:
    """Every module that a file of `package` names in an import, wherever in it; relative ones are written out."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            names.append(importlib.util.resolve_name(name, package))
    return names


def allowed(module: str) -> bool:
    top = module.split(".")[0]
    ours = any(module == name or module.startswith(f"{name}.") for name in ("hogwild.core", "hogwild.errors"))
    return ours or top == "numpy" or top in sys.stdlib_module_names


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.name)
def test_the_core_imports_the_standard_library_and_numpy_only(file: Path) -> None:
    package = ".".join(file.relative_to(ROOT).parent.parts)
    assert [name for name in imported(file.read_text(encoding="utf-8"), package) if not allowed(name)] == []


def test_the_rule_sees_every_form_of_import() -> None:
    source = (
        "import os, torch.nn\nfrom .. import backends\ndef f():\n    from mlx import core\n    from . import pool\n"
    )
    assert [name for name in imported(source, "hogwild.core") if not allowed(name)] == ["torch.nn", "hogwild", "mlx"]


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return run.stdout


def test_importing_hogwild_loads_no_framework() -> None:
    code = f"import sys, hogwild\nprint([name for name in {FRAMEWORKS} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_importing_hogwild_is_fast() -> None:
    """Beyond numpy; the best of a few runs, since the machine may be busy."""
    code = (
        "import numpy, numpy.typing, time\n"
        "start = time.process_time()\n"
        "import hogwild\n"
        "print(time.process_time() - start)"
    )
    best, deadline = 9.0, time.monotonic() + 10
    while best >= 0.3 and time.monotonic() < deadline:
        best = min(best, float(python(code)))
    assert best < 0.3
