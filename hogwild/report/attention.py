"""Shares of attention as rows hold them, read and divided into kinds of text. See `hogwild.eval.attention`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import OptionError
from hogwild.eval.rows import Row
from hogwild.report.curves import Curve

Array = NDArray[np.float64]
OWN, OTHERS = "own text", "other workers"


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of one session: T intervals, R readers, K columns of which the first R are the readers, L layers.

    NaN stands for a reader that read nothing.
    """

    columns: tuple[str, ...]
    passes: Array  # [T] the last pass of each interval
    shares: Array  # [T, R, K]
    layers: Array  # [L, R, K]

    @property
    def num_readers(self) -> int:
        """R."""
        return int(self.shares.shape[1])

    @property
    def kinds(self) -> tuple[str, ...]:
        """What `kinds_of_shares` tells apart."""
        return (OWN, OTHERS, *self.columns[self.num_readers :])

    @property
    def mean(self) -> Array:
        """`[R, K]` over time; NaN for a worker that never read."""
        return mean_of(self.shares)


def has_attention(row: Row) -> bool:
    """Whether it was measured whom the workers attend to."""
    return row.status == "done" and bool((row.collaboration or {}).get("attention"))


def shares_of(row: Row) -> Shares:
    """Raises `OptionError` for what is not in the form of `hogwild.eval.attention.Attention`."""
    data = (row.collaboration or {})["attention"]
    try:
        columns, passes = tuple(data["columns"]), np.asarray(data["passes"], dtype=np.float64)
        shares, layers = (np.asarray(data[name], dtype=np.float64) for name in ("shares", "layers"))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_understood(row, "columns, passes, shares and layers", repr(error)) from None
    readers = min(shares.shape[1] if shares.ndim > 1 else 0, len(columns))
    for name, table, count in (("shares", shares, len(passes)), ("layers", layers, len(layers))):
        if table.shape != (count, readers, len(columns)) or not table.size:
            expected = f"{name} [{count}, readers, {len(columns)}]"
            raise _not_understood(row, expected, str(list(table.shape)))
    return Shares(columns, passes, shares, layers)


def _not_understood(row: Row, expected: str, got: str) -> OptionError:
    return OptionError(f"the attention of problem {row.problem} is not understood", expected=expected, got=got)


def sessions_of(curve: Curve) -> list[Shares]:
    """Of the sessions with the most common columns: means over sessions need the same ones."""
    found = [shares_of(row) for row in curve.rows if has_attention(row)]
    columns = [(shares.columns, shares.num_readers) for shares in found]
    most = max(dict.fromkeys(columns), key=columns.count, default=None)
    return [shares for shares, own in zip(found, columns, strict=True) if own == most]


def kinds_of_shares(shares: Array, num_readers: int) -> Array:
    """Own text, other workers', and each shared column: `[T, R, K]` to `[T, 2 + K - R]`, mean over the readers."""
    reader = np.arange(num_readers)
    own = shares[:, reader, reader]
    others = shares[:, :, :num_readers].sum(axis=2) - own
    return mean_of(np.concatenate([np.stack([own, others], axis=2), shares[:, :, num_readers:]], axis=2), axis=1)


def kinds_of_sessions(sessions: Sequence[Shares]) -> dict[str, float]:
    """The mean share of each kind, over sessions, readers and time."""
    first = sessions[0]
    tables = [kinds_of_shares(one.mean[None], one.num_readers)[0] for one in sessions]
    return dict(zip(first.kinds, np.mean(tables, axis=0).tolist(), strict=True))


def mean_of(tables: Array, axis: int = 0) -> Array:
    """Mean of what is a number; NaN where nothing is."""
    counts = np.isfinite(tables).sum(axis=axis)
    sums = np.nansum(tables, axis=axis)
    means: Array = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
