"""The keys of a pass in the order in which the C++ kernels read them.

An item lies in one block. There the keys of all runs that have one shift are asked by the same queries, so they are
listed side by side, as a *stretch*, however many steps they belong to. A key carries its index, by which it is seen or
not, so runs leave no trace. The order follows from the item's runs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hogwild.core.blocks import Int32Array, IntArray
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import ForwardPlan
from hogwild.core.work import WorkList


@dataclass(frozen=True, slots=True)
class KeyList:
    """I items of C keys in G stretches; T tokens in rows that are turned in R' ways, one for each row and block."""

    items: Int32Array  # [I, 7] first token, number of tokens, block, first key and end, first stretch and end
    ends: Int32Array  # [G] the end of each stretch, in keys
    shifts: Int32Array  # [G] how much further its queries are turned than for the block
    slots: Int32Array  # [C] where the K/V of each key lies in the pool
    indices: Int32Array  # [C] each key's index in its block
    tokens: Int32Array  # [T, 5] index in its own block, first of its row's turns, then as in `WorkList`
    turns: Int32Array  # [R'] for each row of each group: the turn for each of the group's blocks, or UNSEEN
    offsets: Int32Array  # [R'] how far a query is turned for the block, or 0


def list_keys(plan: ForwardPlan, work: WorkList) -> KeyList:
    """The keys of a work list whose items lie in one block each."""
    begins_item = np.zeros(len(work.segments), dtype=np.bool_)
    begins_item[work.items[:, 2]] = True  # an item's first segment keeps its place, whatever is sorted within items
    order = np.lexsort((work.segments[:, 2], begins_item.cumsum()))
    _, index, shift, column, count = work.segments[order].T
    end = count.cumsum()
    start = end - count
    begins = np.flatnonzero(begins_item | (np.diff(shift, prepend=0) != 0))
    nth = np.arange(end[-1])
    turns, offsets, first_turn = _turns(plan)
    tokens = work.tokens.copy()
    tokens[:, 1] = first_turn
    token, num_tokens, first, stop, block = work.items.T
    stretches = begins.searchsorted(first), begins.searchsorted(stop)
    return KeyList(
        items=np.stack([token, num_tokens, block, start[first], end[stop - 1], *stretches], axis=1).astype(np.int32),
        ends=np.append(start[begins[1:]], end[-1]).astype(np.int32),
        shifts=shift[begins],
        slots=work.column_slots[nth + (column - start).repeat(count)],
        indices=(nth + (index - start).repeat(count)).astype(np.int32),
        tokens=tokens,
        turns=turns,
        offsets=offsets,
    )


def _turns(plan: ForwardPlan) -> tuple[Int32Array, Int32Array, IntArray]:
    """`turns` and `offsets` of a `KeyList`, and `[T]` where each token's row begins in them."""
    turns, offsets, first, begin = [], [], [], 0
    for group in plan.groups:
        offset = np.where(group.turns == UNSEEN, 0, group.turns - group.origins[:, None])
        turns.append(group.turns.ravel())
        offsets.append(offset.ravel())
        first.append(begin + group.token_row * group.turns.shape[1])
        begin += group.turns.size
    return np.concatenate(turns, dtype=np.int32), np.concatenate(offsets, dtype=np.int32), np.concatenate(first)
