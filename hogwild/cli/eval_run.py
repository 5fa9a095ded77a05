"""What `hogwild eval` does once everything is chosen: here or on a Ray cluster, until every row is there."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hogwild.backends.options import LoadOptions
from hogwild.cli.app import INTERRUPTED
from hogwild.cli.console import remark
from hogwild.cli.environment import model_facts, versions
from hogwild.cli.eval_progress import Progress
from hogwild.cli.generate import load_model
from hogwild.cli.run import Interrupt
from hogwild.core.sampling import SamplingParams
from hogwild.engine import Engine
from hogwild.errors import BackendUnavailable
from hogwild.eval.evaluation import Folder, Study, evaluate, open_folder
from hogwild.eval.ledger import WriteError
from hogwild.eval.on_ray import EnginesDied, RayPool, cluster_slots, import_ray
from hogwild.eval.options import Shard
from hogwild.eval.scoring.scorer import Scorer
from hogwild.model import Model

FAILED = 1
MakeEngine = Callable[[], Engine]
StudyWith = Callable[[SamplingParams], Study]


@dataclass(frozen=True, slots=True)
class How:
    """Where rows go, which part of them is made, how many sessions share a pass, and whether traces are kept."""

    out: Path
    shard: Shard
    concurrent: int
    traces: bool


def run(make_engine: MakeEngine, study_with: StudyWith, how: How) -> int:
    """Work in this process until every row is there, and say how far it came; the exit code."""
    engine = make_engine()
    try:
        study = study_with(engine.model.default_sampling())
        with Scorer() as scorer:
            study.check(engine.model, scorer)
            work = functools.partial(evaluate, engine, scorer=scorer, concurrent=how.concurrent)
            return _work(work, study, how, (engine.model.name, facts_of(engine.model)))
    finally:
        engine.close()


def run_on_ray(make_engine: MakeEngine, study_with: StudyWith, how: How, gpus_per_engine: int | None = None) -> int:
    """The same on a Ray cluster; engines are made there."""
    ray = import_ray()
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise BackendUnavailable("cannot connect to the Ray cluster", got=str(error)[:200]) from None
    try:
        count, num_gpus = cluster_slots(ray.nodes(), gpus_per_engine)
        remark(f"engines on the Ray cluster: {count}{f', each on {num_gpus} GPUs' if num_gpus > 1 else ''}")
        pool = RayPool(make_engine, _facts_of_engine, num_actors=count, num_gpus=num_gpus, say=remark)
        with contextlib.closing(pool):
            study = study_with(pool.default_sampling())
            work = functools.partial(pool.evaluate, concurrent=how.concurrent)
            return _work(work, study, how, pool.check(study))
    finally:
        ray.shutdown()


def _work(work: Callable[..., None], study: Study, how: How, model: tuple[str, dict[str, Any]]) -> int:
    try:
        with (
            Interrupt() as interrupt,
            open_folder(how.out, study, *model, shard=how.shard, traces=how.traces) as folder,
        ):
            _until_done(work, study, folder, how, interrupt)
            return _finish(folder.path, folder.ledger.num_failed, interrupt.requested)
    except (WriteError, EnginesDied) as error:
        remark(f"error: {error}")
        return FAILED


def _until_done(work: Callable[..., None], study: Study, folder: Folder, how: How, interrupt: Interrupt) -> None:
    asked = study.items(how.shard)
    num_before = sum(item.key in folder.ledger.keys for item in asked)
    with contextlib.suppress(KeyboardInterrupt), Progress(len(asked), num_before) as progress:
        work(
            study=study,
            folder=folder,
            shard=how.shard,
            seen=progress.count,
            is_stopped=lambda: interrupt.requested,
        )
        return
    interrupt.requested = True


def new_engine(
    model: str, backend: str, options: LoadOptions, cache_tokens: int, max_cache_tokens: int | None
) -> Engine:
    """The engine of one run; raises what loading raises."""
    return Engine(load_model(model, backend, options), cache_tokens, max_cache_tokens)


def _facts_of_engine(engine: Engine) -> dict[str, Any]:
    return facts_of(engine.model)


def _finish(path: Path, num_failed: int, is_interrupted: bool) -> int:
    if is_interrupted:
        remark(f"stopped; the same command goes on with {path}")
        return INTERRUPTED
    if num_failed:
        remark(f"{num_failed:,} rows of {path} are failures; their reasons stand there")
    print(path)
    return FAILED if num_failed else 0


def facts_of(model: Model) -> dict[str, Any]:
    """What a row depends on besides its settings: facts of the model, and the packages that compute."""
    used = {name: version for name, version in versions().items() if name != "hogwild" and version is not None}
    return {**model_facts(model), "versions": used}
