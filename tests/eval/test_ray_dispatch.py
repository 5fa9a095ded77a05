"""Who works on what when engines die: the rules alone, over actors in this process. See also `test_on_ray.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from hogwild.errors import BackendUnavailable, ModelNotFound
from hogwild.eval import on_ray
from hogwild.eval.evaluation import Study, open_folder
from hogwild.eval.on_ray import MAX_DEATHS, MAX_FRUITLESS, EnginesDied, RayPool, cluster_slots
from hogwild.eval.options import Item, Shard
from tests.eval.workbench import engine, no_facts, results, rows, study, work

STUDY = study(count=4, seeds=(0,), methods=("one", "combined"))


class DeathError(Exception):
    """Stands for Ray's."""


@dataclass
class FakeRay:
    """Actors of this process, of which one at a time does something. `dies`: number of the actor, and its items."""

    dies: Callable[[int, list[Item]], bool]
    num_started: int = 0
    killed: list[int] = field(default_factory=list)
    exceptions = SimpleNamespace(RayError=DeathError)

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **resources: SimpleNamespace(remote=lambda *a: self.start(kind(*a))))

    def start(self, actor: Any) -> Any:
        number = self.num_started
        self.num_started += 1

        def call(method: str, *given: Any) -> Callable[[], Any]:
            items = given[0] if method == "work" else []

            def made() -> Any:
                if number in self.killed or self.dies(number, items):
                    raise DeathError("it is gone")
                return getattr(actor, method)(*given)

            return made

        methods = {
            name: SimpleNamespace(remote=lambda *given, name=name: call(name, *given))
            for name in ("check", "default_sampling", "ready", "work")
        }
        return SimpleNamespace(number=number, **methods)

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)


@pytest.fixture
def pool_with(monkeypatch):
    def make(dies: Callable[[int, list[Item]], bool], num_actors: int = 2) -> tuple[RayPool, list[str]]:
        monkeypatch.setattr(on_ray, "import_ray", lambda: FakeRay(dies))
        said: list[str] = []
        return RayPool(engine, no_facts, num_actors=num_actors, say=said.append), said

    return make


def run(pool: RayPool, folder, given: Study = STUDY, concurrent: int = 2) -> None:
    with open_folder(folder, given, "scripted", {}, shard=Shard()) as opened:
        pool.evaluate(given, opened, shard=Shard(), concurrent=concurrent)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    work(folder, STUDY)
    return results(folder)


def test_an_item_that_kills_engines_is_one_failed_row_and_costs_the_others_nothing(pool_with, tmp_path, undisturbed):
    guilty = STUDY.items(Shard())[3].key
    pool, said = pool_with(lambda number, items: guilty in [item.key for item in items])
    run(pool, tmp_path)
    found = results(tmp_path)
    assert found.pop(guilty)["reason"] == "3 engines died over it: it is gone"
    assert found == {key: row for key, row in undisturbed.items() if key != guilty}
    assert pool.num_deaths == len(said) == MAX_DEATHS


def test_engines_that_never_start_end_the_run_and_blame_no_item(pool_with, tmp_path, undisturbed):
    pool, said = pool_with(lambda number, items: True)
    with pytest.raises(EnginesDied, match="6 engines died, one after the other, without making a row; got: it is gone"):
        run(pool, tmp_path)
    assert rows(tmp_path) == []
    assert len(said) == 6
    run(pool_with(lambda number, items: False)[0], tmp_path)
    assert results(tmp_path) == undisturbed


def test_engines_that_die_for_good_in_mid_run_leave_their_rows_and_no_failed_ones(pool_with, tmp_path):
    given = study(count=14, seeds=(0,), methods=("one",))
    calls = itertools.count()
    pool, said = pool_with(lambda number, items: bool(items) and next(calls) >= 2)
    with pytest.raises(EnginesDied, match="the same command goes on"):
        run(pool, tmp_path, given)
    kept = rows(tmp_path)
    assert len(kept) == 4
    assert {row.status for row in kept} == {"done"}
    assert len(said) == 2 * MAX_FRUITLESS
    run(pool_with(lambda number, items: False)[0], tmp_path, given)
    assert rows(tmp_path)[:4] == kept
    work(tmp_path / "undisturbed", given)
    assert results(tmp_path) == results(tmp_path / "undisturbed")


def test_one_place_where_no_engine_starts_does_not_stop_the_others(pool_with, tmp_path, undisturbed):
    broken = {0, 3, 5, 8}
    pool, _ = pool_with(lambda number, items: number in broken)
    assert pool.check(STUDY) == ("scripted", {})
    run(pool, tmp_path, concurrent=1)
    assert results(tmp_path) == undisturbed


def test_an_error_of_the_user_is_said_as_it_is(monkeypatch):
    def lost() -> Any:
        error = DeathError("a page of text")
        error.cause = ModelNotFound("there is no model", got="x")
        raise error

    monkeypatch.setattr(on_ray, "import_ray", lambda: FakeRay(lambda number, items: False))
    pool = RayPool(lost, no_facts, num_actors=2)
    with pytest.raises(ModelNotFound, match="there is no model"):
        pool.check(STUDY)


def test_a_cluster_where_nothing_starts_is_one_error(pool_with):
    with pytest.raises(BackendUnavailable, match="no engine starts on the Ray cluster; got: it is gone"):
        pool_with(lambda number, items: True)[0].check(STUDY)


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": resources.pop("alive", True), "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "asked", "slots"),
    [
        ([node(CPU=8), node(CPU=8)], None, (2, 0)),
        ([node(CPU=8, GPU=4), node(CPU=8)], None, (4, 1)),
        ([node(CPU=8, GPU=5), node(CPU=8, GPU=3)], 2, (3, 2)),
        ([node(CPU=1, GPU=8)], 2, (1, 2)),
        ([node(CPU=8, GPU=8, alive=False), node(CPU=8, GPU=1)], 1, (1, 1)),
    ],
)
def test_engines_are_counted_node_by_node(nodes, asked, slots):
    assert cluster_slots(nodes, asked) == slots


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        ([node(CPU=8, GPU=3), node(CPU=8, GPU=3)], 4, "4 GPUs in one node; got: 2 nodes, with 3 GPUs at most"),
        ([node(CPU=8)], 1, "1 GPUs in one node"),
        ([], None, "expected: a CPU; got: 0 nodes"),
    ],
)
def test_a_cluster_without_room_is_refused(nodes, asked, message):
    with pytest.raises(BackendUnavailable, match=message):
        cluster_slots(nodes, asked)
