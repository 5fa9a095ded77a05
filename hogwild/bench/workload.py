"""The blocks of one case: what W workers read when the longest of their views holds a given number of tokens.

A view is the layout's: the common block, texts, the others' unfinished steps, the worker's own one. Token ids are
random, but their keys and values are computed by the model, as in a real run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hogwild.bench.options import BenchOptions
from hogwild.cache import SharedCache
from hogwild.core.blocks import LONG_PAGES, Block
from hogwild.core.layout import BlockRef, Layout
from hogwild.core.plan import Row
from hogwild.core.pool import PAGE_SIZE
from hogwild.errors import LayoutError, OptionError

TEXT_TOKENS = 8  # of each text and label that a layout names: headers and separators are short
MAX_OWN_TOKENS = 64  # of an unfinished step
PROMPT_TOKENS = 512  # at the most, before the first published step
View = tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the common block, and of each unfinished step with the token of the pass."""

    common: int
    own: int


def find_lengths(layout: Layout, num_workers: int, context: int) -> Lengths:
    """Lengths with which the longest view holds exactly `context` tokens.

    Raises `OptionError` when the context is too short, `LayoutError` for a view that does not read `common` once.
    """
    own = max(1, min(MAX_OWN_TOKENS, context // (4 * num_workers)))
    rest = 0
    for worker in range(num_workers):
        kinds = [ref.kind for ref in layout.expand(worker, range(num_workers))]
        if kinds.count("common") != 1:
            raise LayoutError(
                f"layout {layout.name!r} cannot be benchmarked", expected="views that read common once", got=str(kinds)
            )
        rest = max(rest, own * kinds.count("own") + TEXT_TOKENS * (kinds.count("text") + kinds.count("label")))
    if rest >= context:
        raise OptionError(
            f"a context of {context} tokens is too short for {num_workers} workers in layout {layout.name!r}",
            expected=f"more than {rest} tokens",
            got=str(context),
        )
    return Lengths(context - rest, own)


def random_ids(count: int, vocab_size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`count` token ids."""
    return tuple(rng.integers(0, vocab_size, count).tolist())


def publish_steps(
    cache: SharedCache, common: Block, length: int, step_tokens: int, rng: np.random.Generator
) -> Iterator[None]:
    """Publish steps into `common` until it has `length` tokens, as two workers do who write at the same time.

    A step has from half to one and a half times `step_tokens`. When it begins, the other worker's is there, and will be
    published first: its keys are stored elsewhere than they will stand, by as many tokens as the other one has. Yields
    after each step.
    """
    before: Block | None = None
    while len(common) < length:
        count = int(rng.integers(-(-step_tokens // 2), 3 * step_tokens // 2 + 1))
        step = cache.new_block("step", place=len(common))
        context = (common,) if before is None else (common, before)
        cache.prefill(step, random_ids(count, cache.backend.spec.vocab_size, rng), context)
        if before is not None:
            before.truncate(min(len(before), length - len(common)))
            common.link(before)
        before = step
        yield
    if before is not None:
        before.clear()


def build_views(cache: SharedCache, layout: Layout, num_workers: int, common: Block, own_tokens: int) -> list[View]:
    """Each worker's view; own blocks lack the token that the pass brings."""
    rng = np.random.default_rng(num_workers)
    vocab_size = cache.backend.spec.vocab_size

    def block_of(ref: BlockRef) -> Block:
        if ref not in blocks:
            blocks[ref] = prefilled(ref)
        return blocks[ref]

    def prefilled(ref: BlockRef) -> Block:
        count = own_tokens - 1 if ref.kind == "own" else TEXT_TOKENS
        return cache.block(random_ids(count, vocab_size, rng), (common,), name=f"{ref.kind}:{ref.name}{ref.worker}")

    blocks = {BlockRef("common"): common}
    views = []
    for worker in range(num_workers):
        refs = layout.expand(worker, range(num_workers))
        views.append(tuple(block_of(ref) for ref in refs))
    return views


def release(views: Sequence[View]) -> None:
    """Give the pages of all blocks back."""
    for block in {block for view in views for block in view}:
        block.clear()


def rows_of(views: Sequence[View], token_ids: Sequence[int]) -> list[Row]:
    """One new token for each worker."""
    return [Row(view, (int(token),)) for view, token in zip(views, token_ids, strict=True)]


def pages_held(views: Sequence[View]) -> int:
    """Distinct pages of all blocks once the token of the pass is stored; a first token is taken to open a page."""
    distinct = {page for view in views for block in view for page in block.page_ids}
    ends = (int(view[-1].slots[-1]) + 1 if len(view[-1]) else 0 for view in views)
    return len(distinct) + sum(end % PAGE_SIZE == 0 for end in ends)


def pool_tokens(options: BenchOptions) -> int:
    """Room for the longest common block and the other blocks of all cases of one context, whole pages each."""
    longest = max(options.contexts)
    common = _pages(longest)
    if step := options.step_tokens:
        longest_step, shortest_step = 3 * step // 2, -(-step // 2)
        ends_in_page = longest_step >= LONG_PAGES * PAGE_SIZE  # else the next one begins there
        common += _pages(longest_step) + (longest // shortest_step + 1 if ends_in_page else 4)
    most = 0
    for context in options.contexts:
        rest = 0
        for workers in options.workers:
            texts = {ref for w in range(workers) for ref in options.layout.expand(w, range(workers))}
            num_texts = sum(ref.kind in ("text", "label") for ref in texts)
            own = find_lengths(options.layout, workers, context).own
            rest += workers * _pages(own) + num_texts * _pages(TEXT_TOKENS)
        most = max(most, rest)
    return (common + most + 1) * PAGE_SIZE


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_SIZE)
