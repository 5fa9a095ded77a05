"""One problem, from prompt to answer: what is fed in the next pass, and when an answer is due.

A session knows no model. The engine asks it for feeds, runs them (perhaps together with those of other sessions), and
commits the sampled tokens; the session answers with events. What the tokens mean is told in `Writing`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hogwild.core import events as ev
from hogwild.core.admission import worker_pages
from hogwild.core.blocks import Block
from hogwild.core.conclusion import Conclusion, own_answer
from hogwild.core.event_log import EventLog
from hogwild.core.feeds import Feed, finisher_feeds, first_over_context
from hogwild.core.options import SessionOptions
from hogwild.core.plan import PREFILL_CHUNK, Row
from hogwild.core.pool import Reservation
from hogwild.core.script import Codec, Script
from hogwild.core.session_blocks import SessionBlocks
from hogwild.core.shares import SHARED, shares_of_workers
from hogwild.core.worker import BannedIds, Uniforms, Worker
from hogwild.core.writing import Writing
from hogwild.errors import OptionError


class Session:
    """The state of one problem. Created by `Engine.submit`; `events` collect in `drain()`."""

    def __init__(
        self,
        index: int,
        script: Script,
        codec: Codec,
        options: SessionOptions,
        pages: Reservation,
        context_size: int,
        prompt_ids: list[int],
    ) -> None:
        options.layout.check(options.num_workers, script.text_names)
        self.index = index
        self.options = options
        self.script = script
        self.answer: str | None = None
        self.ended: ev.SessionReason | None = None
        self.workers: list[Worker] = []
        self._codec, self._pages, self._context_size = codec, pages, context_size
        self._starts_bare = not script.header_ids(0, 1)
        # Without a header a worker has nothing to feed at first: it gets the prompt's last token.
        self._first_ids = prompt_ids[-1:] if self._starts_bare else []
        self._prompt_ids = prompt_ids
        stored = prompt_ids[:-1] if self._starts_bare else prompt_ids
        self.blocks = SessionBlocks(options.layout, script, pages, stored)
        self._log = EventLog(index)
        self._writing = Writing(self.workers, self.blocks, script, codec, options, self._log)
        self._prefill_seconds = 0.0
        self._conclusion: Conclusion | None = None
        for _ in range(options.num_workers):
            self._add_worker()

    @property
    def pass_index(self) -> int:
        """How many decoding passes are done."""
        return self._log.pass_index

    # What the engine calls -----------------------------------------------------------------------------------------

    def feeds(self) -> list[Feed]:
        """The rows of the next pass; empty when the session has ended."""
        if self.ended:
            return []
        if self._conclusion is not None:
            return list(itertools.chain.from_iterable(map(finisher_feeds, self._conclusion.finishers)))
        prefill = [Feed(row) for row in self.blocks.prefill_rows(PREFILL_CHUNK)]
        self._admit_ready_workers()
        while True:
            feeds = [feed for worker in self.workers for feed in self._worker_feeds(worker)]
            too_long = first_over_context(feeds, self._context_size)
            if too_long is None or too_long.worker is None:
                break
            self._writing.stop_for_length(too_long.worker, too_long.row.own)
        if not prefill and not feeds:
            self._settle()
            return self.feeds()
        return prefill + feeds

    def commit(self, feeds: Sequence[Feed], token_ids: Sequence[int | None], seconds: float) -> None:
        """Take the result of a pass: for each feed the sampled token, or None where nothing was sampled."""
        decoding = any(feed.worker is not None for feed in feeds)
        self._log.pass_index += decoding
        if not decoding and self._conclusion is None:
            self._prefill_seconds += seconds
        for feed in feeds:
            if feed.worker is not None:
                feed.worker.note_stored(feed.row)
        self._writing.publish_closed()
        for feed, token_id in zip(feeds, token_ids, strict=True):
            if feed.take is not None and token_id is not None:
                feed.take(token_id)
        if self._conclusion is not None:
            self._conclude_if_ready(self._conclusion)
        elif decoding:
            self._end_pass(seconds, sum(len(feed.row.token_ids) for feed in feeds))

    @property
    def measures_attention(self) -> bool:
        """Whether it wants to know whom the workers attend to in the next pass."""
        every = self.options.attention_every
        return every > 0 and (self.pass_index + 1) % every == 0

    def note_attention(self, feeds: Sequence[Feed], shares: NDArray[np.float64]) -> None:
        """Take the shares `[layers, R, K]` of some workers' feeds, between a pass and its `commit`."""
        readers, of_layers = shares_of_workers([(feed.worker, feed.row) for feed in feeds if feed.worker], shares)
        self._log.emit(
            ev.AttentionMeasured,
            pass_index=self.pass_index + 1,
            workers=readers,
            columns=(*(worker.name for worker in self.workers), *SHARED),
            shares=of_layers,
        )

    def drain(self) -> list[ev.Event]:
        """The events since the last call, in order."""
        return self._log.drain()

    def announce(self, model: str, backend: str, kv_bytes_per_token: int, options: dict[str, object]) -> None:
        """Open the stream of events."""
        self._log.emit(
            ev.SessionStarted,
            problem=self.script.problem,
            layout=self.options.layout.name,
            prompt_style=self.script.style,
            model=model,
            backend=backend,
            num_prompt_tokens=len(self._prompt_ids),
            kv_bytes_per_token=kv_bytes_per_token,
            options=options,
        )

    def join(self) -> Worker:
        """Add a worker now; it writes as soon as its texts are stored."""
        if self.ended:
            raise OptionError("a worker cannot join a session that has ended", got=f"ended: {self.ended}")
        self.options.layout.check(len(self.workers) + 1, self.script.text_names)
        self._pages.extend(worker_pages(self.options, self.script, self._pages.pool.page_size))
        return self._add_worker()

    def stop_worker(self, worker: Worker, reason: ev.WorkerReason = "cancelled") -> None:
        """End a worker at once; its unfinished step is not published and its pages come back."""
        if worker.ended is None:
            self._writing.stop(worker, reason)

    def dismiss(self, worker: Worker) -> None:
        """End a worker between two passes and keep what it wrote; where steps are published, the unfinished one too."""
        if worker.ended is None:
            self._writing.end(worker, "dismissed")

    def cancel(self) -> None:
        """End the session at once and keep what was written."""
        if not self.ended:
            if self._conclusion is not None:
                self._conclusion.close()
            self._end("cancelled")

    def close(self) -> None:
        """Release every page; what was said remains readable in the events."""
        self.cancel()
        for worker in self.workers:
            for block in (worker.closing, worker.own):
                if block is not None:
                    block.clear()
        self.blocks.clear()
        self._pages.close()

    # Feeding -------------------------------------------------------------------------------------------------------

    def _add_worker(self) -> Worker:
        index = len(self.workers)
        params = self.options.sampling_of(index)
        worker = Worker(
            index=index,
            name=self.script.name_of(index),
            params=params,
            banned=BannedIds.of(self._codec, params),
            uniforms=Uniforms(self.options.seed, index),
            own=self.blocks.new(f"worker:{index}"),
            decoder=self._codec.stream_decoder(),
            seen=set(self._prompt_ids),
        )
        self.workers.append(worker)
        self.blocks.open_texts(range(len(self.workers)))
        return worker

    def _admit_ready_workers(self) -> None:
        present = [worker.index for worker in self.workers]
        if not any(worker.joined for worker in self.workers) and self.blocks.is_ready(0, present):
            num_tokens = len(self.blocks.common) + self.blocks.num_text_tokens()
            self._log.emit(ev.PromptRead, seconds=self._prefill_seconds, num_tokens=num_tokens)
        for worker in self.workers:
            if not worker.joined and self.blocks.is_ready(worker.index, present):
                worker.joined = True
                self._log.emit(ev.WorkerJoined, worker=worker.index, name=worker.name)
                if self._starts_bare:
                    worker.pending += self._first_ids
                    worker.num_forced += len(self._first_ids)
                self._writing.force(worker, self.script.header_ids(worker.index, 1))

    def _worker_feeds(self, worker: Worker) -> list[Feed]:
        """A worker's rows: the end of its finished step, then what it writes now; the last one is sampled."""
        parts = [(worker.closing, worker.closing_ids)] if worker.closing is not None and worker.closing_ids else []
        if worker.pending and worker.ended != "length":
            parts.append((worker.own, worker.pending))
        feeds = [Feed(self._row(worker, own, ids), worker) for own, ids in parts]
        if feeds and worker.is_active:
            last = feeds.pop()
            row = Row(last.row.view, last.row.token_ids, logits="last")
            request = worker.request(eos_anywhere=not self.options.layout.publish)
            feeds.append(Feed(row, worker, request, lambda token: self._writing.take(worker, token)))
        return feeds

    def _row(self, worker: Worker, own: Block, ids: Sequence[int]) -> Row:
        self.blocks.place(own, self.workers)
        return Row(self._view(worker, own), tuple(ids), logits="none")

    def _view(self, worker: Worker, own: Block) -> tuple[Block, ...]:
        present = [w for w in self.workers if w.joined and (w.ended is None or w.closing or len(w.own) or w is worker)]
        return self.blocks.view(worker, own, present)

    # Ending ----------------------------------------------------------------------------------------------------------

    def _end_pass(self, seconds: float, num_tokens: int) -> None:
        stored, separate = self._cache_tokens()
        self._log.emit(
            ev.PassDone, seconds=seconds, num_tokens=num_tokens, cache_tokens=stored, separate_tokens=separate
        )
        if self.options.finish == "first" and any(worker.answer is not None for worker in self.workers):
            self._end("answer")
        elif self.pass_index in (*self.options.budgets, self.options.max_passes):
            self._reach_budget(self.pass_index)

    def _settle(self) -> None:
        """Nobody has anything to say any more."""
        self._writing.publish_closed()
        if all(worker.answer is not None for worker in self.workers):
            self._end("answer")
        else:
            self._reach_budget(self.pass_index)

    def _reach_budget(self, budget: int) -> None:
        self._conclusion = Conclusion(budget, self.workers)
        if self.options.finisher_tokens and self.script.finish_ids():
            self._conclusion.ask(self.blocks, self.script, self._codec, self.options, self._context_size)
        self._conclude_if_ready(self._conclusion)

    def _conclude_if_ready(self, conclusion: Conclusion) -> None:
        """When nobody writes any more: record the state at the budget; at the last budget end the session."""
        if not conclusion.is_ready:
            return
        self._conclusion = None
        conclusion.close()
        for index, text in conclusion.forced_answers():
            self._log.emit(ev.AnswerGiven, worker=index, answer=text, source="finisher")
        answer = conclusion.answer(self.options)
        sampled = tuple(worker.num_sampled for worker in self.workers)
        self._log.emit(ev.BudgetReached, budget=conclusion.budget, answer=answer, num_sampled=sampled)
        is_over = not any(worker.ended is None or worker.has_rows for worker in self.workers)
        if is_over or self.pass_index >= self.options.max_passes:
            self.answer = answer
            self._end("workers_ended" if is_over else "max_passes")

    def _end(self, reason: ev.SessionReason) -> None:
        self.ended = reason
        self.answer = self.answer if self.answer is not None else own_answer(self.workers, self.options)
        usage = tuple(worker.usage() for worker in self.workers)
        self._log.emit(ev.SessionEnded, reason=reason, answer=self.answer, usage=usage)

    def _cache_tokens(self) -> tuple[int, int]:
        """K/V rows of the session, and rows that caches of its workers' own would hold."""
        written = [block for w in self.workers for block in (w.own, w.closing) if block is not None]
        stored = len(self.blocks.common) + self.blocks.num_text_tokens() + sum(map(len, written))
        views = [self._view(worker, worker.own) for worker in self.workers if worker.joined]
        return stored, sum(map(len, itertools.chain.from_iterable(views)))
