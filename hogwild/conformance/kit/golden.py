"""Golden answers: the oracle's, from the machine where `scripts/golden` was run, with a checksum.

A machine is compared with what was seen there, without trusting its own float64 run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hogwild.conformance.cases import AttentionCase
from hogwild.conformance.kit.attention import answered, case_of
from hogwild.conformance.kit.report import Check
from hogwild.conformance.kit.targets import Target
from hogwild.conformance.oracle import exact_attention
from hogwild.errors import CheckpointError

VERSION = 2
FOLDER = Path(__file__).parent / "golden"
EACH = 6  # cases with each feature
MOST_NUMBERS = 20_000  # of an output, so that the file stays small


def features(case: AttentionCase) -> set[str]:
    """What a case has that attention may get wrong; "plain" if nothing."""
    widths = case.keys.shape[2], case.values.shape[2]
    found = {
        "window": case.window is not None,
        "soft cap": case.softcap is not None,
        "sinks": case.sinks is not None,
        "int8": case.kv_dtype == "int8",
        "other value width": widths[0] != widths[1],
        "wide head": max(widths) > 128,
    }
    return {name for name, present in found.items() if present} or {"plain"}


def golden_cases() -> Iterator[tuple[int, AttentionCase]]:
    """The numbered cases that get golden answers: some with each feature, not too large."""
    left = dict.fromkeys(("plain", "window", "soft cap", "sinks", "int8", "other value width", "wide head"), EACH)
    number = 0
    while any(left.values()):
        case = case_of(number, 0)
        wanted = [name for name in features(case) if left[name]]
        if wanted and case.queries.size < MOST_NUMBERS:
            for name in wanted:
                left[name] -= 1
            yield number, case
        number += 1


def input_digest(case: AttentionCase) -> str:
    """Of the bits that a case is made of."""
    digest = hashlib.sha256()
    sinks = np.empty(0, np.float32) if case.sinks is None else case.sinks
    slots = [group.column_slots for group in case.plan.groups]
    for array in (case.queries, np.nan_to_num(case.keys), np.nan_to_num(case.values), sinks, *slots):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr((case.rotary, case.scale, case.window, case.softcap, case.kv_dtype)).encode())
    return digest.hexdigest()[:16]


def write_golden(folder: Path = FOLDER) -> None:
    """Make the files anew: float64 answers rounded to float32, and the digests of the cases."""
    folder.mkdir(exist_ok=True)
    arrays, digests = {}, {}
    for number, case in golden_cases():
        arrays[str(number)] = exact_attention(case, "float32").output.astype(np.float32)
        digests[str(number)] = input_digest(case)
    np.savez_compressed(folder / "attention.npz", **arrays)  # type: ignore[arg-type]
    checksum = hashlib.sha256((folder / "attention.npz").read_bytes()).hexdigest()
    facts = {"version": VERSION, "numpy": np.__version__, "sha256": checksum, "cases": digests}
    (folder / "attention.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_golden(folder: Path = FOLDER) -> tuple[dict[str, Any], dict[str, str]]:
    """Answers and digests by case number; `CheckpointError` for missing, broken or other versions of the files."""
    try:
        facts = json.loads((folder / "attention.json").read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']!r}, not {VERSION}")
        checksum = hashlib.sha256((folder / "attention.npz").read_bytes()).hexdigest()
        if checksum != facts["sha256"]:
            raise ValueError("the checksum differs")
        with np.load(folder / "attention.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}, facts["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the golden answers cannot be read",
            expected=f"attention.npz with the checksum of attention.json in {folder}",
            got=str(error)[:120],
            remedy="install hogwild again, or make them with scripts/golden",
        ) from None


def check_golden(targets: Sequence[Target], folder: Path = FOLDER) -> Iterator[Check]:
    """Every target against the stored answers to the cases that it can have as they are."""
    answers, digests = read_golden(folder)
    cases = {number: case_of(int(number), 0) for number in answers}
    strange = tuple(
        f"case {number} is drawn otherwise on this machine, or by another version"
        for number, case in cases.items()
        if input_digest(case) != digests.get(number)
    )
    for target in targets:
        worst, count = 0.0, 0
        for number, case in cases.items() if not strange else ():
            if target.affords(case) and _has_all(target, case):
                exact = exact_attention(case, target.arithmetic or case.dtype)
                off = np.abs(answered(target, case) - answers[number].astype(np.float64))
                share = np.where(np.isfinite(off), off, np.inf) / exact.allowed(exact.dtype)
                worst, count = max(worst, float(share.max())), count + 1
        yield Check(
            *("attention", "golden", "stored answers", target.name, count, "error / allowed", worst, 1.0), strange[:5]
        )


def _has_all(target: Target, case: AttentionCase) -> bool:
    """Whether the target leaves none of the case's features out."""
    fitted = target.fit(case)
    return (fitted.softcap, fitted.sinks is None) == (case.softcap, case.sinks is None)
