"""Is an answer right?  The verdict on one attention case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase, DType
from hogwild.conformance.oracle import EPSILON, Exact, exact_attention
from hogwild.conformance.ordinary import ordinary_attention

KERNEL_LOG_SUM_EXP, MERGE_LOG_SUM_EXP = 1e-4, 1e-5  # tolerances of a log-sum-exp, absolute and relative

# A single case has few numbers, and luck in them; over many cases the ratio must be 1 at most, see `typical_ratio`.
MAX_RATIO = 4.0
# Beyond this score a softmax is so sharp that its error comes from a row or two that happen to be nearly tied.
SHARP = 30.0
# A soft cap hides large scores, which rounding moves by many units all the same: by 1,500 where scores are below SHARP.
LOUD = 8000.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an answer to a case is off. Errors that are not numbers count as infinite.

    Attributes:
        error: of the output, where it is largest compared with what is allowed there.
        allowed: the error that is allowed at that place.
        log_sum_exp_error: the largest one; 0 when none was given.
        ratio: root mean square error over that of ordinary attention in the same dtype, plus two units in the last
            place of the output; 0 when it was not asked for, or when scores are so large that luck decides.
        problems: what failed, in words; empty for a right answer.
    """

    case: str
    error: float
    allowed: float
    log_sum_exp_error: float
    ratio: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.problems


def judge(
    case: AttentionCase,
    output: Array,
    log_sum_exp: Array | None = None,
    *,
    exact: Exact | None = None,
    ordinary: Array | None = None,
    dtype: DType | None = None,
    log_sum_exp_tolerance: float = KERNEL_LOG_SUM_EXP,
    against_ordinary: bool = True,
) -> Verdict:
    """Compare `output [T, H, Dv]` and, if it is given, `log_sum_exp [T, H]` with the exact answer.

    exact: the answer, if it is at hand. ordinary: ordinary attention's output in the same dtype, if it is at hand.
    dtype: of the arithmetic that was used (None: the case's own). against_ordinary: also compare with ordinary
    attention, which takes about as long as the exact answer.
    """
    exact = exact or exact_attention(case, dtype)
    problems: list[str] = []
    if output.shape != exact.output.shape:
        problems.append(f"the output has shape {output.shape}, expected {exact.output.shape}")
        return Verdict(case.name, np.inf, 0.0, 0.0, np.inf, tuple(problems))
    error, allowed = _finite(output - exact.output), exact.allowed(exact.dtype)
    worst = np.unravel_index(np.argmax(error / allowed), error.shape)
    if not (error <= allowed).all():
        problems.append(f"output off by {error[worst]:.2e} at {_place(worst)}, allowed {allowed[worst]:.2e}")
    ratio = 0.0
    if against_ordinary and comparable(exact):
        ordinary = ordinary_attention(case, exact.dtype)[0] if ordinary is None else ordinary
        ratio = _rms(error) / _usual(ordinary, exact)
    if not ratio <= MAX_RATIO:
        problems.append(f"{ratio:.2f} times the error of ordinary {exact.dtype} attention and two units")
    off = _log_sum_exp_error(exact, log_sum_exp, log_sum_exp_tolerance, problems)
    return Verdict(case.name, float(error[worst]), float(allowed[worst]), off, float(ratio), tuple(problems))


def typical_ratio(verdicts: Iterable[Verdict]) -> float:
    """The median ratio to ordinary attention, of the cases where the two were compared; 0 when there are none."""
    ratios = [verdict.ratio for verdict in verdicts if verdict.ratio > 0]
    return float(np.median(ratios)) if ratios else 0.0


def comparable(exact: Exact) -> bool:
    """Whether scores, before a soft cap too, are so small that an error can be compared with ordinary attention's."""
    is_loud = exact.score_error.max() > LOUD * EPSILON[exact.dtype]
    return bool(np.abs(exact.log_sum_exp).max() < SHARP and not is_loud)


def _usual(ordinary: Array, exact: Exact) -> float:
    """Root mean square error of ordinary attention, plus two units in the last place of a mean output."""
    return _rms(ordinary - exact.output) + 4 * EPSILON[exact.dtype] * _rms(exact.output)


def _log_sum_exp_error(exact: Exact, given: Array | None, tolerance: float, problems: list[str]) -> float:
    if given is None:
        return 0.0
    error = _finite(given - exact.log_sum_exp)
    allowed = tolerance * (1 + np.abs(exact.log_sum_exp)) + exact.score_error
    if not (error <= allowed).all():
        worst = np.unravel_index(np.argmax(error / allowed), error.shape)
        problems.append(f"log-sum-exp off by {error[worst]:.2e} at {_place(worst)}, allowed {allowed[worst]:.2e}")
    return float(error.max())


def _finite(difference: Array) -> Array:
    return np.where(np.isfinite(difference), np.abs(difference), np.inf)


def _rms(x: Array) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _place(index: tuple[np.intp, ...]) -> str:
    names = ("token", "head", "feature")
    return ", ".join(f"{name} {int(i)}" for name, i in zip(names, index, strict=False))
