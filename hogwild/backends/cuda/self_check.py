"""The last checks at load: a view of two blocks must give the logits of the model's own plain forward.

With K/V in 8 bits kernels must also give the logits of torch's operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.attention import ATTENTION_NAME
from hogwild.core.blocks import Block
from hogwild.core.plan import ForwardPlan, Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.errors import HogwildError, ModelRefused

NUM_TOKENS = 12
MAX_WINDOW = 64  # windows up to this many tokens are reached by the check
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


QUANTISED_TOLERANCE = 1e-1  # activations may be rounded to 8 bits, where the last bit of a float decides a step
IN_8_BITS = 1e-2  # the last bit of a float decides a code of K or V
_REMEDY = "use another model; this one cannot be computed exactly over shared blocks"


def check_against_plain(
    model: nn.Module, layers: Sequence[LayerSpec], vocab_size: int, logits_of: Callable[[ForwardPlan], Tensor]
) -> None:
    """Raise `ModelRefused` when blocks give other logits than one plain sequence.

    logits_of: makes room for a plan, runs it and gives its logits.
    """
    tokens = _tokens(layers, vocab_size)
    split = len(tokens) // 3
    with _refusing():
        plain = _plain_logits(model, tokens)[split:]
        blocks = _block_logits(tokens, split, split + (len(tokens) - split) // 3, logits_of)
    _compare(
        blocks, plain, _tolerance(model), "over shared blocks the model gives other logits than its own plain forward"
    )


def short_view(layers: Sequence[LayerSpec], vocab_size: int, logits_of: Callable[[ForwardPlan], Tensor]) -> Tensor:
    """Logits `[n, V]` of the second of two blocks; `logits_of` as for `check_against_plain`. Three passes."""
    tokens = _tokens(layers, vocab_size)
    with _refusing():
        return _block_logits(tokens, len(tokens) // 3, len(tokens) - 1, logits_of)


def check_against_operations(model: nn.Module, kernels: Tensor, operations: Tensor) -> None:
    """Raise `ModelRefused` when over K/V in 8 bits a short view has other logits by kernels than by operations."""
    tolerance = max(IN_8_BITS, _tolerance(model))
    _compare(kernels, operations, tolerance, "over K/V in 8 bits the kernels give other logits than torch's operations")


def _tolerance(model: nn.Module) -> float:
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    return QUANTISED_TOLERANCE if is_quantised else TOLERANCE[next(model.parameters()).dtype]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """A model or a kernel that fails, in whatever way, was not shown to be right."""
    try:
        yield
    except HogwildError:
        raise
    except Exception as error:
        raise ModelRefused(
            "a short pass of the model failed",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy=_REMEDY,
        ) from error


def _tokens(layers: Sequence[LayerSpec], vocab_size: int) -> np.ndarray:
    """As many as reach beyond the windows that are not too long."""
    windows = [layer.window for layer in layers if layer.window is not None and layer.window <= MAX_WINDOW]
    length = max([NUM_TOKENS, *(window + NUM_TOKENS // 2 for window in windows)])
    return np.linspace(1, vocab_size - 2, length).astype(np.int64)


def _compare(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    deviation = _deviation(found, expected, of_most=tolerance >= TOLERANCE[torch.float16])
    if not deviation <= tolerance:
        raise ModelRefused(
            what,
            expected=f"a relative difference of at most {tolerance:.0e}",
            got=f"{deviation:.1e}",
            remedy=_REMEDY,
        )


def _deviation(blocks: Tensor, plain: Tensor, *, of_most: bool) -> float:
    """The relative difference of all logits; `of_most`: of the token in the middle.

    In 16 bits a router now and then sends a token to another expert than in the plain forward, where two were as good
    as each other. That moves all logits of this token, whatever the attention does.
    """
    if not of_most:
        return float((blocks - plain).norm() / plain.norm().clamp_min(1e-30))
    return float(((blocks - plain).norm(dim=1) / plain.norm(dim=1).clamp_min(1e-30)).median())


def _plain_logits(model: nn.Module, tokens: np.ndarray) -> Tensor:
    model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        ids = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits.double()
    finally:
        model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]


def _block_logits(tokens: np.ndarray, split: int, alone: int, logits_of: Callable[[ForwardPlan], Tensor]) -> Tensor:
    """The second block's logits, the first one in view: tokens before `alone` in one pass, the others one by one.

    A model that mixes the tokens of a pass outside its attention is wrong wherever one stands alone.
    """
    pool = PagePool(-(-len(tokens) // 16) + 2)
    first, own = Block(pool), Block(pool)
    found: list[Tensor] = []

    def feed(view: tuple[Block, ...], start: int, stop: int) -> None:
        row = Row(view, tuple(tokens[start:stop].tolist()), logits="all")
        slots = row.own.append(row.token_ids)
        found.append(logits_of(build_plan([[row]], pool.num_slots, [[slots]])).double())

    feed((first,), 0, split)
    feed((first, own), split, alone)
    for place in range(alone, len(tokens)):
        feed((first, own), place, place + 1)
    return torch.cat(found[1:])
