"""Faults to seed into work lists, each a small patch under the name of the check that must notice it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from work_oracle import ATTENTION

from hogwild.core import work
from hogwild.core.frame import UNSEEN, Kept
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


def _numbers_of_groups(patch: Patch, change: Callable[..., tuple[Any, ...]]) -> None:
    """`change` alters what is added to the columns of a group's tables where they are joined to those of others."""
    repeated = work._repeated
    patch.setattr(work, "_repeated", lambda counts, *columns: repeated(counts, *change(*columns)))


@fault(ATTENTION)
def queries_are_turned_without_the_shift(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, offsets=made.turns))


@fault(ATTENTION)
def queries_are_turned_one_too_far(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, offsets=made.offsets + 1))


@fault(ONCE)
def a_key_carries_the_index_of_the_one_before(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, column_index=np.roll(made.column_index, 1)))


@fault(ONCE)
def the_last_key_of_a_segment_is_dropped(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:, 2] -= 1

    _segments(patch, change)


@fault(ONCE)
def segments_overlap_by_a_key(patch: Patch) -> None:
    def change(segments: Any) -> None:
        segments[:-1, 2] += 1

    _segments(patch, change)


@fault(ONCE)
def a_later_group_reads_the_turns_of_the_first(patch: Patch) -> None:
    _numbers_of_groups(patch, lambda a, b, c, *rest: (a, 0 * b, c, *rest) if rest else (a, b, c))


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
    """Of the tables of a group only segments have three columns."""
    _numbers_of_groups(patch, lambda a, b, c, *rest: (a, b, c, *rest) if rest else (a, 0 * b, c))


@fault("segments begin at a tile of their run and end in it")
def items_are_cut_within_a_tile(patch: Patch) -> None:
    """The run is cut between keys, not between tiles."""

    def change(segments: Any) -> None:
        goes_on = (segments[1:, 0] == segments[:-1, 0]) & (segments[1:, 1] == segments[:-1, 1:].sum(axis=1))
        follows = np.flatnonzero(goes_on & (segments[1:, 2] > 1))
        segments[follows, 2] += 1
        segments[follows + 1, 2] -= 1
        segments[follows + 1, 1] += 1

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

    def uneven(group: GroupPlan, tile_edges: Any, how: Any) -> Any:
        pieces, first = cut(group, tile_edges, how)
        if not how.by_block:
            first[1:-1] = np.arange(1, len(first) - 1)
        return pieces, first

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
    patch.setattr(work, "_cut_columns", lambda *args: cut(*args[:-1], args[-1]._replace(by_block=False)))


@fault("all tables are int32")
def tables_keep_64_bits(patch: Patch) -> None:
    _tables(patch, lambda made: replace(made, turns=made.turns.astype(np.int64)))


MEMORY_FAULTS: dict[str, Callable[[Patch], None]] = {}
"""Faults in what is kept from pass to pass: a work list made at once knows nothing of them."""


def memory_fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MEMORY_FAULTS[plant.__name__] = plant
    return plant


def _kept_without(patch: Patch, what: str, part: Callable[[Any], Any]) -> None:
    """Of the key of `what` only a part is compared."""
    kept = Kept.__call__
    patch.setattr(
        Kept, "__call__", lambda self, name, key, make: kept(self, name, part(key) if name == what else key, make)
    )


@memory_fault
def segments_are_kept_though_a_run_needs_one_tile_more(patch: Patch) -> None:
    _kept_without(patch, "work", lambda key: key[1:])


@memory_fault
def segments_are_kept_though_tokens_come_from_other_rows(patch: Patch) -> None:
    _kept_without(patch, "work", lambda key: (key[0], len(key[1]), key[2]))


@memory_fault
def segments_are_kept_though_they_are_cut_in_another_way(patch: Patch) -> None:
    _kept_without(patch, "work", lambda key: key[:2])


@memory_fault
def items_are_kept_though_there_are_more_tokens(patch: Patch) -> None:
    _kept_without(patch, "dealt", lambda key: key[1:])


@memory_fault
def items_are_kept_though_there_are_more_of_them(patch: Patch) -> None:
    _kept_without(patch, "dealt", lambda key: key[:2])


@memory_fault
def what_is_kept_is_written_by_the_next_pass(patch: Patch) -> None:
    class Uncopied(np.ndarray[Any, Any]):
        def copy(self, *args: Any) -> Uncopied:
            return self

    dealt = work._dealt
    patch.setattr(work, "_dealt", lambda *args: [table.view(Uncopied) for table in dealt(*args)])
