"""The last check at load: a short two-block view must give the logits of the model's own plain forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from hogwild.core.blocks import Block
from hogwild.core.plan import ForwardPlan, Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.errors import ModelRefused

NUM_TOKENS = 8
_SPLIT = 3


def check_against_plain(
    model: Any, vocab_size: int, dtype: Any, logits_of: Callable[[ForwardPlan], mx.array], num_slots: int
) -> None:
    """Raise `ModelRefused` when blocks give other logits than the ordinary cache.

    logits_of: runs a plan whose slots are below `num_slots` and gives the logits it asks for.
    """
    tokens = np.linspace(1, vocab_size - 2, NUM_TOKENS).astype(np.int64)
    plain = _to_numpy(model(mx.array(tokens)[None], cache=make_prompt_cache(model))[0, _SPLIT:])
    pool = PagePool(num_slots // 16, num_slots // 16)
    first, own = Block(pool), Block(pool)
    for view, part in (((first,), tokens[:_SPLIT]), ((first, own), tokens[_SPLIT:])):
        row = Row(view, tuple(int(token) for token in part), logits="all")
        plan = build_plan([[row]], pool.num_slots, [[row.own.append(row.token_ids)]])
        blocks = _to_numpy(logits_of(plan))
    spread = float(np.abs(plain - plain.mean()).max())
    error = float(np.sqrt(np.mean((blocks - plain) ** 2))) / max(spread, 1e-30)
    tolerance = max(1e-4, 8 * float(mx.finfo(dtype).eps))
    if not error <= tolerance:
        raise ModelRefused(
            "over shared blocks the model gives other logits than its plain forward",
            expected=f"a deviation of at most {tolerance:.1e} of the logits' spread",
            got=f"{error:.1e}",
            remedy="use another model, or report this one",
        )


def _to_numpy(logits: mx.array) -> NDArray[np.float64]:
    return np.array(logits.astype(mx.float32), dtype=np.float64)
