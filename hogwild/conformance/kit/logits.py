"""Statement L2: what 16 bits may do to logits, and to the choices that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.conformance.kit.report import Check

MEAN_KL, LEAST_AGREEMENT = 1e-3, 0.995
DEVIATIONS = 4.0  # of the difference of two logits, each of which is off by its token's error
_CHUNK = 64  # tokens at a time: vocabularies are large


@dataclass(frozen=True, slots=True)
class LogitErrors:
    """How far the logits of n tokens are off. A token whose logits are not finite counts as infinitely far.

    Attributes:
        differs: `[n]` whether another token of the vocabulary is the likeliest.
        margin: `[n]` how much likelier, in exact logits, the right choice is than the one that was made.
        error: `[n]` root mean square over the vocabulary, less what all logits have in common.
        kl: `[n]` Kullback-Leibler divergence in nats of the softmax.
    """

    differs: NDArray[np.bool_]
    margin: NDArray[np.float64]
    error: NDArray[np.float64]
    kl: NDArray[np.float64]

    @property
    def count(self) -> int:
        """n."""
        return len(self.differs)


def logit_errors(found: NDArray[np.floating], exact: NDArray[np.floating]) -> LogitErrors:
    """Of `found [n, V]` against `exact [n, V]`."""
    starts = range(0, len(exact), _CHUNK)
    return joined([_errors(found[start : start + _CHUNK], exact[start : start + _CHUNK]) for start in starts])


def joined(parts: Sequence[LogitErrors]) -> LogitErrors:
    """One after the other."""
    names = ("differs", "margin", "error", "kl")
    return LogitErrors(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _errors(found: NDArray[np.floating], exact: NDArray[np.floating]) -> LogitErrors:
    x, y = found.astype(np.float64), exact.astype(np.float64)
    finite = np.isfinite(x).all(axis=1)
    x[~finite] = 0
    rows, wanted = np.arange(len(y)), y.argmax(axis=1)
    off = x - y
    p, q = (z - np.logaddexp.reduce(z, axis=1, keepdims=True) for z in (y, x))
    kl = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0)
    differs = (x.argmax(axis=1) != wanted) | ~finite
    margin, error = y[rows, wanted] - y[rows, x.argmax(axis=1)], (off - off.mean(axis=1, keepdims=True)).std(axis=1)
    return LogitErrors(differs, *(np.where(finite, z, np.inf) for z in (margin, error, kl)))


def check_choices(
    level: str,
    target: str,
    name: str,
    found: LogitErrors,
    ordinary: LogitErrors,
    *,
    least_agreement: float | None = LEAST_AGREEMENT,
    most_kl: float = MEAN_KL,
) -> Iterator[Check]:
    """Statement L2 for a target's logits.

    A differing choice is explained by a margin below four deviations of the difference of two logits. A token's own
    error counts there only as far as any token of the ordinary forward errs: otherwise a wrong token explained itself.

    ordinary: what the framework's own forward of plain text has in the same dtype.
    least_agreement: None where the likeliest tokens are nearly tied, as in random models: not judged.
    """
    explained = DEVIATIONS * 2**0.5 * np.minimum(found.error, ordinary.error.max())
    ratio = np.where(found.differs, found.margin / np.maximum(explained, 1e-30), 0)
    ratio[~np.isfinite(found.margin)] = np.inf
    problems = tuple(f"token {i}: margin {found.margin[i]:.2g}" for i in np.flatnonzero(ratio > 1)[:5])

    def check(what: str, measure: str, worst: float, limit: float, problems: tuple[str, ...] = ()) -> Check:
        return Check(level, "L2", f"{name}: {what}", target, found.count, measure, worst, limit, problems)

    yield check("differing choices", "margin / explained", float(ratio.max()), 1.0, problems)
    yield check("mean KL", "nats", float(found.kl.mean()), most_kl)
    if least_agreement is not None:
        yield check("differing share", "share", float(found.differs.mean()), round(1 - least_agreement, 9))
