"""Prompt styles: everything that is said to workers, as data files with a version."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from hogwild.errors import PromptError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_STYLE = "hogwild"
_PLACEHOLDER = re.compile(r"\{(name|names|others|num_workers|problem|step)\}")


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """What is said to the workers. Templates may hold {name}, {names}, {others}, {num_workers}, {problem} and {step}.

    Attributes:
        name, version: recorded with every run.
        description: one line for `--help`.
        names: the workers' names, in order; further ones are numbered.
        chat: whether the user turn goes through the model's chat template; else it is plain text.
        system: the system turn; empty: none (the template may have one of its own).
        user: the user turn.
        opener: what the assistant's turn begins with, before any worker writes.
        reasoning: whether a reasoning model thinks: that is opened before the opener, and workers cannot close it. If
            not, it is asked not to think, where its template knows how.
        texts: the layouts' texts and labels: in_progress, separator, own_header.
        header: what every step begins with. It should not end with a space: most tokenizers join that to the next word.
        greetings: what follows it in a worker's first step: worker w says the w-th, and so on from the first again.
        check: the question of the collaboration check.
        finish: what asks for the final answer when time is up; empty: never asked.
        boxed: whether an answer stands in `\\boxed{...}`; else the finisher's first line is the answer.
        program: whether the answer is a program instead: of a worker, the last fenced block of Python that it calls its
            final program; of the finisher, what it writes up to the closing fence.
        banned: texts of single tokens that workers never write.
    """

    name: str
    version: int
    user: str
    description: str = ""
    names: tuple[str, ...] = ("Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi")
    chat: bool = True
    system: str = ""
    opener: str = ""
    reasoning: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)
    header: str = ""
    greetings: tuple[str, ...] = ()
    check: str = ""
    finish: str = ""
    boxed: bool = True
    program: bool = False
    banned: tuple[str, ...] = ()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace the known placeholders; other braces, and braces in the values, stay as they are."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def style_names() -> tuple[str, ...]:
    """The styles that come with hogwild."""
    files = resources.files("hogwild.prompts").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def find_style(name: str | PromptStyle) -> PromptStyle:
    """A style by name, or from a file (`*.toml`); `PromptError` when there is none."""
    if isinstance(name, PromptStyle):
        return name
    if name.endswith(".toml"):
        return _read(Path(name))
    if name not in style_names():
        raise PromptError(
            f"there is no prompt style {name!r}", expected=f"{', '.join(style_names())}, or a file NAME.toml", got=name
        )
    return _parse(resources.files("hogwild.prompts").joinpath(f"{name}.toml").read_text(encoding="utf-8"), name)


def _read(path: Path) -> PromptStyle:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read the prompt style {path}", got=str(error)) from None


def _parse(text: str, place: str) -> PromptStyle:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PromptError(f"the prompt style {place} is not a TOML file", got=str(error)) from None
    known = PromptStyle.__dataclass_fields__
    unknown, missing = sorted(set(data) - set(known)), sorted({"name", "version", "user"} - set(data))
    wrong = sorted(key for key, value in data.items() if key in known and not _fits(value, known[key].type))
    if unknown or missing or wrong:
        raise PromptError(
            f"the prompt style {place} is not understood",
            expected=f"fields among {', '.join(known)}; name, version and user are needed",
            got="; ".join(
                f"{what}: {', '.join(keys)}"
                for what, keys in (("unknown", unknown), ("missing", missing), ("of a wrong type", wrong))
                if keys
            ),
        )
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return PromptStyle(**fields)


def _fits(value: Any, annotation: Any) -> bool:
    expected = {"str": str, "int": int, "bool": bool}.get(annotation)
    if expected is not None:
        return type(value) is expected
    items = value.values() if isinstance(value, dict) else value
    kind = dict if annotation.startswith("Mapping") else list
    return isinstance(value, kind) and all(isinstance(item, str) for item in items)
