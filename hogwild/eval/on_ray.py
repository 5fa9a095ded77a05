"""An evaluation on a Ray cluster: engines as actors, with a GPU, several or none each; the driver alone writes rows.

An actor gets a few items at a time and gives back their rows. If it dies, or its node, its items are given to another
one; a replacement is asked for and begins as soon as the cluster has room for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hogwild.core.sampling import SamplingParams
from hogwild.errors import BackendUnavailable, HogwildError
from hogwild.eval.account import failed_row
from hogwild.eval.evaluation import Folder, Study
from hogwild.eval.options import EvalOptions, Item, Shard
from hogwild.eval.ray_engine import EngineActor, Facts, Made, MakeEngine
from hogwild.eval.rows import Row

MAX_DEATHS = 3
MAX_FRUITLESS = 10
_PATIENCE_SECONDS = 60.0
Say = Callable[[str], None]


class EnginesDied(HogwildError):
    """Engines die again and again; every row that was made before is stored."""


class RayPool:
    """Engines on a cluster to which `ray.init` has connected; `close` ends them.

    Args:
        make_engine: called in each actor.
        facts: what a row depends on besides its settings, from an actor's engine.
        num_actors: engines at a time.
        num_cpus, num_gpus: of each. A model on several GPUs is cut into that many parts, one process for each.
        say: is told what a user should know, in a line.

    Raises `BackendUnavailable` without Ray. Engines for which the cluster has no room wait until it has.
    """

    def __init__(
        self,
        make_engine: MakeEngine,
        facts: Facts,
        *,
        num_actors: int,
        num_cpus: float = 1,
        num_gpus: int = 0,
        say: Say = lambda text: None,
    ) -> None:
        self.ray, self.say = import_ray(), say
        kind = self.ray.remote(EngineActor).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0)
        self._start: Callable[[], Any] = lambda: kind.remote(make_engine, facts, max(num_gpus, 1))
        self.actors = [self._start() for _ in range(num_actors)]
        self.num_deaths = 0
        self._waiting_since = time.monotonic()

    def check(self, study: Study) -> tuple[str, dict[str, Any]]:
        """As `EngineActor.check`, by whichever engine is ready first; `BackendUnavailable` if none starts."""
        name, facts = self._first([actor.check.remote(study) for actor in self.actors])
        return str(name), dict(facts)

    def default_sampling(self) -> SamplingParams:
        """The model's own sampling parameters; errors as for `check`."""
        params = self._first([actor.default_sampling.remote() for actor in self.actors])
        assert isinstance(params, SamplingParams)
        return params

    def _first(self, asked: list[Any]) -> Any:
        """What the first engine says that says something; an error of settings or of the model at once."""
        while True:
            for reference in self.wait(asked, for_engines=True):
                asked.remove(reference)
                try:
                    return self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    if isinstance(cause := getattr(error, "cause", None), HogwildError):
                        raise cause from None
                    if not asked:
                        raise BackendUnavailable("no engine starts on the Ray cluster", got=one_line(error)) from None

    def wait(self, references: list[Any], *, for_engines: bool) -> list[Any]:
        """One that is done, as soon as there is one; none after a second. `for_engines`: no engine is at work yet."""
        done, _ = self.ray.wait(references, num_returns=1, timeout=1.0)
        now = time.monotonic()
        if not for_engines or done:
            self._waiting_since = now
        elif now - self._waiting_since > _PATIENCE_SECONDS:
            self._waiting_since = now
            self.say("no engine is ready: models are being loaded, or the Ray cluster has no room")
        return list(done)

    def replace(self, actor: Any) -> Any:
        """A new engine in the place of one that is dead or broken."""
        self.num_deaths += 1
        self.ray.kill(actor)
        self.actors.remove(actor)
        self.actors.append(self._start())
        return self.actors[-1]

    def evaluate(
        self,
        study: Study,
        folder: Folder,
        *,
        shard: Shard,
        concurrent: int = 1,
        seen: Callable[[Row], None] = lambda row: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make every row that the folder lacks; arguments as for `hogwild.eval.evaluation.evaluate`.

        Items over which `MAX_DEATHS` engines have died are failed rows, as soon as an engine has done something else.
        `EnginesDied` when engines die without making rows: `MAX_DEATHS` times as many as there are before the first
        row, later `MAX_FRUITLESS` times as many without a row in between.
        """
        left = [item for item in study.items(shard) if item.key not in folder.ledger.keys]
        tasks = deque(Task(left[at : at + concurrent]) for at in range(0, len(left), concurrent))
        dispatch = Dispatch(self, study.options, folder, seen, tasks)
        while not (dispatch.is_done or is_stopped()):
            dispatch.step()
        if dispatch.is_done:
            dispatch.give_up()

    def close(self) -> None:
        """End every engine."""
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []


@dataclass(slots=True)
class Task:
    """Items that one engine has at a time; `deaths`: how many engines have died over them."""

    items: list[Item]
    deaths: int = 0


@dataclass(slots=True)
class Dispatch:
    """Who works on what, and what becomes of items whose engine dies.

    Attributes:
        at_work: an engine and its task, by the reference of what it will give back; no task: it is being loaded.
        given_up: items over which engines died, with the reason. Their rows are not written before another item has
            shown that it is not the engines' fault.
        has_rows: whether an engine has made a row; num_fruitless: deaths since the last one.
    """

    pool: RayPool
    options: EvalOptions
    folder: Folder
    seen: Callable[[Row], None]
    waiting: deque[Task]
    at_work: dict[Any, tuple[Any, Task | None]] = field(default_factory=dict)
    free: deque[Any] = field(default_factory=deque)
    given_up: list[tuple[Item, str]] = field(default_factory=list)
    has_rows: bool = False
    num_fruitless: int = 0

    def __post_init__(self) -> None:
        for actor in self.pool.actors:
            self._load(actor)

    @property
    def is_done(self) -> bool:
        """Whether every item has its row."""
        return not self.waiting and not any(task for _, task in self.at_work.values())

    def step(self) -> None:
        """Give tasks to those who have none, then take what comes back within a second."""
        while self.free and self.waiting:
            actor, task = self.free.popleft(), self.waiting.popleft()
            self.at_work[actor.work.remote(task.items, self.options, self.folder.keeps_traces)] = (actor, task)
        idle = not any(task for _, task in self.at_work.values())
        for reference in self.pool.wait(list(self.at_work), for_engines=idle):
            actor, done = self.at_work.pop(reference)
            try:
                made = self.pool.ray.get(reference)
            except self.pool.ray.exceptions.RayError as error:
                self._bury(actor, done, one_line(error))
                continue
            self.free.append(actor)
            self._take(made)

    def give_up(self) -> None:
        """Write failed rows for the items that cannot be done."""
        while self.given_up:
            item, reason = self.given_up.pop(0)
            self.seen(self.folder.take(failed_row(item, f"{MAX_DEATHS} engines died over it: {reason}"), []))

    def _load(self, actor: Any) -> None:
        self.at_work[actor.ready.remote()] = (actor, None)

    def _take(self, made: Made) -> None:
        if made:
            self.has_rows, self.num_fruitless = True, 0
            self.give_up()
        for row, events in made:
            self.seen(self.folder.take(row, events))

    def _bury(self, actor: Any, task: Task | None, reason: str) -> None:
        """Replace a dead engine; its items go to others one by one, since any of them may have been its end."""
        self.num_fruitless += 1
        self.pool.say(f"an engine died and is replaced: {reason}")
        limit = (MAX_FRUITLESS if self.has_rows else MAX_DEATHS) * len(self.pool.actors)
        if self.num_fruitless >= limit:
            raise EnginesDied(
                f"{limit} engines died, one after the other, without making a row",
                got=reason,
                remedy="see why, e.g. whether the model fits; the same command goes on with the rows that are there",
            )
        self._load(self.pool.replace(actor))
        if task is None:
            return
        if task.deaths + 1 < MAX_DEATHS:
            self.waiting.extendleft(Task([item], task.deaths + 1) for item in reversed(task.items))
        else:
            self.given_up += [(item, reason) for item in task.items]


def one_line(error: Exception) -> str:
    """What an error of Ray's says, without its page of advice."""
    text = str(getattr(error, "cause", None) or error)
    return " ".join(text.split())[:300]


def import_ray() -> Any:
    """The package, or `BackendUnavailable`."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise BackendUnavailable("Ray is not installed", remedy="pip install 'hogwild[ray]'") from None
    return ray


def cluster_slots(nodes: Iterable[Mapping[str, Any]], gpus_per_engine: int | None = None) -> tuple[int, int]:
    """How many engines the nodes of `ray.nodes()` have room for, and the GPUs of each.

    One engine for each GPU, or for as many as are asked for, all in one node. On a cluster without GPUs one for each
    node, since an engine uses all cores of its node. Raises `BackendUnavailable` when there is room for none.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    gpus = [int(entry.get("GPU", 0)) for entry in resources]
    if gpus_per_engine is None and not any(gpus):
        size, count = 0, len(resources)
    else:
        size = gpus_per_engine or 1
        count = sum(min(number // size, int(entry["CPU"])) for number, entry in zip(gpus, resources, strict=True))
    if not count:
        raise BackendUnavailable(
            "no node of the Ray cluster has room for an engine",
            expected=f"a CPU and {size} GPUs in one node" if size else "a CPU",
            got=f"{len(resources)} nodes, with {max(gpus, default=0)} GPUs at most",
            remedy="give a smaller --gpus-per-engine, or add a node",
        )
    return count, size
