"""What must hold after every pass of a session, checked from its blocks, its workers and its events."""

from __future__ import annotations

from hogwild.core import events as ev
from hogwild.core.session import Session
from hogwild.engine import Engine


class Watch:
    """Steps an engine with one session and checks every invariant after every pass."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self.engine, self.session = engine, session
        self.events: list[ev.Event] = []

    def step(self) -> list[ev.Event]:
        new = self.engine.step()
        self.events += new
        self.check()
        return new

    def run(self, most_passes: int = 3000) -> list[ev.Event]:
        for _ in range(most_passes):
            self.step()
            if self.session.ended:
                return self.events
        raise AssertionError("the session did not end within its budget")

    def check(self) -> None:
        self.engine.cache.pool.check()
        if self.session.ended:
            self._check_released()
        else:
            self._check_accounts()
            self._check_history()

    def of(self, kind: type[ev.Event]) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def _check_released(self) -> None:
        pool = self.engine.cache.pool
        assert pool.num_used == 0, "pages are still held after the end"
        assert pool.num_reserved == 0, "a reservation leaked"

    def _check_accounts(self) -> None:
        session = self.session
        for worker in session.workers:
            usage = worker.usage()
            written = usage["forced"] + usage["sampled"]
            assert written == usage["stored"] + usage["pending"] + usage["released"], "an account does not add up"
        published = sum(event.num_tokens for event in self.of(ev.StepPublished))
        unpublished = sum(len(block) for w in session.workers for block in (w.own, w.closing) if block is not None)
        stored = sum(worker.num_stored for worker in session.workers)
        assert published + unpublished == stored, "K/V rows and the workers' accounts differ"

    def _check_history(self) -> None:
        """The common block is the prompt and the published steps in order; text and K/V agree token by token."""
        if self.session.options.step_order == "next_step":
            return  # there they differ by one token, which is why it is not the default
        common = "".join(map(chr, self.session.blocks.common.token_ids))
        steps = self._step_tokens()
        published = [(steps[event.worker, event.step], event) for event in self.of(ev.StepPublished)]
        for text, event in published:  # only a context that is full may cost a step its last tokens
            assert event.num_tokens == len(text) or self.session.workers[event.worker].num_released > 0, (
                "a step was published without its last tokens"
            )
        order = [(event.pass_index, event.worker) for _, event in published]
        assert order == sorted(order), "steps that end in one pass are published in worker order"
        expected = "".join(text[: event.num_tokens] for text, event in published)
        prompt = "".join(map(chr, self.session.blocks._prompt.token_ids))
        assert prompt.startswith(common) or common == prompt + expected, "the common block is not the published steps"

    def _step_tokens(self) -> dict[tuple[int, int], str]:
        first = "".join(map(chr, self.session._first_ids))
        steps = {(worker.index, 1): first for worker in self.session.workers}
        for event in self.of(ev.TokenWritten):
            key = (event.worker, event.step)
            steps[key] = steps.get(key, "") + chr(event.token_id)
        return steps
