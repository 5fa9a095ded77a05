"""What is drawn fits its terminal, loses nothing, and cannot be disturbed by what a model writes."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hogwild.cli.blocks import finished_lines, unfinished_lines
from hogwild.cli.console import print_all, print_blocks
from hogwild.cli.panes import render_session
from hogwild.cli.printable import printable
from hogwild.cli.summary import answer_text, summary
from hogwild.cli.units import bytes_text, ratio_text, seconds_text
from hogwild.core import events as ev
from hogwild.transcript import Transcript, fold
from tests.cli import scripted
from tests.cli.test_transcript import run

WIDTHS = (40, 80, 200)
SIZES = [(40, 12), (40, 60), (60, 24), (80, 24), (100, 30), (200, 50), (20, 5), (10, 3)]


def draw(renderable, width: int, height: int = 25) -> list[str]:
    """The lines of a renderable on a terminal of that size, without colours."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue().split("\n")[:-1]


def sampled(num_workers: int, layout: str = "combined", **options) -> list[ev.Event]:
    return run(num_workers, layout, finish="all", **options)[1]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5, 9, 40])
def test_the_live_view_fits_at_every_moment(width, height, num_workers):
    transcript = Transcript()
    for number, event in enumerate(sampled(num_workers, max_passes=25)):
        transcript.apply(event)
        if number % (29 * num_workers) == 0 or transcript.reason:
            lines = draw(render_session(transcript, width, height), width, height)
            assert len(lines) <= height
            assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(("width", "height", "num_workers"), [(80, 24, 2), (100, 30, 2), (200, 50, 4), (60, 24, 2)])
def test_the_live_view_shows_every_worker_and_the_latest_text(width, height, num_workers):
    transcript = fold(sampled(num_workers, num_pieces=4, max_passes=30))
    lines = draw(render_session(transcript, width, height), width, height)
    text = "\n".join(lines)
    for worker in transcript.workers.values():
        assert f"{worker.name}: step 1" in text
    assert "pass 30/30" in text
    assert f"{transcript.cache_tokens} tokens shared" in " ".join(text.split())
    assert len(lines) == height


def test_panes_stand_side_by_side_or_one_above_the_other():
    transcript = fold(sampled(2, num_pieces=4, max_passes=5))

    def rows(width: int) -> list[int]:
        lines = draw(render_session(transcript, width, 24), width, 24)
        return [next(i for i, line in enumerate(lines) if f"{name}: step" in line) for name in ("Alice", "Bob")]

    assert len(set(rows(80))) == 1
    assert len(set(rows(50))) == 2


def test_published_steps_stand_above_and_leave_the_pane():
    events = sampled(2, max_step_tokens=4, num_pieces=1, max_passes=12)
    transcript = fold(events)
    lines = draw(render_session(transcript, 80, 40), 80, 40)
    panes = next(i for i, line in enumerate(lines) if "Alice: step" in line)
    last = transcript.published[-1]
    assert "published steps" in lines[0]
    assert any(f"Bob {last.number}" in line for line in lines[:panes])
    assert not any(f"**Alice [{last.number}]" in line for line in lines[panes:])


def test_more_workers_than_lines_are_counted():
    lines = draw(render_session(fold(sampled(40, max_passes=3)), 40, 10), 40, 10)
    assert any("more workers" in line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layout", ["combined", "independent"])
def test_the_final_text_loses_no_character(width, layout):
    transcript = fold(sampled(3, layout))
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    print_blocks(console, finished_lines(transcript, 0, width))
    print_blocks(console, unfinished_lines(transcript, width))
    lines = console.file.getvalue().split("\n")
    assert max(map(cell_len, lines)) <= width
    shown = "".join("".join(line.partition("│")[2].split()) for line in lines)
    steps = [*transcript.finished, *transcript.unfinished]
    assert shown == "".join("".join(printable(step.text).split()) for step in steps)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_fits_and_keeps_every_number(width):
    transcript = fold(sampled(3, budgets=(10, 20)))
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    print_all(console, summary(transcript))
    text = console.file.getvalue()
    assert max(map(cell_len, text.split("\n"))) <= width
    words = "".join(text.split())
    for number in (transcript.num_sampled, transcript.num_forced, transcript.cache_tokens, transcript.separate_tokens):
        assert str(number) in words
    for name in ("Alice", "Bob", "Carol", "after10passes", "after20passes", "after40passes"):
        assert name in words or width == 40
    assert "…" not in text


def test_an_answer_names_its_author():
    transcript = fold(run(2, num_pieces=len(scripted.PIECES))[1])
    assert transcript.reason == "answer"
    assert answer_text(transcript).plain in ("answer: 391 (Alice)", "answer: 391 (Bob)", "answer: 391 (Alice, Bob)")
    forced = fold(run(2, num_pieces=1, max_passes=3)[1])
    assert answer_text(forced).plain.endswith("alpha (asked when time was up)")
    assert answer_text(fold(run(2, max_passes=3, finisher_tokens=0)[1])).plain == "no final answer"


def test_only_the_bundled_model_is_excused():
    events = run(2, max_passes=2)[1]

    def text(model: str) -> str:
        console = Console(width=200, file=io.StringIO())
        first = events[0]
        fields = {name: getattr(first, name) for name in first.__dataclass_fields__} | {"model": model}
        print_all(console, summary(fold([ev.SessionStarted(**fields), *events[1:]])))
        return console.file.getvalue()

    assert "far too small to reason" in text("bundled")
    assert "far too small to reason" in text("smollm2")
    assert "far too small" not in text("Qwen/Qwen3-8B")


@given(st.text(st.characters(), max_size=40))
def test_printable_text_holds_no_control_character(text):
    shown = printable(text)
    assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
    assert printable(shown) == shown
    shown.encode()


@given(st.text(max_size=200), st.sampled_from(WIDTHS))
def test_any_text_of_a_model_fits_its_pane(text, width):
    events = sampled(2, max_passes=2)
    token = next(e for e in reversed(events) if isinstance(e, ev.TokenWritten) and not e.forced)
    place = events.index(token)
    fields = {name: getattr(token, name) for name in token.__dataclass_fields__} | {"text": text}
    transcript = fold([*events[:place], ev.TokenWritten(**fields), *events[place + 1 :]])
    lines = draw(render_session(transcript, width, 24), width, 24)
    assert len(lines) <= 24
    assert max(map(cell_len, lines)) <= width
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    print_blocks(console, unfinished_lines(transcript, width))
    assert "\x1b" not in console.file.getvalue()


def test_markup_in_a_models_text_is_text():
    transcript = fold(sampled(2))
    out = io.StringIO()
    console = Console(width=200, file=out, force_terminal=True, color_system="truecolor")
    print_blocks(console, finished_lines(transcript, 0, None))
    assert "[red]bold[/red]" in out.getvalue()
    assert "\x1b[31mnot red" not in out.getvalue()
    assert "␛[31mnot red␇" in out.getvalue()


def test_units():
    assert [bytes_text(n) for n in (0, 1023, 1536, 150 * 2**20, 5 * 2**40)] == [
        "0 B", "1023 B", "1.5 KiB", "150 MiB", "5.0 TiB",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (0.5, 12.34, 200, 7300)] == ["0.50 s", "12.3 s", "3 min 20 s", "2 h 1 min"]
    assert (ratio_text(4, 6), ratio_text(0, 0)) == ("1.50×", "–")
