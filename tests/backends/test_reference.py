"""The reference backend: the contract in float64 and float32, and transformers as the outside witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
from contract import CASES, CHECKS, ModelCase, Subject

from hogwild.backends.options import LoadOptions
from hogwild.backends.reference import ReferenceBackend, load
from hogwild.backends.reference.weights import read_model
from hogwild.models import find_checkpoint


def _subject(dtype: str, tolerance: float) -> Subject:
    return Subject(
        open=lambda folder: load(find_checkpoint(str(folder)), LoadOptions(dtype=dtype)),
        from_numpy=lambda logits: logits,
        tolerance=tolerance,
        open_poisoned=lambda folder: ReferenceBackend(
            read_model(find_checkpoint(str(folder)), dtype), pool_fill=float("nan")
        ),
    )


# `to_numpy` gives float32, hence no more than its seven digits in float64.
SUBJECTS = {"float64": _subject("float64", 1e-6), "float32": _subject("float32", 1e-4)}
# The same code in float32: one model, and all of them on request.
SLOW_PAIRS = [pytest.param("float32", case, marks=pytest.mark.slow) for case in CASES[1:]]
PAIRS = [*(("float64", case) for case in CASES), ("float32", CASES[0]), *SLOW_PAIRS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("dtype", "case"), PAIRS, ids=str)
def test_contract(dtype: str, case: ModelCase, check: Any, tmp_path: Path) -> None:
    check(SUBJECTS[dtype], case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_equals_transformers(case: ModelCase, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    ids = np.random.default_rng(3).integers(0, 256, 80).tolist()
    expected = _transformers_logits(folder, ids)
    np.testing.assert_allclose(contract.flat_logits(folder, ids), expected, rtol=1e-5, atol=1e-5)


def _transformers_logits(folder: Path, ids: list[int]) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].numpy()
