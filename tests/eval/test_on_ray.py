"""A local Ray cluster of two nodes: the command, a model in two parts, and a node that is killed in mid-run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tiny_models import write_tiny_model

pytest.importorskip("ray")

from hogwild.cli.app import app
from hogwild.eval.evaluation import open_folder
from hogwild.eval.on_ray import RayPool, cluster_slots
from hogwild.eval.options import Shard
from tests.eval.workbench import no_facts, results, rows, slow_engine, study, work

ROOT = str(Path(__file__).parents[2])
SMALL = ["--task", "parallel:1", "--methods", "one,combined", "--budgets", "4,8"]


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([ROOT, f"{ROOT}/tests"]))
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            environment.delenv(name)
        store = {"object_store_memory": 80 * 2**20, "num_cpus": 1, "include_dashboard": False}
        made = Cluster(initialize_head=True, connect=False, head_node_args=store)
        made.add_node(object_store_memory=80 * 2**20, num_cpus=1)
        environment.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
        made.shutdown()


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        app(["eval", *map(str, arguments)])
    return int(end.value.code or 0)


def test_the_command_makes_the_same_rows_there_as_here(cluster, tmp_path, capsys):
    folder = write_tiny_model(tmp_path / "model")
    given = [*SMALL, "--count", 2, "--model", folder, "--backend", "reference", "--traces"]
    assert command("--out", tmp_path / "ray", *given, "--on", "ray") == 0
    assert "engines on the Ray cluster: 2\n" in capsys.readouterr().err
    assert command("--out", tmp_path / "here", *given) == 0
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    assert len(results(tmp_path / "ray")) == 4
    assert all((tmp_path / "ray" / str(row.trace)).exists() for row in rows(tmp_path / "ray"))
    records = [json.loads((tmp_path / place / "run.json").read_text()) for place in ("ray", "here")]
    assert records[0] == records[1]


def test_a_cluster_without_enough_gpus_is_refused(cluster, tmp_path, capsys):
    assert command("--out", tmp_path / "run", *SMALL, "--on", "ray", "--gpus-per-engine", "2") == 2
    assert "expected: a CPU and 2 GPUs in one node; got: 2 nodes, with 0 GPUs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_node_that_dies_costs_nothing_but_time(cluster, tmp_path):
    import ray

    given = study(count=3, seeds=(0,))
    ray.init(log_to_driver=False)
    assert cluster_slots(ray.nodes()) == (2, 0)
    pool = RayPool(slow_engine, no_facts, num_actors=2)
    name, facts = pool.check(given)
    ray.get([actor.ready.remote() for actor in pool.actors])  # one on each node
    killed: list[float] = []

    def seen(row) -> None:
        if not killed and len(results(tmp_path / "ray")) >= 2:
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
            killed.append(time.monotonic())

    with open_folder(tmp_path / "ray", given, name, facts, shard=Shard()) as folder:
        pool.evaluate(given, folder, shard=Shard(), concurrent=2, seen=seen)
    pool.close()
    ray.shutdown()
    assert killed
    assert pool.num_deaths == 1, "nobody noticed that a node had died"
    work(tmp_path / "alone", given)
    assert results(tmp_path / "ray") == results(tmp_path / "alone")


@pytest.mark.slow
def test_an_engine_on_two_gpus_holds_its_model_in_two_parts(cluster, tmp_path, capsys):
    """The node says that it has GPUs, and the processes meet on the CPU; whoever dies takes its engine along."""
    pytest.importorskip("transformers")
    cluster.add_node(object_store_memory=80 * 2**20, num_cpus=1, num_gpus=2)
    folder = write_tiny_model(tmp_path / "model", "llama")
    given = [*SMALL, "--count", 2, "--model", folder, "--backend", "cuda", "--device", "cpu", "--greedy"]
    assert command("--out", tmp_path / "ray", *given, "--on", "ray", "--gpus-per-engine", "2") == 0
    assert "engines on the Ray cluster: 1, each on 2 GPUs" in capsys.readouterr().err
    assert command("--out", tmp_path / "here", *given) == 0
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    record = json.loads((tmp_path / "ray" / "run.json").read_text())
    assert "1 more" in json.dumps(record["fingerprint"]["model"])
