"""README's table is what the script makes from the committed results; the plot is drawn."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report as script
from hogwild.bench.render import to_json
from tests.bench.reports import CASE, FOUR, report

PAGE = f"before\n{script.BEGIN}\n{script.END}\nafter\n"


def test_the_table_in_the_readme_is_up_to_date(capsys):
    assert script.main(["--check"]) == 0


def test_rows_by_hand():
    other = report(replace(CASE, context=4096), batch=None)
    lines = script.block([("a.json", report()), ("b.json", other)]).splitlines()
    assert lines[0] == "| model, machine | context | W=1 | W=4 | floor reached | vs batch |"
    name = "tiny, random weights, float32, NumPy, Some, 2 cores"
    assert lines[2] == f"| {name} | 1,024 | 90.9 | 190 (2.10×) | 45 % / 24 % | 0.50 / – |"
    assert lines[3] == f"| {name} | 4,096 | 90.9 | – | 45 % | – |"
    assert "- [a.json](bench/results/a.json): `hogwild bench --shape tiny`" in lines


def test_the_text_goes_between_the_markers():
    page = script.with_block(PAGE, "one")
    assert page == f"before\n{script.BEGIN}\n\none\n\n{script.END}\nafter\n"
    assert script.with_block(page, "two") == page.replace("one", "two")


@pytest.mark.parametrize("page", ["", script.BEGIN, f"{script.END}{script.BEGIN}", PAGE + PAGE])
def test_a_page_without_markers_is_refused(page):
    with pytest.raises(ValueError, match="the page needs"):
        script.with_block(page, "x")


def write_results(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.json").write_text(to_json(report(CASE, FOUR)))
    (folder / "other.json").write_text(json.dumps({"command": "something else"}))


def test_a_stale_table_is_noticed(tmp_path):
    write_results(tmp_path / "results")
    (tmp_path / "README.md").write_text(PAGE)
    arguments = ["--check", "--results", str(tmp_path / "results"), "--readme", str(tmp_path / "README.md")]
    assert script.main(arguments) == 1
    assert (tmp_path / "README.md").read_text() == PAGE


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib: pip install 'hogwild[eval]'"
)
def test_table_and_plot_are_written(tmp_path):
    write_results(tmp_path / "results")
    (tmp_path / "README.md").write_text(PAGE)
    places = ["--results", tmp_path / "results", "--readme", tmp_path / "README.md", "--images", tmp_path / "images"]
    arguments = [str(place) for place in places]
    assert script.main(arguments) == 0
    assert "190 (2.10×)" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "images" / "bench.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "images" / "bench.svg").read_text()
    assert "limit of memory bandwidth" in drawn
    assert script.main(["--check", *arguments]) == 0
    script.main(arguments)
    assert (tmp_path / "images" / "bench.svg").read_text() == drawn  # the same results, the same file


def test_kernels_are_named_in_the_title():
    found = report()
    for attention, framework in (
        ("C++ kernels", "NumPy with C++ kernels"),
        ("torch operations; model compiled", "NumPy"),
        ("torch operations, not C++ kernels: there is no compiler of kernels", "NumPy"),
    ):
        assert f", {framework}, " in script.title(replace(found, model={**found.model, "attention": attention}))
