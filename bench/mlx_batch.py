"""A pass of W workers over shared blocks against an independent batch of W rows, in MLX, one process, equal lengths.

Both run the same loaded model on the same device; every row sees `context` tokens and writes one. The contents of the
caches do not matter for the time, so they are left at zero. `python -m bench.mlx_batch MODEL` prints the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from hogwild.backends.mlx import MlxBackend
from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.core.sampling import GREEDY, SampleRequest

OWN_TOKENS = 16
_TOKEN = 5


def shared_pass(backend: MlxBackend, num_workers: int, context: int) -> Callable[[], None]:
    """One greedy pass: each view is a common block, the others' blocks and the own one, `context` tokens in all."""
    cache = SharedCache(backend, 2 * context)
    common = cache.new_block("common")
    common.append([_TOKEN] * (context - num_workers * OWN_TOKENS))
    owns = [cache.new_block(f"worker {i}") for i in range(num_workers)]
    for own in owns:
        own.append([_TOKEN] * (OWN_TOKENS - 1))
    views = [(common, *(other for other in owns if other is not own), own) for own in owns]
    rows = [Row(view, (_TOKEN,)) for view in views]
    requests = [SampleRequest(GREEDY)] * num_workers

    def step() -> None:
        backend.sample(cache.forward(rows).logits, requests)
        for own in owns:
            own.truncate(OWN_TOKENS - 1)

    return step


def independent_batch(
    model: Any, num_rows: int, context: int, shapes: Sequence[tuple[int, int, int]]
) -> Callable[[], None]:
    """One greedy pass of mlx-lm's model with its own caches; shapes: (kv_heads, Dk, Dv) of each layer."""
    caches = [KVCache() for _ in shapes]
    for cache, (kv_heads, key_dim, value_dim) in zip(caches, shapes, strict=True):
        cache.update_and_fetch(
            mx.zeros((num_rows, kv_heads, context - 1, key_dim)), mx.zeros((num_rows, kv_heads, context - 1, value_dim))
        )
        mx.eval(cache.keys, cache.values)
    tokens = mx.full((num_rows, 1), _TOKEN, dtype=mx.int32)

    def step() -> None:
        mx.eval(mx.argmax(model(tokens, cache=caches)[:, -1], axis=-1))
        for cache in caches:
            cache.trim(1)

    return step


def seconds_of(steps: Sequence[Callable[[], None]], repeats: int = 7) -> list[float]:
    """Median time of each step; the steps take turns, so that a slow moment of the machine hits all of them."""
    times: list[list[float]] = [[] for _ in steps]
    for round_number in range(repeats + 1):
        for step, seen in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if round_number:
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def compare(backend: MlxBackend, num_workers: int, context: int, repeats: int = 7) -> tuple[float, float]:
    """Seconds of a pass over shared blocks, and of an independent batch of the same model."""
    shapes = [(layer.num_kv_heads, layer.key_dim, layer.value_dim) for layer in backend.spec.layers]
    steps = [
        shared_pass(backend, num_workers, context),
        independent_batch(backend.model, num_workers, context, shapes),
    ]
    shared, independent = seconds_of(steps, repeats)
    return shared, independent


def main() -> None:
    """Print one line for each number of workers and length of context."""
    from hogwild.model import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    backend: Any = load(arguments.model, backend="mlx", dtype=arguments.dtype).backend
    print(backend.info)
    for num_workers in (1, 2, 4):
        for context in (512, 4096):
            shared, independent = compare(backend, num_workers, context, arguments.repeats)
            print(
                f"W={num_workers} context={context}: shared {shared * 1e3:.1f} ms, "
                f"independent {independent * 1e3:.1f} ms, ratio {shared / independent:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
