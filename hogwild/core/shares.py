"""Whom attention goes to: the share of each *column*, and what the columns of a session are.

A column is whatever is to be told apart among the keys: a block, everything that one worker wrote, a single token. The
columns of a pass are a number for each slot of the pool, so a backend adds up softmax weights by it and knows no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.core.session_blocks import SessionBlocks
from hogwild.core.worker import Worker
from hogwild.errors import LayoutError

Columns = Mapping[Block, int | IntArray]
"""For each block the column of all its keys, or `[len(block)]` one for each key; from 0 on."""
Array = NDArray[np.floating[Any]]

DECIMALS = 6  # of shares that are written down
SHARED = ("prompt", "texts", "first token")
"""Columns of a session beside its workers: the prompt, the layout's texts and labels, the very first token of all.

Many models put the attention that they have no use for on the first token (Xiao et al., arXiv 2309.17453)."""


def block_columns(rows: Sequence[Row]) -> dict[Block, int]:
    """A column for each block that is read, in the order in which the rows' views name them."""
    blocks = dict.fromkeys(block for row in rows for block in row.view)
    return {block: column for column, block in enumerate(blocks)}


def session_columns(blocks: SessionBlocks, workers: Sequence[Worker]) -> Columns:
    """The columns of a session: one for each worker, in their order, then those of `SHARED`.

    A worker's are its unfinished step, header included, and its steps in the common block.
    """
    prompt, texts, first = range(len(workers), len(workers) + len(SHARED))
    num_published = sum(count for _, count in blocks.published)
    common = np.full(len(blocks.common) - num_published, prompt)
    common[:1] = first
    steps = [np.full(count, worker) for worker, count in blocks.published]
    columns: dict[Block, int | IntArray] = dict.fromkeys(blocks.texts, texts)
    columns |= {blocks.common: np.concatenate([common, *steps])}
    columns |= {block: w.index for w in workers for block in (w.own, w.closing) if block is not None}
    return columns


def count_columns(columns: Columns) -> int:
    """K: one more than the largest column."""
    return 1 + max(int(np.max(given, initial=-1)) for given in columns.values())


def slot_columns(rows: Sequence[Row], columns: Columns, num_slots: int) -> IntArray:
    """`[num_slots]` the column of the key in each slot, -1 where no row reads one.

    Raises `LayoutError` for a block without a column, for columns that do not fit their block, and where two blocks
    that share pages (`Block.fork`) give one key two columns.
    """
    table: IntArray = np.full(num_slots, -1, dtype=np.int64)
    for block in dict.fromkeys(block for row in rows for block in row.view):
        own = _of_keys(block, columns)
        known = table[block.slots]
        if ((known >= 0) & (known != own)).any():
            raise LayoutError(
                f"block {block.name!r} shares keys with another block that is read, and their columns differ",
                expected="one column for each key",
                remedy="give both blocks the same column",
            )
        table[block.slots] = own
    return table


def indicator(columns: IntArray, num_columns: int) -> NDArray[np.float32]:
    """`[num_slots, K]`: 1 where a slot belongs to a column, 0 elsewhere.

    Attention is linear in its values: with these in the place of the values its output is the share of each column.
    """
    belongs: NDArray[np.bool_] = columns[:, None] == np.arange(num_columns)
    return belongs.astype(np.float32)


def mean_over_rows(shares: Array, rows: Sequence[Row]) -> NDArray[np.float64]:
    """`[.., T, K]` for the tokens of all rows to `[.., R, K]`: the mean of each row's tokens, NaN if it brings none."""
    counts = np.array([len(row.token_ids) for row in rows])
    ends = counts.cumsum()
    means = np.full((*shares.shape[:-2], len(rows), shares.shape[-1]), np.nan)
    for row, (end, count) in enumerate(zip(ends, counts, strict=True)):
        if count:
            means[..., row, :] = shares[..., end - count : end, :].mean(axis=-2, dtype=np.float64)
    return means


def shares_of_workers(
    readers: Sequence[tuple[Worker, Row]], shares: Array
) -> tuple[tuple[int, ...], tuple[tuple[tuple[float, ...], ...], ...]]:
    """Shares `[layers, R, K]` of workers' rows, as the workers' indices and `[layer][worker][column]`.

    A worker with two rows (a step that is closed, the next one's header) has the mean of all their tokens.
    """
    found = sorted({worker.index for worker, _ in readers})
    counts = np.array([[len(row.token_ids) * (w.index == index) for w, row in readers] for index in found])
    means = counts / counts.sum(axis=1, keepdims=True) @ shares
    return tuple(found), tuple(tuple(tuple(row) for row in layer) for layer in means.round(DECIMALS).tolist())


def _of_keys(block: Block, columns: Columns) -> IntArray:
    given = np.asarray(columns.get(block, -1))
    if given.shape not in ((), (len(block),)) or given.dtype.kind not in "iu" or (given.size and given.min() < 0):
        raise LayoutError(
            f"the columns of block {block.name!r} are not understood",
            expected=f"a number from 0 on for the block, or one for each of its {len(block)} keys",
            got=f"{given.dtype} {list(given.shape)}" if block in columns else "none",
        )
    return given
