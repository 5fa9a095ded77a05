"""A forced final answer: everything written so far is read as one history, and the answer is asked for.

The cache is reused. Blocks are forked, so that tokens which are sampled but not yet stored can be fed to the copies and
the session goes on undisturbed afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.core.sampling import GREEDY, SampleRequest
from hogwild.core.script import Codec, Script
from hogwild.core.session_blocks import SessionBlocks
from hogwild.core.worker import Worker


class Finisher:
    """Greedy decoding of one answer from the history of `workers`; `worker` is whose answer it is (-1: of all)."""

    def __init__(
        self, worker: int, workers: Sequence[Worker], blocks: SessionBlocks, script: Script, codec: Codec, limit: int
    ) -> None:
        self.worker = worker
        self.answer: str | None = None
        self.is_done = False
        self._script, self._codec, self._limit = script, codec, limit
        self._decoder = codec.stream_decoder()
        self._text, self._count = "", 0
        self._forks: list[Block] = []
        self._rows: list[Row] = []
        self._history: list[Block] = []
        self._add_fork(blocks.common, ())  # a worker that is dismissed meanwhile publishes its step
        for source, ids in _unpublished(workers):
            self._add_fork(source, ids)
        self._block = blocks.new("finisher")
        self._next = script.finish_ids()

    def rows(self) -> list[Row]:
        """What to feed in the next pass; the last row is the one whose logits are sampled."""
        return [*self._rows, Row((*self._history, self._block), tuple(self._next))]

    def request(self) -> SampleRequest:
        """Greedy, without control tokens but the end of text."""
        return SampleRequest(GREEDY, banned_ids=sorted(self._codec.control_ids - self._codec.eos_ids))

    def num_tokens(self) -> int:
        """The length of its view if it writes as much as it may."""
        forked = sum(len(row.token_ids) for row in self._rows)
        return sum(len(block) for block in self._history) + forked + len(self._next) + self._limit

    def take(self, token_id: int) -> None:
        """Take the sampled token; afterwards the answer may be complete."""
        self._rows = []
        ended = token_id in self._codec.eos_ids
        self._count += 1
        self._text += self._decoder.flush() if ended else self._decoder.push(token_id)
        is_last = ended or self._count >= self._limit
        self.answer = self._script.forced_answer(self._text, is_last)
        self.is_done = is_last or self.answer is not None
        self._next = [token_id]

    def close(self) -> None:
        """Release its pages; it asks for nothing more."""
        self.is_done = True
        for block in (self._block, *self._forks):
            block.clear()

    def _add_fork(self, source: Block, ids: Sequence[int]) -> None:
        fork = source.fork(f"{source.name} (read by the finisher)")
        self._forks.append(fork)
        self._history.append(fork)
        if ids:
            self._rows.append(Row(tuple(self._history), tuple(ids), logits="none"))


def _unpublished(workers: Sequence[Worker]) -> list[tuple[Block, list[int]]]:
    """Steps not yet in the common block, with their tokens that are not yet stored; a bare header is left out."""
    closing = [(worker.closing, worker.closing_ids) for worker in workers if worker.closing is not None]
    return closing + [(worker.own, worker.pending) for worker in workers if worker.text_in_own]
