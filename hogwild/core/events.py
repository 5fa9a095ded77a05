"""What happened, in order: one stream of typed events.  Panes, traces, summaries and replays are folds over it.

Each event names its session and the number of decoding passes that were done before it. Events hold no clock times
but for `seconds` of passes and prompt, so two runs with the same seed on one backend give equal streams but for these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hogwild.errors import TraceError

StepReason = Literal["sentence", "limit", "ended"]
WorkerReason = Literal["eos", "answer", "max_tokens", "length", "dismissed", "nan", "cancelled"]
SessionReason = Literal["answer", "workers_ended", "max_passes", "cancelled"]


@dataclass(frozen=True, slots=True)
class Event:
    """Common to all events."""

    session: int
    pass_index: int


@dataclass(frozen=True, slots=True)
class SessionStarted(Event):
    """A problem was admitted; `options` are the session's options as plain data."""

    problem: str
    layout: str
    prompt_style: str
    model: str
    backend: str
    num_prompt_tokens: int
    kv_bytes_per_token: int
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptRead(Event):
    """The prompt and the texts of the layout are stored; `seconds` is the time that their passes took."""

    seconds: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class WorkerJoined(Event):
    """A worker takes part from now on."""

    worker: int
    name: str


@dataclass(frozen=True, slots=True)
class TokenWritten(Event):
    """A worker wrote a token; `text` is what became certain with it (empty within a multi-byte character).

    forced: the token was fed (a header, a check, a closing line), not sampled.
    """

    worker: int
    step: int
    token_id: int
    text: str
    forced: bool


@dataclass(frozen=True, slots=True)
class CheckAsked(Event):
    """A worker's new step begins with the check question."""

    worker: int
    step: int


@dataclass(frozen=True, slots=True)
class StepEnded(Event):
    """A worker's step is finished: by itself, by the limit of tokens, or because the worker ended."""

    worker: int
    step: int
    reason: StepReason
    text: str


@dataclass(frozen=True, slots=True)
class StepPublished(Event):
    """A step stands at the end of the common block now."""

    worker: int
    step: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerGiven(Event):
    """A final answer: a worker's own (`worker` >= 0), or one forced by the finisher (-1: of all workers)."""

    worker: int
    answer: str
    source: Literal["worker", "finisher"]


@dataclass(frozen=True, slots=True)
class WorkerEnded(Event):
    """A worker writes no more."""

    worker: int
    reason: WorkerReason


@dataclass(frozen=True, slots=True)
class PassDone(Event):
    """One decoding pass was done (`pass_index` counts it).

    num_tokens: new tokens of this session in the pass. cache_tokens: K/V rows that it holds. separate_tokens: rows that
    its workers would hold in caches of their own, each with its whole view.
    """

    seconds: float
    num_tokens: int
    cache_tokens: int
    separate_tokens: int


@dataclass(frozen=True, slots=True)
class AttentionMeasured(Event):
    """Whom the workers attended to in a pass; it comes before what else the pass brought.

    workers: who reads. columns: what is read: the workers' names, by index, then `hogwild.core.shares.SHARED`.
    shares: `[layer][reader][column]`, mean of all heads; see `SharedCache.attention_shares`.
    """

    workers: tuple[int, ...]
    columns: tuple[str, ...]
    shares: tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class BudgetReached(Event):
    """The state after exactly `budget` passes: the answer so far, if any, and the tokens sampled by each worker."""

    budget: int
    answer: str | None
    num_sampled: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    """The problem is finished with. `usage` is the account of tokens of each worker."""

    reason: SessionReason
    answer: str | None
    usage: tuple[dict[str, int], ...]


KINDS: Mapping[str, type[Event]] = {
    "session_started": SessionStarted,
    "prompt_read": PromptRead,
    "worker_joined": WorkerJoined,
    "token": TokenWritten,
    "check": CheckAsked,
    "step_ended": StepEnded,
    "step_published": StepPublished,
    "answer": AnswerGiven,
    "worker_ended": WorkerEnded,
    "pass": PassDone,
    "attention": AttentionMeasured,
    "budget": BudgetReached,
    "session_ended": SessionEnded,
}
_HUGE = 1 << 1000  # beyond what a float holds comes nothing that was written here
_KIND_OF = {kind: name for name, kind in KINDS.items()}


def event_to_dict(event: Event) -> dict[str, Any]:
    """Plain data for JSON: the kind under "event", then the fields."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return {"event": _KIND_OF[type(event)], **fields}


def event_from_dict(data: Any) -> Event:
    """The event that `event_to_dict` wrote; `TraceError` for anything else."""
    name = data.get("event") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in KINDS:
        raise TraceError("an event is not understood", expected=f"event: {', '.join(KINDS)}", got=repr(data)[:80])
    kind = KINDS[name]
    hints = get_type_hints(kind)
    values = {field: value for field, value in data.items() if field != "event"}
    if set(values) != set(hints):
        raise TraceError(
            f"an event {name!r} has the wrong fields",
            expected=", ".join(sorted(hints)),
            got=", ".join(sorted(values)),
        )
    return kind(**{field: _read(values[field], hint, f"{name}.{field}") for field, hint in hints.items()})


def _read(value: Any, hint: Any, place: str) -> Any:
    """`value` if it fits the type `hint` (lists become tuples), else `TraceError`."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return value if value is None else _read(value, choices[0], place)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read(item, choices[0], place) for item in value)
    if origin is Literal and value in choices:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE:
        return float(value)
    plain = origin or hint
    if isinstance(plain, type) and isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
        return value
    raise TraceError(f"the field {place} of an event is not understood", expected=str(hint), got=repr(value)[:80])
