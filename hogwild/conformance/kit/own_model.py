"""Level "model": a user's own model, led along one course on every target that loads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend
from hogwild.cache import SharedCache
from hogwild.conformance.kit.course import BUILT_IN, Course, Walk, read_course
from hogwild.conformance.kit.frameworks import ordinary_forward
from hogwild.conformance.kit.logits import LEAST_AGREEMENT, MEAN_KL, LogitErrors, check_choices, joined, logit_errors
from hogwild.conformance.kit.report import Check, Progress
from hogwild.conformance.kit.small import load_exact, load_target
from hogwild.conformance.kit.targets import Target
from hogwild.conformance.small_models import logits_in_blocks
from hogwild.core.plan import Row
from hogwild.errors import BackendUnavailable, CheckpointError, ModelRefused, OptionError
from hogwild.models import find_checkpoint
from hogwild.models.checkpoint import Checkpoint

Logits = NDArray[np.floating]

SMALL = 3e8  # parameters up to which the reference backend computes in float64
MOST_NUMBERS = 200_000_000  # logits of the yardstick that are kept: 800 MB
NUM_PLAIN = 256  # tokens of the plain text
MOST_TIMES_ORDINARY = 2.0  # where the framework's own 16 bits err more than statement L2 allows
_NOT_LOADED = (ModelRefused, CheckpointError, BackendUnavailable, OptionError)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What is right, and who says so.

    Attributes:
        passes: for each pass of the course the logits of its tokens.
        plain_text, plain: the beginning of one worker's text as one sequence, and its logits.
    """

    name: str
    by_reference: bool
    course: Course
    passes: list[Logits]
    plain_text: tuple[int, ...]
    plain: Logits


def check_own_model(
    targets: Sequence[Target],
    name: str,
    trace: Path | None,
    missing: list[str],
    progress: Progress = lambda text: None,
) -> Iterator[Check]:
    """Statement L1 in float32, L2 in the model's own 16 bits, for each target that loads the model.

    The yardstick is the reference backend where it knows the family. Else it is the first target that loads the model
    in float32, and every target is compared with its framework's own plain forward, too.

    missing: is told what could not be loaded. `ModelRefused` if no target loads the model.
    """
    checkpoint = find_checkpoint(name)
    course = BUILT_IN if trace is None else read_course(trace)
    progress("model: the yardstick")
    yardstick = _yardstick(checkpoint, targets, course, missing)
    for target in targets:
        for dtype in ("float32",) if target.backend == "reference" else ("float32", _narrow(checkpoint)):
            progress(f"model: {target.name}, {dtype}")
            try:
                backend = load_target(target, checkpoint, dtype)
            except _NOT_LOADED as error:
                missing.append(f"{target.name}, {dtype}: {error}")
                continue
            try:
                yield from _compare(target, backend, checkpoint, dtype, yardstick)
            finally:
                backend.close()


def _yardstick(checkpoint: Checkpoint, targets: Sequence[Target], course: Course, missing: list[str]) -> Yardstick:
    backend, by_reference = _best(checkpoint, targets, missing)
    try:
        walk, room = Walk(backend, checkpoint, course), MOST_NUMBERS
        passes: list[Logits] = []
        for logits in walk:
            room -= logits.size
            if room < 0 and passes:
                break
            passes.append(logits)
        text = _plain_text(walk)
        if by_reference:
            cache = SharedCache(backend)
            plain: Logits = cache.to_numpy(cache.forward([Row((cache.new_block(),), text, logits="all")]))
        else:
            plain = ordinary_forward(backend, text)[1]
        name = f"{backend.info.name} {backend.info.dtype}"
        return Yardstick(name, by_reference, walk.as_course(), passes, text, plain)
    finally:
        backend.close()


def _best(checkpoint: Checkpoint, targets: Sequence[Target], missing: list[str]) -> tuple[Backend, bool]:
    """What computes the model best, and whether that is the reference backend."""
    try:
        backend = load_exact(checkpoint, "float32")
        if backend.spec.num_parameters <= SMALL:
            backend.close()
            backend = load_exact(checkpoint)
        return backend, True
    except (*_NOT_LOADED, MemoryError) as error:
        missing.append(f"reference: {error}")
    for target in targets:
        try:
            return load_target(target, checkpoint, "float32"), False
        except _NOT_LOADED:
            continue
    raise ModelRefused(
        f"no target loads {checkpoint.name}", expected=", ".join(x.name for x in targets), got="; ".join(missing)[:400]
    )


def _compare(
    target: Target, backend: Backend, checkpoint: Checkpoint, dtype: str, yardstick: Yardstick
) -> Iterator[Check]:
    name = f"{dtype} against {yardstick.name}"
    walk = Walk(backend, checkpoint, yardstick.course)
    found = joined([logit_errors(x, y) for x, y in zip(walk, yardstick.passes, strict=False)])
    if dtype == "float32":
        yield _same_tokens(target, name, found)
    else:
        ordinary = logit_errors(ordinary_forward(backend, yardstick.plain_text)[1], yardstick.plain)
        yield from check_choices("model", target.name, name, found, ordinary, **_limits(ordinary, found.count))
    if dtype == "float32" and not yardstick.by_reference:
        plain = ordinary_forward(backend, yardstick.plain_text)[1]
        blocks = logits_in_blocks(backend, yardstick.plain_text)
        yield _same_tokens(target, "float32 against its plain forward", logit_errors(blocks, plain))


def _limits(ordinary: LogitErrors, count: int) -> dict[str, float]:
    """Those of statement L2, or what the framework itself needs: real models err more than L2 allows in bfloat16.

    A share of few tokens is known to its counting error; three standard deviations of the difference are allowed.
    """
    kl, share = float(ordinary.kl.mean()), float(ordinary.differs.mean())
    most = share + 3 * float(np.sqrt(share * (1 / ordinary.count + 1 / count)))
    return {
        "most_kl": max(MEAN_KL, MOST_TIMES_ORDINARY * kl),
        "least_agreement": min(LEAST_AGREEMENT, 1 - most),
    }


def _same_tokens(target: Target, name: str, found: LogitErrors) -> Check:
    """Statement L1."""
    places = np.flatnonzero(found.differs)
    problems = tuple(f"token {i}: margin {found.margin[i]:.1e}, error {found.error[i]:.1e}" for i in places[:5])
    measure = "differing tokens"
    return Check("model", "L1", name, target.name, found.count, measure, float(len(places)), 0.0, problems)


def _plain_text(walk: Walk) -> tuple[int, ...]:
    """The prompt, and what the first worker wrote."""
    text = [*walk.prompt_ids, *(token.token_id for token in walk.written if token.worker == 0)]
    return tuple(text[:NUM_PLAIN])


def _narrow(checkpoint: Checkpoint) -> str:
    """The model's own 16 bits; bfloat16 if its config does not say."""
    stored = str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")).removeprefix("torch.")
    return stored if stored in ("float16", "bfloat16") else "bfloat16"
