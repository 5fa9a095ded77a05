"""How a worker's next token is chosen: parameters, and the numbers that a backend gets for one row.

Randomness is drawn on the host, one uniform number per token from the worker's own generator, and turned into a token
on the device by inverting the cumulative distribution in vocabulary order. So a worker's choices depend on its seed and
its logits alone, not on its batch mates or on the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import OptionError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Order of operations: banned ids, repetition penalty, temperature, top-k, top-p, min-p, then the draw.

    Attributes:
        temperature: divides the logits; 0 means greedy (the lowest id wins a tie).
        top_k: keep the k most likely tokens (ties with the k-th stay); 0 keeps all.
        top_p: keep the most likely tokens until their probability reaches p; 1 keeps all.
        min_p: keep tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
        repetition_penalty: divide positive (multiply negative) logits of tokens that the worker's own text or the
            prompt already holds (arXiv 1909.05858); 1 is off.
        banned_ids: tokens that are never chosen.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature <= 100, "a number from 0 to 100")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or a positive whole number")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "a number from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "a positive number")


def _check(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise OptionError(f"{name} is out of range", expected=expected, got=str(value))


GREEDY = SamplingParams(temperature=0.0, top_p=1.0)


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """What one row of logits is sampled with.

    Attributes:
        params: the worker's parameters.
        uniform: a number in [0, 1) from the worker's generator; not used when greedy.
        banned_ids: every id that may not come now (the parameters' own and the control tokens).
        history_ids: ids that the repetition penalty counts as seen; empty when the penalty is off.
    """

    params: SamplingParams
    uniform: float = 0.0
    banned_ids: Sequence[int] | NDArray[np.int64] = ()
    history_ids: Sequence[int] | NDArray[np.int64] = ()


@dataclass(frozen=True, slots=True)
class SampleResult:
    """Tokens chosen for n rows.

    Attributes:
        token_ids: `[n]`; an id means nothing where `finite` is False.
        finite: `[n]`, False where the row's logits held NaN.
    """

    token_ids: NDArray[np.int64]
    finite: NDArray[np.bool_]
