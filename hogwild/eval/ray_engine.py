"""An engine in a process of its own on some node of a Ray cluster, alone or as the first of several ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hogwild.core.events import Event
from hogwild.core.sampling import SamplingParams
from hogwild.engine import Engine
from hogwild.eval.evaluation import Study, judge
from hogwild.eval.options import EvalOptions, Item
from hogwild.eval.ray_ranks import Followers
from hogwild.eval.rows import Row
from hogwild.eval.runner import Runner
from hogwild.eval.scoring.scorer import Scorer

MakeEngine = Callable[[], Engine]
Facts = Callable[[Engine], Mapping[str, Any]]
Made = list[tuple[Row, list[Event]]]


class EngineActor:
    """What Ray makes an actor of. The model is loaded by the first call, so that its errors are those of a call.

    Args:
        make_engine: loads the model.
        facts: what a row depends on besides its settings, from the engine.
        num_ranks: processes that hold the model together; this one is the first and starts the others.
    """

    def __init__(self, make_engine: MakeEngine, facts: Facts, num_ranks: int = 1) -> None:
        self._make_engine, self._facts, self._num_ranks = make_engine, facts, num_ranks
        self._scorer = Scorer()

    def check(self, study: Study) -> tuple[str, dict[str, Any]]:
        """Raise what would fail in every row; name and facts of the model."""
        study.check(self._engine.model, self._scorer)
        return self._engine.model.name, dict(self._facts(self._engine))

    def default_sampling(self) -> SamplingParams:
        """The model's own."""
        return self._engine.model.default_sampling()

    def ready(self) -> Made:
        """No rows, as soon as the engine is there."""
        assert self._engine is not None
        return []

    def work(self, items: Sequence[Item], options: EvalOptions, keeps_events: bool) -> Made:
        """The rows of these items, all in one batch, with their events if they are asked for."""
        made: Made = []
        runner = Runner(
            self._engine,
            options,
            lambda problem, answer, text: judge(self._scorer, problem, answer, text),
            lambda row, events: made.append((row, events if keeps_events else [])),
            concurrent=len(items),
        )
        runner.work(items)
        return made

    @functools.cached_property
    def _engine(self) -> Engine:
        if self._num_ranks > 1:
            Followers(self._num_ranks)
        return self._make_engine()
