"""Faults to seed into plans, tiles and rotations, each a small patch under the name of the invariant it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from core_faults import Patch, fault
from core_oracle import NAME as ATTENTION

from hogwild.core import frame, listing, plan, rotary, tiles
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.plan import GroupPlan, Row

# Plans


def _offsets(change: Callable[[GroupPlan, IntArray], IntArray]) -> Callable[[Patch], None]:
    offsets = GroupPlan.offsets.func

    def plant(patch: Patch) -> None:
        patch.setattr(GroupPlan, "offsets", property(lambda self: change(self, offsets(self))))

    return plant


@fault("offsets are sums of earlier lengths")
def offsets_are_off_by_one(patch: Patch) -> None:
    _offsets(lambda group, offsets: offsets + 1)(patch)


@fault("offsets are sums of earlier lengths")
def offsets_ignore_where_a_run_begins(patch: Patch) -> None:
    _offsets(lambda group, offsets: offsets - group.run_shift)(patch)


@fault("offsets are sums of earlier lengths")
def offsets_ignore_where_the_own_block_begins(patch: Patch) -> None:
    _offsets(lambda group, offsets: offsets + group.origins[:, None])(patch)


@fault("offsets are sums of earlier lengths")
def offsets_count_the_lengths_before_the_pass(patch: Patch) -> None:
    """Each worker counts only the tokens that were there before the pass."""
    group = plan._plan_group

    def early(rows: list[Row], views: frame.Frame, token_start: int) -> GroupPlan:
        def turns(self: frame.Shape, lengths: IntArray) -> IntArray:
            before = lengths.copy()
            before[self.own] -= [len(row.token_ids) for row in rows]
            return block_turns(self, before)

        with patch.context() as inner:
            inner.setattr(frame.Shape, "turns", turns)
            return group(rows, views, token_start)

    block_turns = frame.Shape.turns
    patch.setattr(plan, "_plan_group", early)


@fault("offsets are sums of earlier lengths")
def a_repeated_block_is_listed_once(patch: Patch) -> None:
    patch.setattr(frame, "_appearances", lambda view: [(number, 0) for number in view])


REMEMBERED = "what a planner remembers changes no plan"


@fault(REMEMBERED)
def views_of_as_many_blocks_are_taken_for_one_shape(patch: Patch) -> None:
    def careless(make: type[frame.Shape]) -> Callable[..., frame.Shape]:
        seen: dict[object, frame.Shape] = {}
        return lambda views: seen.setdefault((*map(len, views), max(map(max, views))), make(views))

    patch.setattr(plan, "lru_cache", lambda maxsize: careless)


@fault(REMEMBERED)
def runs_are_listed_once_for_all_passes(patch: Patch) -> None:
    listed = Block.listed
    patch.setattr(Block, "listed", lambda self: listed(self)._replace(version=0))


@fault(REMEMBERED)
def places_are_taken_for_those_of_the_last_pass(patch: Patch) -> None:
    place = frame.Shape.place

    def first(self: frame.Shape, lengths: IntArray, counts: list[int]) -> tuple[IntArray, IntArray]:
        is_alike = (len(self._counts), sum(self._counts)) == (len(counts), sum(counts))
        return place(self, lengths, self._counts if is_alike else counts)

    patch.setattr(frame.Shape, "place", first)


@fault(REMEMBERED)
def a_frame_is_kept_while_its_first_writer_writes(patch: Patch) -> None:
    def kept(self: plan.Planner, rows: list[Row]) -> frame.Frame:
        return self._frames.get(rows[0].own) or frame.Frame(tuple(row.view for row in rows))

    patch.setattr(plan.Planner, "_frame", kept)


@fault("a plan that was given out never changes")
def a_plan_is_changed_by_the_next_one(patch: Patch) -> None:
    """Turns lie in memory that the next pass writes again."""
    turns, memory = frame.Shape.turns, {}

    def in_place(self: frame.Shape, lengths: IntArray) -> IntArray:
        made = turns(self, lengths)
        kept = memory.setdefault(made.shape, made)
        kept[:] = made
        return kept

    patch.setattr(frame.Shape, "turns", in_place)


def _reach(change: Callable[[IntArray, IntArray, IntArray], None]) -> Callable[[Patch], None]:
    """`change(own, lengths, reach)` alters `reach [T, B]`; own: `[T]` own blocks, lengths: `[B]` of blocks."""
    reach = GroupPlan.reach

    def changed(self: GroupPlan) -> IntArray:
        out: IntArray = reach(self).copy()
        own = self.turns.shape[1] - 1 - np.argmax(self.turns[:, ::-1] == 0, axis=1)[self.token_row]
        change(own, np.bincount(self.run_block[self.column_run], minlength=out.shape[1]), out)
        return out

    def plant(patch: Patch) -> None:
        patch.setattr(GroupPlan, "reach", changed)

    return plant


@fault("a token reads its view and its own past, nothing else")
def a_token_does_not_read_itself(patch: Patch) -> None:
    def change(own: IntArray, lengths: IntArray, out: IntArray) -> None:
        out[np.arange(len(out)), own] -= 1

    _reach(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def a_token_reads_its_own_future(patch: Patch) -> None:
    def change(own: IntArray, lengths: IntArray, out: IntArray) -> None:
        out[np.arange(len(out)), own] = lengths[own]

    _reach(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def the_others_new_tokens_are_not_seen(patch: Patch) -> None:
    def change(own: IntArray, lengths: IntArray, out: IntArray) -> None:
        for block, new in zip(*np.unique(own, return_counts=True), strict=True):
            others = own != block
            out[others, block] = np.minimum(out[others, block], lengths[block] - new)

    _reach(change)(patch)


@fault("a token reads its view and its own past, nothing else")
def every_row_reads_every_block(patch: Patch) -> None:
    def change(own: IntArray, lengths: IntArray, out: IntArray) -> None:
        mine = out[np.arange(len(out)), own]
        out[:] = lengths
        out[np.arange(len(out)), own] = mine

    _reach(change)(patch)


@fault("a window is counted from the query")
def windows_are_one_too_wide(patch: Patch) -> None:
    sees = GroupPlan.sees

    def wide(self: GroupPlan, tokens: slice, run: IntArray, index: IntArray, window: int | None = None) -> Any:
        return sees(self, tokens, run, index, None if window is None else window + 1)

    patch.setattr(GroupPlan, "sees", wide)


@fault("a window is counted from the query")
def windows_forget_the_turn(patch: Patch) -> None:
    sees = GroupPlan.sees

    def plain(self: GroupPlan, tokens: slice, run: IntArray, index: IntArray, window: int | None = None) -> Any:
        seen = sees(self, tokens, run, index)
        return seen if window is None else seen & (index > self.token_index[tokens, None] - window)

    patch.setattr(GroupPlan, "sees", plain)


# Listings

LISTED = "a listing holds every key once, span by span, and in each span shift by shift"


@fault(LISTED)
def a_span_that_has_grown_is_not_sorted_anew(patch: Patch) -> None:
    add = listing.Listing._add_span

    def added(self: listing.Listing, slots: IntArray, starts: IntArray, positions: IntArray, begin: int) -> None:
        with patch.context() as inner:
            inner.setattr(listing, "SPAN", 1 << 20)
            add(self, slots, starts, positions, begin)

    patch.setattr(listing.Listing, "_add_span", added)


@fault(LISTED)
def runs_go_on_from_span_to_span_whatever_their_shift(patch: Patch) -> None:
    class Deaf(listing.IntBuffer):
        last = property(lambda self: Anything())

    patch.setattr(listing, "IntBuffer", Deaf)


class Anything:
    """Equal to every number."""

    __hash__ = None

    def __ne__(self, other: object) -> bool:
        return False


@fault(LISTED)
def keys_are_listed_in_the_order_of_tokens(patch: Patch) -> None:
    class Unsorted(np.ndarray[Any, Any]):
        def argsort(self, *args: Any, **options: Any) -> IntArray:
            return np.arange(len(self))

    run_positions = Block.run_positions.fget
    patch.setattr(Block, "run_positions", property(lambda self: run_positions(self).view(Unsorted)))


# Tiles


@fault("tiles hold every column once and mask the rest")
def padding_is_not_masked(patch: Patch) -> None:
    patch.setattr(tiles, "PADDING", 0)


@fault("tiles hold every column once and mask the rest")
def padding_reads_on_past_the_run(patch: Patch) -> None:
    cut = tiles._tiles

    def loose(start: IntArray, stop: IntArray) -> Any:
        columns, padding = cut(start, stop)
        limit = int(stop.max(initial=1)) - 1
        return np.minimum(columns[:, :1] + np.arange(columns.shape[1]), limit), np.zeros_like(padding)

    patch.setattr(tiles, "_tiles", loose)


@fault("tiles hold every column once and mask the rest")
def tiles_gather_the_neighbour_slot(patch: Patch) -> None:
    cut = tiles._tiles

    def neighbour(start: IntArray, stop: IntArray) -> Any:
        columns, padding = cut(start, stop)
        return np.maximum(columns - 1, 0), padding

    patch.setattr(tiles, "_tiles", neighbour)


@fault("a tile is asked by one query")
def tiles_hold_whatever_comes_next(patch: Patch) -> None:
    cut = tiles._tiles
    patch.setattr(tiles, "_tiles", lambda start, stop: cut(start[:1], stop[-1:]))


@fault("tiles hold every column once and mask the rest")
def slices_run_on_over_gaps(patch: Patch) -> None:
    """The longest run is read as one slice of the pool, wherever its pages lie."""

    def gaps(group: GroupPlan) -> IntArray:
        longest = int(np.argmax(np.diff(group.run_start)))
        return group.run_start[longest : longest + 2][None]

    patch.setattr(tiles, "_longest_stretches", gaps)


# Rotation: seen in the attention itself


@fault(ATTENTION)
def queries_are_turned_the_wrong_way(patch: Patch) -> None:
    patch.setattr(frame.Shape, "turns", _negated(frame.Shape.turns))


def _negated(turns: Callable[..., Any]) -> Callable[..., Any]:
    def negated(*args: Any) -> Any:
        values = turns(*args)
        return np.where(values == frame.UNSEEN, frame.UNSEEN, -values)

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
    build = plan.Planner.plan

    def shifted(*args: Any) -> plan.ForwardPlan:
        made = build(*args)
        made.positions[:] += 1
        return made

    patch.setattr(plan.Planner, "plan", shifted)


@fault(ATTENTION)
def keys_are_written_to_the_slots_of_another_row(patch: Patch) -> None:
    build = plan.Planner.plan

    def rolled(*args: Any) -> plan.ForwardPlan:
        made = build(*args)
        made.write_slots[:] = np.roll(made.write_slots, 1)
        return made

    patch.setattr(plan.Planner, "plan", rolled)
