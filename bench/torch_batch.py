"""The yardstick of the torch backend: an ordinary batch of independent sequences on the same model object.

The batch is what transformers itself does: `DynamicCache`, scaled dot-product attention, W rows of one token each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from hogwild.backends.cuda import TorchBackend
from hogwild.backends.cuda.attention import ATTENTION_NAME
from hogwild.cache import SharedCache
from hogwild.core.blocks import Block
from hogwild.core.plan import Row

TOKEN = 7


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians of interleaved measurements in one process.

    Attributes:
        shared_seconds: one pass of W workers over shared blocks.
        batch_seconds: one pass of an independent batch of W rows, each as long as a worker's view.
        ratio: median of the ratios of neighbouring measurements.
    """

    num_workers: int
    num_tokens: int
    shared_seconds: float
    batch_seconds: float
    ratio: float


def independent_batch(backend: TorchBackend, num_rows: int, num_tokens: int) -> Callable[[], float]:
    """A function that runs one pass of `num_rows` independent rows with `num_tokens` cached tokens; gives seconds.

    The cache holds random keys and values and is cut back after each pass, so that every pass is the same.
    """
    model, pool = backend.model, backend.pool
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(pool.keys, pool.values, strict=True)):
        shapes = [(num_rows, array.shape[0], num_tokens, array.shape[2]) for array in (keys, values)]
        cache.update(*(torch.randn(shape, dtype=keys.dtype, device=keys.device) for shape in shapes), layer)
    ids = torch.full((num_rows, 1), TOKEN, device=pool.keys[0].device)
    positions = torch.full_like(ids, num_tokens)

    @torch.inference_mode()
    def run() -> float:
        model.set_attn_implementation("sdpa")
        try:
            return _seconds(
                lambda: model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True), ids.device
            )
        finally:
            model.set_attn_implementation(ATTENTION_NAME)
            cache.crop(-1)

    return run


def shared_pass(backend: TorchBackend, num_workers: int, num_tokens: int, own_tokens: int = 64) -> Callable[[], float]:
    """A function that runs one pass of workers whose views hold `num_tokens` tokens each; gives seconds.

    A view is a common block, the other workers' blocks and the own one, of `own_tokens` each.
    """
    cache = SharedCache(backend, num_tokens + num_workers)
    common = filled_block(cache, num_tokens - num_workers * own_tokens)
    owns = [filled_block(cache, own_tokens) for _ in range(num_workers)]
    views = [(common, *(block for block in owns if block is not own), own) for own in owns]
    return repeated_pass(cache, [Row(view, (TOKEN,)) for view in views])


@torch.inference_mode()
def filled_block(cache: SharedCache, num_tokens: int) -> Block:
    """A block with random keys and values in the slots of its tokens."""
    block = cache.new_block()
    slots = torch.from_numpy(block.append([TOKEN] * num_tokens))
    cache.backend.reserve(cache.pool.num_slots)
    pool = cache.backend.pool  # type: ignore[attr-defined]
    for array in (*pool.keys, *pool.values):
        index = slots.to(array.device)
        array[:, index] = torch.randn(array.shape[0], len(slots), array.shape[2], device=array.device).to(array.dtype)
    return block


def repeated_pass(cache: SharedCache, rows: Sequence[Row]) -> Callable[[], float]:
    """A function that runs a pass, forgets what it wrote and gives its seconds, planning included."""

    def run() -> float:
        lengths = [len(row.own) for row in rows]
        seconds = _seconds(lambda: cache.forward(rows), cache.backend.pool.keys[0].device)  # type: ignore[attr-defined]
        for row, length in zip(rows, lengths, strict=True):
            row.own.truncate(length)
        return seconds

    return run


def compare(backend: TorchBackend, num_workers: int, num_tokens: int, repeats: int = 15) -> Comparison:
    """Time shared passes and independent batches in turns, after two rounds of warming up."""
    shared, batch = shared_pass(backend, num_workers, num_tokens), independent_batch(backend, num_workers, num_tokens)
    pairs = [(shared(), batch()) for _ in range(repeats + 2)][2:]
    return Comparison(
        num_workers=num_workers,
        num_tokens=num_tokens,
        shared_seconds=statistics.median(a for a, _ in pairs),
        batch_seconds=statistics.median(b for _, b in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
