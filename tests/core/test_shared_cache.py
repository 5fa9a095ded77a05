"""The low-level API: what a pass hands to the backend, and that a refused or failed one changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from recording_backend import CONTEXT, VOCAB, RecordingBackend

from hogwild.cache import SharedCache
from hogwild.core.blocks import Block
from hogwild.core.plan import PREFILL_CHUNK, Row
from hogwild.errors import HogwildError, LayoutError, OptionError, PoolExhausted, PromptError, TokenError


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


@pytest.fixture
def cache(backend: RecordingBackend) -> SharedCache:
    return SharedCache(backend, num_tokens=32, page_size=4)


def state_of(cache: SharedCache, *blocks: Block) -> object:
    """Everything that must stay when a pass is refused or fails, but for the number of free pages."""
    arrays = [
        (block.token_ids.tolist(), block.slots.tolist(), block.run_starts.tolist(), block.run_positions.tolist())
        for block in blocks
    ]
    pool = cache.pool
    references = {page: count for page in range(pool.capacity) if (count := pool.references(page))}
    return arrays, [block.page_ids for block in blocks], references, pool.num_reserved


def unchanged(cache: SharedCache, blocks: list[Block], error: type[BaseException], act: Callable[[], object]) -> str:
    """Assert that `act` raises `error` and leaves all as it was; returns the message."""
    before = state_of(cache, *blocks)
    with pytest.raises(error) as caught:
        act()
    assert state_of(cache, *blocks) == before, f"{error.__name__} left something behind"
    cache.pool.check()
    return str(caught.value)


def test_two_workers_read_each_other(cache: SharedCache, backend: RecordingBackend) -> None:
    prompt = cache.block([1, 2, 3], name="prompt")
    alice, bob = cache.new_block("alice"), cache.new_block("bob")
    result = cache.forward([Row((prompt, bob, alice), (10, 11)), Row((prompt, alice, bob), (20,))])
    assert cache.to_numpy(result).argmax(axis=1).tolist() == [11, 20]
    plan = backend.plans[-1]
    assert plan.token_ids.tolist() == [10, 11, 20]
    assert plan.positions.tolist() == [0, 1, 0]
    assert plan.write_slots.tolist() == [*alice.slots, *bob.slots]
    (group,) = plan.groups
    assert group.token_row.tolist() == [0, 0, 1]
    assert group.column_slots.tolist() == [*prompt.slots, *bob.slots, *alice.slots]
    assert group.offsets.tolist() == [[4, 1, 0], [5, 0, 2]]
    seen = group.sees(slice(None), group.column_run, group.column_index)
    assert seen.tolist() == [[*[True] * 3, True, True, False], [True] * 6, [True] * 6]


def test_a_failed_pass_is_rolled_back(cache: SharedCache, backend: RecordingBackend) -> None:
    prompt = cache.block(range(5))
    alice, bob = cache.block([1], [prompt]), cache.new_block("bob")
    published = cache.block([2, 3], [prompt])
    prompt.link(published)
    rows = [Row((prompt, alice), (4,) * 9), Row((prompt, bob), (5,)), Row((alice, prompt), (6,))]
    blocks = [prompt, alice, bob, published]
    for error in (RuntimeError("the device is gone"), KeyboardInterrupt(), MemoryError()):
        backend.fail_at, backend.error = 0, error
        unchanged(cache, blocks, type(error), lambda: cache.forward(rows))
    cache.forward(rows)
    assert alice.slots[1:].tolist() == backend.plans[-1].write_slots[:9].tolist()
    assert [len(block) for block in blocks] == [8, 10, 1, 0]


def test_a_pass_that_is_not_rolled_back_is_seen(
    cache: SharedCache, backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = cache.block([1])
    monkeypatch.setattr(Block, "truncate", lambda self, length: None)
    backend.fail_at = 0
    with pytest.raises(AssertionError, match="left something behind"):
        unchanged(cache, [own], RuntimeError, lambda: cache.forward([Row((own,), (2,))]))


def test_a_failed_prefill_leaves_nothing(cache: SharedCache, backend: RecordingBackend) -> None:
    prompt = cache.block([1])
    backend.fail_at = 1
    unchanged(cache, [prompt], RuntimeError, lambda: cache.block([2] * (PREFILL_CHUNK + 5), [prompt]))
    assert len(backend.plans) == 2, "the first chunk went through"


def test_prefill_goes_in_chunks(cache: SharedCache, backend: RecordingBackend) -> None:
    ids = (np.arange(PREFILL_CHUNK + 5) % VOCAB).tolist()
    block = cache.block(ids)
    assert block.token_ids.tolist() == ids
    assert [plan.num_tokens for plan in backend.plans] == [PREFILL_CHUNK, 5]
    assert all(len(plan.logit_tokens) == 0 for plan in backend.plans)
    assert backend.plans[1].positions.tolist() == list(range(PREFILL_CHUNK, PREFILL_CHUNK + 5))
    assert backend.num_slots >= cache.pool.num_slots


def test_prefilling_nothing_is_nothing(cache: SharedCache, backend: RecordingBackend) -> None:
    assert len(cache.block([])) == 0
    assert backend.plans == []


BAD_TOKENS = [-1, VOCAB, VOCAB + 1000, 1.5, "a", None]


@pytest.mark.parametrize("token", BAD_TOKENS, ids=map(repr, BAD_TOKENS))
def test_ids_outside_the_vocabulary_are_refused(cache: SharedCache, token: int) -> None:
    first, second = cache.block([1, 2]), cache.new_block()
    message = unchanged(
        cache, [first, second], TokenError, lambda: cache.forward([Row((first,), (3,)), Row((second,), (1, token))])
    )
    assert repr(token) in message
    unchanged(cache, [first], TokenError, lambda: cache.prefill(first, [1] * PREFILL_CHUNK + [token]))


def test_two_writers_of_a_block_are_refused(cache: SharedCache) -> None:
    common, own = cache.block([1]), cache.new_block("own")
    rows = [Row((common, own), (1,)), Row((own,), (2,))]
    unchanged(cache, [common, own], LayoutError, lambda: cache.forward(rows))
    unchanged(cache, [common, own], LayoutError, lambda: cache.forward_groups([[row] for row in rows]))


def test_blocks_of_another_cache_are_refused(cache: SharedCache) -> None:
    other, own = SharedCache(RecordingBackend()), cache.new_block("own")
    theirs = other.block([1])
    for view in [(theirs, own), (own, theirs)]:
        message = unchanged(cache, [own, theirs], LayoutError, lambda view=view: cache.forward([Row(view, (1,))]))
        assert "another cache" in message


def test_a_view_longer_than_the_context_is_refused(cache: SharedCache) -> None:
    long, alice, bob = cache.block([1] * (CONTEXT - 3)), cache.new_block("alice"), cache.new_block("bob")
    rows = [Row((long, bob, alice), (1, 2)), Row((long, alice, bob), (1, 2))]
    message = unchanged(cache, [long, alice, bob], PromptError, lambda: cache.forward(rows))
    assert f"at most {CONTEXT} tokens; got: {CONTEXT + 1} tokens" in message
    cache.forward([Row((long, bob, alice), (1, 2)), Row((long, alice, bob), (1,))])
    unchanged(cache, [long, alice, bob], PromptError, lambda: cache.forward([Row((long, alice, bob), (1,))]))


def test_a_view_is_as_long_as_what_it_reads(cache: SharedCache) -> None:
    """Other views count nothing, and a block that is read twice counts twice."""
    first, second = cache.block([1] * (CONTEXT - 1)), cache.block([1] * (CONTEXT // 2))
    cache.forward([Row((first,), (1,)), Row((second,), (1,))])
    own = cache.new_block()
    unchanged(cache, [second, own], PromptError, lambda: cache.forward([Row((second, second, own), (1,))]))


def test_other_views_than_those_of_the_last_pass_are_checked(cache: SharedCache) -> None:
    theirs, (first, second) = SharedCache(RecordingBackend()).block([1]), (cache.block([1]) for _ in range(2))
    for view in [(first,), (theirs, second)]:
        cache.forward([Row((first,), (1,)), Row((second,), (1,))])
        rows = [Row((first,), (1,)), Row(view, (1,))]
        for _ in range(2):  # what was refused once is no good the next time either
            unchanged(cache, [first, second, theirs], LayoutError, lambda rows=rows: cache.forward(rows))


def test_an_over_long_prompt_is_refused_before_anything_is_computed(
    cache: SharedCache, backend: RecordingBackend
) -> None:
    unchanged(cache, [], PromptError, lambda: cache.block([1] * (CONTEXT + 1)))
    assert backend.plans == []


@pytest.mark.parametrize("groups", [[], [[]], [[], []]])
def test_empty_passes_are_refused(cache: SharedCache, groups: list[list[Row]]) -> None:
    unchanged(cache, [], PromptError, lambda: cache.forward_groups(groups))


def test_a_pass_without_new_tokens_is_refused(cache: SharedCache) -> None:
    block = cache.block([1])
    unchanged(cache, [block], PromptError, lambda: cache.forward([Row((block,), ())]))


def test_a_row_without_tokens_writes_and_reads_nothing(cache: SharedCache, backend: RecordingBackend) -> None:
    busy, idle = cache.new_block(), cache.new_block()
    cache.forward_groups([[Row((busy, idle), ())], [Row((idle, busy), (7,)), Row((busy,), ())][:1]])
    (group,) = backend.plans[-1].groups
    assert (group.token_start, group.num_tokens, len(idle)) == (0, 1, 0)
    assert backend.plans[-1].logit_tokens.tolist() == [0]


def test_a_full_pool_changes_nothing(backend: RecordingBackend) -> None:
    cache = SharedCache(backend, num_tokens=8, max_tokens=16, page_size=4)
    first, second = cache.block([1] * 5), cache.block([2] * 4)
    rows = [Row((first,), (1,) * 4), Row((second,), (2,))]
    message = unchanged(cache, [first, second], PoolExhausted, lambda: cache.forward(rows))
    assert "remedy" in message
    unchanged(cache, [first, second], PoolExhausted, lambda: cache.block([3] * 9))
    cache.forward(rows[1:])


def test_a_device_without_room_leaves_a_pool_that_still_works() -> None:
    backend = RecordingBackend(room=12)
    cache = SharedCache(backend, num_tokens=8, page_size=4)
    first, second = cache.block([1] * 4), cache.block([2] * 4)
    unchanged(cache, [first, second], PoolExhausted, lambda: cache.forward([Row((first, second), (1,))]))
    assert cache.pool.capacity == 2
    first.clear()
    cache.forward([Row((second,), (1,))])
    assert cache.pool.num_used == 2


def test_offsets_that_are_too_far_are_refused(cache: SharedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hogwild.core.plan.MAX_OFFSET", 8)
    common, own = cache.block([1] * 8), cache.new_block()
    message = unchanged(cache, [common, own], HogwildError, lambda: cache.forward([Row((common, own), (1,))]))
    assert "turned too far" in message
    unread = [Row((common,), (1,)), Row((own,), (1,))]
    cache.forward(unread)


def test_logits_come_in_the_order_of_the_rows(cache: SharedCache) -> None:
    a, b, c = (cache.new_block(name) for name in "abc")
    rows = [Row((a,), (1, 2, 3), "all"), Row((b,), (4, 5), "none"), Row((c,), (6, 7))]
    result = cache.forward(rows)
    assert cache.to_numpy(result).argmax(axis=1).tolist() == [1, 2, 3, 7]


def test_views_are_checked_when_they_are_made(cache: SharedCache) -> None:
    block = cache.new_block("mine")
    with pytest.raises(LayoutError, match="empty"):
        Row((), (1,))
    with pytest.raises(LayoutError, match="'mine' twice"):
        Row((block, block), (1,))


def test_used_bytes_count_shared_pages_once(cache: SharedCache) -> None:
    block = cache.block([1] * 5)
    twin = block.fork()
    assert cache.kv_bytes_used == 2 * 4 * 8
    block.clear()
    twin.clear()
    assert cache.kv_bytes_used == 0


@pytest.mark.parametrize(
    "sizes", [{"num_tokens": 0}, {"num_tokens": -1}, {"max_tokens": 3, "page_size": 4}, {"page_size": 0}]
)
def test_a_cache_without_room_is_refused(backend: RecordingBackend, sizes: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        SharedCache(backend, **sizes)


def test_a_fixed_cache_never_grows(backend: RecordingBackend) -> None:
    cache = SharedCache(backend, num_tokens=10, max_tokens=10, page_size=4)
    cache.block([1] * 8)
    with pytest.raises(PoolExhausted):
        cache.block([1])
    assert backend.num_slots == 8


def test_a_newer_cache_takes_the_pool_over() -> None:
    backend = RecordingBackend()
    old = SharedCache(backend)
    block = old.block([1, 2, 3])
    new = SharedCache(backend)
    for use in (
        lambda: old.forward([Row((block,), (4,))]),
        lambda: old.prefill(block, [4]),
        lambda: old.read_kv(block, 0),
    ):
        with pytest.raises(OptionError, match="a newer cache or engine"):
            use()
    assert len(block) == 3
    new.block([1, 2, 3])
