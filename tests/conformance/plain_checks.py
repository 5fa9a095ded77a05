"""Generated cases through the plain backends and the C++ kernels: each is drawn and answered exactly once for all.

HOGWILD_CASES: how many generated cases; each backend answers all of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass

from hogwild.conformance import plain
from hogwild.conformance.cases import Array, AttentionCase, DType, attention_case
from hogwild.conformance.expected import Expected
from hogwild.conformance.kit.targets import has_native
from hogwild.conformance.verdict import Verdict, typical_ratio

NUM_CASES = int(os.environ.get("HOGWILD_CASES", "6000"))
PARTS = 20


@dataclass(frozen=True)
class Backend:
    """fit: the case without what the backend lacks. arithmetic: the dtype of every case; None: the case's own."""

    name: str
    needs: str
    answer: plain.Answer
    fit: plain.Fit = lambda case: case
    arithmetic: DType | None = None

    @property
    def is_here(self) -> bool:
        return importlib.util.find_spec(self.needs) is not None and (self.name != "C++" or has_native())


def native_answer(case: AttentionCase) -> Array:
    from hogwild.conformance.native import native_answer

    return native_answer(case)


BACKENDS = (
    Backend("reference", "numpy", plain.reference_answer, plain.reference_case, "float32"),
    Backend("mlx", "mlx", plain.mlx_answer),
    Backend("torch", "transformers", plain.torch_answer),
    Backend("C++", "transformers", native_answer, arithmetic="float32"),
)


def plain_case(seed: int) -> AttentionCase:
    """Case number `seed`: every eleventh one as large as it is drawn, a ninth with K and V in 8 bits."""
    kv_dtype = "int8" if seed % 9 == 4 else "auto"
    if seed % 11 == 0:
        return attention_case(seed, kv_dtype=kv_dtype)
    return attention_case(seed, max_length=40, max_work=2.5e5, kv_dtype=kv_dtype)


def check_part(part: int) -> None:
    """Every `PARTS`th case, by every backend that is installed."""
    seeds = range(part, NUM_CASES, PARTS)
    backends = [backend for backend in BACKENDS if backend.is_here]
    found: dict[str, dict[str, list[Verdict]]] = {backend.name: {} for backend in backends}
    for seed in seeds:
        drawn = plain_case(seed)
        expected = Expected(drawn)
        for backend in backends:
            case = backend.fit(drawn)
            verdict = expected.judge(case, backend.answer(case), backend.arithmetic)
            found[backend.name].setdefault("int8" if case.kv_dtype == "int8" else case.dtype, []).append(verdict)
    for name, of_backend in found.items():
        assert sum(map(len, of_backend.values())) == len(seeds), name
        assert problems(of_backend.values()) == [], name
        for kind, verdicts in of_backend.items():
            assert typical_ratio(verdicts) <= 1, (name, kind)


def problems(groups: Iterable[list[Verdict]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(verdict.case, verdict.problems) for verdicts in groups for verdict in verdicts if not verdict.passed]
