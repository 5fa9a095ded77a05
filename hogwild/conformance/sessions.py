"""Generated sessions: blocks of every kind and length, and rows that read them in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from hogwild.core.arrays import IntArray, IntBuffer
from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.core.pool import PagePool
from hogwild.core.rotary import MAX_OFFSET

Rows = tuple[Row, ...]
_Any = TypeVar("_Any")
_MARGIN = 16384  # more than the tokens of any view here


def pick(rng: np.random.Generator, among: Sequence[_Any]) -> _Any:
    """Any of them; the same as `rng.choice`, in a quarter of its time."""
    return among[int(rng.integers(len(among)))]


def draw_session(rng: np.random.Generator, pool: PagePool, max_length: int) -> tuple[Rows, tuple[IntArray, ...]]:
    """The rows of one session, with the slots that their new tokens were given.

    There are one to eight workers; a common block, with published steps; a separator; sometimes a fork that shares the
    common block's pages, a crowd of short blocks, and keys that were stored at positions near +-2^20. Views hold them
    in any order, some of them twice.
    """
    if rng.random() < 0.05:
        max_length *= 8
    common = _common(rng, pool, max_length)
    separator = _block(rng, pool, 3, "separator")
    owns = _owns(rng, pool)
    shared = [common]
    if rng.random() < 0.3:
        shared.append(_fork(rng, common))
    crowd = [_block(rng, pool, 6, f"text {i}") for i in range(int(rng.integers(10, 60)))] if rng.random() < 0.1 else []
    for block in (*shared, separator, *crowd):
        if rng.random() < 0.1:
            _store_far_away(rng, block)
    rows = [Row(_view(rng, shared, separator, crowd, owns, own), _new_tokens(rng)) for own in owns]
    if not any(row.token_ids for row in rows):
        rows[0] = Row(rows[0].view, (1,))
    return tuple(rows), tuple(row.own.append(row.token_ids) for row in rows)


def _common(rng: np.random.Generator, pool: PagePool, max_length: int) -> Block:
    common = _block(rng, pool, max_length, "common")
    for _ in range(pick(rng, (0, 0, 1, 3, 20))):
        common.link(_block(rng, pool, 12, "step", _place(rng, common)))
    if rng.random() < 0.1:  # a block that continues after what was published into it
        common.append(_tokens(rng, pool.page_size, max_length))
    return common


def _owns(rng: np.random.Generator, pool: PagePool) -> list[Block]:
    """The workers' own blocks, grown in turns so that their pages interleave; some have steps published into them."""
    count = pick(rng, (1, 2, 2, 3, 4, 5, 6, 7, 8))
    owns = [Block(pool, f"own {i}", pick(rng, (0, 0, int(rng.integers(1024))))) for i in range(count)]
    for _ in range(int(rng.integers(0, 4))):
        for own in owns:
            own.append(_tokens(rng, pool.page_size, 12))
    for own in owns:
        if rng.random() < 0.1:  # its next token turns backwards for the step's keys
            own.link(_block(rng, pool, 12, "step", _place(rng, own)))
    return owns


def _fork(rng: np.random.Generator, block: Block) -> Block:
    """The same content on the same pages, cut, and perhaps continued."""
    fork = block.fork("fork")
    if rng.random() < 0.5:
        fork.truncate(int(rng.integers(0, len(fork) + 1)))
    fork.append([0] * pick(rng, (0, 0, 1, 5)))
    return fork


def _store_far_away(rng: np.random.Generator, block: Block) -> None:
    """As if the block's keys had been encoded elsewhere: each run at a position of its own near +-2^20.

    No history that fits in a test gives such offsets, so the block's record is changed. The stored bits are random
    anyway, and only their own worker's next token would contradict it, which these blocks have not.
    """
    limit = MAX_OFFSET - _MARGIN
    far = rng.integers(limit - 4096, limit, block.num_runs) * rng.choice([-1, 1], block.num_runs)
    block._run_position = IntBuffer(block.run_positions + far)


def _view(
    rng: np.random.Generator,
    shared: Sequence[Block],
    separator: Block,
    crowd: Sequence[Block],
    owns: Sequence[Block],
    own: Block,
) -> tuple[Block, ...]:
    """Some view: whole or in part, in any order, the separator as often as it likes."""
    others = [block for block in owns if block is not own and rng.random() < 0.8]
    between = [part for block in others for part in ((block, separator) if rng.random() < 0.5 else (block,))]
    first = [pick(rng, shared)] if rng.random() < 0.9 else []
    if rng.random() < 0.1:
        first += shared  # the same keys twice in a view
    view = [*first, *crowd, *between]
    if rng.random() < 0.2:
        view = [view[i] for i in rng.permutation(len(view))]
    return (*view[:63], own)


def _place(rng: np.random.Generator, block: Block) -> int:
    """Where a step is expected to be published: nowhere, at the end of the block, or near it."""
    return pick(rng, (0, 0, len(block), max(0, len(block) - pick(rng, (1, 7, 13)))))


def _block(rng: np.random.Generator, pool: PagePool, most: int, name: str, place: int = 0) -> Block:
    block = Block(pool, name, place)
    block.append(_tokens(rng, pool.page_size, most))
    return block


def _tokens(rng: np.random.Generator, page: int, most: int) -> list[int]:
    edges = [0, 1, 2, page - 1, page, page + 1, 2 * page + 1, 31]
    length = pick(rng, edges) if rng.random() < 0.4 else int(rng.integers(0, most + 1))
    return [0] * min(length, most)


def _new_tokens(rng: np.random.Generator) -> tuple[int, ...]:
    return (1,) * (40 if rng.random() < 0.02 else pick(rng, (0, 1, 1, 1, 1, 1, 2, 5, 17)))
