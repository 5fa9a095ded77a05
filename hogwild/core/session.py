"""One problem, from prompt to answer: what is fed in the next pass, and what the tokens that come back mean.

A session knows no model. The engine asks it for feeds, runs them (perhaps together with those of other sessions), and
commits the sampled tokens; the session answers with events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogwild.core import events as ev
from hogwild.core.admission import worker_pages
from hogwild.core.blocks import Block
from hogwild.core.conclusion import Conclusion, own_answer
from hogwild.core.finisher import Finisher
from hogwild.core.options import SessionOptions
from hogwild.core.plan import Row
from hogwild.core.pool import Reservation
from hogwild.core.sampling import SampleRequest
from hogwild.core.script import Codec, Script
from hogwild.core.session_blocks import SessionBlocks
from hogwild.core.shares import SHARED, shares_of_workers
from hogwild.core.steps import ends_step
from hogwild.core.worker import Worker, worker_key
from hogwild.errors import OptionError

PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Feed:
    """One row of the next pass; `request` says how its last token's logits are sampled, None: not at all.

    worker: whose row it is; None for prefill and finishers. take: what to do with the sampled token.
    """

    row: Row
    worker: Worker | None = None
    request: SampleRequest | None = None
    take: Callable[[int], None] | None = None


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
        self.pass_index = 0
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
        self._events: list[ev.Event] = []
        self._num_sampled_at_check = 0
        self._prefill_seconds = 0.0
        self._conclusion: Conclusion | None = None
        for _ in range(options.num_workers):
            self._add_worker()

    # What the engine calls -----------------------------------------------------------------------------------------

    def feeds(self) -> list[Feed]:
        """The rows of the next pass; empty when the session has ended."""
        if self.ended:
            return []
        if self._conclusion is not None:
            return list(itertools.chain.from_iterable(map(_finisher_feeds, self._conclusion.finishers)))
        prefill = [Feed(row) for row in self.blocks.prefill_rows(PREFILL_CHUNK)]
        self._admit_ready_workers()
        while True:
            feeds = [feed for worker in self.workers for feed in self._worker_feeds(worker)]
            too_long = self._first_over_context(feeds)
            if too_long is None:
                break
            self._stop_for_length(too_long)
        if not prefill and not feeds:
            self._settle()
            return self.feeds()
        return prefill + feeds

    def commit(self, feeds: Sequence[Feed], token_ids: Sequence[int | None], seconds: float) -> None:
        """Take the result of a pass: for each feed the sampled token, or None where nothing was sampled."""
        decoding = any(feed.worker is not None for feed in feeds)
        self.pass_index += decoding
        if not decoding and self._conclusion is None:
            self._prefill_seconds += seconds
        for feed in feeds:
            if feed.worker is not None:
                _mark_stored(feed.worker, feed.row)
        self._publish_closed()
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
        measured = ev.AttentionMeasured(
            session=self.index,
            pass_index=self.pass_index + 1,
            workers=readers,
            columns=(*(worker.name for worker in self.workers), *SHARED),
            shares=of_layers,
        )
        self._events.append(measured)

    def drain(self) -> list[ev.Event]:
        """The events since the last call, in order."""
        drained, self._events = self._events, []
        return drained

    def announce(self, model: str, backend: str, kv_bytes_per_token: int, options: dict[str, object]) -> None:
        """Open the stream of events."""
        self._emit(
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
        self._pages.extend(worker_pages(self.options, self.script, self._pages.page_size))
        return self._add_worker()

    def stop_worker(self, worker: Worker, reason: ev.WorkerReason = "cancelled") -> None:
        """End a worker at once; its unfinished step is not published and its pages come back."""
        if worker.ended is not None:
            return
        for block in (worker.closing, worker.own):
            if block is not None:
                self._release(worker, block)
        worker.num_released += len(worker.pending) + len(worker.closing_ids)
        worker.pending, worker.closing_ids, worker.closing = [], [], None
        self._end_worker(worker, reason)

    def dismiss(self, worker: Worker) -> None:
        """End a worker between two passes and keep what it wrote; where steps are published, the unfinished one too."""
        if worker.ended is None:
            self._end_worker(worker, "dismissed")

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
        worker = Worker(
            index=index,
            name=self.script.name_of(index),
            params=self.options.sampling_of(index),
            key=worker_key(self.options.seed, index),
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
            self._emit(ev.PromptRead, seconds=self._prefill_seconds, num_tokens=num_tokens)
        for worker in self.workers:
            if not worker.joined and self.blocks.is_ready(worker.index, present):
                worker.joined = True
                self._emit(ev.WorkerJoined, worker=worker.index, name=worker.name)
                if self._starts_bare:
                    worker.pending += self._first_ids
                    worker.num_forced += len(self._first_ids)
                self._force(worker, self.script.header_ids(worker.index, 1))

    def _worker_feeds(self, worker: Worker) -> list[Feed]:
        """A worker's rows: the end of its finished step, then what it writes now; the last one is sampled."""
        parts = [(worker.closing, worker.closing_ids)] if worker.closing is not None and worker.closing_ids else []
        if worker.pending and worker.ended != "length":
            parts.append((worker.own, worker.pending))
        feeds = [Feed(self._row(worker, own, ids), worker) for own, ids in parts]
        if feeds and worker.is_active:
            last = feeds.pop()
            row = Row(last.row.view, last.row.token_ids, logits="last")
            request = worker.request(self._codec, eos_anywhere=not self.options.layout.publish)
            feeds.append(Feed(row, worker, request, lambda token: self._take(worker, token)))
        return feeds

    def _row(self, worker: Worker, own: Block, ids: Sequence[int]) -> Row:
        present = [w for w in self.workers if w.joined and (w.ended is None or w.closing or len(w.own) or w is worker)]
        return Row(self.blocks.view(worker, own, present), tuple(ids), logits="none")

    def _stop_for_length(self, feed: Feed) -> None:
        """A row has no room in its context: its worker ends; a finished step is published without its last tokens."""
        worker = feed.worker
        assert worker is not None
        if feed.row.own is worker.closing:
            worker.num_released += len(worker.closing_ids)
            worker.closing_ids = []
        elif worker.ended is None:
            self._end_worker(worker, "length")
        else:
            worker.num_released += len(worker.pending)
            worker.pending = []

    def _first_over_context(self, feeds: Sequence[Feed]) -> Feed | None:
        new_tokens = {id(feed.row.own): len(feed.row.token_ids) for feed in feeds}
        for feed in feeds:
            length = feed.row.num_visible + sum(new_tokens.get(id(block), 0) for block in feed.row.view)
            if length > self._context_size:
                return feed
        return None

    # Taking tokens -------------------------------------------------------------------------------------------------

    def _take(self, worker: Worker, token_id: int) -> None:
        if token_id in self._codec.eos_ids:
            self._end_worker(worker, "eos")
            return
        worker.pending.append(token_id)
        worker.num_sampled += 1
        worker.num_step_sampled += 1
        worker.num_own_sampled += 1
        text = self._write(worker, token_id, forced=False)
        worker.step_text += text
        worker.text += text
        if ends_step(worker.step_text):
            self._end_step(worker, "sentence")
        elif worker.num_step_sampled >= self.options.max_step_tokens:
            self._force(worker, self.script.step_end_ids())
            self._end_step(worker, "limit")
        elif worker.num_written >= self.options.max_tokens:
            self._end_worker(worker, "max_tokens")

    def _write(self, worker: Worker, token_id: int, forced: bool) -> str:
        worker.seen.add(token_id)
        text = worker.decoder.push(token_id)
        self._emit(ev.TokenWritten, worker=worker.index, step=worker.step, token_id=token_id, text=text, forced=forced)
        return text

    def _force(self, worker: Worker, ids: Sequence[int]) -> None:
        for token_id in ids:
            worker.pending.append(token_id)
            worker.num_forced += 1
            self._write(worker, token_id, forced=True)

    def _end_step(self, worker: Worker, reason: ev.StepReason) -> None:
        """Close the step; then the worker ends with its answer, or opens the next step."""
        answer = self.script.find_answer(worker.step_text)
        self._emit(ev.StepEnded, worker=worker.index, step=worker.step, reason=reason, text=worker.step_text)
        if self.options.layout.publish:
            self._begin_closing(worker)
        worker.step += 1
        worker.step_text, worker.num_step_sampled = "", 0
        if answer is not None:
            worker.answer = answer
            self._emit(ev.AnswerGiven, worker=worker.index, answer=answer, source="worker")
        if worker.ended is None and answer is not None:
            self._end_worker(worker, "answer")
        elif worker.ended is None:
            self._open_step(worker)

    def _begin_closing(self, worker: Worker) -> None:
        """Set the step aside for publishing, with the tokens that are still to be stored in it."""
        assert worker.closing is None, "a step ends at most once in a pass"
        worker.closing, worker.own = worker.own, self.blocks.new(f"worker:{worker.index}")
        worker.closing_step, worker.num_own_sampled = worker.step, 0
        if self.options.step_order == "with_step":
            worker.closing_ids, worker.pending = worker.pending, []
        else:  # the reference's order: the last token opens the next step
            self._publish(worker)

    def _open_step(self, worker: Worker) -> None:
        header = self.script.header_ids(worker.index, worker.step) if self.options.layout.publish else []
        check = self.script.check_ids() if self._check_is_due() else []
        if worker.num_written + len(header) + len(check) >= self.options.max_tokens:
            self._end_worker(worker, "max_tokens")
            return
        self._force(worker, header)
        if check:
            self._num_sampled_at_check = self._num_sampled()
            self._emit(ev.CheckAsked, worker=worker.index, step=worker.step)
            self._force(worker, check)

    def _check_is_due(self) -> bool:
        since = self._num_sampled() - self._num_sampled_at_check
        return 0 < self.options.check_every <= since

    def _num_sampled(self) -> int:
        return sum(worker.num_sampled for worker in self.workers)

    # Publishing and ending -----------------------------------------------------------------------------------------

    def _release(self, worker: Worker, block: Block) -> None:
        """Forget what a worker wrote in a block that will not be published."""
        worker.num_released += len(block)
        worker.num_stored -= len(block)
        block.clear()

    def _publish_closed(self) -> None:
        """Publish, in worker order, the steps whose last tokens are stored."""
        for worker in self.workers:
            if worker.closing is not None and not worker.closing_ids:
                self._publish(worker)

    def _publish(self, worker: Worker) -> None:
        assert worker.closing is not None
        num_tokens = len(worker.closing)
        self.blocks.publish(worker.index, worker.closing)
        worker.closing = None
        self._emit(ev.StepPublished, worker=worker.index, step=worker.closing_step, num_tokens=num_tokens)

    def _end_worker(self, worker: Worker, reason: ev.WorkerReason) -> None:
        """End a worker. What it said in an unfinished step is published, unless there is no room or it was stopped."""
        worker.ended = reason
        if worker.num_step_sampled and reason in ("eos", "max_tokens", "dismissed"):
            self._end_step(worker, "ended")
        elif self.options.layout.publish and reason in ("eos", "dismissed"):  # a bare header
            self._release(worker, worker.own)
            worker.num_released += len(worker.pending)
            worker.pending = []
        self._emit(ev.WorkerEnded, worker=worker.index, reason=reason)

    def _end_pass(self, seconds: float, num_tokens: int) -> None:
        stored, separate = self._cache_tokens()
        self._emit(ev.PassDone, seconds=seconds, num_tokens=num_tokens, cache_tokens=stored, separate_tokens=separate)
        if self.options.finish == "first" and any(worker.answer is not None for worker in self.workers):
            self._end("answer")
        elif self.pass_index in (*self.options.budgets, self.options.max_passes):
            self._reach_budget(self.pass_index)

    def _settle(self) -> None:
        """Nobody has anything to say any more."""
        self._publish_closed()
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
            self._emit(ev.AnswerGiven, worker=index, answer=text, source="finisher")
        answer = conclusion.answer(self.options)
        sampled = tuple(worker.num_sampled for worker in self.workers)
        self._emit(ev.BudgetReached, budget=conclusion.budget, answer=answer, num_sampled=sampled)
        is_over = not any(worker.ended is None or worker.has_rows for worker in self.workers)
        if is_over or self.pass_index >= self.options.max_passes:
            self.answer = answer
            self._end("workers_ended" if is_over else "max_passes")

    def _end(self, reason: ev.SessionReason) -> None:
        self.ended = reason
        self.answer = self.answer if self.answer is not None else own_answer(self.workers, self.options)
        usage = tuple(worker.usage() for worker in self.workers)
        self._emit(ev.SessionEnded, reason=reason, answer=self.answer, usage=usage)

    def _cache_tokens(self) -> tuple[int, int]:
        """K/V rows of the session, and rows that caches of its workers' own would hold."""
        written = [block for w in self.workers for block in (w.own, w.closing) if block is not None]
        stored = len(self.blocks.common) + self.blocks.num_text_tokens() + sum(map(len, written))
        joined = [worker for worker in self.workers if worker.joined]
        return stored, sum(self._row(worker, worker.own, ()).num_visible for worker in joined)

    def _emit(self, kind: type[ev.Event], **fields: object) -> None:
        self._events.append(kind(session=self.index, pass_index=self.pass_index, **fields))


def _finisher_feeds(finisher: Finisher) -> list[Feed]:
    if finisher.is_done:
        return []
    *forks, last = finisher.rows()
    return [*map(Feed, forks), Feed(last, request=finisher.request(), take=finisher.take)]


def _mark_stored(worker: Worker, row: Row) -> None:
    """The row's tokens are in the cache now."""
    worker.num_stored += len(row.token_ids)
    if row.own is worker.closing:
        worker.closing_ids = []
    else:
        worker.pending = []
