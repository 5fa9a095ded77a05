"""Faults to seed into pages and blocks, each a small patch under the name of the invariant that must notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from hogwild.core.arrays import IntArray, IntBuffer
from hogwild.core.blocks import Block
from hogwild.core.pool import Leftovers, PagePool, Reservation

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

    def forgetful(self: PagePool, pages: Iterable[int]) -> list[int]:
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
    def leak(self: Reservation, pages: Iterable[int]) -> list[int]:
        freed = self._pool.release(pages)
        self.num_used -= len(freed)
        return freed

    patch.setattr(Reservation, "release", leak)


@fault("reservations add up")
def reserved_pages_are_counted_twice(patch: Patch) -> None:
    allocate = PagePool.allocate
    patch.setattr(PagePool, "allocate", lambda self, count, near=None, *, reserved=False: allocate(self, count, near))


# Blocks


@fault("slots that somebody holds are never written")
def append_goes_on_in_a_shared_page(patch: Patch) -> None:
    patch.setattr(
        PagePool, "writable_after", lambda self, slot: range(slot + 1, (slot // self.page_size + 1) * self.page_size)
    )


@fault("slots that somebody holds are never written")
def a_run_begins_at_the_start_of_a_held_page(patch: Patch) -> None:
    patch.setattr(PagePool, "rest", lambda self, page: range(page * self.page_size, (page + 1) * self.page_size))


@fault("slots that somebody holds are never written")
def a_fork_gives_back_what_its_twin_holds(patch: Patch) -> None:
    fork = Block.fork

    def careless(self: Block, name: str = "") -> Block:
        twin = fork(self, name)
        twin._is_forked = self._is_forked = False
        return twin

    patch.setattr(Block, "fork", careless)


@fault("what is on offer is held")
def freed_pages_stay_on_offer(patch: Patch) -> None:
    patch.setattr(Leftovers, "withdraw", lambda self, pages: None)


@fault("key positions are those at which they were written")
def a_published_run_may_be_continued(patch: Patch) -> None:
    link = Block.link

    def left_open(self: Block, step: Block) -> None:
        link(self, step)
        self._open_from = 0 if len(self) else None

    patch.setattr(Block, "link", left_open)


@fault("runs are as long as can be")
def every_step_is_a_run_of_its_own(patch: Patch) -> None:
    def added(self: Block, starts: IntArray, positions: IntArray) -> None:
        self._run_start.extend(starts)
        self._run_position.extend(positions)
        self._changed(runs=True)

    patch.setattr(Block, "_add_runs", added)


@fault("key positions are those at which they were written")
def every_step_goes_on_in_the_last_run(patch: Patch) -> None:
    add = Block._add_runs

    def fewer(self: Block, starts: IntArray, positions: IntArray) -> None:
        add(self, *((starts[1:], positions[1:]) if self.num_runs else (starts, positions)))

    patch.setattr(Block, "_add_runs", fewer)


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
