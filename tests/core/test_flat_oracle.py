"""Attention over blocks, by the plan, equals attention over each worker's view laid out flat (float64, 1e-10)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from core_oracle import SPECS, Scene, random_scenes
from hypothesis import given
from hypothesis import strategies as st
from oracle import KeyPool, Vectors, attend, encode, flat_attention, plan_attention, rope
from pool_model import OPERATIONS

from hogwild.core import tiles
from hogwild.core.blocks import Block
from hogwild.core.plan import ForwardPlan, Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.rotary import RotarySpec

pytestmark = pytest.mark.usefixtures("short_spans")

STEPS = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2**16), st.integers(0, 2**16))


@given(
    name=st.sampled_from(sorted(SPECS)),
    page_size=st.sampled_from([1, 3, 16]),
    window=st.sampled_from([None, 1, 5, 40]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    history=st.lists(STEPS, max_size=25),
    passes=st.lists(st.integers(0, 2**16), min_size=1, max_size=3),
)
def test_any_history(
    name: str,
    page_size: int,
    window: int | None,
    heads: tuple[int, int],
    history: list[tuple[str, int, int]],
    passes: list[int],
) -> None:
    scene = Scene(SPECS[name], page_size, window, heads)
    for operation, a, b in history:
        scene.do(operation, a, b)
    for seed in passes:
        scene.do("forward", seed, 0)
        scene.check()


@pytest.mark.parametrize("seed", range(8))
def test_long_histories(seed: int) -> None:
    random_scenes(seed, num_passes=40)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_rotary_code_of_the_core_agrees_with_complex_numbers(name: str) -> None:
    x, positions = np.random.default_rng(0).standard_normal((9, 2, 12)), np.arange(9) * 1000
    np.testing.assert_allclose(rope(x, positions, SPECS[name]), encode(x, positions, SPECS[name]), atol=1e-12)


def test_the_oracle_itself() -> None:
    """By hand: one head, no rotation, three tokens in two blocks."""
    vectors = Vectors(q=np.ones((3, 1, 1)), k=np.log([1.0, 2.0, 5.0])[:, None, None], v=np.eye(3)[:, None, :])
    none = RotarySpec(())
    np.testing.assert_allclose(
        flat_attention(vectors, [[0], [1, 2]], 2, none)[:, 0], [[1 / 3, 2 / 3, 0], [0.125, 0.25, 0.625]]
    )
    np.testing.assert_allclose(flat_attention(vectors, [[0], [1, 2]], 2, none, window=2)[1, 0], [0, 2 / 7, 5 / 7])
    turning = RotarySpec((1.0,))
    assert not np.allclose(encode(np.ones((1, 1, 2)), np.array([1]), turning), 1)


def test_the_oracle_sees_memory_that_nobody_wrote() -> None:
    written = np.array([[[1.0]], [[np.nan]]])
    assert np.isnan(attend(np.ones((1, 2, 1, 1)), written, written, np.array([[True, False]]))).all()


PlanOf = Callable[[list[list[Row]]], ForwardPlan]


def forward(pool: PagePool, groups: list[list[Row]]) -> ForwardPlan:
    appended = [[row.own.append(row.token_ids) for row in group] for group in groups]
    return build_plan(groups, pool.num_slots, appended)


@pytest.mark.parametrize("window", [None, 70])
def test_long_runs_read_as_slices_and_short_ones_as_tiles(window: int | None) -> None:
    pool, vectors = PagePool(page_size=16), Vectors.random(1, 900, 2, 1, 12, 4)
    keys = KeyPool(vectors, SPECS["half"])
    common, first, second = (Block(pool, name) for name in ("common", "first", "second"))
    ids = iter(range(900))

    def run(*rows: tuple[tuple[Block, ...], int]) -> None:
        made = [Row(view, tuple(next(ids) for _ in range(count))) for view, count in rows]
        plan = forward(pool, [made])
        expected = [
            flat_attention(vectors, [block.token_ids for block in row.view], len(row.token_ids), keys.spec, window)
            for row in made
        ]
        for tiled in (False, True):
            got = plan_attention(plan, keys, window, tiled=tiled)
            np.testing.assert_allclose(got, np.concatenate(expected), atol=1e-10)

    run(((common,), 300))
    run(((common, second, first), 150), ((common, first, second), 40))
    common.link(first)
    for _ in range(6):
        run(((common, second, first), 7), ((common, first, second), 9))
        common.link(second)
    plan = forward(pool, [[Row((common, first, second), (0,))]])
    cut = tiles.cut(plan.groups[0])
    assert len(cut.slices) == 2
    assert len(cut.tile_run) > 5
