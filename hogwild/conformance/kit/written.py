"""Level "sessions": what whole sessions with publishing write, in float32 everywhere the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hogwild.backends.base import Backend
from hogwild.conformance.kit.report import Check, Progress, refusal
from hogwild.conformance.kit.small import load_exact, load_target, small_model
from hogwild.conformance.kit.targets import Target
from hogwild.core.events import Event, StepPublished, TokenWritten
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import GREEDY
from hogwild.engine import Engine
from hogwild.errors import HogwildError, ModelRefused
from hogwild.model import Model
from hogwild.models.checkpoint import Checkpoint
from hogwild.prompts import find_style

NUM_PASSES = 120


def check_sessions(targets: Sequence[Target], seed: int = 0, progress: Progress = lambda text: None) -> Iterator[Check]:
    """Statement L1: whole sessions with publishing write the same tokens in float32, and twice the same ones."""
    with small_model("llama", seed) as checkpoint:
        progress("sessions: float64")
        exact = _session(load_exact(checkpoint), checkpoint)
        for target in targets:
            progress(f"sessions: {target.name}")
            try:
                runs = [_session(load_target(target, checkpoint, "float32"), checkpoint) for _ in range(2)]
            except ModelRefused as error:
                yield refusal("sessions", "L1", "float32", target.name, error)
                continue
            yield _token_check("L1", "float32 against float64", target, runs[0], exact)
            yield _token_check("L0", "the same run again", target, runs[1], runs[0])


def _session(backend: Backend, checkpoint: Checkpoint) -> list[Event]:
    """What three workers write in `NUM_PASSES` passes; steps are ended by force, and published, every 11 tokens."""
    engine = Engine(Model("conform", backend, checkpoint.tokenizer, {}))
    options = SessionOptions(
        num_workers=3, max_passes=NUM_PASSES, max_step_tokens=11, check_every=0, finisher_tokens=0, sampling=GREEDY
    )
    try:
        engine.submit("How many primes are there below one hundred?", options, replace(find_style("pair"), chat=False))
        return list(engine.events())
    finally:
        engine.close()


def _token_check(statement: str, name: str, target: Target, found: list[Event], expected: list[Event]) -> Check:
    written, wanted = ([_token(event) for event in run if isinstance(event, TokenWritten)] for run in (found, expected))
    published = sum(isinstance(event, StepPublished) for event in found)
    if published < 3:
        raise HogwildError("the session of the kit published nothing", expected="at least 3 steps", got=str(published))
    same = next((i for i, (a, b) in enumerate(zip(written, wanted, strict=False)) if a != b), len(wanted))
    differing = 0 if written == wanted else len(wanted) - same
    problems = (f"differs from token {same} on",) if differing or len(written) != len(wanted) else ()
    label = f"{name}, {NUM_PASSES} passes, {published} steps"
    return Check("sessions", statement, label, target.name, len(wanted), "differing tokens", differing, 0.0, problems)


def _token(event: TokenWritten) -> tuple[int, int, int]:
    return event.worker, event.step, event.token_id
