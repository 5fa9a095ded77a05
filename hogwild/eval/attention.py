"""Whom the workers of a session attended to, from its events: over its passes, and from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hogwild.core import events as ev
from hogwild.core.shares import SHARED

MAX_INTERVALS = 32
DECIMALS = 5
Table: TypeAlias = list[list[float | None]]
"""`[reader][column]` shares; None for a worker that read nothing."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Shares of attention, means of all heads; they add up to 1 over the columns, less what learned sinks take.

    Attributes:
        columns: what is read: the workers' names, which are the readers too, then `hogwild.core.shares.SHARED`.
        passes: the last pass of each interval; the intervals depend on the options of the session alone.
        shares: `[interval][reader][column]`, means of all layers and of the passes that were measured in the interval.
        layers: `[layer][reader][column]`, means of all passes that were measured.
    """

    columns: list[str]
    passes: list[int]
    shares: list[Table]
    layers: list[Table]


def attention(events: Sequence[ev.Event]) -> Attention | None:
    """The account of one session; None if nothing was measured."""
    measured = [event for event in events if isinstance(event, ev.AttentionMeasured)]
    if not measured:
        return None
    started = next(event for event in events if isinstance(event, ev.SessionStarted))
    every, last = int(started.options["attention_every"]), int(started.options["max_passes"])
    length = every * -(-last // (every * MAX_INTERVALS))
    columns = measured[-1].columns  # whoever joins late comes after the others
    tables = np.stack([_table(event, len(columns) - len(SHARED)) for event in measured])
    interval = np.array([-(-event.pass_index // length) for event in measured])
    found = sorted(set(interval.tolist()))
    return Attention(
        columns=list(columns),
        passes=[min(last, number * length) for number in found],
        shares=[_mean(tables[interval == number].mean(axis=1)) for number in found],
        layers=[_mean(tables[:, layer]) for layer in range(tables.shape[1])],
    )


def _table(event: ev.AttentionMeasured, num_workers: int) -> NDArray[np.float64]:
    """`[layers, W, W + shared]`, with NaN for workers that read nothing and 0 for those that were not there yet."""
    shares = np.array(event.shares, dtype=np.float64)
    known = shares.shape[2] - len(SHARED)
    table = np.full((shares.shape[0], num_workers, num_workers + len(SHARED)), np.nan)
    table[:, event.workers, :] = 0
    table[:, event.workers, :known] = shares[:, :, :known]
    table[:, event.workers, num_workers:] = shares[:, :, known:]
    return table


def _mean(tables: NDArray[np.float64]) -> Table:
    """Mean over the first axis of `[n, W, K]`, of those that are numbers."""
    counts = np.isfinite(tables).sum(axis=0)
    means = np.nansum(tables, axis=0) / np.maximum(counts, 1)
    rounded = np.where(counts > 0, means.round(DECIMALS), np.nan).tolist()
    return [[None if share != share else share for share in row] for row in rounded]
