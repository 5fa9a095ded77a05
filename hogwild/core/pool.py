"""Pages of K/V slots: allocate, reference-count, free.  Only ids live here; the arrays belong to a backend."""

from __future__ import annotations

from collections.abc import Iterable

from hogwild.errors import OptionError, PoolExhausted

PAGE_SIZE = 16
_FREE, _USED = b"\x01", 0


class Leftovers:
    """Held pages in which a published step has left slots, for whoever begins a run next."""

    def __init__(self) -> None:
        self._pages: dict[int, None] = {}

    @property
    def last(self) -> int | None:
        """The page that was offered last, if there is one."""
        return next(reversed(self._pages), None)

    def offer(self, page: int) -> None:
        """Somebody else may write what is left of `page`."""
        self._pages[page] = None

    def withdraw(self, pages: Iterable[int]) -> None:
        """These pages, as far as they are on offer, are so no more."""
        for page in pages:
            self._pages.pop(page, None)


class PagePool:
    """Pages `0..capacity-1`, each free or held by at least one reference.

    The pool starts with `num_pages` and doubles when it is full, up to `max_pages` (None: no limit). A page holds
    `page_size` slots; slot `s` lies in page `s // page_size`. Slots of a page are given out in order: what several
    holders have written in it lies below its first slot that was not given out.

    Attributes:
        leftovers: pages in which somebody else may go on.
    """

    def __init__(self, num_pages: int = 64, max_pages: int | None = None, page_size: int = PAGE_SIZE) -> None:
        if num_pages < 1 or page_size < 1 or (max_pages is not None and max_pages < num_pages):
            raise OptionError(
                "a page pool of that size cannot be made",
                expected="num_pages >= 1, page_size >= 1 and max_pages >= num_pages",
                got=f"num_pages={num_pages}, page_size={page_size}, max_pages={max_pages}",
            )
        self.page_size = page_size
        self.max_pages = max_pages
        self._free = bytearray(_FREE * num_pages)
        self._references = [0] * num_pages
        self._given_out = [0] * num_pages  # slots of each page
        self._num_free = num_pages
        self._reserved = 0
        self.leftovers = Leftovers()

    @property
    def pool(self) -> PagePool:
        """Itself: where the pages come from in the end."""
        return self

    @property
    def capacity(self) -> int:
        """Pages that exist now, free or held."""
        return len(self._free)

    @property
    def num_slots(self) -> int:
        """Slots that a backend must hold for the pages that exist now."""
        return self.capacity * self.page_size

    @property
    def num_used(self) -> int:
        """Pages held by at least one reference."""
        return self.capacity - self._num_free

    @property
    def num_reserved(self) -> int:
        """Pages set aside by open reservations and not yet held."""
        return self._reserved

    def references(self, page: int) -> int:
        """How many holders a page has; 0 when it is free."""
        return self._references[page]

    def writable_after(self, slot: int) -> range:
        """The slots behind `slot` in its page, if a holder whose last token lies in `slot` may write them.

        It may when it is the only holder, or when it was the last one that was given a slot there.
        """
        page, offset = divmod(slot, self.page_size)
        if self._references[page] == 1 or self._given_out[page] == offset + 1:
            return range(slot + 1, (page + 1) * self.page_size)
        return range(0)

    def rest(self, page: int) -> range:
        """The slots of a held page that were not given out."""
        return range(page * self.page_size + self._given_out[page], (page + 1) * self.page_size)

    def give_out(self, slot: int) -> None:
        """Somebody writes the slots of a page up to `slot`."""
        page, offset = divmod(slot, self.page_size)
        self._given_out[page] = offset + 1

    def take_back(self, slots: range) -> None:
        """The slots of one page that nobody but the caller was ever given; kept if later ones were given out."""
        page, offset = divmod(slots.start, self.page_size)
        if self._given_out[page] == offset + len(slots):
            self._given_out[page] = offset

    def num_available(self) -> int | None:
        """Pages that can still be taken outside every reservation; None when there is no limit."""
        return None if self.max_pages is None else self.max_pages - self.num_used - self._reserved

    def allocate(self, count: int, near: int | None = None, *, reserved: bool = False) -> list[int]:
        """Take `count` pages with one reference each: all of them, or none and `PoolExhausted`.

        The pages after `near` come first, so that a growing block stays contiguous where it can. `reserved` takes them
        from what a reservation has set aside.
        """
        available = self.num_available()
        if not reserved and available is not None and count > available:
            raise PoolExhausted(
                "the K/V pool is full",
                expected=f"{count} free pages",
                got=f"{available} of {self.max_pages} ({self.page_size} tokens each)",
                remedy="raise the cache limit, or lower the number of workers, passes or concurrent problems",
            )
        self._grow_to(count)
        pages = self._choose(count, near)
        for page in pages:
            self._free[page] = _USED
            self._references[page] = 1
            self._given_out[page] = self.page_size  # until its holder says which one it gave out last
        self._num_free -= count
        if reserved:
            self._reserved -= count
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Add one reference to each page."""
        for page in pages:
            assert self._references[page] > 0, f"page {page} is free"
            self._references[page] += 1

    def release(self, pages: Iterable[int]) -> list[int]:
        """Drop one reference from each page and return those that became free."""
        freed = []
        for page in pages:
            assert self._references[page] > 0, f"page {page} is free"
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free[page] = _FREE[0]
                freed.append(page)
        self._num_free += len(freed)
        self.leftovers.withdraw(freed)
        return freed

    def reserve(self, count: int) -> Reservation:
        """Set `count` pages aside for one session, or raise `PoolExhausted`."""
        available = self.num_available()
        if available is not None and count > available:
            raise PoolExhausted(
                "the K/V pool has no room for this session's worst case",
                expected=f"{count} pages of {self.page_size} tokens",
                got=f"{available} of {self.max_pages} not promised to other sessions",
                remedy="raise the cache limit, lower max_tokens or the number of workers, or wait for a session to end",
            )
        self._reserved += count
        return Reservation(self, count)

    def shrink_to(self, num_pages: int) -> None:
        """Forget pages from `num_pages` on, as if the pool had not grown; all of them must be free."""
        extra = self.capacity - max(num_pages, 0)
        if extra <= 0:
            return
        assert not any(self._references[num_pages:]), "a page that is to be forgotten is still held"
        del self._free[num_pages:], self._references[num_pages:], self._given_out[num_pages:]
        self._num_free -= extra

    def check(self) -> None:
        """Assert that free + referenced pages are all pages (cheap; tests and idle engines call it)."""
        assert len(self._free) == len(self._references) == len(self._given_out), "lists of pages differ in length"
        held = sum(1 for count in self._references if count > 0)
        assert held + self._free.count(_FREE) == self.capacity, "a page is neither free nor referenced"
        assert held == self.num_used, "the count of free pages is off"
        assert all((self._references[page] == 0) == bool(self._free[page]) for page in range(self.capacity))

    def _grow_to(self, count: int) -> None:
        """Double the pool until `count` pages are free."""
        missing = count - self._num_free
        if missing <= 0:
            return
        extra = max(missing, self.capacity)
        if self.max_pages is not None:
            extra = min(extra, self.max_pages - self.capacity)
        assert extra >= missing, "a reservation promised pages that do not exist"
        self._free += _FREE * extra
        self._references += [0] * extra
        self._given_out += [0] * extra
        self._num_free += extra

    def _choose(self, count: int, near: int | None) -> list[int]:
        """Free pages: first those right after `near`, then one contiguous stretch, then the lowest ones."""
        pages: list[int] = []
        if near is not None:
            page = near + 1
            while len(pages) < count and page < self.capacity and self._free[page]:
                pages.append(page)
                page += 1
        missing = count - len(pages)
        if missing:
            start = self._find_stretch(missing, set(pages))
            pages += range(start, start + missing) if start is not None else self._lowest(missing, set(pages))
        return pages

    def _find_stretch(self, count: int, taken: set[int]) -> int | None:
        start = self._free.find(_FREE * count)
        while start >= 0:
            clash = [page for page in range(start, start + count) if page in taken]
            if not clash:
                return start
            start = self._free.find(_FREE * count, clash[-1] + 1)
        return None

    def _lowest(self, count: int, taken: set[int]) -> list[int]:
        pages: list[int] = []
        page = self._free.find(_FREE)
        while len(pages) < count:
            if page not in taken:
                pages.append(page)
            page = self._free.find(_FREE, page + 1)
        return pages


class Reservation:
    """A session's share of a pool: at most `count` pages at once, and those always to be had."""

    def __init__(self, pool: PagePool, count: int) -> None:
        self._pool = pool
        self.count = count
        self.num_used = 0
        self.leftovers = Leftovers()

    @property
    def pool(self) -> PagePool:
        """The pool that this is a share of."""
        return self._pool

    def allocate(self, count: int, near: int | None = None) -> list[int]:
        """Take `count` pages of the share: all of them, or none and `PoolExhausted`."""
        if self.num_used + count > self.count:
            raise PoolExhausted(
                "the session has used all the pages that were reserved for it",
                expected=f"{count} more pages",
                got=f"{self.count - self.num_used} of {self.count} left",
            )
        pages = self._pool.allocate(count, near, reserved=True)
        self.num_used += count
        return pages

    def release(self, pages: Iterable[int]) -> list[int]:
        """Drop one reference from each page and return those that became free: they return to the share."""
        freed = self._pool.release(pages)
        self.num_used -= len(freed)
        self._pool._reserved += len(freed)
        self.leftovers.withdraw(freed)
        return freed

    def extend(self, count: int) -> None:
        """Set `count` more pages aside, or raise `PoolExhausted`."""
        self.count += self._pool.reserve(count).count

    def close(self) -> None:
        """Give the unused share back to the pool; every page of the session must have been released."""
        assert self.num_used == 0, f"{self.num_used} pages are still held"
        self._pool._reserved -= self.count
        self.count = 0
