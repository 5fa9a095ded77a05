"""The final answer in a text: boxes, lines, code; and plain numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core.answer import final_program
from hogwild.eval.scoring.extract import find_answer, find_code, gold_answer
from hogwild.eval.scoring.number import read_number, read_numbers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\left\{ x : x > 0 \right\}}", r"\left\{ x : x > 0 \right\}"),
        (r"\boxed{3} and then \boxed{\frac{1}{2", "3"),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{}", None),
        (r"\boxed{7} Answer: 8", "7"),
        ("The final answer is: **42**.", "42"),
        ("Answer: $\\frac{3}{4}$\nAnswer: 5 apples\n", "5 apples"),
        ("**Answer:** 12", "12"),
        ("I have no answer yet.", None),
        ("Answer:\n", None),
        ("", None),
    ],
)
def test_the_last_complete_box_counts_and_a_line_only_where_there_is_none(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


_nested = st.recursive(
    st.text(st.sampled_from("abc 12+-=,.$^_"), max_size=6).map(str),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: "\\frac" + "".join(f"{{{p}}}" for p in parts)
    ),
    max_leaves=8,
)


@given(_nested, st.text(st.characters(exclude_characters="\\{}"), max_size=20))
def test_whatever_is_balanced_comes_out_of_its_box_unchanged(content: str, rest: str) -> None:
    expected = content.strip() or None
    if expected is not None:
        assert find_answer(f"{rest}\\boxed{{{content}}} {rest}") == expected


@given(st.text(max_size=200))
def test_no_text_breaks_extraction(text: str) -> None:
    for value in (find_answer(text), gold_answer(text)):
        assert value is None or value in text
    find_code(text)
    read_numbers(text)


def test_a_gold_answer_may_stand_in_a_box_without_braces() -> None:
    assert gold_answer(r"thus $\boxed 5$.") == "5"
    assert gold_answer(r"\boxed 5 and \boxed{6}") == "6"
    assert gold_answer("nothing") is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\n```python\nx = 1\n```\nb\n```py\ny = 2\n```\nc", "y = 2\n"),
        ("```python\nx = 1\n```\n```text\nout\n```\n", "x = 1\n"),
        ("```python\nx = '''\n``` inside'''\n", None),
        ("```\nx = 1\n", "x = 1\n"),
        ("~~~python\nx = 1\n~~~\n", "x = 1\n"),
        ("x = 1", "x = 1"),
        (r"done: \boxed{x = {1: 2}}", "x = {1: 2}"),
        ("\\boxed{```python\nx = 1\n```}", "x = 1\n"),
        ("This is prose, not code.", None),
        ("", None),
    ],
)
def test_code_is_the_last_block_of_python(text: str, code: str | None) -> None:
    found = find_code(text)
    assert found == code if code is not None else found is None or "inside" in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-3", -3),
        ("−3", -3),
        (r"\$1,234.50", Fraction("1234.5")),
        ("1{,}000{,}000", 1000000),
        ("18 apples", 18),
        (r"18\text{ apples}", 18),
        (r"12\%", 12),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        ("3/4", Fraction(3, 4)),
        ("42.", 42),
        ("042", 42),
        (".5", Fraction(1, 2)),
        ("3/0", None),
        ("3 4", None),
        ("x", None),
        ("1e3", None),
        ("5x", None),
        ("x = 5", None),
        ("2 + 2", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_are_read_exactly_or_not_at_all(text: str, value: Fraction | int | None) -> None:
    assert read_number(text) == value


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8), st.sampled_from([", ", "; ", ",", " and "]))
def test_a_list_of_numbers_is_read_in_order(values: list[int], separator: str) -> None:
    text = separator.join(map(str, values))
    if separator == "," and any(len(str(abs(value))) == 3 and value >= 0 for value in values[1:]):
        return  # "1,234" is one number
    assert read_numbers(f"({text})") == tuple(values)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx = 1\n```\nThis is the final program.\n\n", "x = 1"),
        ("```python\nx = 1\n```\n\n**The final program** is above.", "x = 1"),
        (
            "```python\nx = 1\n```\nA draft.\n\n```\nx = 2\n```\nFinal program.\n\n```\nx = 3\n```\nanother idea",
            "x = 2",
        ),
        ("```python\nx = 1\n```\nNot yet.\nThis is the final program.", None),
        ("```python\nx = 1\n\nThis is the final program.", None),
        ("```text\nx = 1\n```\nThis is the final program.", None),
        ("This is the final program: ```python\nx = 1\n```", None),
    ],
)
def test_a_final_program_is_called_so_in_the_line_after_its_block(text, program):
    assert final_program(text) == program
