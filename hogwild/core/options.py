"""Everything that shapes one session; one dataclass for the API, the command line, traces and the docs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hogwild.core.layout import LAYOUTS, Layout
from hogwild.core.sampling import SamplingParams
from hogwild.errors import OptionError

FinishPolicy = Literal["first", "all", "vote"]
StepOrder = Literal["with_step", "next_step"]
MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How one problem is worked on.

    Attributes:
        num_workers: how many workers start.
        layout: who sees what.
        max_passes: the session ends after that many decoding passes.
        max_tokens: most tokens that one worker writes, headers included.
        max_step_tokens: a step that has not ended by itself after that many sampled tokens is ended by force.
        check_every: after that many sampled tokens in all, the next new step begins with the check question; 0: never.
        finish: "first" answer ends the session; "all" wait for every worker, the last answer counts; "vote": majority.
        budgets: numbers of passes at which the state is recorded and, without an answer, the finisher is run.
        finisher_tokens: most tokens of a forced final answer; 0: no finisher.
        step_order: "with_step" publishes the token that ended a step with it; "next_step" is the reference's order, in
            which that token opens the next step.
        attention_every: in every so many-th pass it is measured whom the workers attend to, see `SharedCache.
            attention_shares`; 0: never. Nothing else of the session changes.
        seed: of the session; worker w draws from (seed, w).
        sampling: for all workers, or one entry for each.
    """

    num_workers: int = 2
    layout: Layout = field(default_factory=lambda: LAYOUTS["combined"])
    max_passes: int = 1024
    max_tokens: int = 4096
    max_step_tokens: int = 256
    check_every: int = 1024
    finish: FinishPolicy = "first"
    budgets: tuple[int, ...] = ()
    finisher_tokens: int = 16
    step_order: StepOrder = "with_step"
    attention_every: int = 0
    seed: int = 0
    sampling: SamplingParams | tuple[SamplingParams, ...] = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        _at_least("num_workers", self.num_workers, 1)
        for name in ("max_passes", "max_tokens", "max_step_tokens"):
            _at_least(name, getattr(self, name), 1)
        for name in ("check_every", "finisher_tokens", "attention_every", "seed"):
            _at_least(name, getattr(self, name), 0)
        if self.num_workers > MAX_WORKERS:
            raise OptionError("too many workers", expected=f"at most {MAX_WORKERS}", got=str(self.num_workers))
        _one_of("finish", self.finish, ("first", "all", "vote"))
        _one_of("step_order", self.step_order, ("with_step", "next_step"))
        if list(self.budgets) != sorted(set(self.budgets)) or any(budget < 1 for budget in self.budgets):
            raise OptionError(
                "budgets are not understood", expected="ascending positive numbers of passes", got=str(self.budgets)
            )

    def sampling_of(self, worker: int) -> SamplingParams:
        """The sampling parameters of one worker; a late one gets the last entry."""
        if isinstance(self.sampling, SamplingParams):
            return self.sampling
        return self.sampling[min(worker, len(self.sampling) - 1)]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise OptionError(f"{name} is too small", expected=f"at least {least}", got=str(value))


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is unknown", expected=", ".join(choices), got=value)
