"""The torch backend against the contract of all backends, with every dead slot poisoned too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from contract import CASES, CHECKS, ModelCase, Subject  # noqa: E402
from contract_sampling import SAMPLING_CHECKS  # noqa: E402

from hogwild.backends.cuda import TorchBackend  # noqa: E402
from hogwild.backends.cuda.pool import KVPool  # noqa: E402
from tests.backends.cuda_models import load_folder  # noqa: E402


class PoisonedPool(KVPool):
    """Slots that nobody wrote hold NaN."""

    def reserve(self, num_slots: int) -> None:
        before = self.keys[0].shape[1]
        super().reserve(num_slots)
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[:, before:] = float("nan")
            values[:, before:] = float("nan")


def poisoned(backend: TorchBackend) -> TorchBackend:
    backend.pool = PoisonedPool(backend.spec.layers, torch.float32, torch.device("cpu"))
    if backend._native is not None:
        backend._native.pool = backend.pool
    return backend


# Columns are read in the order of memory, so the place of the pages changes the order of the sums.
SUBJECT = Subject(
    open=load_folder,
    from_numpy=torch.from_numpy,
    tolerance=1e-4,
    open_poisoned=lambda folder: poisoned(load_folder(folder)),
    placement_changes_bits=True,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: ModelCase, check: Any, tmp_path: Path) -> None:
    check(SUBJECT, case, tmp_path)


@pytest.mark.parametrize("check", SAMPLING_CHECKS, ids=lambda check: check.__name__)
def test_sampling(check: Any, tmp_path: Path) -> None:
    check(SUBJECT, load_folder(CASES[0].write(tmp_path)))
