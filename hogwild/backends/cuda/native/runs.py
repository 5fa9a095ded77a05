"""How products.cpp reads a group: column by column, in the order of the runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hogwild.backends.cuda.angles import AngleTables
from hogwild.backends.cuda.columns import Columns
from hogwild.core.plan import GroupPlan


@dataclass(frozen=True, slots=True)
class Runs:
    """The slots `[C]` of a group's columns, and where its runs begin among them `[N + 1]`; int64."""

    slots: Tensor
    start: Tensor


def find_runs(group: GroupPlan, tables: AngleTables) -> tuple[Runs, Columns]:
    """The runs, and the columns that masks and angles are made for; a piece is a run."""
    arrays = (array.astype(np.int64) for array in (group.column_slots, group.run_start))
    number = np.arange(group.num_runs)
    run = np.repeat(number, np.diff(group.run_start))
    columns = Columns(
        stretches=(),
        gathered=np.zeros(0, dtype=np.int64),
        piece_run=number,
        column_run=run,
        column_index=np.arange(group.num_columns) - group.run_start[run],
    )
    return Runs(*map(tables.to_device, arrays)), columns
