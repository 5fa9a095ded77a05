"""Levels "rotary" and "attention": exact angles, and generated cases against the float64 oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType, attention_case
from hogwild.conformance.kit.report import Check, Progress
from hogwild.conformance.kit.schedule import PARTS, rejoined
from hogwild.conformance.kit.targets import Target
from hogwild.conformance.oracle import Exact, exact_attention
from hogwild.conformance.verdict import Verdict, judge, typical_ratio
from hogwild.core.rotary import MAX_OFFSET, OffsetTable, RotarySpec

ANGLE_ERROR = 1e-7
MAX_LENGTH, LONG = 40, 500
SHOWN = 5
ORDINARY_EVERY, SCHEDULE_EVERY = 4, 12  # every how manieth case is also compared with ordinary attention; rescheduled
LONG_EVERY = 4 * SCHEDULE_EVERY  # every how manieth case is rescheduled with blocks that are read in many pieces
Same = tuple[float | None, bool, int, DType]  # what the exact answers of one drawn case differ by


@dataclass(slots=True)
class _Part:
    count: int = 0
    changed: list[str] = field(default_factory=list)
    worst: float = 0.0


def check_rotary() -> Iterator[Check]:
    """The offset tables that every backend turns by, for |offset| to 2^20, against float64."""
    offsets = np.concatenate([np.arange(-1100, 1101), np.random.default_rng(0).integers(-MAX_OFFSET, MAX_OFFSET, 3000)])
    for theta in (1e4, 5e5, 1e6):
        spec = RotarySpec(tuple(float(np.float32(theta ** -(i / 128))) for i in range(0, 128, 2)))
        angles = offsets[:, None].astype(np.longdouble) * np.array(spec.inv_freq, np.longdouble)
        found = OffsetTable(spec)(offsets)
        error = max(float(np.abs(a - b).max()) for a, b in zip(found, (np.cos(angles), np.sin(angles)), strict=True))
        yield Check("rotary", "oracle", f"base {theta:g}", "core tables", len(offsets), "error", error, ANGLE_ERROR)


def case_of(number: int, seed: int, max_length: int = MAX_LENGTH) -> AttentionCase:
    """Generated case; every eighth one stores K and V in 8 bits."""
    kv_dtype = "int8" if number % 8 == 7 else "auto"
    return attention_case(seed * 1_000_000 + number, max_length=max_length, kv_dtype=kv_dtype)  # type: ignore[arg-type]


def check_attention(
    targets: Sequence[Target], num_cases: int, seed: int = 0, progress: Progress = lambda text: None
) -> Iterator[Check]:
    """`num_cases` generated cases for each target; the exact answer is shared by those that get the same case."""
    groups: dict[tuple[Target, str], list[Verdict]] = {}
    parts: dict[tuple[Target, str], _Part] = {}
    left = dict.fromkeys(targets, num_cases)
    number = 0
    while any(left.values()):
        drawn = case_of(number, seed)
        long = case_of(number, seed, LONG) if number % LONG_EVERY == 0 else None
        exact: dict[Same, Exact] = {}
        for target in (target for target in targets if left[target] and target.affords(drawn)):
            left[target] -= 1
            case = target.fit(drawn)
            name: str = "int8 K/V" if case.kv_dtype == "int8" else case.dtype
            found = _judge(target, case, exact, number)
            groups.setdefault((target, name), []).append(found)
            if number % SCHEDULE_EVERY == 0:
                _reschedule(target, case, exact, parts)
            if long is not None and target.affords(long):
                _reschedule(target, target.fit(long), exact, parts)
        number += 1
        progress(f"attention: {num_cases - max(left.values())} of {num_cases} cases")
    for (target, name), verdicts in groups.items():
        yield _summary(target, name, verdicts)
    for (target, name), part in parts.items():
        yield _schedule_check(target, name, part)


def answered(target: Target, case: AttentionCase) -> Array:
    """The target's answer, silent about numbers that overflow."""
    with np.errstate(all="ignore"):
        return target.answer(case)


def _judge(target: Target, case: AttentionCase, known: dict[Same, Exact], number: int) -> Verdict:
    against_ordinary = number % ORDINARY_EVERY == 0
    exact = _exact(target, case, known)
    return judge(case, answered(target, case), exact=exact, against_ordinary=against_ordinary)


def _exact(target: Target, case: AttentionCase, known: dict[Same, Exact]) -> Exact:
    dtype = target.arithmetic or case.dtype
    key = (case.softcap, case.sinks is None, id(case.values), dtype)
    if key not in known:
        known[key] = exact_attention(case, dtype)
    return known[key]


def _summary(target: Target, name: str, verdicts: Sequence[Verdict]) -> Check:
    """The worst error, in units of what is allowed there."""
    wrong = [f"{verdict.case}: {problem}" for verdict in verdicts for problem in verdict.problems]
    worst = max(verdict.error / verdict.allowed if verdict.allowed else np.inf for verdict in verdicts)
    ratio = typical_ratio(verdicts)
    if ratio > 1:
        wrong.append(f"typically {ratio:.2f} times the error of ordinary attention and two units")
    shown = (*wrong[:SHOWN], *([f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []))
    return Check("attention", "oracle", name, target.name, len(verdicts), "error / allowed", float(worst), 1.0, shown)


def _reschedule(
    target: Target, case: AttentionCase, known: dict[Same, Exact], parts: dict[tuple[Target, str], _Part]
) -> None:
    first = answered(target, case)
    for name, passes in PARTS.items():
        part = parts.setdefault((target, name), _Part())
        part.count += 1
        again = rejoined(case, passes(case), lambda given: answered(target, given))
        if again.tobytes() != first.tobytes():
            part.changed.append(case.name)
            exact = _exact(target, case, known)
            off = np.abs(again - exact.output)
            share = np.where(np.isfinite(off), off, np.inf) / exact.allowed(exact.dtype)
            part.worst = max(part.worst, float(share.max()))


def _schedule_check(target: Target, name: str, part: _Part) -> Check:
    """Promised: the same bits. Not promised: whatever changes is judged by the oracle like the first answer."""
    share = f"{len(part.changed)} of {part.count} changed" if part.changed else "same bits"
    if name in target.promises:
        problems, changed = tuple(f"{case}: other bits" for case in part.changed[:SHOWN]), float(len(part.changed))
        label, measure = f"{name}: {share}", "cases changed"
        return Check("attention", "L0", label, target.name, part.count, measure, changed, 0.0, problems)
    label = f"{name} (not promised): {share}"
    return Check("attention", "L0", label, target.name, part.count, "error / allowed", part.worst, 1.0)
