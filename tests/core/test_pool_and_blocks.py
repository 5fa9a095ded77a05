"""Pages, blocks, reservations and plans under any sequence of operations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from core_invariants import INVARIANTS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pool_model import Key, World, apply, random_world

from hogwild.core.blocks import LONG_PAGES, Block
from hogwild.core.pool import PagePool
from hogwild.errors import HogwildError, LayoutError, OptionError, PoolExhausted

pytestmark = pytest.mark.usefixtures("short_spans")

NUMBERS = st.integers(0, 2**16)


class Pages(RuleBasedStateMachine):
    """A pool, some reservations and blocks; every invariant is asked after every operation."""

    @initialize(page_size=st.sampled_from([1, 2, 3, 16]), num_pages=st.integers(1, 3), limit=st.sampled_from([12, 40]))
    def start(self, page_size: int, num_pages: int, limit: int) -> None:
        self.world = World(page_size, num_pages, limit)

    @rule(source=NUMBERS)
    def new(self, source: int) -> None:
        apply(self.world, "new", source, 0)

    @rule(which=NUMBERS, count=NUMBERS)
    def append(self, which: int, count: int) -> None:
        apply(self.world, "append", which, count)

    @rule(into=NUMBERS, step=NUMBERS)
    def publish(self, into: int, step: int) -> None:
        apply(self.world, "publish", into, step)

    @rule(which=NUMBERS)
    def fork(self, which: int) -> None:
        apply(self.world, "fork", which, 0)

    @rule(which=NUMBERS, length=NUMBERS)
    def truncate(self, which: int, length: int) -> None:
        apply(self.world, "truncate", which, length)

    @rule(count=NUMBERS)
    def reserve(self, count: int) -> None:
        apply(self.world, "reserve", count, 0)

    @rule(which=NUMBERS)
    def drop(self, which: int) -> None:
        apply(self.world, "drop", which, 0)

    @rule(seed=NUMBERS)
    def forward(self, seed: int) -> None:
        apply(self.world, "forward", seed, 0)

    @invariant()
    def all_invariants_hold(self) -> None:
        if hasattr(self, "world"):
            for check in INVARIANTS.values():
                check(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            assert self.world.pool.num_used == self.world.pool.num_reserved == 0
            self.world.pool.check()


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=50, stateful_step_count=30)


@pytest.mark.parametrize("seed", range(12))
def test_long_histories(seed: int) -> None:
    for world in random_world(seed, 150):
        for check in INVARIANTS.values():
            check(world)
    world.close()
    assert world.pool.num_used == world.pool.num_reserved == 0


def test_keys_stay_where_they_are_through_a_thousand_publishes() -> None:
    world = World(page_size=4, num_pages=1, max_pages=None)
    common, *workers = world.twins
    world.append(0, 5)
    order = common.token_ids
    for step in range(1000):
        author = 1 + step % len(workers)
        world.append(author, 1 + step % 5)
        world.append(3 - author, step % 2)
        order += world.twins[author].token_ids
        world.publish(0, author)
    assert common.token_ids == order
    assert len(set(order)) == len(order)
    assert common.block.num_runs == 1001
    for seed in range(3):
        apply(world, "forward", seed, 0)
        for check in INVARIANTS.values():
            check(world)


def test_a_block_that_is_cut_and_written_anew_is_listed_anew() -> None:
    pool = PagePool(page_size=2)
    common, step = Block(pool), Block(pool)
    for length in (3, 5, 2, 4):
        step.append(range(length))
        common.link(step)
    before = [array.tolist() for array in common.listed()[:2]]
    common.truncate(9)
    step.append([7])  # takes what was left, so that the tokens come to lie elsewhere
    common.append(range(5))
    slots, index = (array.tolist() for array in common.listed()[:2])
    assert len(slots) == len(before[0])
    assert slots != before[0]
    assert slots == common.slots[index].tolist()
    assert sorted(index) == list(range(len(common)))


def test_fork_then_write_leaves_the_other_side() -> None:
    pool = PagePool(page_size=4)
    first = Block(pool)
    first.append([1, 2])
    twin = first.fork()
    for block, other in itertools.permutations([first, twin]):
        before = other.token_ids.tolist(), other.slots.tolist()
        slots = block.append([7, 8, 9])
        assert not set(slots.tolist()) & set(other.slots.tolist())
        assert (other.token_ids.tolist(), other.slots.tolist()) == before
    first.clear()
    assert twin.token_ids.tolist() == [1, 2, 7, 8, 9]
    assert all(pool.references(page) == 1 for page in twin.page_ids)
    twin.clear()
    assert pool.num_used == 0


def test_the_next_run_begins_where_a_published_step_has_ended() -> None:
    pool = PagePool(page_size=4)
    common, step, other = Block(pool), Block(pool), Block(pool)
    assert step.append([1]).tolist() == [0]
    assert step.append([2]).tolist() == [1]
    assert other.append([3]).tolist() == [4], "nobody writes in the page of a step that grows"
    common.link(step)
    assert step.append([4, 5, 6]).tolist() == [2, 3, 8]
    common.link(other)
    assert common.append([7]).tolist() == [5]
    assert common.run_positions.tolist() == [0, 0, 3]
    assert common.append([8]).tolist() == [6]


def test_long_runs_begin_in_pages_of_their_own() -> None:
    pool = PagePool(page_size=4)
    common, step, text = Block(pool), Block(pool), Block(pool)
    step.append([1])
    common.link(step)
    assert text.append([2] * 4 * LONG_PAGES).tolist() == list(range(4, 4 + 4 * LONG_PAGES))
    assert step.append([6]).tolist() == [1]


def test_short_steps_lie_without_gaps() -> None:
    pool = PagePool(num_pages=64, page_size=16)
    common, owns = Block(pool), [Block(pool) for _ in range(2)]
    for step in range(100):
        own = owns[step % 2]
        own.append([0] * 4)
        for _ in range(2):
            own.append([0])
        common.link(own)
    assert len(common) == 600
    assert pool.num_used <= 600 // 16 + 2


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_pass_that_is_rolled_back_is_written_to_the_same_slots(count: int) -> None:
    pool = PagePool(num_pages=8, page_size=4)
    common, step, own = Block(pool), Block(pool), Block(pool)
    step.append([1])
    common.link(step)
    for _ in range(2):
        first = own.append([2] * count).tolist()
        held = own.page_ids
        own.truncate(len(own) - count)
        assert own.append([3] * count).tolist() == first
        assert own.page_ids == held
    own.clear()
    assert Block(pool).append([4]).tolist() == [1], "what was left of the step is free again"


def test_what_others_have_written_behind_a_cut_step_stays() -> None:
    pool = PagePool(page_size=8)
    common, step = Block(pool), Block(pool)
    step.append([1, 2, 3])
    common.link(step)
    assert step.append([4, 5]).tolist() == [3, 4]
    common.truncate(1)
    assert step.append([6]).tolist() == [5]
    common.clear()
    assert Block(pool).append([7]).tolist() == [6], "the page is offered from behind the step on"


def test_a_fork_and_its_twin_do_not_take_slots_back() -> None:
    pool = PagePool(page_size=8)
    first = Block(pool)
    first.append([1, 2, 3])
    twin = first.fork()
    first.truncate(1)
    assert first.append([4]).tolist() == [8]
    assert twin.append([5]).tolist() == [3]


def test_growing_blocks_stay_contiguous() -> None:
    pool = PagePool(num_pages=8, page_size=4)
    long = Block(pool)
    for token in range(32):
        long.append([token])
    assert long.slots.tolist() == list(range(32))


def test_allocation_is_all_or_nothing() -> None:
    pool = PagePool(num_pages=1, max_pages=3)
    kept = pool.allocate(2)
    with pytest.raises(PoolExhausted, match="expected: 2 free pages; got: 1 of 3"):
        pool.allocate(2)
    assert pool.num_used == 2
    pool.release(kept)
    assert sorted(pool.allocate(3)) == [0, 1, 2]


def test_reserved_pages_are_there_when_they_are_needed() -> None:
    pool = PagePool(num_pages=1, max_pages=6)
    share = pool.reserve(4)
    pool.allocate(2)
    with pytest.raises(PoolExhausted):
        pool.allocate(1)
    with pytest.raises(PoolExhausted):
        pool.reserve(1)
    block = Block(share)
    block.append(range(4 * pool.page_size))
    with pytest.raises(PoolExhausted, match="reserved for it"):
        block.append([1])
    block.clear()
    share.close()
    assert pool.num_available() == 4


def test_an_open_reservation_cannot_be_closed_while_pages_are_held() -> None:
    pool = PagePool()
    share = pool.reserve(2)
    Block(share).append([1])
    with pytest.raises(AssertionError, match="still held"):
        share.close()


def test_an_extended_reservation_gives_everything_back() -> None:
    pool = PagePool(num_pages=1, max_pages=4)
    share = pool.reserve(1)
    share.extend(2)
    with pytest.raises(PoolExhausted):
        share.extend(2)
    assert (share.count, pool.num_reserved) == (3, 3)
    share.close()
    assert pool.num_reserved == 0


def test_shrinking_forgets_free_pages_only() -> None:
    pool = PagePool(num_pages=2)
    pages = pool.allocate(5)
    pool.release(page for page in pages if page >= 2)
    pool.shrink_to(2)
    pool.check()
    assert (pool.capacity, pool.num_used) == (2, 2)
    with pytest.raises(AssertionError):
        pool.shrink_to(1)


@pytest.mark.parametrize("sizes", [(0, None, 16), (4, 3, 16), (4, None, 0)])
def test_impossible_pools_are_refused(sizes: tuple[int, int | None, int]) -> None:
    with pytest.raises(OptionError):
        PagePool(*sizes)


def test_impossible_operations_are_refused_and_change_nothing() -> None:
    pool = PagePool()
    block, foreign = Block(pool, "ours"), Block(pool.reserve(1), "theirs")
    block.append([1, 2])
    foreign.append([3])
    for wrong, error in [
        (lambda: block.link(block), LayoutError),
        (lambda: block.link(foreign), LayoutError),
        (lambda: block.truncate(3), OptionError),
        (lambda: block.truncate(-1), OptionError),
    ]:
        with pytest.raises(error) as caught:
            wrong()
        assert isinstance(caught.value, HogwildError)
        assert (block.token_ids.tolist(), foreign.token_ids.tolist()) == ([1, 2], [3])
    pool.check()


def test_arrays_of_a_block_are_read_only() -> None:
    block = Block(PagePool())
    block.append([1, 2])
    for array in (block.token_ids, block.slots, block.run_starts, block.run_positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9


def test_where_pages_lie_changes_no_number_of_a_plan_but_the_slots() -> None:
    """The same history in a tidy pool and in a scattered one."""
    tidy, scattered = World(4, 1, None), World(4, 64, None)
    taken = scattered.pool.allocate(64)
    scattered.pool.release(np.random.default_rng(0).permutation(taken)[:40].tolist())
    plans = []
    for world in (tidy, scattered):
        for operation, a, b in [
            ("append", 0, 7),
            ("append", 1, 6),
            ("publish", 0, 1),
            ("append", 1, 5),
            ("append", 2, 3),
        ]:
            apply(world, operation, a, b)
        apply(world, "forward", 8, 0)
        assert world.last_pass is not None
        plans.append(world.last_pass.plan)
    one, other = plans
    assert one.groups[0].column_slots.tolist() != other.groups[0].column_slots.tolist()
    for a, b in zip(one.groups, other.groups, strict=True):
        for name in ("token_row", "run_start", "run_shift", "offsets", "column_index"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert [Key(*k) for k in zip(one.token_ids, one.positions, strict=True)] == [
        Key(*k) for k in zip(other.token_ids, other.positions, strict=True)
    ]
