"""Passes of two backends, or over published steps and over one block, in turns in one process.

    python -m bench.compare reference cuda              NumPy against torch
    python -m bench.compare cuda:6 cuda                 6,000 tokens as 900 published steps, and as one prompt
    python -m bench.compare cuda+kernel:6 cuda+kernel   the same by the C++ kernels

A side is BACKEND or BACKEND:STEP_TOKENS; +kernel behind BACKEND stands for `--attention kernel`, nothing for
`--attention plain`. Steps have from half to one and a half times STEP_TOKENS, and two workers write them: when one
begins, the other one's is there and will be published first. So keys stand elsewhere than was expected.

The model is the bundled one in float32; a ratio is the median of those of neighbouring passes. MLX takes its products
from the BLAS of its wheel, which is slow on Linux; see docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hogwild.bench.decode import SharedPass
from hogwild.bench.options import BenchOptions
from hogwild.bench.timing import take_turns
from hogwild.bench.workload import build_views, find_lengths, publish_steps, random_ids, release
from hogwild.cache import SharedCache
from hogwild.cli.environment import versions
from hogwild.core.blocks import Block
from hogwild.core.layout import find_layout
from hogwild.model import load

CHUNK = 512


class Side:
    """One backend with a common block of `context` tokens, in published steps if the name tells their length.

    Two sides of one backend share a model and a cache: where memory happens to lie moves a pass by some percent.
    """

    def __init__(self, name: str, context: int, cache_of: Callable[[str], SharedCache]) -> None:
        path, _, step_tokens = name.partition(":")
        self.cache = cache_of(path)
        self.common = self._common(context, int(step_tokens or 0))

    def _common(self, context: int, step_tokens: int) -> Block:
        block, rng = self.cache.new_block("common"), np.random.default_rng(0)
        vocab_size = self.cache.backend.spec.vocab_size
        prompt = CHUNK if step_tokens else context
        while len(block) < prompt:
            self.cache.prefill(block, random_ids(min(CHUNK, prompt - len(block)), vocab_size, rng))
        if step_tokens:
            for _ in publish_steps(self.cache, block, context, step_tokens, rng):
                pass
        return block

    def compare(self, other: Side, options: BenchOptions) -> list[dict[str, float]]:
        """For each context and number of workers: milliseconds of both sides, and the ratio."""
        found = []
        for context in options.contexts:
            for workers in options.workers:
                views = [side._views(options, workers, context) for side in (self, other)]
                steps = [SharedPass(side.cache, view) for side, view in zip((self, other), views, strict=True)]
                times = take_turns(steps, options.passes, options.warmup, lambda: False)
                for view in views:
                    release(view)
                ratio = median(first / second for first, second in zip(*times, strict=True))
                ms = [1e3 * median(seen) for seen in times]
                case = {"workers": workers, "context": context}
                found.append({**case, "first_ms": ms[0], "second_ms": ms[1], "ratio": ratio})
                print(f"W={workers} {context:5} tokens: {ms[0]:7.1f} / {ms[1]:7.1f} ms = {ratio:.2f}", flush=True)
        return found

    def _views(self, options: BenchOptions, workers: int, context: int) -> list[Any]:
        lengths = find_lengths(options.layout, workers, context)
        common = self.common.fork("common")
        common.truncate(lengths.common)
        return build_views(self.cache, options.layout, workers, common, lengths.own)


def _new_cache(path: str) -> SharedCache:
    backend, _, attention = path.partition("+")
    model = load("bundled", backend=backend, dtype="float32", device="cpu", attention=attention or "plain")
    return SharedCache(model.backend)


def main() -> None:
    """Measure, print, and write the results where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs=2, metavar="SIDE")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 6000])
    parser.add_argument("--passes", type=int, default=11)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    workers, contexts = tuple(arguments.workers), tuple(arguments.context)
    options = BenchOptions(workers, contexts, find_layout("combined"), arguments.passes, warmup=2)
    cache_of = lru_cache(_new_cache)
    first, second = (Side(name, max(contexts), cache_of) for name in arguments.sides)
    results = first.compare(second, options)
    if arguments.output:
        facts = {
            "command": f"python -m bench.compare {' '.join(arguments.sides)} --passes {arguments.passes}",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, no GPU used",
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
            "versions": versions(),
        }
        arguments.output.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
