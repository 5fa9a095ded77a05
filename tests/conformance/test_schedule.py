"""Statement L0: the reference gives the same bits whatever the schedule, and the kit sees where that fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hogwild.backends.reference import attention, tiles
from hogwild.conformance import plain
from hogwild.conformance.cases import KVDtype, attention_case
from hogwild.conformance.kit.attention import check_attention
from hogwild.conformance.kit.schedule import PARTS
from hogwild.conformance.kit.targets import find_targets

Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {}


def breaks(part: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a fault that no comparison with exact answers sees, under the part of L0 that it breaks."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS[part] = plant
        return plant

    return register


@breaks("worker order")
def tiles_added_as_the_group_lists_them(patch: Patch) -> None:
    patch.setattr(attention, "_order", lambda plan, parts, row: None)


@breaks("batch mates")
def tiles_added_in_the_order_of_the_first_row(patch: Patch) -> None:
    order = attention._order
    patch.setattr(attention, "_order", lambda plan, parts, row: order(plan, parts, 0))


def cut_by(patch: Patch, size: Callable[..., int]) -> None:
    """Short tiles whose size depends on the group."""
    cut = attention.cut

    def sized(group: attention.GroupPlan) -> list[tiles.Tiles]:
        patch.setattr(tiles, "SHORT", size(group))
        return cut(group)

    patch.setattr(attention, "cut", sized)


@breaks("chunks")
def tiles_cut_by_the_number_of_tokens(patch: Patch) -> None:
    cut_by(patch, lambda group: 16 if group.num_tokens < 8 else 8)


@breaks("pages")
def tiles_cut_by_the_place_of_the_pages(patch: Patch) -> None:
    cut_by(patch, lambda group: 16 if (np.diff(group.column_slots) > 0).all() else 8)


@pytest.mark.parametrize("part", [None, *FAULTS])
def test_the_kit_sees_a_fault_of_the_schedule(part: str | None, monkeypatch: Patch) -> None:
    if part is not None:
        FAULTS[part](monkeypatch)
    (reference,) = find_targets("reference")[0]
    monkeypatch.setattr("hogwild.conformance.kit.attention.SCHEDULE_EVERY", 2)
    checks = list(check_attention([reference], 24))
    assert all(check.passed for check in checks if check.statement == "oracle")
    failed = {check.name.partition(":")[0] for check in checks if not check.passed}
    assert part in failed if part else not failed


@pytest.mark.parametrize(("dtype", "kv_dtype"), [(np.float32, "auto"), (np.float64, "auto"), (np.float32, "int8")])
def test_the_reference_gives_the_same_bits_for_long_runs(dtype: type, kv_dtype: KVDtype, monkeypatch: Patch) -> None:
    """Tiles of both sizes, in place and gathered, and passes that are read in several chunks."""
    kinds: set[tuple[int, bool]] = set()
    taken = attention._taken

    def noted(pool: attention.Stored, part: tiles.Tiles) -> attention.Array:
        kinds.add((part.index.shape[1], part.in_place))
        return taken(pool, part)

    monkeypatch.setattr(attention, "_taken", noted)
    for seed in range(480, 484):
        case = plain.reference_case(attention_case(seed, max_length=500, max_work=1e6, kv_dtype=kv_dtype))
        monkeypatch.setattr(attention, "MAX_CHUNK_BYTES", 16 << 20)
        first = plain.reference_answer(case, dtype)
        monkeypatch.setattr(attention, "MAX_CHUNK_BYTES", 200_000)
        for name, part in PARTS.items():
            for tokens, given in part(case):
                assert plain.reference_answer(given, dtype).tobytes() == first[tokens].tobytes(), (seed, name)
    assert kinds == {(16, False), (64, False), (64, True)}
