"""The last check at load: short views of two blocks must give the logits of the model's own plain forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from hogwild.core.blocks import Block
from hogwild.core.plan import ForwardPlan, Row, build_plan
from hogwild.core.pool import PAGE_SIZE, PagePool
from hogwild.errors import HogwildError, ModelRefused

NUM_TOKENS = 8
_SPLIT = 3


def check_against_plain(
    model: Any, vocab_size: int, dtype: Any, logits_of: Callable[[ForwardPlan], mx.array], num_slots: int
) -> None:
    """Raise `ModelRefused` when blocks give other logits than the ordinary cache.

    logits_of: runs a plan whose slots are below `num_slots` and gives the logits it asks for.
    """
    tokens = np.linspace(1, vocab_size - 2, NUM_TOKENS).astype(np.int64)
    with _refusing():
        plain = _to_numpy(model(mx.array(tokens)[None], cache=make_prompt_cache(model))[0, _SPLIT:])
        blocks = _over_blocks(tokens, logits_of, num_slots)
    expected = np.tile(plain, (2, 1))
    _compare(blocks, expected, dtype, "over shared blocks the model gives other logits than its plain forward")


def check_against_operations(
    vocab_size: int,
    dtype: Any,
    operations: Callable[[ForwardPlan], mx.array],
    kernels: Callable[[ForwardPlan], mx.array],
    num_slots: int,
) -> None:
    """Raise `ModelRefused` when over one pool, in 8 bits, the kernels give other logits than MLX's operations."""
    tokens = np.linspace(1, vocab_size - 2, NUM_TOKENS).astype(np.int64)
    with _refusing():
        expected, found = (_over_blocks(tokens, logits_of, num_slots) for logits_of in (operations, kernels))
    _compare(found, expected, dtype, "over K/V in 8 bits the kernels give other logits than MLX's operations")


@contextmanager
def _refusing() -> Iterator[None]:
    """Code of models and of drivers: whatever it raises, the model was not shown to be right."""
    try:
        yield
    except HogwildError:
        raise
    except Exception as error:
        raise ModelRefused(
            "the model fails in the check at load", got=f"{type(error).__name__}: {error}", remedy="use another model"
        ) from error


def _compare(found: NDArray[np.float64], expected: NDArray[np.float64], dtype: Any, what: str) -> None:
    spread = float(np.abs(expected - expected.mean()).max())
    deviation = float(np.sqrt(np.mean((found - expected) ** 2))) / max(spread, 1e-30)
    tolerance = max(1e-4, 8 * float(mx.finfo(dtype).eps))
    if not deviation <= tolerance:
        raise ModelRefused(
            what,
            expected=f"a deviation of at most {tolerance:.1e} of the logits' spread",
            got=f"{deviation:.1e}",
            remedy="use another model, or report this one",
        )


def _over_blocks(
    tokens: NDArray[np.int64], logits_of: Callable[[ForwardPlan], mx.array], num_slots: int
) -> NDArray[np.float64]:
    """Logits of two workers that write the same, each in the context of the first block.

    A pass of one token and a pass of nine: few rows and many go to different kernels, however many heads share a key.
    """
    pool = PagePool(num_slots // PAGE_SIZE, num_slots // PAGE_SIZE)
    first, one, two = Block(pool), Block(pool), Block(pool)

    def logits(*feeds: tuple[Block, NDArray[np.int64]]) -> NDArray[np.float64]:
        rows = [Row((first,) if own is first else (first, own), tuple(map(int, part)), "all") for own, part in feeds]
        slots = [row.own.append(row.token_ids) for row in rows]
        return _to_numpy(logits_of(build_plan([rows], pool.num_slots, [slots])))

    logits((first, tokens[:_SPLIT]))
    alone = logits((one, tokens[_SPLIT : _SPLIT + 1]))
    return np.concatenate([alone, logits((one, tokens[_SPLIT + 1 :]), (two, tokens[_SPLIT:]))])


def _to_numpy(logits: mx.array) -> NDArray[np.float64]:
    return np.array(logits.astype(mx.float32), dtype=np.float64)
