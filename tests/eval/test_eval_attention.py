"""From measured attention to rows: intervals, workers that come late or have ended, the command's option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from even_attention import NUM_LAYERS, even_shares

from hogwild.cli import eval_run
from hogwild.cli.app import app
from hogwild.core import events as ev
from hogwild.core.shares import SHARED
from hogwild.eval.attention import MAX_INTERVALS, Attention, attention
from hogwild.eval.rows import row_from_line, row_to_line
from hogwild.report.attention import shares_of
from tests.cli import scripted
from tests.eval import workbench


def started(every: int, passes: int) -> ev.SessionStarted:
    return ev.SessionStarted(0, 0, "?", "l", "s", "m", "b", 1, 1, {"attention_every": every, "max_passes": passes})


def measured(at: int, workers: Sequence[int], names: Sequence[str], *layers: float) -> ev.AttentionMeasured:
    """Each layer gives this share to every column of a worker, and the rest to the first token."""
    table = [[[share] * len(names) + [0.0, 0.0, 1 - share * len(names)]] * len(workers) for share in layers]
    shares = tuple(tuple(tuple(row) for row in layer) for layer in table)
    return ev.AttentionMeasured(0, at, tuple(workers), (*names, *SHARED), shares)


def account(*events: ev.Event) -> Attention:
    found = attention(events)
    assert found is not None
    return found


def test_means_over_passes_and_layers() -> None:
    names = ("A", "B")
    found = account(
        started(2, 300),  # at most 32 intervals of a whole number of measured passes: 10 passes each
        measured(2, (0, 1), names, 0.1, 0.3),
        measured(10, (0, 1), names, 0.3, 0.5),
        measured(12, (1,), names, 0.2, 0.2),
        measured(300, (1,), names, 0.0, 0.4),
    )
    assert found.columns == ["A", "B", *SHARED]
    assert found.passes == [10, 20, 300]
    assert found.shares[0] == [pytest.approx([0.3, 0.3, 0, 0, 0.4])] * 2
    assert found.shares[1] == [[None] * 5, pytest.approx([0.2, 0.2, 0, 0, 0.6])]
    assert found.layers[0] == [pytest.approx([0.2, 0.2, 0, 0, 0.6]), pytest.approx([0.15, 0.15, 0, 0, 0.7])]
    assert len(found.layers) == 2


@pytest.mark.parametrize(("every", "passes"), [(1, 2048), (16, 8192), (16, 100), (7, 1000), (99, 100)])
def test_the_number_of_intervals_is_limited(every: int, passes: int) -> None:
    events = [measured(at, (0,), "A", 0.5) for at in range(every, passes + 1, every)]
    found = account(started(every, passes), *events)
    assert min(len(events), MAX_INTERVALS // 2) <= len(found.passes) <= MAX_INTERVALS
    assert found.passes == sorted(found.passes)
    assert events[-1].pass_index <= found.passes[-1] <= passes


def test_a_worker_that_comes_late_is_a_reader_from_then_on() -> None:
    found = account(started(4, 8), measured(4, (0,), ("A",), 0.5), measured(8, (0, 1), ("A", "B"), 0.25))
    assert found.columns == ["A", "B", *SHARED]
    assert found.shares[0] == [[0.5, 0.0, 0.0, 0.0, 0.5], [None] * 5]
    assert found.shares[1] == [[0.25, 0.25, 0.0, 0.0, 0.5]] * 2


def test_nothing_measured_is_no_account() -> None:
    assert attention([started(0, 8)]) is None


class Backend(scripted.Backend):
    def attention_shares(self, plan: Any, columns: Any, num_columns: int) -> Any:
        return even_shares(plan, columns, num_columns)


def model() -> Any:
    return scripted.Model("scripted", Backend(num_pieces=len(scripted.NO_ANSWER)), scripted.Tokenizer(), {})


def test_rows_of_every_method_hold_it_and_are_otherwise_the_same(tmp_path: Path) -> None:
    from hogwild.engine import Engine

    methods = ("one", "vote", "fork-join", "combined")
    for every in (0, 4):
        study = workbench.study(count=2, methods=methods, seeds=(0,), attention_every=every)
        workbench.work(tmp_path / str(every), study, concurrent=3, engine=Engine(model()))
    without, having = (workbench.results(tmp_path / name) for name in "04")
    for row in workbench.rows(tmp_path / "4"):
        assert row_from_line(row_to_line(row)) == row
        data = having[row.key]
        if row.method == "one":
            assert data == without[row.key]
            continue
        found = shares_of(row)
        assert found.passes.tolist() == list(range(4, 4 * (row.passes // 4) + 1, 4))
        assert found.num_readers == len(row.tokens)
        assert len(found.layers) == NUM_LAYERS
        sums = found.shares.sum(axis=2)
        assert np.abs(sums[np.isfinite(sums)] - 1).max() < 1e-4
        if row.method == "vote":
            assert found.shares[np.isfinite(found.shares[:, 0, 1])][:, 0, 1].max() == 0
        data["collaboration"]["attention"] = None
        assert data == without[row.key]


def test_the_option_is_part_of_what_shaped_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_run, "load_model", lambda name, backend, options: model())

    def run(*arguments: object) -> tuple[int, str]:
        given = ["eval", "--out", tmp_path, "--task", "parallel:2", "--count", 1, "--methods", "combined"]
        with pytest.raises(SystemExit) as end:
            app([*map(str, given), "--budgets", "8", "--max-tokens", "500", *map(str, arguments)])
        return int(end.value.code or 0), capsys.readouterr().err

    assert run("--attention-every", 4)[0] == 0
    (row,) = workbench.rows(tmp_path)
    assert shares_of(row).passes.tolist() == [4, 8]
    code, remarks = run()
    assert code == 2
    assert "options.attention_every: 4 -> 0" in remarks
