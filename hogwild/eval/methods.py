"""What is compared: every method is a layout, a prompt style and a finish policy of the same session."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hogwild.core.events import Event
from hogwild.core.layout import LAYOUTS, Layout
from hogwild.core.options import MAX_WORKERS, FinishPolicy
from hogwild.core.session import Session
from hogwild.errors import OptionError
from hogwild.eval.stages import StagedRun, Stages
from hogwild.prompts import PromptStyle, find_style

CHECK = "+check"
_PROMPTS = Path(__file__).parent / "prompts"
_PROGRAM_FINISH = "\n\nThe time is up, so I settle on what there is. The final program is:\n\n```python\n"


class Policy(Protocol):
    """Leads one session."""

    def after_pass(self, session: Session, events: Iterable[Event]) -> None:
        """Act on the events of a pass, before the next one."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One way to work on a problem, with a certain number of workers.

    Attributes:
        name: as in rows and tables, `+check` included.
        num_workers: as `--workers` says; 1 where there is only one.
        num_start, num_late: workers that start, and workers that join later.
        style: what they are told.
        has_steps: whether a step that does not end by itself is ended by force.
        asks_check: whether the collaboration check is asked.
        policy: makes the policy of one session from its number of passes; None: the session needs none.
    """

    name: str
    num_workers: int
    layout: Layout
    style: PromptStyle
    finish: FinishPolicy
    num_start: int
    num_late: int = 0
    has_steps: bool = True
    asks_check: bool = False
    policy: Callable[[int], Policy] | None = None


Build = Callable[[str, int, PromptStyle], Method]


def own_style(name: str) -> PromptStyle:
    """A style of the baselines: solo, skeleton, fork_join."""
    return find_style(str(_PROMPTS / f"{name}.toml"))


def _one(name: str, workers: int, style: PromptStyle) -> Method:
    return Method(name, 1, LAYOUTS["independent"], own_style("solo"), "first", 1, has_steps=False)


def _vote(name: str, workers: int, style: PromptStyle) -> Method:
    return Method(name, workers, LAYOUTS["independent"], own_style("solo"), "vote", workers, has_steps=False)


def _hogwild(name: str, workers: int, style: PromptStyle) -> Method:
    layout = LAYOUTS[name]
    return Method(name, workers, layout, style, "first", workers, has_steps=layout.publish)


def _skeleton(name: str, workers: int, style: PromptStyle) -> Method:
    return _staged(name, Stages(workers, joins=False), own_style("skeleton"), "Writer")


def _fork_join(name: str, workers: int, style: PromptStyle) -> Method:
    return _staged(name, Stages(workers, joins=True), own_style("fork_join"), "Solver")


def _staged(name: str, stages: Stages, style: PromptStyle, solver: str) -> Method:
    user = style.user.replace("{solvers}", str(stages.num_solvers))
    return Method(
        name,
        stages.num_solvers,
        stages.layout(name),
        dataclasses.replace(style, user=user, names=stages.names(solver)),
        "all",
        num_start=1,
        num_late=stages.num_workers - 1,
        policy=lambda num_passes: StagedRun(stages, join_by=num_passes // 2),
    )


_BUILDERS: Mapping[str, Build] = {
    "one": _one,
    "vote": _vote,
    "skeleton": _skeleton,
    "fork-join": _fork_join,
    "contiguous": _hogwild,
    "interleaved": _hogwild,
    "combined": _hogwild,
}
METHODS: Mapping[str, str] = {
    "one": "one worker alone",
    "vote": "workers that do not see each other; the majority's answer counts",
    "skeleton": "skeleton-of-thought: one plans, then every worker writes one point",
    "fork-join": "one divides the problem, every worker solves a part, one joins the results",
    "contiguous": "Hogwild: one growing text for each worker, and all read all of them",
    "interleaved": "Hogwild: the others' steps are read once they are published",
    "combined": "Hogwild: published steps, and unfinished ones token by token",
}


def find_methods(
    names: Sequence[str], workers: Sequence[int], style: PromptStyle, *, programs: bool = False
) -> tuple[Method, ...]:
    """The methods of these names, once for every number of workers; `one` has one worker and comes once.

    `NAME+check` is the same method with the collaboration check. `style` is what the Hogwild methods are told.
    `programs`: answers are programs, in fenced blocks and not in boxes.
    Raises `OptionError` for an unknown name, too many workers, and a check where the style has no question.
    """
    methods = {}
    for given in names:
        name = given.removesuffix(CHECK)
        if name not in _BUILDERS:
            raise OptionError(
                f"there is no method {given!r}", expected=f"{', '.join(METHODS)}, each with or without {CHECK}"
            )
        for count in workers:
            method = _BUILDERS[name](name, count, style)
            extra = method.num_start + method.num_late - method.num_workers
            if not 1 <= count <= MAX_WORKERS - extra:
                raise OptionError(f"method {name} with {count} workers", expected=f"1 to {MAX_WORKERS - extra}")
            if given.endswith(CHECK):
                method = _with_check(method)
            if programs:
                method = dataclasses.replace(method, style=program_style(method.style))
            methods[method.name, method.num_workers] = method
    return tuple(methods.values())


def program_style(style: PromptStyle) -> PromptStyle:
    """The same style for answers that are programs; the problem says how a worker marks its own."""
    return dataclasses.replace(style, program=True, finish=style.finish and _PROGRAM_FINISH)


def _with_check(method: Method) -> Method:
    if not method.style.check:
        raise OptionError(f"prompt style {method.style.name!r} has no check question", remedy=f"leave out {CHECK}")
    return dataclasses.replace(method, name=f"{method.name}{CHECK}", asks_check=True)
