"""One drawn case, judged many times: what it must give is computed once."""

from __future__ import annotations

from hogwild.conformance.cases import Array, AttentionCase, DType
from hogwild.conformance.oracle import Exact, exact_attention
from hogwild.conformance.ordinary import ordinary_attention
from hogwild.conformance.sequences import Sequences
from hogwild.conformance.verdict import Verdict, comparable, judge

_Key = tuple[float | None, bool, int, DType]


class Expected:
    """The exact and the ordinary answers to a case, and to the same case without features that some backend lacks.

    Those other cases may differ in `softcap`, `sinks` (none) and the width of `values`, and in the dtype of the
    arithmetic; blocks, queries and keys are the same.
    """

    def __init__(self, case: AttentionCase) -> None:
        self._sequences = Sequences(case)
        self._exact: dict[_Key, Exact] = {}
        self._ordinary: dict[_Key, Array] = {}

    def judge(self, case: AttentionCase, output: Array, dtype: DType | None = None) -> Verdict:
        """The verdict on `output [T, H, Dv]` for `case`; dtype: of the arithmetic that was used (None: the case's)."""
        key = (case.softcap, case.sinks is None, case.values.shape[2], dtype or case.dtype)
        if key not in self._exact:
            self._exact[key] = exact_attention(case, dtype, sequences=self._sequences)
        exact = self._exact[key]
        if key not in self._ordinary and comparable(exact):
            self._ordinary[key] = ordinary_attention(case, dtype, sequences=self._sequences)[0]
        return judge(case, output, exact=exact, ordinary=self._ordinary.get(key))
