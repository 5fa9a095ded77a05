"""What the kit found, as data: one check after the other, and the machine that they ran on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hogwild.errors import HogwildError, OptionError

VERSION = 2
Progress = Callable[[str], None]
"""Is told what is being checked."""


@dataclass(frozen=True, slots=True)
class Check:
    """One group of comparisons.

    Attributes:
        level: "rotary", "attention", "models", "sessions" or "model".
        statement: "oracle", "golden", "L0", "L1" or "L2", see docs/conformance.md.
        name: what was compared, e.g. a dtype.
        target: what was checked, e.g. "mlx plain".
        count: comparisons that were made.
        worst: the largest number of the kind that `measure` names; infinite for an answer that is no number.
        limit: what `worst` may be; None: reported, not promised.
        problems: the first few failures, in words.
    """

    level: str
    statement: str
    name: str
    target: str
    count: int
    measure: str
    worst: float
    limit: float | None
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was compared, nothing failed, and the worst number is within its limit."""
        within = self.limit is None or self.worst <= self.limit
        return self.count > 0 and within and not self.problems


@dataclass(slots=True)
class Report:
    """A run of the kit. `targets`: each with its device and how it computes attention."""

    command: str
    created: str
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, str | None]
    settings: dict[str, Any]
    targets: list[dict[str, str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether there are checks, and all of them passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def refusal(level: str, statement: str, name: str, target: str, error: HogwildError) -> Check:
    """A failed check: the backend's own test at load has found that it computes another model."""
    return Check(level, statement, f"{name}: refused at load", target, 1, "refused", 1.0, 0.0, (str(error),))


def to_json(report: Report) -> str:
    """As a file; numbers that are not finite are written as text."""
    checks = [{**asdict(check), "worst": _written(check.worst), "passed": check.passed} for check in report.checks]
    data = {"hogwild_conform": VERSION, **asdict(report), "checks": checks, "passed": report.passed}
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def read_report(path: Path) -> Report:
    """A report from its file; `OptionError` for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["hogwild_conform"] != VERSION:
            raise ValueError(f"version {data['hogwild_conform']!r}")
        checks = [_check(entry) for entry in data["checks"]]
        known = {entry.name for entry in fields(Report)} - {"checks"}
        return Report(**{name: data[name] for name in known}, checks=checks)
    except OSError as error:
        raise OptionError(f"cannot read {path}", got=error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} is no report of hogwild conform",
            expected=f"a file of `hogwild conform --json`, version {VERSION}",
            got=f"{type(error).__name__}: {error}"[:120],
        ) from None


def _check(entry: dict[str, Any]) -> Check:
    given = {item.name: entry[item.name] for item in fields(Check)}
    return Check(**{**given, "worst": float(given["worst"]), "problems": tuple(given["problems"])})


def _written(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)
