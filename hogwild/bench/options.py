"""What is measured: numbers of workers, lengths of context, layout, passes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hogwild.core.layout import Layout, find_layout
from hogwild.core.options import MAX_WORKERS
from hogwild.errors import OptionError

_SIZE = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[kK]?)")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """A benchmark; every number of workers is measured at every length of context.

    Attributes:
        workers: numbers of workers.
        contexts: tokens in the longest view, the token of the pass included.
        layout: who sees what.
        passes: timed passes for each case.
        warmup: passes before them that are not timed.
        step_tokens: mean length of the published steps that the common block consists of after its prompt; 0: one long
            prompt, so one run of keys.
        batch: whether to measure an independent batch, too.
        seed: of tokens and random weights.
    """

    workers: tuple[int, ...] = (1, 2, 4)
    contexts: tuple[int, ...] = (1024, 4096)
    layout: Layout = field(default_factory=lambda: find_layout("combined"))
    passes: int = 50
    warmup: int = 5
    step_tokens: int = 0
    batch: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for workers in self.workers:
            _check("workers", workers, 1, MAX_WORKERS)
            self.layout.check(workers, tuple(self.layout.text_names(workers)))
        for context in self.contexts:
            _check("context", context, 1, None)
        _check("numbers of workers", len(self.workers), 1, None)
        _check("lengths of context", len(self.contexts), 1, None)
        _check("passes", self.passes, 1, None)
        _check("warmup", self.warmup, 0, None)
        _check("step-tokens", self.step_tokens, 0, None)
        _check("seed", self.seed, 0, None)


def read_sizes(text: str, what: str) -> tuple[int, ...]:
    """`1,2,4` or `1k,4k` (k is 1024) as numbers, each once; `OptionError` for anything else."""
    found = [_SIZE.fullmatch(part.strip()) for part in text.split(",")]
    sizes = [int(match["number"]) * (1024 if match["unit"] else 1) for match in found if match]
    if len(sizes) != len(found):
        raise OptionError(f"--{what} is not understood", expected="numbers, as 1,2,4 or 1k,4k", got=repr(text))
    return tuple(dict.fromkeys(sizes))


def _check(name: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        limit = f"{least} or more" if most is None else f"{least} to {most}"
        raise OptionError(f"{name} is out of range", expected=limit, got=str(value))
