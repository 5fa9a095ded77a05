"""Reports as files: every picture can be drawn, nothing covers anything else, and the same rows give the same bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_rows import failed, row, simulated, write_run

from hogwild.cli.app import Commands, app
from hogwild.errors import OptionError
from hogwild.eval.rows import Row
from hogwild.report.attention import kinds_of_shares
from hogwild.report.curves import Study, study
from hogwild.report.pictures.style import COLOURS, METHOD_COLOURS, looks
from hogwild.report.write import Shown, make_pictures, write_report

pytest.importorskip("matplotlib")
PICTURES = ["accuracy", "cost", "speedup", "attention", "timeline"]


@pytest.fixture(scope="module")
def rows() -> Sequence[Row]:
    return simulated(tasks=("gsm8k",), num_problems=8, seeds=1)


@pytest.fixture(scope="module")
def studied(rows: Sequence[Row]) -> Study:
    return study(rows)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_command_writes_page_tables_and_pictures(
    rows: Sequence[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = len(rows) // 2
    runs = [write_run(tmp_path / "a", rows[:half]), write_run(tmp_path / "b", rows[half:])]
    assert run("report", *runs, "--out", tmp_path / "out", "--target", "2048") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Accuracy over budget\n")
    assert f"{len(rows)} sessions" in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "report.md",
        *(f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")),
        *(f"{name}.csv" for name in ("accuracy", "cost", "comparison", "speedup", "collaboration", "attention")),
    }
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for line in page.splitlines():
        for target in [part.partition(")")[0] for part in line.split("](")[1:]]:
            assert (tmp_path / "out" / target).exists(), target


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    few = [row("p", [False, True]), row("q", [True, True])]
    first, second = (write_report(few, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_json_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [failed("p")])  # which has no pictures: they take time
    assert run("report", folder, "--out", tmp_path / "out", "--json") == 0
    files = json.loads(capsys.readouterr().out)
    assert Path(files["page"]).is_file()
    assert files["files"]
    assert all(Path(path).is_file() for path in files["files"])


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda: [row("p", [True])], ["accuracy", "cost"]),
        (lambda: [failed("p"), failed("q")], []),
        (lambda: [row("p", [False] * 5), row("p", [False] * 5, method="one", workers=1)], ["accuracy", "cost"]),
        (lambda: [row("p", [True], (1,))], ["accuracy", "cost"]),
        (lambda: [row("p" * 300, [True], method="m" * 80), failed("é|\n$x$")], ["accuracy", "cost"]),
    ],
    ids=["one method", "all failed", "all wrong", "one budget", "odd names"],
)
def test_small_studies_are_drawn_as_far_as_they_go(
    made: Callable[[], list[Row]], names: list[str], tmp_path: Path
) -> None:
    written = write_report(made(), tmp_path)
    assert [path.stem for path in written if path.suffix == ".svg"] == names


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [row("p", [True])])
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["report", tmp_path / "nowhere"], "holds no run"),
        (["report", folder, "--out", tmp_path / "file"], "cannot write"),
        (["report", folder, "--out", tmp_path / "out", "--problem", "x"], "no session of that problem"),
        (["report", folder, "--out", tmp_path / "out", "--target", "7"], "no right answer at that budget"),
    ):
        assert run(*arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PICTURES)
def test_no_legend_or_title_covers_the_axes_and_everything_is_on_the_page(name: str, studied: Study) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from hogwild.report.pictures.style import SETTINGS

    picture = next(picture for picture in make_pictures(studied, Shown()) if picture.name == name)
    with rc_context(SETTINGS):
        figure = picture.draw()
        FigureCanvasAgg(figure).draw()
        renderer = figure.canvas.get_renderer()
        boxes = [axis.get_tightbbox(renderer) for axis in figure.axes]
        boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
        page = figure.bbox
        for box in boxes:
            assert page.x0 - 1 <= box.x0
            assert box.x1 <= page.x1 + 1
            assert page.y0 - 1 <= box.y0
            assert box.y1 <= page.y1 + 1
        for first, second in itertools.combinations(boxes, 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            down = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert across < 2 or down < 2, (first, second)
        for axis in figure.axes:
            assert axis.get_xlabel() or name == "timeline"
            assert axis.get_ylabel() or name == "timeline"


def _luminances(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))


# Machado, Oliveira and Fernandes (2009), severity 1: what a person without red or without green cones sees.
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


@pytest.mark.parametrize("matrix", [PROTAN, DEUTAN])
def test_colours_differ_for_those_who_see_fewer(matrix: tuple[tuple[float, ...], ...]) -> None:
    seen = [
        tuple(sum(w * (c**2.2) for w, c in zip(line, _luminances(colour), strict=True)) for line in matrix)
        for colour in COLOURS
    ]
    assert set(METHOD_COLOURS) == set(COLOURS)
    as_shown = [[max(0.0, min(1.0, value)) ** (1 / 2.2) for value in colour] for colour in seen]
    for a, b in itertools.combinations(as_shown, 2):
        assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 0.09


def test_a_method_looks_the_same_whatever_stands_beside_it() -> None:
    found = looks(["one", "vote", "combined", "combined+check"])
    assert looks(["combined", "my own"])["combined"] == found["combined"]
    assert found["combined"].colour == found["combined+check"].colour
    assert not found["combined"].is_variant
    assert found["combined+check"].is_variant
    assert len({look.colour for look in found.values()}) == 3


def test_shares_of_attention_are_divided_into_own_others_and_the_rest() -> None:
    import numpy as np

    shares = np.asarray([[[0.5, 0.2, 0.1, 0.2], [0.1, 0.6, 0.1, 0.2], [0.3, 0.3, 0.4, 0.0]]])
    assert kinds_of_shares(shares, 3)[0] == pytest.approx([1.5 / 3, 1.1 / 3, 0.4 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": [1, 2]}, r"expected: shares \[2, readers, 3\]; got: \[1, 2, 3\]"),
        ({"layers": [[[1, 0, 0]]]}, r"expected: layers \[1, readers, 3\]; got: \[1, 1, 3\]"),
        ({"shares": [[[1, 0], [0, 1, 0]]]}, "expected: columns, passes, shares and layers"),
        ({"shares": []}, r"expected: shares"),
    ],
)
def test_attention_of_the_wrong_shape_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    table = [[1, 0, 0], [0, 1, 0]]
    account = {"columns": ["Alice", "Bob", "prompt"], "passes": [1], "shares": [table], "layers": [table], **change}
    with pytest.raises(OptionError, match=message):
        write_report([row("p", [True], collaboration={"attention": account})], tmp_path)


def test_the_command_is_listed() -> None:
    assert isinstance(Commands, type)
    assert "report" in {command.name for command in app.registered_commands}
