"""Everything that shapes the rows of an evaluation, whichever problem, method and seed they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hogwild.core.options import SessionOptions
from hogwild.core.sampling import SamplingParams
from hogwild.errors import OptionError
from hogwild.eval.methods import Method
from hogwild.eval.problem import Problem
from hogwild.eval.rows import Key

CHECK_EVERY = SessionOptions().check_every


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What all methods have in common.

    Attributes:
        budgets: numbers of passes at which the answer is recorded; the last one ends a run.
        max_tokens: most tokens that one worker writes, headers included; None: twice the last budget.
        max_step_tokens, check_every, finisher_tokens, sampling: see `SessionOptions`; `check_every` counts only for
            methods with the check.
        attention_every: see `SessionOptions`; with one worker there is nothing to measure.
    """

    budgets: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int | None = None
    max_step_tokens: int = SessionOptions().max_step_tokens
    check_every: int = CHECK_EVERY
    finisher_tokens: int = 16
    attention_every: int = 0

    def __post_init__(self) -> None:
        if not self.budgets:
            raise OptionError("no budget is given", expected="numbers of passes, as 256,512,1024")
        if self.check_every < 1:
            raise OptionError("check_every is too small", expected="at least 1", got=str(self.check_every))
        SessionOptions(  # checks the ranges
            max_passes=self.budgets[-1],
            budgets=self.budgets,
            max_tokens=self._max_tokens,
            max_step_tokens=self.max_step_tokens,
            finisher_tokens=self.finisher_tokens,
            attention_every=self.attention_every,
        )

    @property
    def _max_tokens(self) -> int:
        return 2 * self.budgets[-1] if self.max_tokens is None else self.max_tokens

    def session_options(self, item: Item) -> SessionOptions:
        """The options of one session."""
        method = item.method
        return SessionOptions(
            num_workers=method.num_start,
            layout=method.layout,
            max_passes=self.budgets[-1],
            max_tokens=self._max_tokens,
            max_step_tokens=self.max_step_tokens if method.has_steps else self._max_tokens,
            check_every=self.check_every if method.asks_check else 0,
            finish=method.finish,
            budgets=self.budgets,
            finisher_tokens=self.finisher_tokens,
            attention_every=self.attention_every if method.num_start + method.num_late > 1 else 0,
            seed=item.session_seed,
            sampling=self.sampling,
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One row that is to be made."""

    problem: Problem
    method: Method
    seed: int

    @property
    def key(self) -> Key:
        """The key of its row."""
        return (self.problem.task, self.problem.id, self.method.name, self.method.num_workers, self.seed)

    @property
    def session_seed(self) -> int:
        """From problem and seed alone: all methods meet the same random numbers, two problems different ones."""
        text = f"{self.problem.task}\0{self.problem.id}\0{self.seed}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, from 1."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise OptionError("there is no such shard", expected=f"1/{self.count} to {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def items(problems: Sequence[Problem], methods: Sequence[Method], seeds: Sequence[int], shard: Shard) -> Iterator[Item]:
    """Every row of a shard, problem by problem, so that a run that is broken off can still be compared in pairs.

    A shard has every `count`-th problem, with all methods and seeds.
    """
    for problem in problems[shard.number - 1 :: shard.count]:
        for seed in seeds:
            for method in methods:
                yield Item(problem, method, seed)
