"""What becomes of the tokens that workers write: steps, which are published, and answers; and how a worker ends."""

from __future__ import annotations

from collections.abc import Sequence

from hogwild.core import events as ev
from hogwild.core.blocks import Block
from hogwild.core.event_log import EventLog
from hogwild.core.options import SessionOptions
from hogwild.core.script import Codec, Script
from hogwild.core.session_blocks import SessionBlocks
from hogwild.core.steps import ends_step
from hogwild.core.worker import Worker


class Writing:
    """Follows the workers of a session as they write; `workers` may become more."""

    def __init__(
        self,
        workers: Sequence[Worker],
        blocks: SessionBlocks,
        script: Script,
        codec: Codec,
        options: SessionOptions,
        log: EventLog,
    ) -> None:
        self._workers, self._blocks, self._script, self._codec = workers, blocks, script, codec
        self._options, self._log = options, log
        self._num_sampled_at_check = 0

    def take(self, worker: Worker, token_id: int) -> None:
        """A worker sampled a token; with it a step or the worker may end."""
        if token_id in self._codec.eos_ids:
            self.end(worker, "eos")
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
        elif worker.num_step_sampled >= self._options.max_step_tokens:
            self.force(worker, self._script.step_end_ids())
            self._end_step(worker, "limit")
        elif worker.num_written >= self._options.max_tokens:
            self.end(worker, "max_tokens")

    def force(self, worker: Worker, ids: Sequence[int]) -> None:
        """A worker must write these tokens next."""
        for token_id in ids:
            worker.pending.append(token_id)
            worker.num_forced += 1
            self._write(worker, token_id, forced=True)

    def publish_closed(self) -> None:
        """Publish, in worker order, the steps whose last tokens are stored."""
        for worker in self._workers:
            if worker.closing is not None and not worker.closing_ids:
                self._publish(worker)

    def end(self, worker: Worker, reason: ev.WorkerReason) -> None:
        """End a worker. What it said in an unfinished step is published, unless there is no room or it was stopped."""
        worker.ended = reason
        if worker.num_step_sampled and reason in ("eos", "max_tokens", "dismissed"):
            self._end_step(worker, "ended")
        elif self._options.layout.publish and reason in ("eos", "dismissed"):  # a bare header
            worker.release(worker.own)
            worker.drop_pending()
        self._log.emit(ev.WorkerEnded, worker=worker.index, reason=reason)

    def stop(self, worker: Worker, reason: ev.WorkerReason) -> None:
        """End a worker at once; its unfinished step is not published and its pages come back."""
        for block in (worker.closing, worker.own):
            if block is not None:
                worker.release(block)
        worker.drop_pending()
        worker.drop_closing_ids()
        worker.closing = None
        self.end(worker, reason)

    def stop_for_length(self, worker: Worker, block: Block) -> None:
        """A row has no room in its context: its worker ends; a finished step is published without its last tokens."""
        if block is worker.closing:
            worker.drop_closing_ids()
            if worker.is_active and not worker.pending:  # without a header it has nothing left to feed
                self.end(worker, "length")
        elif worker.ended is None:
            self.end(worker, "length")
        else:
            worker.drop_pending()

    def _write(self, worker: Worker, token_id: int, forced: bool) -> str:
        worker.seen.add(token_id)
        text = worker.decoder.push(token_id)
        self._log.emit(
            ev.TokenWritten, worker=worker.index, step=worker.step, token_id=token_id, text=text, forced=forced
        )
        return text

    def _end_step(self, worker: Worker, reason: ev.StepReason) -> None:
        """Close the step; then the worker ends with its answer, or opens the next step."""
        answer = self._script.find_answer(worker.step_text)
        self._log.emit(ev.StepEnded, worker=worker.index, step=worker.step, reason=reason, text=worker.step_text)
        if self._options.layout.publish:
            self._begin_closing(worker)
        worker.step += 1
        worker.step_text, worker.num_step_sampled = "", 0
        if answer is not None:
            worker.answer = answer
            self._log.emit(ev.AnswerGiven, worker=worker.index, answer=answer, source="worker")
        if worker.ended is None and answer is not None:
            self.end(worker, "answer")
        elif worker.ended is None:
            self._open_step(worker)

    def _begin_closing(self, worker: Worker) -> None:
        """Set the step aside for publishing, with the tokens that are still to be stored in it."""
        assert worker.closing is None, "a step ends at most once in a pass"
        worker.closing, worker.own = worker.own, self._blocks.new(f"worker:{worker.index}")
        worker.closing_step, worker.num_own_sampled = worker.step, 0
        if self._options.step_order == "with_step":
            worker.closing_ids, worker.pending = worker.pending, []
        else:  # the reference's order: the last token opens the next step
            self._publish(worker)

    def _open_step(self, worker: Worker) -> None:
        header = self._script.header_ids(worker.index, worker.step) if self._options.layout.publish else []
        check = self._script.check_ids() if self._check_is_due() else []
        if worker.num_written + len(header) + len(check) >= self._options.max_tokens:
            self.end(worker, "max_tokens")
            return
        self.force(worker, header)
        if check:
            self._num_sampled_at_check = self._num_sampled()
            self._log.emit(ev.CheckAsked, worker=worker.index, step=worker.step)
            self.force(worker, check)

    def _check_is_due(self) -> bool:
        since = self._num_sampled() - self._num_sampled_at_check
        return 0 < self._options.check_every <= since

    def _num_sampled(self) -> int:
        return sum(worker.num_sampled for worker in self._workers)

    def _publish(self, worker: Worker) -> None:
        assert worker.closing is not None
        num_tokens = len(worker.closing)
        self._blocks.publish(worker.index, worker.closing)
        worker.closing = None
        self._log.emit(ev.StepPublished, worker=worker.index, step=worker.closing_step, num_tokens=num_tokens)
