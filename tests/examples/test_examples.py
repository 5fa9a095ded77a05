"""The examples run as they stand, on the bundled model, and show what they say they show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hogwild import LAYOUTS
from hogwild.core.layout import Layout, find_layout

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"solve", "low_level", "attention_shares", "custom_layout", "many_problems"}


def test_solve():
    output = run("solve.py")
    assert "Alice wrote " in output
    assert "Bob wrote " in output
    assert output.count("\npass ") == 12


def test_low_level():
    lines = run("low_level.py").splitlines()
    chances = {line.split()[0]: float(line.rsplit("=", 1)[1]) for line in lines[:3]}
    assert chances["bob"] > 0.5 > 0.1 > chances["carol"], "Bob read the code in Alice's unfinished step, Carol did not"
    goes_on, without, after = (line for line in lines if ": " in line and "'" in line and "P(" not in line)
    assert "'7311" in goes_on
    assert "7311" not in without
    assert "'7311" in after, "Carol reads it once it is published"


def test_attention_shares():
    lines = run("attention_shares.py").splitlines()
    assert lines[0] == "30 layers, 2 rows, 3 columns"
    for line in lines[1:3]:
        assert sum(float(part) for part in re.findall(r"[\d.]+(?=%)", line)) == pytest.approx(100, abs=0.2)
    shares = [float(re.findall(r"([\d.]+)%", line)[0]) for line in lines[3:]]
    assert shares[0] > 50
    assert len(shares) == 4
    assert shares[0] > sum(shares[1:]) > 0
    assert lines[4] == f"  {shares[1]}% to ':'", "the colon before the code"


def test_custom_layout():
    writer, thinker = run("custom_layout.py").split("--- (Writer)")
    assert "Zorka" in thinker
    assert "Zorka" not in writer


def test_the_layout_file_is_the_layout_of_the_script():
    source = (EXAMPLES / "custom_layout.py").read_text(encoding="utf-8")
    start, end = source.index("NOTE = "), source.index("style = ")
    names: dict[str, object] = {}
    exec("import hogwild\n" + source[start:end], names)
    assert find_layout(str(EXAMPLES / "writer_and_thinker.json")) == names["layout"]


def test_many_problems():
    output = run("many_problems.py")
    assert output.count(" ended (max_passes)") == 3
    assert sorted(output.count(f"] worker {worker}:") for worker in range(3)) == [1, 3, 3]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_the_built_in_layouts_can_be_written_as_files(layout: Layout, tmp_path: Path):
    """What docs/api.md says of the form of a file."""
    view = [part if isinstance(part, str) else {"others": list(part.parts)} for part in layout.view]
    path = tmp_path / f"{layout.name}.json"
    path.write_text(json.dumps({"view": view, "publish": layout.publish}), encoding="utf-8")
    assert find_layout(str(path)) == layout
