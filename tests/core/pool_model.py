"""A plain-Python twin of pages, blocks and passes: what each block must hold, whatever is done to it.

Every token id is used once, so that a lost, doubled or misplaced token shows. Operations take any whole numbers and
reduce them to what exists, so that generated sequences are always valid.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hogwild.core import plan as planning
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block, Pages
from hogwild.core.plan import ForwardPlan, Row
from hogwild.core.pool import PagePool, Reservation
from hogwild.errors import PoolExhausted

MAX_BLOCKS = 9


class Key(NamedTuple):
    """What lies in one slot: the token, and the position at which its key was encoded."""

    token_id: int
    position: int


@dataclass(eq=False)
class Twin:
    """A block, and what it must hold."""

    block: Block
    pages: Pages
    keys: list[Key] = field(default_factory=list)
    origin: int = 0  # position of the first key

    @property
    def token_ids(self) -> list[int]:
        return [key.token_id for key in self.keys]


def arrays_of(plan: ForwardPlan) -> dict[str, np.ndarray]:
    """Every array of a plan under a name."""
    names = ("token_row", "token_index", "origins", "turns", "run_start", "column_slots", "column_index")
    names += ("run_block", "run_shift", "run_turns", "offsets", "column_run")
    arrays = {f"{name} of group {g}": getattr(group, name) for g, group in enumerate(plan.groups) for name in names}
    whole = ("token_ids", "positions", "write_slots", "logit_tokens")
    return arrays | {name: getattr(plan, name) for name in whole}


@dataclass
class Pass:
    """A pass that has been planned: each row's view in twins, and how many tokens it brought."""

    groups: list[list[tuple[list[Twin], int]]]
    plan: ForwardPlan
    anew: ForwardPlan  # by a planner that remembers nothing

    @property
    def rows(self) -> list[tuple[list[Twin], int]]:
        return [row for group in self.groups for row in group]


class World:
    """Blocks of the real core, drawn from the pool and from reservations, next to their twins."""

    def __init__(self, page_size: int = 3, num_pages: int = 2, max_pages: int | None = 40) -> None:
        self.pool = PagePool(num_pages, max_pages, page_size)
        self.reservations: list[Reservation] = []
        self.twins: list[Twin] = []
        self.slots: dict[int, Key] = {}  # the pool's memory: what was last written to each slot
        self.num_tokens = 0
        self.last_pass: Pass | None = None
        self.given_out: list[tuple[ForwardPlan, dict[str, np.ndarray]]] = []  # the last plans, and what was in them
        self._planner = planning.Planner()
        self._views: list[list[list[Twin]]] = []
        self.illegal_writes: list[str] = []
        self.changed_by_refusal: list[str] = []
        self.on_write: Callable[[IntArray, list[Key]], None] | None = None
        for _ in range(3):
            self.new(0)

    # What can be done

    def new(self, source: int) -> None:
        if len(self.twins) < MAX_BLOCKS:
            sources: list[Pages] = [self.pool, *self.reservations]
            pages = sources[source % len(sources)]
            place = (0, len(self.twins[0].keys), 5, 1027)[source // 2 % 4] if self.twins else 0
            block = Block(pages, f"b{len(self.twins)}", place)
            self.twins.append(Twin(block, pages, origin=place % 1024))

    def append(self, which: int, count: int) -> None:
        twin = self._pick(which)
        ids = self._fresh(count % 8)
        before = self._state()
        forbidden = self._forbidden_slots(twin)
        try:
            slots = twin.block.append(ids)
        except PoolExhausted:
            self._expect_unchanged(before)
            return
        self._note_append(twin, ids, slots, forbidden)
        self._write(slots, twin.keys[len(twin.keys) - len(ids) :])

    def publish(self, into: int, step: int) -> None:
        target = self._pick(into)
        source = self._pick(step)
        if target is source or target.pages is not source.pages:
            return
        target.block.link(source.block)
        target.keys += source.keys
        source.keys = []

    def fork(self, which: int) -> None:
        twin = self._pick(which)
        if len(self.twins) < MAX_BLOCKS:
            block = twin.block.fork(f"b{len(self.twins)}")
            self.twins.append(Twin(block, twin.pages, list(twin.keys), twin.origin))

    def truncate(self, which: int, length: int) -> None:
        twin = self._pick(which)
        twin.keys = twin.keys[: length % (len(twin.keys) + 1)]
        twin.block.truncate(len(twin.keys))

    def reserve(self, count: int) -> None:
        before = self._state()
        try:
            self.reservations.append(self.pool.reserve(count % 12))
        except PoolExhausted:
            self._expect_unchanged(before)

    def drop(self, which: int) -> None:
        """Release a block for good, and its reservation with it once nobody else draws from that."""
        if len(self.twins) > 3:
            self._release(self.twins.pop(which % len(self.twins)))

    def forward(self, seed: int) -> None:
        """One pass of one to five workers in one or two groups, over random views with repetitions.

        Or over the views of the last pass, as workers do who go on writing.
        """
        rng = random.Random(seed)
        if (
            self._views
            and rng.random() < 0.5
            and all(t in self.twins for group in self._views for v in group for t in v)
        ):
            groups = [[(view, rng.choice([1, 1, 2, 7])) for view in group] for group in self._views]
            return self._forward(groups)
        writers = rng.sample(self.twins, min(rng.randint(1, 5), len(self.twins)))
        rows = [self._random_row(own, rng) for own in writers]
        border = rng.randint(0, len(rows))
        groups = [rows[:border], rows[border:]] if 0 < border < len(rows) else [rows]
        if any(count for _, count in rows):
            self._views = [[view for view, _ in group] for group in groups]
            self._forward(groups)

    def close(self) -> None:
        """Release everything."""
        while self.twins:
            self._release(self.twins.pop())
        for reservation in self.reservations:
            reservation.close()
        self.reservations.clear()

    # How the twin follows

    def _forward(self, groups: list[list[tuple[list[Twin], int]]]) -> None:
        before = self._state()
        done: list[tuple[Twin, int]] = []
        planned, appended = [], []
        try:
            for group in groups:
                planned.append([])
                appended.append([])
                for view, count in group:
                    own, ids = view[-1], self._fresh(count)
                    done.append((own, len(own.keys)))
                    forbidden = self._forbidden_slots(own)
                    slots = own.block.append(ids)
                    self._note_append(own, ids, slots, forbidden)
                    planned[-1].append(Row(tuple(twin.block for twin in view), tuple(ids)))
                    appended[-1].append(slots)
        except PoolExhausted:
            for twin, length in done:
                twin.keys = twin.keys[:length]
                twin.block.truncate(length)
            self._expect_unchanged(before)
            return
        plan = self._planner.plan(planned, self.pool.num_slots, appended)
        arrays = {name: array.copy() for name, array in arrays_of(plan).items()}
        self.given_out = [*self.given_out[-3:], (plan, arrays)]
        self.last_pass = Pass(groups, plan, planning.Planner().plan(planned, self.pool.num_slots, appended))
        ids, positions = plan.token_ids.tolist(), plan.positions.tolist()
        self._write(plan.write_slots, [Key(*key) for key in zip(ids, positions, strict=True)])

    def _random_row(self, own: Twin, rng: random.Random) -> tuple[list[Twin], int]:
        others = [twin for twin in self.twins if twin is not own]
        return [*rng.choices(others, k=rng.randint(0, 6)), own], rng.choice([0, 1, 1, 2, 7])

    def _note_append(self, twin: Twin, ids: list[int], slots: IntArray, forbidden: set[int]) -> None:
        bad = forbidden & set(slots.tolist())
        if bad or len(set(slots.tolist())) != len(ids):
            self.illegal_writes.append(f"{twin.block} was given slots {slots.tolist()}, of which {bad} are not its own")
        first = twin.origin + len(twin.keys)
        twin.keys += [Key(token, first + i) for i, token in enumerate(ids)]

    def _write(self, slots: IntArray, keys: list[Key]) -> None:
        self.slots.update(zip(slots.tolist(), keys, strict=True))
        if self.on_write is not None:
            self.on_write(slots, keys)

    def _fresh(self, count: int) -> list[int]:
        self.num_tokens += count
        return list(range(self.num_tokens - count, self.num_tokens))

    def _pick(self, which: int) -> Twin:
        return self.twins[which % len(self.twins)]

    def _forbidden_slots(self, writer: Twin) -> set[int]:
        """Slots that hold something, and pages that belong to another reservation."""
        size = self.pool.page_size
        foreign = {page for twin in self.twins if twin.pages is not writer.pages for page in twin.block.page_ids}
        return {page * size + i for page in foreign for i in range(size)} | self.live_slots()

    def holders(self) -> Counter[int]:
        """How often each page is held, by the blocks' own account."""
        return Counter(page for twin in self.twins for page in twin.block.page_ids)

    def live_slots(self) -> set[int]:
        """Slots that some block reads."""
        return {slot for twin in self.twins for slot in twin.block.slots.tolist()}

    def _release(self, twin: Twin) -> None:
        twin.block.clear()
        if isinstance(twin.pages, Reservation) and not any(other.pages is twin.pages for other in self.twins):
            twin.pages.close()
            self.reservations.remove(twin.pages)

    def _state(self) -> object:
        """Everything that a refused operation must leave as it was, but for the size of the pool."""
        blocks = [(t.block.token_ids.tolist(), t.block.slots.tolist(), t.block.page_ids) for t in self.twins]
        shares = [(share.count, share.num_used) for share in self.reservations]
        return blocks, shares, self.pool.num_used, self.pool.num_reserved, self.holders()

    def _expect_unchanged(self, before: object) -> None:
        if self._state() != before:
            self.changed_by_refusal.append("something changed although the operation was refused")


OPERATIONS = ("new", "append", "append", "publish", "fork", "truncate", "reserve", "drop", "forward", "forward")


def random_world(seed: int, num_operations: int = 60) -> Iterator[World]:
    """A world after each of a number of random operations; the same for the same seed."""
    rng = random.Random(seed)
    world = World(rng.choice([1, 2, 3, 16]), rng.randint(1, 3), rng.choice([12, 40, None]))
    for _ in range(num_operations):
        apply(world, rng.choice(OPERATIONS), rng.getrandbits(20), rng.getrandbits(20))
        yield world


def apply(world: World, operation: str, a: int, b: int) -> None:
    """Do one operation by name; the pass before it is over."""
    world.last_pass = None
    two = {"append", "publish", "truncate"}
    getattr(world, operation)(*((a, b) if operation in two else (a,)))
