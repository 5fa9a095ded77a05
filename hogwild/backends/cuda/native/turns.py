"""How the C++ kernels turn queries: first for the block of an item, then for the shift of each segment.

So angles are made for blocks and shifts, not for each row and run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hogwild.core.arrays import Int32Array, IntArray
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import ForwardPlan
from hogwild.core.work import WorkList


@dataclass(frozen=True, slots=True)
class Turns:
    """T tokens in rows that are turned in R' ways, one for each row and block; S segments."""

    tokens: Int32Array  # [T, 5] as in `WorkList`, but the first of its row's turns is one of `turns`
    turns: Int32Array  # [R'] for each row of each group: the turn for each of the group's blocks, or UNSEEN
    offsets: Int32Array  # [R'] how far a query is turned for the block, or 0
    shifts: Int32Array  # [S] how much further it is turned for the keys of a segment


def find_turns(plan: ForwardPlan, work: WorkList) -> Turns:
    """The turns of a work list whose items lie in one block each."""
    turns, offsets, first, begin = [], [], [], 0
    for group in plan.groups:
        offset = np.where(group.turns == UNSEEN, 0, group.turns - group.origins[:, None])
        turns.append(group.turns.ravel())
        offsets.append(offset.ravel())
        first.append(begin + group.token_row * group.turns.shape[1])
        begin += group.turns.size
    tokens = work.tokens.copy()
    tokens[:, 1] = np.concatenate(first)
    of_block = np.concatenate(turns, dtype=np.int32), np.concatenate(offsets, dtype=np.int32)
    return Turns(tokens, *of_block, _shifts(plan, work).astype(np.int32))


def _shifts(plan: ForwardPlan, work: WorkList) -> IntArray:
    """`[S]`; the runs of a group are numbered from 0, and its columns stand behind those of the group before."""
    last_columns = np.cumsum([group.num_columns for group in plan.groups])
    first_runs = np.cumsum([0, *(group.num_runs for group in plan.groups)])
    groups = last_columns.searchsorted(work.segments[:, 1], side="right")
    shifts = np.concatenate([group.run_shift for group in plan.groups])
    of_segments: IntArray = shifts[work.segments[:, 0] + first_runs[groups]]
    return of_segments
