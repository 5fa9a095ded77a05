"""Level "models": small models, layer by layer against float64, and the choices that their logits make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend, ForwardResult
from hogwild.cache import SharedCache
from hogwild.conformance.kit.copying import SEPARATOR, Copyist
from hogwild.conformance.kit.frameworks import ordinary_forward
from hogwild.conformance.kit.logits import LEAST_AGREEMENT, check_choices, logit_errors
from hogwild.conformance.kit.report import Check, Progress, refusal
from hogwild.conformance.kit.small import CONFIGS, dtypes_of, load_exact, load_target, small_model
from hogwild.conformance.kit.targets import Target
from hogwild.core.plan import Row
from hogwild.errors import ModelRefused
from hogwild.models.checkpoint import Checkpoint

Array = NDArray[np.float64]

FLOAT32_ERROR = 2e-5  # of a layer's output, relative, root mean square
MOST_TIMES_ORDINARY = 1.5  # in 16 bits: the same, over that of the framework's own forward of plain text
NUM_STEPS = 20  # of the model that copies
NUM_PLAIN, NUM_COPIED = 160, 300  # tokens of the plain text, random and for the model that copies


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of some tokens: for each layer `[n, hidden_size]`, and logits `[m, V]` of those that have a right choice."""

    layers: list[Array]
    logits: Array


def check_models(
    targets: Sequence[Target],
    seed: int = 0,
    progress: Progress = lambda text: None,
    names: Sequence[str] = tuple(CONFIGS),
    dtypes: Sequence[str] = ("float32", "float16", "bfloat16"),
) -> Iterator[Check]:
    """Every layer's output, and the logits, for each target, small model and dtype."""
    for name in names:
        with small_model(name, seed) as checkpoint:
            exact, plain = _exact(checkpoint, name)
            for target in targets:
                for dtype in (dtype for dtype in dtypes_of(target) if dtype in dtypes):
                    progress(f"models: {name}, {target.name}, {dtype}")
                    yield from _check(target, checkpoint, name, dtype, exact, plain)


def _check(
    target: Target, checkpoint: Checkpoint, name: str, dtype: str, exact: Outputs, plain: Outputs
) -> Iterator[Check]:
    label = f"{name} {dtype}"
    try:
        backend = load_target(target, checkpoint, dtype)
    except ModelRefused as error:
        yield refusal("models", "oracle", label, target.name, error)
        return
    try:
        ordinary = None if dtype == "float32" else Outputs(*ordinary_forward(backend, _plain_text(name), layers=True))
        found = _run(backend, name)
    finally:
        backend.close()
    if ordinary is None:
        yield _layer_check(target, label, found.layers, exact.layers, None)
        if name == "copying":
            yield _token_check(target, label, found.logits, exact.logits)
        return
    usual = [_relative(a, b) for a, b in zip(ordinary.layers, plain.layers, strict=True)]
    yield _layer_check(target, label, found.layers, exact.layers, usual)
    errors, usual_errors = logit_errors(found.logits, exact.logits), logit_errors(ordinary.logits, plain.logits)
    least = LEAST_AGREEMENT if name == "copying" else None
    yield from check_choices("models", target.name, label, errors, usual_errors, least_agreement=least)


def _exact(checkpoint: Checkpoint, name: str) -> tuple[Outputs, Outputs]:
    """In float64: of the kit's passes, and of the plain text in one block."""
    backend = load_exact(checkpoint)
    try:
        found = _run(backend, name)
        cache = SharedCache(backend)
        result = cache.forward([Row((cache.new_block(),), _plain_text(name), logits="all")], hidden_states=True)
        return found, Outputs(*_numbers(cache, result))
    finally:
        backend.close()


def _numbers(cache: SharedCache, result: ForwardResult) -> tuple[list[Array], Array]:
    assert result.hidden_states is not None
    return list(result.hidden_states), cache.to_numpy(result).astype(np.float64)


def _plain_text(name: str) -> tuple[int, ...]:
    if name != "copying":
        return _drawn(np.random.default_rng(2), NUM_PLAIN)
    copyist = Copyist(2)
    return (SEPARATOR, *copyist.text, *copyist.write(0, NUM_COPIED))


def _run(backend: Backend, name: str) -> Outputs:
    """Two workers over a prompt, their own blocks and published steps."""
    passes = list(_copying_passes(backend) if name == "copying" else _random_passes(backend))
    layers = [np.concatenate(parts) for parts in zip(*(part.layers for part in passes), strict=True)]
    return Outputs(layers, np.concatenate([part.logits for part in passes]))


def _random_passes(backend: Backend) -> Iterator[Outputs]:
    rng = np.random.default_rng(1)
    cache = SharedCache(backend, num_tokens=64)
    common = cache.block(_drawn(rng, 40))
    first, second = cache.new_block("first"), cache.new_block("second")

    def feed(counts: tuple[int, int]) -> Outputs:
        views = ((common, second, first), (common, first, second))
        rows = [Row(view, _drawn(rng, count), logits="all") for view, count in zip(views, counts, strict=True)]
        return Outputs(*_numbers(cache, cache.forward(rows, hidden_states=True)))

    yield from map(feed, ((7, 3), *[(1, 1)] * 6, (0, 5)))
    step = cache.block(_drawn(rng, 9), context=(common,))
    common.link(step)
    yield from map(feed, ((2, 1), *[(1, 1)] * 20))


def _copying_passes(backend: Backend) -> Iterator[Outputs]:
    """Steps written in long and in single passes, published by turns; 1,000 tokens that have a right choice."""
    copyist = Copyist(1)
    cache = SharedCache(backend, num_tokens=64)
    common = cache.block((SEPARATOR, *copyist.text))
    owns = [cache.new_block("first"), cache.new_block("second")]
    for turn in range(NUM_STEPS):
        for counts in ((17, 5), *[(1, 1)] * 6, (0, 9), (23, 31)):
            tokens = [copyist.write(worker, count) for worker, count in enumerate(counts)]
            rows = [Row((common, owns[1 - i], owns[i]), tokens[i], logits="all") for i in range(2)]
            layers, logits = _numbers(cache, cache.forward(rows, hidden_states=True))
            yield Outputs(layers, logits[[copyist.is_known(token) for token in (*tokens[0], *tokens[1])]])
        common.link(owns[turn % 2])
        owns[turn % 2] = cache.new_block("next")
        copyist.end_piece(turn % 2)


def _drawn(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(rng.integers(5, 250, count).tolist())


def _layer_check(
    target: Target, name: str, found: list[Array], exact: list[Array], usual: Sequence[float] | None
) -> Check:
    """usual: errors of the ordinary forward, whose multiples are judged; None: the errors themselves are."""
    errors = [_relative(a, b) for a, b in zip(found, exact, strict=True)]
    if usual is None:
        worst, measure, limit = errors, "relative error", FLOAT32_ERROR
    else:
        worst = [error / most for error, most in zip(errors, usual, strict=True)]
        measure, limit = "error / ordinary", MOST_TIMES_ORDINARY
    place = int(np.argmax(worst))
    label = f"{name}: layers, worst {place}"
    return Check("models", "oracle", label, target.name, len(errors), measure, worst[place], limit)


def _token_check(target: Target, name: str, found: Array, exact: Array) -> Check:
    """Statement L1: the same choices in float32."""
    differing = int((found.argmax(axis=1) != exact.argmax(axis=1)).sum())
    measure = "differing tokens"
    return Check("models", "L1", f"{name}: choices", target.name, len(exact), measure, differing, 0.0)


def _relative(found: Array, exact: Array) -> float:
    error = np.where(np.isfinite(found), found - exact, np.inf)
    return float(np.sqrt(np.mean(error**2) / np.mean(exact**2)))
