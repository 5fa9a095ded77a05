"""The low-level API: blocks over one shared K/V pool, and passes over any views of them.

cache = SharedCache(model.backend)
prompt = cache.block(model.tokenizer.encode("..."))        # prefilled
alice, bob = cache.new_block("alice"), cache.new_block("bob")
result = cache.forward([Row((prompt, bob, alice), ids_a), Row((prompt, alice, bob), ids_b)])
logits = cache.to_numpy(result)                            # [2, V]
prompt.link(alice)                                         # publish
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend, ForwardResult
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block, Pages
from hogwild.core.plan import PREFILL_CHUNK, ForwardPlan, Planner, Row, build_plan, check_view
from hogwild.core.pool import PAGE_SIZE, PagePool
from hogwild.core.shares import Columns, block_columns, count_columns, mean_over_rows, slot_columns
from hogwild.errors import LayoutError, OptionError, PromptError, TokenError


class SharedCache:
    """Blocks of one model's K/V pool.

    A model has one pool, so a new cache (or engine) takes it over: blocks of the former one cannot be used any more.

    Args:
        backend: the loaded model.
        num_tokens: room to start with, in tokens; the pool doubles when it is full.
        max_tokens: the most it may grow to (None: no limit but the device's). Equal to `num_tokens`: a fixed pool.
    """

    def __init__(
        self, backend: Backend, num_tokens: int = 1024, max_tokens: int | None = None, page_size: int = PAGE_SIZE
    ) -> None:
        if num_tokens < 1 or page_size < 1 or (max_tokens is not None and max_tokens < page_size):
            raise OptionError(
                "the cache would hold no page",
                expected="num_tokens >= 1, page_size >= 1 and max_tokens >= page_size",
                got=f"num_tokens={num_tokens}, max_tokens={max_tokens}, page_size={page_size}",
            )
        max_pages = None if max_tokens is None else max_tokens // page_size
        num_pages = -(-num_tokens // page_size)
        self.backend = backend
        self._planner = Planner(backend.spec.context_size)
        self._good_views: list[tuple[Block, ...]] = []
        self.pool = PagePool(min(num_pages, max_pages or num_pages), max_pages, page_size)
        backend.pool_owner = self
        backend.reserve(self.pool.num_slots)

    def new_block(self, name: str = "", pages: Pages | None = None, place: int = 0) -> Block:
        """An empty block; `pages` names a session's reservation to draw from instead of the pool.

        place: for a step, where it will probably stand in the block that it is published into, `len(prompt)`. It makes
        later passes over many short steps faster, and changes last bits alone; see `Block.place_at`.
        """
        return Block(pages or self.pool, name, place)

    def block(
        self, token_ids: Sequence[int], context: Sequence[Block] = (), name: str = "", pages: Pages | None = None
    ) -> Block:
        """A block with these tokens, prefilled as the continuation of the blocks in `context`."""
        block = self.new_block(name, pages)
        self.prefill(block, token_ids, context)
        return block

    def prefill(self, block: Block, token_ids: Sequence[int], context: Sequence[Block] = ()) -> None:
        """Add tokens to `block` in the context of other blocks, in passes of at most `PREFILL_CHUNK` tokens.

        All of them, or an error and no change. Without tokens nothing happens.
        """
        if not len(token_ids):
            return
        row, length = Row((*context, block), tuple(token_ids)), len(block)
        self._check([row])
        check_view(row, row.num_visible + len(row.token_ids), self.backend.spec.context_size)
        try:
            for start in range(0, len(row.token_ids), PREFILL_CHUNK):
                self.forward([Row(row.view, row.token_ids[start : start + PREFILL_CHUNK], logits="none")])
        except BaseException:
            block.truncate(length)
            raise

    def forward(self, rows: Sequence[Row], *, hidden_states: bool = False) -> ForwardResult:
        """One pass of one group of rows; see `forward_groups`."""
        return self.forward_groups([rows], hidden_states=hidden_states)

    def forward_groups(self, groups: Sequence[Sequence[Row]], *, hidden_states: bool = False) -> ForwardResult:
        """One pass: append every row's tokens to its own block, then run the model; or an error and no change.

        Rows of different groups must not share blocks. Logits come in the order of the rows that asked for them.
        """
        rows = [row for group in groups for row in group]
        self._check(rows)
        lengths, capacity = [len(row.own) for row in rows], self.pool.capacity
        try:
            plan = self._plan(groups)
            self.backend.reserve(plan.num_slots)
            return self.backend.forward(plan, hidden_states=hidden_states)
        except BaseException:
            for row, length in zip(rows, lengths, strict=True):
                row.own.truncate(length)
            self.pool.shrink_to(capacity)
            raise

    def attention_shares(
        self, rows: Sequence[Row], columns: Columns | None = None, *, by_head: bool = False
    ) -> NDArray[np.float64]:
        """Whom the tokens of a pass that is done attend to: `[layers, R, K]`, mean of a row's tokens and of all heads.

        by_head: `[layers, heads, R, K]`.

        A share is the sum of the softmax weights of a column's keys. Shares of a row add up to 1, or to less where the
        model has learned sinks, which take the rest; they are NaN for a row that brings no token. Layers come in the
        order in which the model computes them.

        columns: what is told apart. For each block its column, from 0 on, or an array with a column for each of its
        keys: `{block: np.arange(len(block))}` gives a share for each token. None: the blocks of all views, in the order
        in which they are first named.

        `rows` are those of `forward`, given again while their tokens are the last ones of their own blocks. The model
        runs once more over these tokens, by the plain attention, and writes nothing: no bit that comes later changes.

        Raises `LayoutError` for tokens that do not stand there, for a block without a column, and where one key would
        have two columns; `OptionError` for `by_head` where layers have different numbers of heads.
        """
        return self.attention_shares_of_groups([rows], columns, by_head=by_head)

    def attention_shares_of_groups(
        self, groups: Sequence[Sequence[Row]], columns: Columns | None = None, *, by_head: bool = False
    ) -> NDArray[np.float64]:
        """The same for the groups of `forward_groups`; R counts the rows of all groups, in order."""
        rows = [row for group in groups for row in group]
        self._check_owner()
        self._check_blocks(dict.fromkeys(block for row in rows for block in row.view))
        _check_stored(rows)
        columns = block_columns(rows) if columns is None else columns
        table = slot_columns(rows, columns, self.pool.num_slots)
        silent = [[replace(row, logits="none") for row in group] for group in groups]
        written = [[_last_slots(row) for row in group] for group in groups]
        plan = build_plan(silent, self.pool.num_slots, written)
        of_layers = self.backend.attention_shares(plan, table, count_columns(columns))
        if by_head and len({len(shares) for shares in of_layers}) > 1:
            raise OptionError("layers of this model have different numbers of heads", remedy="leave out by_head")
        of_layers = of_layers if by_head else tuple(shares.mean(axis=0) for shares in of_layers)
        return mean_over_rows(np.stack(of_layers), rows)

    def to_numpy(self, result: ForwardResult) -> NDArray[np.float32]:
        """The logits of a pass, `[n, V]` float32."""
        return self.backend.to_numpy(result.logits)

    def read_kv(self, block: Block, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of a block's tokens as stored."""
        self._check_owner()
        return self.backend.read_kv(layer, block.slots.astype(np.int64))

    @property
    def kv_bytes_used(self) -> int:
        """Bytes of K/V in pages that somebody holds."""
        return self.pool.num_used * self.pool.page_size * self.backend.spec.kv_bytes_per_token

    def _plan(self, groups: Sequence[Sequence[Row]]) -> ForwardPlan:
        appended: list[list[IntArray]] = [[row.own.append(row.token_ids) for row in group] for group in groups]
        return self._planner.plan(groups, self.pool.num_slots, appended)

    def _check(self, rows: Sequence[Row]) -> None:
        self._check_owner()
        if not any(row.token_ids for row in rows):
            raise PromptError("a pass has nothing to compute", expected="at least one new token in one row", got="none")
        self._check_tokens(list(chain.from_iterable([row.token_ids for row in rows])))
        views = [row.view for row in rows]
        if views != self._good_views:  # most passes read as the one before
            if len({row.own for row in rows}) != len(rows):
                raise LayoutError("two rows of a pass write the same block", expected="one writer for each block")
            self._check_blocks(dict.fromkeys(chain.from_iterable(views)))
            self._good_views = views

    def _check_owner(self) -> None:
        if self.backend.pool_owner is not self:
            raise OptionError(
                "the blocks of this cache are gone: a newer cache or engine has taken over the model's K/V pool",
                expected="one cache or engine for each loaded model at a time",
                remedy="use the newer one, or load the model twice",
            )

    def _check_blocks(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if block.pool is not self.pool:
                raise LayoutError(
                    f"block {block.name!r} belongs to another cache",
                    expected="views of blocks that this cache made",
                    remedy="make the block with new_block or block of this cache",
                )

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        vocab_size = self.backend.spec.vocab_size
        for token in token_ids:
            if not isinstance(token, (int, np.integer)) or not 0 <= token < vocab_size:
                raise TokenError(
                    "a token id is outside the vocabulary",
                    expected=f"whole numbers from 0 to {vocab_size - 1}",
                    got=repr(token),
                )


def _last_slots(row: Row) -> IntArray:
    """Where the K/V of the row's tokens lie, which are the last ones of its own block."""
    return row.own.slots[len(row.own) - len(row.token_ids) :].astype(np.int64)


def _check_stored(rows: Sequence[Row]) -> None:
    if not any(row.token_ids for row in rows):
        raise PromptError("no row has a token that could attend", expected="at least one token in one row", got="none")
    for row in rows:
        last = row.own.token_ids[max(0, len(row.own) - len(row.token_ids)) :]
        if last.tolist() != list(row.token_ids):
            raise LayoutError(
                f"the row's tokens are not the last ones of block {row.own.name!r}",
                expected="the rows of a pass that is done, before anything else is appended, cut or published",
                remedy="measure right after the pass",
            )
