"""Pages of K/V slots: allocate, reference-count, free.  Only ids live here; the arrays belong to a backend."""

from __future__ import annotations

from collections.abc import Iterable

from hogwild.errors import OptionError, PoolExhausted

PAGE_SIZE = 16
_FREE, _USED = b"\x01", 0


class PagePool:
    """Pages `0..capacity-1`, each free or held by at least one reference.

    The pool starts with `num_pages` and doubles when it is full, up to `max_pages` (None: no limit). A page holds
    `page_size` slots; slot `s` lies in page `s // page_size`.
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
        self._num_free = num_pages
        self._reserved = 0

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
        self._num_free -= count
        if reserved:
            self._reserved -= count
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Add one reference to each page."""
        for page in pages:
            assert self._references[page] > 0, f"page {page} is free"
            self._references[page] += 1

    def release(self, pages: Iterable[int]) -> int:
        """Drop one reference from each page and return how many became free."""
        freed = 0
        for page in pages:
            assert self._references[page] > 0, f"page {page} is free"
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free[page] = _FREE[0]
                freed += 1
        self._num_free += freed
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
        del self._free[num_pages:], self._references[num_pages:]
        self._num_free -= extra

    def check(self) -> None:
        """Assert that free + referenced pages are all pages (cheap; tests and idle engines call it)."""
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

    @property
    def pool(self) -> PagePool:
        """The pool that this is a share of."""
        return self._pool

    @property
    def page_size(self) -> int:
        """Slots in a page."""
        return self._pool.page_size

    def references(self, page: int) -> int:
        """How many holders a page has."""
        return self._pool.references(page)

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

    def retain(self, pages: Iterable[int]) -> None:
        """Add one reference to each page."""
        self._pool.retain(pages)

    def release(self, pages: Iterable[int]) -> int:
        """Drop one reference from each page; what becomes free returns to the share."""
        freed = self._pool.release(pages)
        self.num_used -= freed
        self._pool._reserved += freed
        return freed

    def extend(self, count: int) -> None:
        """Set `count` more pages aside, or raise `PoolExhausted`."""
        self.count += self._pool.reserve(count).count

    def close(self) -> None:
        """Give the unused share back to the pool; every page of the session must have been released."""
        assert self.num_used == 0, f"{self.num_used} pages are still held"
        self._pool._reserved -= self.count
        self.count = 0
