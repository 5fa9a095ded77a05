"""What `make` runs before there is an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VENV = Path(__file__).parents[2] / "scripts" / "venv"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


def put(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", ["python3", "python3.10", "python3.13", "python3.14"])
def test_a_python_that_is_new_enough_is_found_behind_an_old_one(name: str, tmp_path: Path) -> None:
    """As beside the Python 3.9 of Apple's developer tools."""
    commands, made = tmp_path / "bin", tmp_path / "environment"
    commands.mkdir()
    for needed in ("rm", "mkdir"):
        (commands / needed).symlink_to(str(shutil.which(needed)))
    put(commands / "python3", "exit 1")
    put(commands / name, '[ "$1" = -c ] || mkdir "$3"')
    done = subprocess.run(["/bin/sh", str(VENV), str(made)], env={"PATH": str(commands)}, check=False)
    assert done.returncode == 0
    assert made.is_dir()


def test_without_one_it_says_how_to_name_it(tmp_path: Path) -> None:
    put(tmp_path / "python3", "echo 'Python 3.9.6'; exit 1")
    done = subprocess.run(["/bin/sh", str(VENV), "x"], env={"PATH": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"got: Python 3.9.6" in done.stderr
    assert b"make demo PYTHON=" in done.stderr
