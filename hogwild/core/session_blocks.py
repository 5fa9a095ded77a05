"""The blocks of one session: the common one, texts and labels; how views are put together from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from hogwild.core.blocks import Block, Pages
from hogwild.core.layout import BlockRef, Layout
from hogwild.core.plan import Row
from hogwild.core.script import Script
from hogwild.core.worker import Worker


@dataclass(slots=True)
class Prefill:
    """A block that is being filled with tokens known beforehand."""

    block: Block
    token_ids: list[int]
    context: tuple[Block, ...]

    @property
    def rest(self) -> list[int]:
        """Tokens that are still to be fed."""
        return self.token_ids[len(self.block) :]

    def row(self, chunk: int) -> Row:
        """The next `chunk` tokens as a row."""
        return Row((*self.context, self.block), tuple(self.rest[:chunk]), logits="none")


class SessionBlocks:
    """Makes, finds and releases the blocks of a session.

    Attributes:
        published: worker and number of tokens of each step at the end of `common`, in order.
    """

    def __init__(self, layout: Layout, script: Script, pages: Pages, prompt_ids: list[int]) -> None:
        self.layout = layout
        self.common = Block(pages, "common")
        self.published: list[tuple[int, int]] = []
        self._known_view = lru_cache(maxsize=64)(self._make_view)  # the same ones are asked for in nearly every pass
        self._script = script
        self._pages = pages
        self._named: dict[BlockRef, Block] = {}
        self._prompt = Prefill(self.common, prompt_ids, ())
        self._prefills: list[Prefill] = []

    def new(self, name: str) -> Block:
        """An empty block of this session."""
        return Block(self._pages, name)

    def place(self, own: Block, workers: Sequence[Worker]) -> None:
        """Say where `own`, a step that is about to begin, will stand when it is published.

        That is behind the steps that wait for their last tokens; what others publish while it is written is not known.
        """
        if self.layout.publish and not len(own):
            waiting = (len(w.closing) + len(w.closing_ids) for w in workers if w.closing is not None)
            own.place_at(len(self.common) + sum(waiting))

    def open_texts(self, workers: Sequence[int]) -> None:
        """Begin to fill the texts and labels that views with these workers need, in the context of the prompt."""
        refs = (ref for viewer in workers for ref in self.layout.expand(viewer, workers))
        for ref in refs:
            if ref.kind in ("text", "label") and ref not in self._named:
                self._named[ref] = self.new(f"{ref.kind}:{ref.name}")
                self._prefills.append(Prefill(self._named[ref], self._ids(ref), (self.common,)))

    def prefill_rows(self, chunk: int) -> list[Row]:
        """What is still to be prefilled, at most `chunk` tokens for each block: first the prompt, then the texts."""
        if self._prompt.rest:
            return [self._prompt.row(chunk)]
        self._prefills = [prefill for prefill in self._prefills if prefill.rest]
        return [prefill.row(chunk) for prefill in self._prefills]

    @property
    def prompt_is_ready(self) -> bool:
        """Whether the whole prompt is stored."""
        return not self._prompt.rest

    def is_ready(self, worker: int, workers: Sequence[int]) -> bool:
        """Whether the prompt and every text in this worker's view is stored."""
        waiting = {id(prefill.block) for prefill in self._prefills if prefill.rest}
        refs = self.layout.expand(worker, workers)
        return self.prompt_is_ready and not any(
            id(self._named[ref]) in waiting for ref in refs if ref.kind in ("text", "label")
        )

    def view(self, viewer: Worker, own: Block, present: Sequence[Worker]) -> tuple[Block, ...]:
        """What `viewer` sees when it writes `own`; steps that wait for their last tokens stand after `common`."""
        return self._known_view(viewer.index, own, tuple([(w.index, w.own, w.closing) for w in present]))

    def _make_view(
        self, viewer: int, own: Block, present: tuple[tuple[int, Block, Block | None], ...]
    ) -> tuple[Block, ...]:
        """present: index, block and closing step of each worker that is there."""
        owns = {index: block for index, block, _ in present} | {viewer: own}
        closings = [closing for _, _, closing in present if closing is not None and closing is not own]
        blocks: list[Block] = []
        for ref in self.layout.expand(viewer, sorted(index for index, _, _ in present)):
            if ref.kind == "common":
                blocks += [self.common, *closings]
            elif ref.kind != "own":
                blocks.append(self._named[ref])
            elif ref.worker in owns:
                blocks.append(owns[ref.worker])
        return tuple(blocks)

    def publish(self, worker: int, step: Block) -> None:
        """Move a worker's step to the end of `common`."""
        self.published.append((worker, len(step)))
        self.common.link(step)

    @property
    def texts(self) -> tuple[Block, ...]:
        """Texts and labels that views may hold."""
        return tuple(self._named.values())

    def num_text_tokens(self) -> int:
        """Tokens stored in texts and labels."""
        return sum(len(block) for block in self._named.values())

    def clear(self) -> None:
        """Release every page."""
        for block in (self.common, *self._named.values()):
            block.clear()

    def _ids(self, ref: BlockRef) -> list[int]:
        if ref.kind == "label":
            return self._script.label_ids(ref.name, ref.worker)
        return self._script.text_ids(ref.name)
