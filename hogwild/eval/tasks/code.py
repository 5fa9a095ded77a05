"""Programming problems with unit tests, which run in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hogwild.eval.tasks.base import Task
from hogwild.eval.tasks.records import text_field

_ASK = (
    "The answer is a program, so there is no box. Write the complete final program into one fenced code block, "
    '```python ... ```, and after it the line "This is the final program.", then a blank line.'
)


def read_code(record: Mapping[str, Any]) -> tuple[str, str]:
    """A statement, and what tests a program.

    The tests: `cases` (a list of `{"input", "output"}`), `test` with `entry_point` as in HumanEval, `test_list` as in
    MBPP, or `answer`: Python source with assertions.
    """
    statement = text_field(record, "problem", "prompt", "text", "question")
    return f"{_statement(statement, record)}\n\n{_ASK}", _tests(record)


def _statement(statement: str, record: Mapping[str, Any]) -> str:
    if "entry_point" in record and "def " in statement:
        return f"Complete this Python function:\n\n```python\n{statement.rstrip()}\n```"
    if _assertions(record):
        shown = "\n".join(_assertions(record)[:1])
        return f"{statement.rstrip()}\n\nThe function must pass tests such as:\n\n```python\n{shown}\n```"
    return statement


def _tests(record: Mapping[str, Any]) -> str:
    cases = record.get("cases")
    if cases is not None:
        if not isinstance(cases, list) or not all(isinstance(c, dict) and {"input", "output"} <= set(c) for c in cases):
            raise ValueError("the field 'cases' is not a list of objects with 'input' and 'output'")
        return json.dumps({"cases": [{"input": case["input"], "output": case["output"]} for case in cases]})
    if "entry_point" in record:
        return f"{text_field(record, 'test')}\n\ncheck({text_field(record, 'entry_point')})\n"
    if _assertions(record):
        setup = record.get("test_setup_code") or ""
        return "\n".join([str(setup), *_assertions(record)]).strip() + "\n"
    return text_field(record, "answer", "test")


def _assertions(record: Mapping[str, Any]) -> list[str]:
    tests = record.get("test_list")
    if tests is None:
        return []
    if not isinstance(tests, list) or not tests:
        raise ValueError("the field 'test_list' is not a list of assertions")
    return [str(test) for test in tests]


HUMANEVAL = Task(
    "humaneval",
    "Python functions from their descriptions (openai/openai_humaneval)",
    "code",
    read=read_code,
    data="openai/openai_humaneval:openai_humaneval/test-*",
    finisher_tokens=1024,
)
MBPP = Task(
    "mbpp",
    "short Python programs (google-research-datasets/mbpp, test)",
    "code",
    read=read_code,
    data="google-research-datasets/mbpp:full/test-*",
    finisher_tokens=1024,
)
CODE = Task("code", "programs with tests, from your own data", "code", read=read_code, finisher_tokens=1024)
