"""The other ranks of a model that lies on several GPUs of one machine, started by rank 0 and not by torchrun.

None of them outlives the others: a rank that ends takes rank 0 with it, and the end of rank 0 closes the pipe that
every other one waits at. So an engine is either whole or gone, and whoever started it (Ray) sees that.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading

from hogwild.backends.ranks import find_ranks


class Followers:
    """Makes this process rank 0 of `count`, as torchrun would, and starts the others."""

    def __init__(self, count: int) -> None:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
        os.environ.update(common, RANK="0", LOCAL_RANK="0")
        for rank in range(1, count):
            own = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen([sys.executable, "-m", __name__], env=own, stdin=subprocess.PIPE)
            threading.Thread(target=_end_with, args=(process,), daemon=True).start()


def main() -> None:
    """A rank: does what rank 0 does, until it ends."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    ranks = find_ranks()
    assert ranks is not None, "started by Followers alone"
    importlib.import_module(f"hogwild.backends.{ranks.backend}").join(ranks)


def _end_with(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    os._exit(1)  # a pass that waits for the dead one in a collective operation would never return


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
