"""Blocks: append-only runs of tokens whose keys and values lie in pages; publishing relinks, nothing is copied.

A block is a sequence of *runs*. Within a run the stored keys stand at consecutive rotary positions, so one query
offset serves the whole run. A block that is only appended to has one run; publishing a step adds the step's runs, at
the positions at which they were written. Where a run's slots lie in memory does not matter.

A step's keys are therefore stored at the positions that they will have once it is published, as far as can be told when
it is begun (`origin`): then runs of many steps are asked by few different queries, and some go on in one another.
`Block.listed` gives them in the order in which they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray, IntBuffer, count_to
from hogwild.core.listing import Listed, Listing
from hogwild.core.pool import Leftovers, PagePool
from hogwild.errors import LayoutError, OptionError

LONG_PAGES = 8
"""A run that begins with so many pages of tokens begins in pages of its own, so that it lies in one piece."""
PERIOD = 1024
"""Positions begin anew after so many tokens: a model's own angles, in float32, err by more the larger they are."""


class Pages(Protocol):
    """Where a block takes its pages from: a `PagePool` or a session's `Reservation`."""

    @property
    def pool(self) -> PagePool: ...
    @property
    def leftovers(self) -> Leftovers: ...
    def allocate(self, count: int, near: int | None = None) -> list[int]: ...
    def release(self, pages: Iterable[int]) -> list[int]: ...


class Block:
    """Tokens with K/V in every layer: `token_ids[i]` is stored in `slots[i]`, for i in `0..len-1`."""

    def __init__(self, pages: Pages, name: str = "", place: int = 0) -> None:
        """place: see `place_at`."""
        self.name = name
        self._origin = place % PERIOD
        self._pages = pages
        self._held: list[int] = []  # pages, in order of use, with a reference for each time that one stands here
        self._held_first = IntBuffer()  # index of the first token in each of them
        self._slots = IntBuffer(dtype=np.int32)
        self._token_ids = IntBuffer()
        self._run_start = IntBuffer()  # index of the first token of each run
        self._run_position = IntBuffer()  # rotary position of each run's first key
        self._open_from: int | None = None  # the token from which on it was appended to, None: since it was linked to
        self._is_forked = False  # whether another block may hold some of the slots
        self._version = 0
        self._listed: Listed | None = None  # as it was when it was asked for last
        self._is_listed = False  # whether nothing has changed since
        self._listing: Listing | None = None  # a step that is being written needs none

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"Block({self.name!r}, {len(self)} tokens, {self.num_runs} runs, {len(self._held)} pages)"

    @property
    def pool(self) -> PagePool:
        """The pool that its pages belong to."""
        return self._pages.pool

    @property
    def token_ids(self) -> IntArray:
        """The tokens whose K/V the block holds, in order, [n]."""
        return self._token_ids.array

    @property
    def slots(self) -> Int32Array:
        """Where each token's K/V lies in the pool, [n]."""
        return self._slots.array

    @property
    def run_starts(self) -> IntArray:
        """Index in the block of each run's first token, [num_runs]."""
        return self._run_start.array

    @property
    def run_positions(self) -> IntArray:
        """Rotary position at which each run's first key is stored, [num_runs]."""
        return self._run_position.array

    @property
    def origin(self) -> int:
        """Rotary position of the first token."""
        return self._origin

    @property
    def num_runs(self) -> int:
        """How many runs the block consists of."""
        return len(self._run_start)

    def listed(self) -> Listed:
        """The keys in the order in which they are read; valid until the block changes."""
        last = self._listed
        if last is None or last.version != self._version:
            last = self._listed = self._list_anew()
        elif not self._is_listed:  # as the blocks that are written, in every pass
            count = count_to(len(self._slots))
            last = self._listed = Listed(self.slots, count, last.run_starts, last.run_shifts, last.version)
        self._is_listed = True
        return last

    def _list_anew(self) -> Listed:
        starts, positions = self.run_starts, self.run_positions
        if self.num_runs > 1:
            self._listing = self._listing or Listing()
            return self._listing.update(self.slots, starts, positions, self._version)
        return Listed(self.slots, count_to(len(self)), starts, positions - starts, self._version)

    def _changed(self, *, runs: bool) -> None:
        """What was listed is not so any more. runs: nor are the runs, if there is only one."""
        self._is_listed = False
        self._version += runs or self.num_runs > 1

    @property
    def page_ids(self) -> tuple[int, ...]:
        """The pages that the block holds, once for each reference."""
        return tuple(self._held)

    def place_at(self, index: int) -> None:
        """Say where the first token of this block, which is empty, will stand in the one that it is published into.

        A guess will do: only the number of ways in which queries are turned later depends on it, and last bits.
        `LayoutError` when there are tokens.
        """
        if len(self):
            raise LayoutError(
                f"block {self.name!r} cannot be placed elsewhere, since its keys stay as they were written",
                expected="an empty block",
                got=f"{len(self)} tokens",
            )
        self._origin = index % PERIOD

    def append(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Add tokens at the end and return the slots for their K/V, [n]: all of them, or `PoolExhausted` and no change.

        A slot that any block holds is never written. A run goes on in its last page while nobody else has been given a
        slot behind it, and a short one begins in what a published step has left of a page.
        """
        count, length = len(token_ids), len(self)
        if count == 0:
            return np.empty(0, dtype=np.int64)
        tail = self._writable_tail()
        if count == 1 and tail:  # as every worker does in nearly every pass
            self.pool.give_out(tail.start)
            self._slots.push(tail.start)
            self._token_ids.push(token_ids[0])
            self._changed(runs=False)
            return np.array([tail.start])
        slots = self._find_slots(tail[:count], count)
        if self._open_from is None:
            self._open_from = length
            self._add_runs(np.array([length]), np.array([length + self._origin]))
        self._slots.extend(slots)
        self._token_ids.extend(token_ids)
        self._changed(runs=False)
        return np.array(slots)

    def link(self, step: Block) -> None:
        """Publish: move all of `step`'s tokens to the end of this block and leave `step` empty.

        Pages change hands; no key or value byte moves and no key is turned again. What the step leaves of its last
        page goes to whoever begins a run next.
        """
        if step is self or step._pages is not self._pages:
            raise LayoutError(
                f"block {step.name!r} cannot be published into block {self.name!r}",
                expected="two blocks that draw from the same pool or reservation",
                got="one block" if step is self else "blocks of different pools or reservations",
            )
        length, last_page = len(self), step._held[-1:]
        self._is_forked |= step._is_forked
        self._held += step._held
        self._held_first.extend(step._held_first.array + length)
        self._slots.extend(step.slots)
        self._token_ids.extend(step.token_ids)
        self._add_runs(step.run_starts + length, step.run_positions)
        self._changed(runs=False)
        self._open_from = None
        step._forget(0)
        step._held = []
        self._offer(last_page)

    def fork(self, name: str = "") -> Block:
        """Make a block with the same content; pages are shared, and whoever appends second opens a new one."""
        twin = Block(self._pages, name or self.name, self._origin)
        twin._is_forked = self._is_forked = len(self) > 0
        self.pool.retain(self._held)
        twin._held = list(self._held)
        for field in ("_held_first", "_slots", "_token_ids", "_run_start", "_run_position"):
            setattr(twin, field, getattr(self, field).copy())
        twin._open_from = self._open_from
        return twin

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; pages that hold nothing any more are released."""
        if not 0 <= length <= len(self):
            raise OptionError(f"block {self.name!r} cannot be cut", expected=f"0..{len(self)} tokens", got=str(length))
        if length == len(self):
            return
        keep = int(np.searchsorted(self._held_first.array, length))
        dropped, self._held = self._held[keep:], self._held[:keep]
        begun = []
        if not self._is_forked:
            self._give_back(length, keep)
            begun = dropped[:1]
        self._forget(length)
        self._pages.release(dropped)
        self._offer(begun)  # if it was begun in what a step had left of it

    def clear(self) -> None:
        """Forget every token and release every page."""
        self.truncate(0)

    def _forget(self, length: int) -> None:
        """Shorten the arrays to `length` tokens; a run that was published is not continued afterwards."""
        runs = int(np.searchsorted(self._run_start.array, length))
        if self._open_from is not None and length <= self._open_from:
            self._open_from = None
        self._is_forked = self._is_forked and length > 0
        self._held_first.truncate(int(np.searchsorted(self._held_first.array, length)))
        self._slots.truncate(length)
        self._token_ids.truncate(length)
        self._changed(runs=runs < self.num_runs)
        if self._listing is not None:
            self._listing.forget(length)
        self._run_start.truncate(runs)
        self._run_position.truncate(runs)

    def _add_runs(self, starts: IntArray, positions: IntArray) -> None:
        """Add runs behind the last one; the first of them only if it does not go on where that one ends."""
        if self.num_runs and len(starts):
            goes_on = int(starts[0] - self._run_start.last == positions[0] - self._run_position.last)
            starts, positions = starts[goes_on:], positions[goes_on:]
        if len(starts):
            self._run_start.extend(starts)
            self._run_position.extend(positions)
            self._changed(runs=True)

    def _writable_tail(self) -> range:
        """The slots behind the last token in its page, if the run goes on there."""
        return range(0) if self._open_from is None else self.pool.writable_after(self._slots.last)

    def _find_slots(self, tail: range, count: int) -> list[int]:
        """`tail` and further slots, `count` in all, with their pages held: or `PoolExhausted` and no change."""
        leftover = self._find_leftover(count) if self._open_from is None else None
        if leftover is not None:
            tail = self.pool.rest(leftover)[:count]
        size, first = self.pool.page_size, len(self) + len(tail)
        num_new = -(-(count - len(tail)) // size)
        near = self._held[-1] if self._held else None
        new = self._pages.allocate(num_new, near if leftover is None else leftover) if num_new else []
        if leftover is not None:
            self.pool.retain([leftover])
            self._pages.leftovers.withdraw([leftover])
            self._held.append(leftover)
            self._held_first.push(len(self))
        self._held += new
        self._held_first.extend(range(first, first + num_new * size, size))
        slots = [*tail, *chain.from_iterable([range(page * size, (page + 1) * size) for page in new])][:count]
        for last in (*tail[-1:], slots[-1]):
            self.pool.give_out(last)
        return slots

    def _find_leftover(self, count: int) -> int | None:
        """The page in whose rest a run of so many tokens begins."""
        leftovers = self._pages.leftovers
        page = leftovers.last
        if page is None or count >= LONG_PAGES * self.pool.page_size:
            return None
        if self.pool.rest(page):
            return page
        leftovers.withdraw([page])  # a fork of the step has gone on in it
        return None

    def _give_back(self, length: int, keep: int) -> None:
        """Let others write the slots of the tokens from `length` on; `keep` of the held pages keep some token."""
        starts, slots, end = self._held_first.array, self.slots, len(self)
        for start in np.maximum(starts[max(keep - 1, 0) :], length)[::-1].tolist():
            if start < end:
                self.pool.take_back(range(int(slots[start]), int(slots[end - 1]) + 1))
            end = start

    def _offer(self, pages: Iterable[int]) -> None:
        """Offer what is left of pages that are still held."""
        for page in pages:
            if self.pool.references(page) and self.pool.rest(page):
                self._pages.leftovers.offer(page)
