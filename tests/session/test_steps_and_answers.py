"""Where a step ends, and which answer a text gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core.answer import boxed_answer, majority, until_closing_brace
from hogwild.core.steps import ends_sentence, ends_step

ENDS = [
    "It is so.\n\n",
    "Is it?\n\n",
    "It is!\n\n\n",
    "So it is.\n \t\n",
    "She said: “it is.”\n\n",
    "(It is.)\n\n",
    "**It is.**\n\n",
    "それは正しい。\n\n",
    "هل هو كذلك؟\n\n",
    "यह सही है।\n\n",
    "And so on…\n\n",
    "```python\nx = 1\n```\nThat is it.\n\n",
    "$$x = 1$$ is it.\n\n",
    "\\[x = 1.\\] is it.\n\n",
    "Windows line.\r\n\r\n",
]
GOES_ON = [
    "",
    "\n\n",
    "It is so.",
    "It is so.\n",
    "It is so:\n\n",
    "1. First item\n\n",
    "It is so,\n\n",
    "x\n\n",
    "```python\nx = 1.\n\n",
    "~~~\nIt is.\n\n",
    "$$x = 1.\n\n",
    "\\[x = 1.\n\n",
    "\\begin{align} x.\n\n",
    "First.\n\nand then",
]


@pytest.mark.parametrize("text", ENDS)
def test_a_step_ends_at_a_blank_line_after_a_sentence(text):
    assert ends_step(text)


@pytest.mark.parametrize("text", GOES_ON)
def test_elsewhere_it_goes_on(text):
    assert not ends_step(text)


@given(st.text(max_size=60))
def test_a_step_that_ends_has_a_sentence_before_a_blank_line(text):
    if ends_step(text):
        assert ends_sentence(text)
        assert text.rstrip() + "\n" < text or text.count("\n") >= 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{1} or rather \boxed{2", "1"),
        (r"\boxed{{a}{b{c}}}", "{a}{b{c}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\fbox{7}", "7"),
        (r"\boxed{ 42 }", "42"),
        (r"\boxed{}", None),
        (r"\boxed{\boxed{3}}", "3"),
        ("no box here", None),
        (r"\boxed", None),
    ],
)
def test_boxed_answers(text, answer):
    assert boxed_answer(text) == answer


@given(st.recursive(st.just("x"), lambda inner: st.lists(inner).map(lambda parts: "{" + "".join(parts) + "}")))
def test_nested_braces_come_back_whole(content):
    assert boxed_answer(rf"a \boxed{{{content}}} b") == content
    assert until_closing_brace(content + "} rest}") == content


def test_the_majority_is_the_most_frequent_and_the_first_of_equals():
    assert majority(["2", "1", "1"]) == "1"
    assert majority(["2", "1"]) == "2"
    assert majority([]) is None
