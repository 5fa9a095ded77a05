"""Faults to seed into the core, each as a small patch; what they break is told by the test that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from hogwild.core import plan, rotary, tiles
from hogwild.core.blocks import Block, IntArray, IntBuffer
from hogwild.core.plan import GroupPlan, Row
from hogwild.core.pool import PagePool, Reservation

Patch = pytest.MonkeyPatch
FAULTS: dict[str, tuple[str, Callable[[Patch], None]]] = {}
"""The invariant that must notice a fault, and what plants it."""


def fault(breaks: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS[plant.__name__] = (breaks, plant)
        return plant

    return register


# Pages


@fault("free and held pages are all pages")
def growth_loses_free_pages(patch: Patch) -> None:
    grow = PagePool._grow_to

    def grow_to(self: PagePool, count: int) -> None:
        free = self._num_free
        grow(self, count)
        self._num_free = max(free, count)

    patch.setattr(PagePool, "_grow_to", grow_to)


@fault("free and held pages are all pages")
def released_pages_stay_marked_as_used(patch: Patch) -> None:
    release = PagePool.release

    def forgetful(self: PagePool, pages: Iterable[int]) -> int:
        free = bytes(self._free)
        freed = release(self, pages)
        self._free[: len(free)] = free
        return freed

    patch.setattr(PagePool, "release", forgetful)


@fault("reference counts are the number of holders")
def fork_counts_no_reference(patch: Patch) -> None:
    patch.setattr(PagePool, "retain", lambda self, pages: None)


@fault("reference counts are the number of holders")
def publishing_releases_the_pages_of_the_step(patch: Patch) -> None:
    link = Block.link

    def early(self: Block, step: Block) -> None:
        pages = step.page_ids
        link(self, step)
        self._pages.release(pages)

    patch.setattr(Block, "link", early)


@fault("keys never change after they were written")
def a_page_is_reused_while_it_is_read(patch: Patch) -> None:
    """The pool takes the lowest page, whoever holds it."""
    choose = PagePool._choose

    def stale(self: PagePool, count: int, near: int | None) -> list[int]:
        pages = choose(self, count, near)
        return [0, *pages[1:]] if pages and near is not None and 0 not in pages else pages

    patch.setattr(PagePool, "_choose", stale)


@fault("a refused operation changes nothing")
def allocation_takes_what_it_can_before_it_refuses(patch: Patch) -> None:
    allocate = PagePool.allocate

    def greedy(self: PagePool, count: int, near: int | None = None, *, reserved: bool = False) -> list[int]:
        available = self.num_available()
        if not reserved and available is not None and 0 < available < count:
            allocate(self, available, near)
        return allocate(self, count, near, reserved=reserved)

    patch.setattr(PagePool, "allocate", greedy)


@fault("reservations add up")
def freed_pages_do_not_return_to_the_reservation(patch: Patch) -> None:
    def leak(self: Reservation, pages: Iterable[int]) -> int:
        freed = self._pool.release(pages)
        self.num_used -= freed
        return freed

    patch.setattr(Reservation, "release", leak)


@fault("reservations add up")
def reserved_pages_are_counted_twice(patch: Patch) -> None:
    allocate = PagePool.allocate
    patch.setattr(PagePool, "allocate", lambda self, count, near=None, *, reserved=False: allocate(self, count, near))


# Blocks


@fault("published and shared pages are never written")
def append_writes_into_a_shared_page(patch: Patch) -> None:
    patch.setattr(PagePool, "references", lambda self, page: min(self._references[page], 1))


@fault("published and shared pages are never written")
def a_published_page_may_be_continued(patch: Patch) -> None:
    link = Block.link

    def left_open(self: Block, step: Block) -> None:
        link(self, step)
        self._open = bool(len(self))

    patch.setattr(Block, "link", left_open)


@fault("blocks hold their tokens in order, none lost or doubled")
def publishing_drops_the_last_token(patch: Patch) -> None:
    link = Block.link

    def short(self: Block, step: Block) -> None:
        link(self, step)
        self.truncate(max(len(self) - 1, 0))

    patch.setattr(Block, "link", short)


@fault("blocks hold their tokens in order, none lost or doubled")
def a_step_is_published_before_the_earlier_ones(patch: Patch) -> None:
    link = Block.link

    def swapped(self: Block, step: Block) -> None:
        own = len(self)
        link(self, step)
        for name in ("_token_ids", "_slots"):
            values = getattr(self, name).array
            setattr(self, name, IntBuffer(np.concatenate([values[own:], values[:own]])))

    patch.setattr(Block, "link", swapped)


@fault("blocks hold their tokens in order, none lost or doubled")
def a_step_stays_with_its_author_too(patch: Patch) -> None:
    link = Block.link

    def doubled(self: Block, step: Block) -> None:
        link(self, step.fork())

    patch.setattr(Block, "link", doubled)


@fault("blocks hold their tokens in order, none lost or doubled")
def fork_shares_its_arrays(patch: Patch) -> None:
    fork = Block.fork

    def shallow(self: Block, name: str = "") -> Block:
        twin = fork(self, name)
        twin._token_ids = self._token_ids
        return twin

    patch.setattr(Block, "fork", shallow)


@fault("key positions are those at which they were written")
def publishing_shifts_the_key_positions(patch: Patch) -> None:
    link = Block.link

    def shifted(self: Block, step: Block) -> None:
        before = self.run_positions.copy()
        link(self, step)
        self._run_position = IntBuffer(np.concatenate([before, self.run_positions[len(before) :] + 1]))

    patch.setattr(Block, "link", shifted)


@fault("key positions are those at which they were written")
def a_published_run_is_continued(patch: Patch) -> None:
    """The block writes on a page of its own, but counts its tokens to the run of the step."""
    append = Block.append

    def merged(self: Block, token_ids: Any) -> IntArray:
        runs = self.num_runs
        slots = append(self, token_ids)
        if self.num_runs > runs > 0:
            self._run_start.truncate(runs)
            self._run_position.truncate(runs)
        return slots

    patch.setattr(Block, "append", merged)


@fault("pages are held while they are read, and no longer")
def truncate_keeps_the_pages(patch: Patch) -> None:
    patch.setattr(Block, "truncate", lambda self, length: self._forget(length) if length < len(self) else None)


@fault("pages are held while they are read, and no longer")
def truncate_releases_a_page_too_many(patch: Patch) -> None:
    truncate = Block.truncate

    def eager(self: Block, length: int) -> None:
        truncate(self, length)
        if len(self._held) > 1:
            self._held_first.truncate(len(self._held) - 1)
            self._pages.release([self._held.pop()])

    patch.setattr(Block, "truncate", eager)


# Plans


@fault("offsets are sums of earlier lengths")
def offsets_are_off_by_one(patch: Patch) -> None:
    offsets = plan._run_offsets
    patch.setattr(plan, "_run_offsets", lambda *args: offsets(*args) + 1)


@fault("offsets are sums of earlier lengths")
def offsets_ignore_where_a_run_begins(patch: Patch) -> None:
    offsets = plan._run_offsets
    patch.setattr(plan, "_run_offsets", lambda turns, seen, runs, shift: offsets(turns, seen, runs, 0 * shift))


@fault("offsets are sums of earlier lengths")
def offsets_count_the_lengths_before_the_pass(patch: Patch) -> None:
    """Each worker counts only the tokens that were there before the pass."""
    group = plan._plan_group

    def early(rows: list[Row], token_start: int) -> GroupPlan:
        def turns(views: Any, lengths: IntArray) -> Any:
            before = lengths.copy()
            for view, row in zip(views, rows, strict=True):
                before[view[-1]] -= len(row.token_ids)
            return block_turns(views, before)

        with patch.context() as inner:
            inner.setattr(plan, "_block_turns", turns)
            return group(rows, token_start)

    block_turns = plan._block_turns
    patch.setattr(plan, "_plan_group", early)


@fault("offsets are sums of earlier lengths")
def a_repeated_block_is_listed_once(patch: Patch) -> None:
    def once(rows: list[Row]) -> tuple[list[Block], list[list[int]]]:
        index: dict[Block, int] = {}
        views = [[index.setdefault(block, len(index)) for block in row.view] for row in rows]
        return list(index), views

    patch.setattr(plan, "_list_blocks", once)


def _readable(change: Callable[[IntArray, Any, IntArray, Any], None]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        readable = plan._readable_tokens

        def changed(views: Any, lengths: IntArray, counts: Any) -> IntArray:
            out = readable(views, lengths, counts)
            change(out, views, lengths, counts)
            return out

        patch.setattr(plan, "_readable_tokens", changed)

    return plant


@fault("a token reads its view and its own past, nothing else")
def a_token_does_not_read_itself(patch: Patch) -> None:
    def change(out: IntArray, views: Any, lengths: IntArray, counts: Any) -> None:
        own = np.repeat([view[-1] for view in views], counts)
        out[np.arange(len(out)), own] -= 1

    _readable(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def a_token_reads_its_own_future(patch: Patch) -> None:
    def change(out: IntArray, views: Any, lengths: IntArray, counts: Any) -> None:
        own = np.repeat([view[-1] for view in views], counts)
        out[np.arange(len(out)), own] = lengths[own]

    _readable(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def the_others_new_tokens_are_not_seen(patch: Patch) -> None:
    def change(out: IntArray, views: Any, lengths: IntArray, counts: Any) -> None:
        token = 0
        for view, count in zip(views, counts, strict=True):
            for other, new in zip(views, counts, strict=True):
                if other is not view:
                    rows = out[token : token + count]
                    rows[:, other[-1]] = np.minimum(rows[:, other[-1]], lengths[other[-1]] - new)
            token += count

    _readable(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def every_row_reads_every_block(patch: Patch) -> None:
    def change(out: IntArray, views: Any, lengths: IntArray, counts: Any) -> None:
        own = np.repeat([view[-1] for view in views], counts)
        mine = out[np.arange(len(out)), own]
        out[:] = lengths
        out[np.arange(len(out)), own] = mine

    _readable(change)(patch)


@fault("a window is counted from the query")
def windows_are_one_too_wide(patch: Patch) -> None:
    first = GroupPlan.first_visible
    patch.setattr(GroupPlan, "first_visible", lambda self, positions, window: first(self, positions, window + 1))


@fault("a window is counted from the query")
def windows_forget_the_offset(patch: Patch) -> None:
    def plain(self: GroupPlan, positions: IntArray, window: int) -> IntArray:
        return np.maximum(positions[:, None] - self.run_position - window + 1, 0)

    patch.setattr(GroupPlan, "first_visible", plain)


# Tiles


@fault("tiles hold every column once and mask the rest")
def padding_is_not_masked(patch: Patch) -> None:
    patch.setattr(tiles, "PADDING", 0)


@fault("tiles hold every column once and mask the rest")
def padding_reads_on_past_the_run(patch: Patch) -> None:
    cut = tiles._tiles

    def loose(start: IntArray, stop: IntArray, run: IntArray) -> Any:
        tile_run, columns, padding = cut(start, stop, run)
        limit = int(stop.max(initial=1)) - 1
        return tile_run, np.minimum(columns[:, :1] + np.arange(columns.shape[1]), limit), np.zeros_like(padding)

    patch.setattr(tiles, "_tiles", loose)


@fault("tiles hold every column once and mask the rest")
def tiles_gather_the_neighbour_slot(patch: Patch) -> None:
    cut = tiles._tiles

    def neighbour(start: IntArray, stop: IntArray, run: IntArray) -> Any:
        tile_run, columns, padding = cut(start, stop, run)
        return tile_run, np.maximum(columns - 1, 0), padding

    patch.setattr(tiles, "_tiles", neighbour)


@fault("tiles hold every column once and mask the rest")
def slices_run_on_over_gaps(patch: Patch) -> None:
    """The longest run is read as one slice of the pool, wherever its pages lie."""

    def gaps(group: GroupPlan) -> IntArray:
        longest = int(np.argmax(np.diff(group.run_start)))
        return group.run_start[longest : longest + 2][None]

    patch.setattr(tiles, "_longest_stretches", gaps)


# Rotation: seen in the attention itself

ATTENTION = "block attention is flat attention"


@fault(ATTENTION)
def queries_are_turned_the_wrong_way(patch: Patch) -> None:
    patch.setattr(plan, "_block_turns", _negated(plan._block_turns))


def _negated(turns: Callable[..., Any]) -> Callable[..., Any]:
    def negated(*args: Any) -> Any:
        values, seen = turns(*args)
        return -values, seen

    return negated


@fault(ATTENTION)
def interleaved_pairs_are_taken_as_halves(patch: Patch) -> None:
    def halves(x: Any, spec: rotary.RotarySpec) -> Any:
        return x[..., : spec.num_dims // 2], x[..., spec.num_dims // 2 :]

    patch.setattr(rotary, "_pair", halves)


@fault(ATTENTION)
def the_attention_factor_is_applied_at_each_turn(patch: Patch) -> None:
    angles = rotary.exact_angles

    def scaled(positions: IntArray, spec: rotary.RotarySpec) -> Any:
        return tuple(spec.factor * table for table in angles(positions, spec))

    patch.setattr(rotary, "exact_angles", scaled)


@fault(ATTENTION)
def positions_count_from_one(patch: Patch) -> None:
    build = plan.build_plan

    def shifted(*args: Any) -> plan.ForwardPlan:
        made = build(*args)
        made.positions[:] += 1
        return made

    patch.setattr(plan, "build_plan", shifted)


@fault(ATTENTION)
def keys_are_written_to_the_slots_of_another_row(patch: Patch) -> None:
    build = plan.build_plan

    def rolled(*args: Any) -> plan.ForwardPlan:
        made = build(*args)
        made.write_slots[:] = np.roll(made.write_slots, 1)
        return made

    patch.setattr(plan, "build_plan", rolled)
