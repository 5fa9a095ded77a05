"""The ranks of one engine live and die together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
PROGRAM = """
import os, time
from hogwild.backends.ranks import find_ranks
from hogwild.eval import ray_ranks
started = []
popen = ray_ranks.subprocess.Popen
ray_ranks.subprocess.Popen = lambda *args, **how: started.append(popen(*args, **how)) or started[-1]
ray_ranks.Followers(3)
print(find_ranks().rank, find_ranks().count, *[process.pid for process in started], flush=True)
time.sleep(60)
"""


@pytest.fixture
def group():
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as first:
        assert first.stdout is not None
        rank, count, *others = map(int, first.stdout.readline().split())
        assert (rank, count, len(others)) == (0, 3, 2)
        yield first, others
        first.kill()


def test_a_rank_that_dies_takes_the_first_one_with_it_and_so_the_rest(group):
    first, (one, other) = group
    os.kill(one, signal.SIGKILL)
    assert first.wait(timeout=30) == 1
    wait_for_end(other)


def test_ranks_end_when_the_first_one_is_killed(group):
    first, others = group
    first.kill()
    for pid in others:
        wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < until, "a rank has outlived its engine"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """A zombie that nobody waits for has ended as well."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")
