"""What must hold in every world, each under the name by which seeded faults call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from pool_model import Key, Pass, Twin, World, arrays_of

from hogwild.core import listing, tiles
from hogwild.core.arrays import IntArray
from hogwild.core.plan import GroupPlan

WINDOW = 4


class Violation(AssertionError):
    """An invariant does not hold; the message begins with its name."""


Check = Callable[[World], None]
INVARIANTS: dict[str, Check] = {}


def invariant(name: str) -> Callable[[Check], Check]:
    """Register a check; whatever it trips over counts as its violation."""

    def register(check: Check) -> Check:
        def named(world: World) -> None:
            try:
                check(world)
            except (AssertionError, LookupError) as error:
                raise Violation(f"{name}: {error!r}") from error

        INVARIANTS[name] = named
        return named

    return register


def equal(got: Any, expected: Any, of: str = "") -> None:
    assert got == expected, f"{of}: expected {expected}, got {got}"


@invariant("free and held pages are all pages")
def pages_are_conserved(world: World) -> None:
    pool = world.pool
    pool.check()
    held = sum(pool.references(page) > 0 for page in range(pool.capacity))
    equal(pool.num_used, held, "pages used")
    assert pool.max_pages is None or pool.capacity <= pool.max_pages


@invariant("reference counts are the number of holders")
def references_are_holders(world: World) -> None:
    counts = Counter({page: world.pool.references(page) for page in range(world.pool.capacity)})
    equal(+counts, world.holders(), "references")


@invariant("pages are held while they are read, and no longer")
def pages_are_held_while_read(world: World) -> None:
    for twin in world.twins:
        read = {slot // world.pool.page_size for slot in twin.block.slots.tolist()}
        equal(set(twin.block.page_ids), read, repr(twin.block))


@invariant("what is on offer is held")
def leftovers_are_held(world: World) -> None:
    for source in (world.pool, *world.reservations):
        held = {page for twin in world.twins if twin.pages is source for page in twin.block.page_ids}
        assert set(source.leftovers._pages) <= held, "a page that its owner does not hold is on offer"


@invariant("slots that somebody holds are never written")
def nothing_that_is_held_is_written(world: World) -> None:
    equal(world.illegal_writes, [])


@invariant("a refused operation changes nothing")
def refusal_changes_nothing(world: World) -> None:
    equal(world.changed_by_refusal, [])


@invariant("reservations add up")
def reservations_add_up(world: World) -> None:
    pool = world.pool
    for share in world.reservations:
        held = {page for twin in world.twins if twin.pages is share for page in twin.block.page_ids}
        equal(share.num_used, len(held), "pages of the reservation")
        assert share.num_used <= share.count
    equal(pool.num_reserved, sum(share.count - share.num_used for share in world.reservations), "pages set aside")
    assert pool.max_pages is None or pool.num_used + pool.num_reserved <= pool.max_pages


@invariant("blocks hold their tokens in order, none lost or doubled")
def tokens_are_in_order(world: World) -> None:
    for twin in world.twins:
        equal(twin.block.token_ids.tolist(), twin.token_ids, repr(twin.block))
        equal(len(twin.block), len(twin.keys), repr(twin.block))


@invariant("key positions are those at which they were written")
def positions_are_kept(world: World) -> None:
    for twin in world.twins:
        block = twin.block
        starts, first = block.run_starts.tolist(), block.run_positions.tolist()
        lengths = np.diff([*starts, len(block)]).tolist()
        positions = [position + i for position, length in zip(first, lengths, strict=True) for i in range(length)]
        equal(positions, [key.position for key in twin.keys], repr(block))


@invariant("runs are as long as can be")
def runs_are_long(world: World) -> None:
    for twin in world.twins:
        shifts = twin.block.run_positions - twin.block.run_starts
        equal(np.flatnonzero(np.diff(shifts) == 0).tolist(), [], repr(twin.block))


@invariant("a listing holds every key once, span by span, and in each span shift by shift")
def listings_are_whole(world: World) -> None:
    for twin in world.twins:
        slots, index, starts, run_shifts, _ = twin.block.listed()
        shifts = [key.position - i for i, key in enumerate(twin.keys)]
        expected = sorted(range(len(twin.keys)), key=lambda i: (i // listing.SPAN, shifts[i], i))
        equal(index.tolist(), expected, "indices")
        equal(slots.tolist(), twin.block.slots[index].tolist(), "slots")
        listed = run_shifts.repeat(np.diff(starts, append=len(index)))
        equal(listed.tolist(), [shifts[i] for i in expected], "shifts")
        equal(np.flatnonzero(np.diff(run_shifts) == 0).tolist(), [], "runs that go on")


@invariant("keys never change after they were written")
def keys_never_change(world: World) -> None:
    for twin in world.twins:
        equal([world.slots.get(slot) for slot in twin.block.slots.tolist()], twin.keys, repr(twin.block))


def rows_by_group(passed: Pass) -> Iterator[tuple[GroupPlan, list[tuple[list[Twin], int]]]]:
    """Each group of the plan with its rows that brought tokens."""
    groups = [rows for group in passed.groups if (rows := [row for row in group if row[1]])]
    equal(len(passed.plan.groups), len(groups), "groups")
    return zip(passed.plan.groups, groups, strict=True)


@invariant("offsets are sums of earlier lengths")
def offsets_are_sums(world: World) -> None:
    """Seen through its offset, each key that a token reads stands as far behind it as in the worker's flat view."""
    if world.last_pass is None:
        return
    for token in tokens_read(world.last_pass, world):
        distances = Counter((key.token_id, distance) for key, distance in token.read)
        flat = Counter((key.token_id, token.flat - place) for place, key in token.view)
        equal(distances, +flat, f"distances from token {token.key}")


@invariant("a token reads its view and its own past, nothing else")
def visibility_is_exact(world: World) -> None:
    if world.last_pass is None:
        return
    for token in tokens_read(world.last_pass, world):
        equal(Counter(key for key, _ in token.read), Counter(key for _, key in token.view), f"token {token.key}")


@invariant("a window is counted from the query")
def window_is_exact(world: World) -> None:
    if world.last_pass is None:
        return
    for token in tokens_read(world.last_pass, world, WINDOW):
        inside = Counter(key for place, key in token.view if token.flat - place < WINDOW)
        equal(Counter(key for key, _ in token.read), inside, f"token {token.key}")


@invariant("tiles hold every column once and mask the rest")
def tiles_hold_every_column(world: World) -> None:
    for group in world.last_pass.plan.groups if world.last_pass else ():
        cut = tiles.cut(group)
        sliced = [slot for piece in cut.slices for slot in range(piece.start, piece.stop)]
        slots = np.array([*sliced, *cut.tile_slots.tolist()])
        equal(len(slots), cut.num_columns, "columns")
        assert set(slots.tolist()) <= set(group.column_slots.tolist()), "a slot that nobody wrote is read"
        got = Counter(_columns(cut.column_run, cut.column_index, slots))
        equal(Counter(_columns(group.column_run, group.column_index, group.column_slots)) - got, Counter(), "left out")
        got.subtract(_columns(group.column_run, group.column_index, group.column_slots))
        assert all(index >= group.reach().max() for _, index, _ in +got), "padding may be read"


def _columns(*arrays: IntArray) -> Iterator[tuple[int, ...]]:
    return zip(*(array.tolist() for array in arrays), strict=True)


@invariant("a tile is asked by one query")
def tiles_are_turned_alike(world: World) -> None:
    for group in world.last_pass.plan.groups if world.last_pass else ():
        cut = tiles.cut(group)
        if len(cut.tile_run):
            runs = cut.column_run[-len(cut.tile_slots) :].reshape(len(cut.tile_run), -1)
            equal(group.offsets[:, runs].tolist(), _spread(group.offsets[:, cut.tile_run], runs.shape[1]), "offsets")


def _spread(of_tiles: IntArray, size: int) -> list[list[list[int]]]:
    return of_tiles[..., None].repeat(size, axis=-1).tolist()


@invariant("what a planner remembers changes no plan")
def memory_changes_nothing(world: World) -> None:
    if world.last_pass is not None:
        got, expected = arrays_of(world.last_pass.plan), arrays_of(world.last_pass.anew)
        equal(got.keys(), expected.keys(), "arrays")
        for name, array in expected.items():
            assert got[name].dtype == array.dtype, name
            equal(got[name].tolist(), array.tolist(), name)


@invariant("a plan that was given out never changes")
def plans_are_immutable(world: World) -> None:
    for plan, arrays in world.given_out:
        for name, array in arrays_of(plan).items():
            equal(array.tolist(), arrays[name].tolist(), name)


class TokenRead:
    """What one token of a pass reads by the plan, and what it should by its flat view."""

    def __init__(self, key: Key, flat: int, read: list[tuple[Key, int]], view: list[tuple[int, Key]]) -> None:
        self.key = key
        self.flat = flat  # its position in the flat view
        self.read = read  # by the plan: keys, and the distance at which each appears
        self.view = view  # expected: flat places and keys, up to its own


def tokens_read(passed: Pass, world: World, window: int | None = None) -> Iterator[TokenRead]:
    """Every token of a pass."""
    for group, rows in rows_by_group(passed):
        positions = passed.plan.positions[group.token_start :][: group.num_tokens]
        t = 0
        for r, (view, count) in enumerate(rows):
            flat_view = list(enumerate(key for twin in view for key in twin.keys))
            own_start = [0, *accumulate(len(twin.keys) for twin in view)][-2]
            for key in view[-1].keys[len(view[-1].keys) - count :]:
                equal((group.token_row[t], positions[t]), (r, key.position), "row and position")
                read = list(_read(group, world, t, int(positions[t]), window))
                flat = own_start + key.position - view[-1].origin
                yield TokenRead(key, flat, read, flat_view[: flat + 1])
                t += 1
        equal(t, group.num_tokens, "tokens of the group")


def _read(group: GroupPlan, world: World, t: int, position: int, window: int | None) -> Iterator[tuple[Key, int]]:
    run, index = group.column_run, group.column_index
    offsets, stored = group.offsets[group.token_row[t]][run], index + group.run_shift[run]
    for column in np.flatnonzero(group.sees(slice(t, t + 1), run, index, window)[0]):
        yield world.slots[int(group.column_slots[column])], int(position + offsets[column] - stored[column])
