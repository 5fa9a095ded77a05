"""Work lists: carried out they give the exact attention; each check catches the faults that break it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from core_invariants import Violation
from work_faults import FAULTS, MEMORY_FAULTS
from work_oracle import ATTENTION, CHECKS, Cut, carry_out, random_cut

from hogwild.conformance.cases import attention_case
from hogwild.conformance.oracle import exact_attention
from hogwild.core.blocks import Block
from hogwild.core.plan import Planner, Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.work import cut_work

PROPERTIES = [name for name in CHECKS if name != ATTENTION]


kept_cut = lru_cache(maxsize=80)(random_cut)  # of the code as it is; a fault needs new ones


def ask(name: str, seeds: range, cut_of: Callable[[int], Cut] = random_cut) -> None:
    for seed in seeds:
        CHECKS[name](cut_of(seed))


@pytest.mark.parametrize("first", range(0, 320, 40))
def test_carried_out_a_work_list_gives_the_exact_attention(first: int) -> None:
    ask(ATTENTION, range(first, first + 40))


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_work_list_has_the_property(name: str) -> None:
    ask(name, range(80), kept_cut)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_check(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(Violation, match=name):
        ask(name, range(40))


def test_every_check_has_a_fault() -> None:
    assert {name for name, _ in FAULTS.values()} == set(CHECKS)


def test_a_partial_result_of_nothing_is_zero_and_minus_infinity() -> None:
    """Items that a token sees nothing of exist, and leave no trace in the merge."""
    seen_nothing = 0
    for seed in range(60):
        cut = random_cut(seed)
        if cut.case.window is not None:
            output, log_sum_exp = carry_out(cut.case, cut.list)
            assert np.isfinite(output).all()
            assert np.isfinite(log_sum_exp).all()
            seen_nothing += cut.list.num_items > len(cut.case.plan.groups)
    assert seen_nothing > 3


def test_how_the_work_is_cut_changes_the_answer_by_rounding_alone() -> None:
    case = attention_case(3)
    answers = [
        carry_out(case, cut_work(case.plan, tile=tile, query_tile=chunk, num_items=items, by_block=by_block))[0]
        for tile, chunk, items, by_block in ((1, 1, 1, False), (16, 4, 50, True), (64, 64, 1000, False))
    ]
    for answer in answers:
        np.testing.assert_allclose(answer, exact_attention(case).output, atol=1e-12)


TABLES = ("tokens", "items", "order", "segments", "turns", "offsets", "column_slots")


def remember(num_passes: int) -> None:
    """Two sessions write 1 to 20 tokens a pass, so that tiles come and go, and publish or cut a step now and then.

    What is remembered from pass to pass changes no table, and a work list that was given out never changes.
    """
    rng, pool, planner, given_out = np.random.default_rng(0), PagePool(64), Planner(), []
    sessions = [[Block(pool) for _ in range(4)] for _ in range(2)]  # a common block, three workers
    for common, *_ in sessions:
        common.append([0] * 50)
    for _ in range(num_passes):
        for common, *owns in sessions:
            own = owns[rng.integers(3)]
            if rng.random() < 0.2 and len(own):
                common.link(own)
            elif rng.random() < 0.1:
                own.truncate(len(own) // 2)
        groups = [
            [Row((common, *(b for b in owns if b is not own), own), (0,)) for own in owns] for common, *owns in sessions
        ]
        many = int(rng.integers(3))
        groups[0][many] = Row(groups[0][many].view, (0,) * int(rng.choice([1, 2, 2, 20])))
        slots = [[row.own.append(row.token_ids) for row in group] for group in groups]
        how = {
            "tile": 16,
            "query_tile": 4,
            "num_items": 12,
            "by_block": rng.random() < 0.1,
            "span": int(rng.choice([0, 0, 2])),
        }
        kept, fresh = (cut_work(plan(groups, pool.num_slots, slots), **how) for plan in (planner.plan, build_plan))
        for table in TABLES:
            np.testing.assert_array_equal(getattr(kept, table), getattr(fresh, table), err_msg=table)
        given_out.append((kept, fresh))
    for kept, fresh in given_out:
        for table in TABLES:
            np.testing.assert_array_equal(getattr(kept, table), getattr(fresh, table), err_msg=f"{table}, later")


def test_what_is_remembered_from_pass_to_pass_changes_no_table() -> None:
    remember(150)


@pytest.mark.parametrize("fault", MEMORY_FAULTS)
def test_what_is_remembered_wrongly_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MEMORY_FAULTS[fault](monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        remember(150)


def test_a_group_that_is_skipped_has_no_work() -> None:
    pool = PagePool(8)
    owns = [Block(pool) for _ in range(3)]
    groups = [[Row((own,), (0,) * length)] for own, length in zip(owns, (2, 3, 1), strict=True)]
    slots = [[row.own.append(row.token_ids) for row in group] for group in groups]
    made = cut_work(build_plan(groups, pool.num_slots, slots), tile=16, query_tile=4, num_items=3, skip={1})
    assert (made.tokens[:, 4] - made.tokens[:, 3]).tolist() == [1, 1, 0, 0, 0, 1]
    assert made.items[:, :2].tolist() == [[0, 2], [5, 1]]
    assert made.column_slots.tolist() == np.concatenate([owns[0].slots, owns[2].slots]).tolist()
