"""Each invariant catches the faults that break it: without them it holds in the very same histories."""

from __future__ import annotations

import plan_faults  # noqa: F401  (registers its faults)
import pytest
from core_faults import FAULTS
from core_invariants import INVARIANTS, Violation
from core_oracle import NAME as ATTENTION
from core_oracle import random_scenes
from pool_model import random_world

pytestmark = pytest.mark.usefixtures("short_spans")

SEEDS = range(7)


def ask(invariant: str) -> None:
    """Ask one invariant of some random histories."""
    for seed in SEEDS:
        if invariant == ATTENTION:
            random_scenes(seed)
        else:
            for world in random_world(seed, 80):
                INVARIANTS[invariant](world)


@pytest.mark.parametrize("invariant", [*INVARIANTS, ATTENTION])
def test_every_invariant_holds_without_a_fault(invariant: str) -> None:
    ask(invariant)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_invariant(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invariant, plant = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(Violation, match=invariant):
        ask(invariant)


def test_every_invariant_has_a_fault() -> None:
    assert {invariant for invariant, _ in FAULTS.values()} == {*INVARIANTS, ATTENTION}
    assert len(FAULTS) >= 15
