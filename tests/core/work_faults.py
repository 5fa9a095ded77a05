"""Faults to seed into work lists, each a small patch under the name of the check that must notice it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from work_oracle import ATTENTION

from hogwild.core import work
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import GroupPlan
from hogwild.core.work import WorkList

Patch = pytest.MonkeyPatch
FAULTS: dict[str, tuple[str, Callable[[Patch], None]]] = {}
ONCE = "every visible key is read once, at its distance"


def fault(breaks: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS[plant.__name__] = (breaks, plant)
        return plant

    return register


def _tables(patch: Patch, change: Callable[[WorkList], WorkList]) -> None:
    """Change every work list after it was made."""
    cut = work.cut_work
    patch.setattr(work, "cut_work", lambda plan, **options: change(cut(plan, **options)))


def _segments(patch: Patch, change: Callable[[Any], None]) -> None:
    """`change(segments)` alters the table of segments in place."""

    def changed(made: WorkList) -> WorkList:
        segments = made.segments.copy()
        change(segments)
        return replace(made, segments=segments)

    _tables(patch, changed)


@fault(ATTENTION)
def queries_are_turned_without_the_shift(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:, 2] = 0

    _segments(patch, change)


@fault(ATTENTION)
def queries_are_turned_one_too_far(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:, 2] += 1

    _segments(patch, change)


@fault(ONCE)
def the_last_key_of_a_segment_is_dropped(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:, 4] -= 1

    _segments(patch, change)


@fault(ONCE)
def segments_overlap_by_a_key(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:-1, 4] += 1

    _segments(patch, change)


@fault(ONCE)
def keys_are_counted_from_the_start_of_their_run(patch: Patch) -> None:
    def change(segments: Any) -> None:
        new_run = np.diff(segments[:, 3], prepend=0) != np.concatenate([[0], segments[:-1, 4]])
        segments[~new_run, 1] = 0

    _segments(patch, change)


@fault(ONCE)
def a_later_group_reads_the_turns_of_the_first(patch: Patch) -> None:
    add = work._Parts.add

    def forgetful(self: Any, *args: Any) -> None:
        self.num_turns = 0
        add(self, *args)

    patch.setattr(work._Parts, "add", forgetful)


@fault(ONCE)
def offsets_forget_where_a_run_is_stored(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, offsets=np.where(made.turns == UNSEEN, 0, made.turns)))


@fault(ONCE)
def rows_are_swapped(patch: Patch) -> None:
    def change(made: WorkList) -> WorkList:
        tokens = made.tokens.copy()
        tokens[:, 1] = tokens[::-1, 1]
        return replace(made, tokens=tokens)

    _tables(patch, change)


@fault("segments begin at a tile of their run and end in it")
def a_later_group_reads_the_columns_of_the_first(patch: Patch) -> None:
    add = work._Parts.add

    def forgetful(self: Any, *args: Any) -> None:
        self.num_columns = 0
        add(self, *args)

    patch.setattr(work._Parts, "add", forgetful)


@fault("segments begin at a tile of their run and end in it")
def items_are_cut_within_a_tile(patch: Patch) -> None:
    """The run is cut between keys, not between tiles."""

    def change(segments: Any) -> None:
        follows = np.flatnonzero((segments[1:, 1] == segments[:-1, 1] + segments[:-1, 4]) & (segments[1:, 4] > 1))
        segments[follows, 4] += 1
        segments[follows + 1, 4] -= 1
        segments[follows + 1, 1] += 1
        segments[follows + 1, 3] += 1

    _segments(patch, change)


@fault("the tables of tokens and of items agree")
def all_chunks_share_the_items_of_the_first(patch: Patch) -> None:
    def change(made: WorkList) -> WorkList:
        tokens = made.tokens.copy()
        tokens[:, 3:] = tokens[0, 3:]
        return replace(made, tokens=tokens)

    _tables(patch, change)


@fault("the tables of tokens and of items agree")
def the_last_chunk_is_taken_as_full(patch: Patch) -> None:
    def change(made: WorkList) -> WorkList:
        items = made.items.copy()
        items[:, 1] = items[:, 1].max()
        return replace(made, items=items)

    _tables(patch, change)


@fault("items are of nearly equal size")
def the_last_item_takes_what_is_left(patch: Patch) -> None:
    cut = work._cut_columns

    def uneven(group: GroupPlan, tile_ends: Any, how: Any) -> Any:
        run, skipped, edges = cut(group, tile_ends, how)
        if not how.by_block:
            edges[1:-1] = np.arange(1, len(edges) - 1)
        return run, skipped, edges

    patch.setattr(work, "_cut_columns", uneven)


@fault("no more items than asked for, and one for each chunk")
def each_group_gets_all_the_items(patch: Patch) -> None:
    cut = work.cut_work
    patch.setattr(work, "cut_work", lambda plan, *, num_items, **rest: cut(plan, num_items=3 * num_items, **rest))


@fault("items of a span follow the own view alone")
def items_are_listed_as_the_group_lists_its_blocks(patch: Patch) -> None:
    def change(made: WorkList) -> WorkList:
        order = [np.sort(made.order[begin:end]) for begin, end in np.unique(made.tokens[:, 3:], axis=0)]
        return replace(made, order=np.concatenate(order).astype(np.int32))

    _tables(patch, change)


@fault("items of a span follow the own view alone")
def spans_are_counted_from_the_first_tile_of_all(patch: Patch) -> None:
    patch.setattr(work, "_spans", lambda starts, total, span: np.union1d(starts, np.arange(0, total, span)))


@fault("an item by block reads one block")
def blocks_are_not_kept_apart(patch: Patch) -> None:
    cut = work._cut_columns
    patch.setattr(work, "_cut_columns", lambda *args: cut(*args[:-1], replace(args[-1], by_block=False)))


@fault("all tables are int32")
def tables_keep_64_bits(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, turns=made.turns.astype(np.int64)))
