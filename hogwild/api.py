"""The high-level API: one problem, from a model's name to an answer.

result = hogwild.solve("bundled", "What is the Moon made of?", num_workers=2, max_passes=100)
print(result.answer, result.texts["Alice"])

for event in hogwild.stream(model, "What is the Moon made of?"):
    ...
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hogwild.core.events import Event, SessionReason
from hogwild.core.layout import find_layout
from hogwild.core.options import SessionOptions
from hogwild.engine import Engine
from hogwild.errors import OptionError
from hogwild.model import Model, load
from hogwild.prompts import DEFAULT_STYLE, PromptStyle
from hogwild.transcript import Transcript, fold


@dataclass(frozen=True, slots=True)
class Result:
    """A problem that was worked on.

    Attributes:
        answer: the final answer, or None.
        reason: how the session ended.
        texts: everything that each worker wrote, headers included, by the worker's name.
        usage: the account of tokens of each worker.
        transcript: every step with its author, in order.
        events: everything that happened.
    """

    answer: str | None
    reason: SessionReason | None
    texts: Mapping[str, str]
    usage: tuple[Mapping[str, int], ...]
    transcript: Transcript
    events: tuple[Event, ...]


def solve(model: str | Model, problem: str, *, style: str | PromptStyle = DEFAULT_STYLE, **options: Any) -> Result:
    """Work on one problem until it is finished with.

    Args:
        model: from `load`, or a name as `load` takes it; a model that is loaded here is freed again.
        problem: the user's text.
        style: name of a prompt style, a file `*.toml`, or a `PromptStyle`.
        options: fields of `SessionOptions`; `layout` may be a name or a file `*.json`. Without `sampling` the model's
            own defaults are used.

    Raises:
        What `load` and `Engine.submit` raise, and `OptionError` for an unknown option.
    """
    events = tuple(stream(model, problem, style=style, **options))
    transcript = fold(events)
    return Result(
        answer=transcript.answer,
        reason=transcript.reason,
        texts={worker.name: _text_of(transcript, worker.index) for worker in transcript.workers.values()},
        usage=transcript.usage,
        transcript=transcript,
        events=events,
    )


def stream(
    model: str | Model, problem: str, *, style: str | PromptStyle = DEFAULT_STYLE, **options: Any
) -> Iterator[Event]:
    """The events of one problem, as they happen; arguments and errors as for `solve`.

    Closing the iterator early cancels the session and frees its memory.
    """
    return _stream(model, problem, style, _session_options(options), has_sampling="sampling" in options)


def _stream(
    model: str | Model, problem: str, style: str | PromptStyle, options: SessionOptions, *, has_sampling: bool
) -> Iterator[Event]:
    with contextlib.ExitStack() as stack:
        if isinstance(model, str):
            model = load(model)
            stack.callback(model.close)
        if not has_sampling:
            options = dataclasses.replace(options, sampling=model.default_sampling())
        engine = Engine(model)
        engine.submit(problem, options, style)
        stack.callback(engine.cancel)
        yield from engine.events()


def _session_options(options: Mapping[str, Any]) -> SessionOptions:
    known = [field.name for field in dataclasses.fields(SessionOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError("there is no such option", expected=", ".join(known), got=", ".join(unknown))
    layout = {"layout": find_layout(options["layout"])} if "layout" in options else {}
    return SessionOptions(**{**options, **layout})


def _text_of(transcript: Transcript, worker: int) -> str:
    current = transcript.workers[worker].step
    steps = [step for step in transcript.finished if step.worker == worker]
    return "".join(step.text for step in [*steps, *([current] if current is not None else [])])
