"""What a pass costs on the host before any kernel runs: eight workers, a thousand published steps.

    python -m bench.planning -o bench/results/planning.json

Workers write as in a session, and every third pass a step ends: `ends` is the pass that stores its last token beside
the next header, `published` the one after it, `writes` every other. Each part is timed by itself; the least and the
median of many passes are printed. The goal is 0.2 ms for all parts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hogwild.cache import SharedCache
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.plan import ForwardPlan, Row
from hogwild.core.work import WorkList, cut_work

STEP_TOKENS, HEADER_TOKENS = 24, 6  # of a step on average, header included
KINDS = ("writes", "ends", "published")
PARTS = ("check", "append", "plan", "cut", "all")

Seconds = dict[str, dict[str, list[float]]]
"""By kind of pass and part, of each pass."""


class Host:
    """A session of `num_workers` with `num_steps` published steps.

    Views are those of the combined layout: common, header, each other's label, step and separator, label, own. All
    write at once, and who has reached the length that was drawn for the step publishes it. A step is stored where it is
    expected to stand, as in a session.
    """

    def __init__(self, num_workers: int = 8, num_steps: int = 1000) -> None:
        backend: Any = SimpleNamespace(
            reserve=lambda num_slots: None, spec=SimpleNamespace(vocab_size=2, context_size=1 << 20)
        )
        self.cache = SharedCache(backend)
        block = self.cache.new_block
        self.common, self.header, self.separator = block("common"), block("header"), block("separator")
        self.labels, self.owns = ([block() for _ in range(num_workers)] for _ in range(2))
        texts = ((self.common, 300), (self.header, 5), (self.separator, 2), *((label, 6) for label in self.labels))
        for text, length in texts:
            text.append([0] * length)
        self._closing: Block | None = None
        self._num_passes = 0
        self._rng = np.random.default_rng(0)
        self._lengths = [self._draw() for _ in range(num_workers)]
        for own in self.owns:
            own.place_at(len(self.common))
        for _ in range(num_steps):
            missing = [length - len(own) for own, length in zip(self.owns, self._lengths, strict=True)]
            writer, count = int(np.argmin(missing)), min(missing)
            for own in self.owns:
                own.append([0] * count)
            self.common.link(self.owns[writer])
            self.owns[writer].place_at(len(self.common))
            self._lengths[writer] = self._draw()
        for own in self.owns:
            own.append([0] * HEADER_TOKENS)

    def _draw(self) -> int:
        """Tokens of a step: from half to one and a half times the mean."""
        return int(self._rng.integers(STEP_TOKENS // 2, 3 * STEP_TOKENS // 2 + 1))

    def next_rows(self) -> tuple[str, list[Row]]:
        """The kind of the next pass, and its rows."""
        kind, self._num_passes = KINDS[self._num_passes % 3], self._num_passes + 1
        if self._closing is not None:
            self.common.link(self._closing)
            self._closing = None
        if kind != "ends":
            return kind, [self._row(w, self.owns[w], 1) for w in range(len(self.owns))]
        writer = max(range(len(self.owns)), key=lambda w: len(self.owns[w]))
        place = len(self.common) + len(self.owns[writer]) + 1
        self._closing, self.owns[writer] = self.owns[writer], self.cache.new_block(place=place)
        rows = [self._row(w, own, HEADER_TOKENS if w == writer else 1) for w, own in enumerate(self.owns)]
        return kind, [*rows[:writer], self._row(writer, self._closing, 1), *rows[writer:]]

    def _row(self, w: int, own: Block, num_tokens: int) -> Row:
        closing = [self._closing] if self._closing not in (None, own) else []
        steps = [(label, step, self.separator) for label, step in zip(self.labels, self.owns, strict=True)]
        others = itertools.chain.from_iterable(steps[:w] + steps[w + 1 :])
        return Row((self.common, *closing, self.header, *others, self.labels[w], own), (1,) * num_tokens)

    def check(self, rows: list[Row]) -> None:
        self.cache._check(rows)

    def append(self, rows: list[Row]) -> list[list[IntArray]]:
        return [[row.own.append(row.token_ids) for row in rows]]

    def plan(self, rows: list[Row], appended: list[list[IntArray]]) -> ForwardPlan:
        return self.cache._planner.plan([rows], self.cache.pool.num_slots, appended)

    def cut(self, plan: ForwardPlan) -> WorkList:
        return cut_work(plan, tile=64, query_tile=16, num_items=132)


def measure(host: Host, num_passes: int) -> Seconds:
    """Time the next passes."""
    seconds: Seconds = defaultdict(lambda: {part: [] for part in PARTS})
    for _ in range(num_passes):
        kind, rows = host.next_rows()
        parts = seconds[kind]

        def timed(name: str, part: Callable[..., Any], *given: Any, parts: dict[str, list[float]] = parts) -> Any:
            start = time.perf_counter()
            result = part(*given)
            parts[name].append(time.perf_counter() - start)
            return result

        timed("check", host.check, rows)
        appended = timed("append", host.append, rows)
        timed("cut", host.cut, timed("plan", host.plan, rows, appended))
        parts["all"].append(sum(parts[name][-1] for name in PARTS[:-1]))
    return seconds


def main() -> None:
    """Measure, print, and write the results where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--passes", type=int, default=300)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    seconds = measure(Host(arguments.workers, arguments.steps), arguments.passes)
    milliseconds = {
        kind: {
            part: {"min": min(times) * 1e3, "median": statistics.median(times) * 1e3}
            for part, times in seconds[kind].items()
        }
        for kind in KINDS
    }
    print(f"{'ms, least (median)':20}", *(f"{part:>16}" for part in PARTS))
    for kind, parts in milliseconds.items():
        print(f"{kind:20}", *(f"{times['min']:8.3f} ({times['median']:.3f})" for times in parts.values()))
    if arguments.output:
        facts = {
            "command": f"python -m bench.planning --workers {arguments.workers} --steps {arguments.steps}",
            "machine": f"{platform.system()} {platform.machine()}",
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }
        arguments.output.write_text(json.dumps({**facts, "milliseconds": milliseconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
