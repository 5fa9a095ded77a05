"""The engine: a loaded model, its shared cache, and the sessions that are worked on together."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hogwild.cache import SharedCache
from hogwild.core.admission import check_prompt, session_pages
from hogwild.core.events import Event
from hogwild.core.feeds import Feed
from hogwild.core.layout import layout_to_dict
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import SampleResult
from hogwild.core.session import Session
from hogwild.core.shares import SHARED, session_columns
from hogwild.model import Model
from hogwild.prompts import DEFAULT_STYLE, PromptScript, PromptStyle, find_style

Fed = tuple[Session, list[Feed]]


class Engine:
    """Works on several problems at once, one batched pass at a time.

    Args:
        model: from `hogwild.load`.
        cache_tokens: room of the shared cache to start with, in tokens.
        max_cache_tokens: the most it may grow to; equal to `cache_tokens`: fixed; None: what the device holds.
    """

    def __init__(self, model: Model, cache_tokens: int = 1024, max_cache_tokens: int | None = None) -> None:
        self.model = model
        self.cache = SharedCache(model.backend, cache_tokens, max_cache_tokens)
        self._sessions: list[Session] = []
        self._numbers = itertools.count()

    def submit(
        self, problem: str, options: SessionOptions | None = None, style: str | PromptStyle = DEFAULT_STYLE
    ) -> Session:
        """Admit a problem. Raises `PromptError`, `LayoutError` or `PoolExhausted`; nothing is changed then."""
        options = options or SessionOptions(sampling=self.model.default_sampling())
        script = PromptScript(find_style(style), self.model.tokenizer, problem, options.layout, options.num_workers)
        options = _with_banned(options, script.banned_ids)
        options.layout.check(options.num_workers, script.text_names)
        prompt_ids = script.prompt_ids()
        context_size = self.model.spec.context_size
        check_prompt(len(prompt_ids), context_size)
        pool = self.cache.pool
        pages = pool.reserve(session_pages(options, script, len(prompt_ids), pool.page_size))
        session = Session(next(self._numbers), script, self.model.tokenizer, options, pages, context_size, prompt_ids)
        session.announce(
            self.model.name, self.model.backend.info.name, self.model.spec.kv_bytes_per_token, _plain(options)
        )
        self._sessions.append(session)
        return session

    def step(self) -> list[Event]:
        """One pass for every session that has not ended; returns what happened."""
        started = time.perf_counter()
        fed = [(session, feeds) for session in self._sessions if (feeds := session.feeds())]
        if fed:
            fed, sampled = self._run(fed)
            seconds = time.perf_counter() - started
            self._measure_attention(fed)
            _commit(fed, sampled, seconds)
        events = [event for session in self._sessions for event in session.drain()]
        for session in self._sessions:
            if session.ended:
                session.close()
        self._sessions = [session for session in self._sessions if not session.ended]
        return events

    def events(self) -> Iterator[Event]:
        """Step until every session has ended."""
        while self._sessions:
            yield from self.step()

    def cancel(self) -> list[Event]:
        """End every session now and keep what was written; returns the last events."""
        for session in self._sessions:
            session.cancel()
        return self.step()

    def close(self) -> None:
        """End every session and free the model."""
        self.cancel()
        self.model.close()

    def _run(self, fed: list[Fed]) -> tuple[list[Fed], SampleResult]:
        """Forward and sample. A worker whose numbers are not finite is stopped, and the pass is done without it."""
        while True:
            sampled = self._forward_and_sample(fed)
            if sampled.finite.all():
                return fed, sampled
            _roll_back(fed)
            self._stop_culprits(fed, sampled)
            fed = [(session, feeds) for session, _ in fed if (feeds := session.feeds())]
            if not fed:
                return [], sampled

    def _forward_and_sample(self, fed: Sequence[Fed]) -> SampleResult:
        result = self.cache.forward_groups([[feed.row for feed in feeds] for _, feeds in fed])
        requests = [feed.request for _, feeds in fed for feed in feeds if feed.request is not None]
        try:
            return self.model.backend.sample(result.logits, requests)
        except BaseException:
            _roll_back(fed)
            raise

    def _measure_attention(self, fed: Sequence[Fed]) -> None:
        """Tell the sessions that want to know whom their workers attended to in the pass that was run."""
        asking = [(session, [feed for feed in feeds if feed.worker]) for session, feeds in fed]
        asking = [(session, feeds) for session, feeds in asking if feeds and session.measures_attention]
        if not asking:
            return
        columns = {
            block: column
            for session, _ in asking
            for block, column in session_columns(session.blocks, session.workers).items()
        }
        try:
            shares = self.cache.attention_shares_of_groups(
                [[feed.row for feed in feeds] for _, feeds in asking], columns
            )
        except BaseException:
            _roll_back(fed)
            raise
        for session, feeds in asking:
            num_columns = len(session.workers) + len(SHARED)
            session.note_attention(feeds, shares[:, : len(feeds), :num_columns])
            shares = shares[:, len(feeds) :]

    def _stop_culprits(self, fed: Sequence[Fed], sampled: SampleResult) -> None:
        """Find, alone, which of the rows without finite logits are to blame: others may only have read them."""
        finite = iter(sampled.finite)
        for session, feeds in fed:
            suspects = [feed for feed in feeds if feed.request is not None and not next(finite)]
            guilty = [feed for feed in suspects if not self._is_finite_alone(session, feeds, feed)]
            for feed in guilty or suspects:
                if feed.worker is None:
                    session.cancel()
                else:
                    session.stop_worker(feed.worker, "nan")

    def _is_finite_alone(self, session: Session, feeds: Sequence[Feed], suspect: Feed) -> bool:
        own = [feed for feed in feeds if feed is suspect or (feed.worker is suspect.worker and feed.request is None)]
        alone = [(session, own)]
        finite = bool(self._forward_and_sample(alone).finite.all())
        _roll_back(alone)
        return finite


def _commit(fed: Sequence[Fed], sampled: SampleResult, seconds: float) -> None:
    token_ids = iter(sampled.token_ids.tolist())
    for session, feeds in fed:
        session.commit(feeds, [next(token_ids) if feed.request is not None else None for feed in feeds], seconds)


def _roll_back(fed: Sequence[Fed]) -> None:
    """Forget the tokens that a pass has stored."""
    for _, feeds in fed:
        for feed in feeds:
            feed.row.own.truncate(len(feed.row.own) - len(feed.row.token_ids))


def _with_banned(options: SessionOptions, banned_ids: tuple[int, ...]) -> SessionOptions:
    if not banned_ids:
        return options
    each = tuple(
        dataclasses.replace(params, banned_ids=(*params.banned_ids, *banned_ids))
        for params in (options.sampling_of(worker) for worker in range(options.num_workers))
    )
    return dataclasses.replace(options, sampling=each)


def _plain(options: SessionOptions) -> dict[str, Any]:
    """Options as plain data for the trace."""
    data = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    data["layout"] = layout_to_dict(options.layout)
    data["budgets"] = list(options.budgets)
    params = options.sampling if isinstance(options.sampling, tuple) else (options.sampling,)
    data["sampling"] = [{**dataclasses.asdict(entry), "banned_ids": list(entry.banned_ids)} for entry in params]
    return data
