"""Runs a benchmark: bandwidth, prefill, then every number of workers at every context."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from hogwild.backends.base import Backend
from hogwild.bench.decode import SharedPass
from hogwild.bench.floor import distinct_tokens, pass_bytes, token_bytes
from hogwild.bench.options import BenchOptions
from hogwild.bench.results import DecodeResult, PrefillResult, Report
from hogwild.bench.room import DTYPE_BYTES
from hogwild.bench.timing import Step, Stopped, take_turns
from hogwild.bench.workload import (
    PROMPT_TOKENS,
    View,
    build_views,
    find_lengths,
    pages_held,
    pool_tokens,
    publish_steps,
    random_ids,
    release,
    rows_of,
)
from hogwild.bench.yardstick import find_yardstick, free_bytes
from hogwild.cache import SharedCache
from hogwild.core.blocks import Block
from hogwild.core.plan import PREFILL_CHUNK, view_lengths
from hogwild.errors import HogwildError, PoolExhausted

_ROOM = 1.25  # what a batch needs while the cache of a layer grows, as a multiple of what it holds


def run_bench(
    backend: Backend,
    options: BenchOptions,
    report: Report,
    progress: Callable[[str], None],
    stopped: Callable[[], bool],
) -> None:
    """Measure, and add every result to `report` as soon as it is there.

    When `stopped` says so, or the device has no more room, `report.problem` says what is missing.
    Raises `HogwildError` for whatever else goes wrong.
    """
    try:
        _Bench(backend, options, report, progress, stopped).run()
    except Stopped:
        report.problem = "stopped by the user"
    except PoolExhausted as error:
        report.problem = str(error)
    finally:
        report.model = {**report.model, "attention": backend.info.attention}  # graphs may have failed meanwhile


@dataclass(frozen=True, slots=True)
class _Case:
    """One number of workers at one context, ready to run."""

    context: int
    views: list[View]
    shared: SharedPass
    batch: Step | None
    batch_problem: str | None


class _Bench:
    def __init__(
        self,
        backend: Backend,
        options: BenchOptions,
        report: Report,
        progress: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._backend, self._options, self._report = backend, options, report
        self._progress, self._stopped = progress, stopped
        self._yardstick = find_yardstick(backend)
        self._rng = np.random.default_rng(options.seed)

    def run(self) -> None:
        report, options = self._report, self._options
        report.machine = {**report.machine, **self._yardstick.hardware()}
        report.batch = self._yardstick.batch_name if options.batch else None
        self._bandwidth = report.copy_bandwidth = self._yardstick.copy_bandwidth()
        self._progress(f"a large copy moves {self._bandwidth / 1e9:.1f} GB/s")
        with _memory_errors("the K/V pool"):
            self._cache = SharedCache(self._backend, pool_tokens(options))
            history = self._prefill()
        for context in options.contexts:
            with _memory_errors(f"contexts of {context} tokens"), contextlib.ExitStack() as stack:
                results = self._measure([self._case(stack, history, count, context) for count in options.workers])
            report.decode += results
            for result in results:
                self._progress(_line(result))
            self._raise_if_stopped()

    def _prefill(self) -> Block:
        """The longest common block; shorter ones are its beginnings."""
        block = self._cache.new_block("common")
        self._fill(block, min(PREFILL_CHUNK, *self._options.contexts))  # to warm up
        block.clear()
        if self._options.step_tokens:
            self._fill_with_steps(block)
            return block
        seconds = 0.0
        for context in sorted(self._options.contexts):
            seconds += self._timed(lambda end=context: self._fill(block, end))  # type: ignore[misc]
            self._report.prefill.append(PrefillResult(context, seconds))
            self._progress(f"prefill of {context} tokens: {context / seconds:.0f} tokens/s")
        return block

    def _timed(self, work: Callable[[], None]) -> float:
        self._yardstick.synchronize()
        started = time.perf_counter()
        work()
        self._yardstick.synchronize()
        return time.perf_counter() - started

    def _fill(self, block: Block, length: int) -> None:
        """Prefill random tokens up to `length`."""
        while len(block) < length:
            self._raise_if_stopped()
            self._cache.prefill(block, self._ids(min(PREFILL_CHUNK, length - len(block))))

    def _fill_with_steps(self, block: Block) -> None:
        """A prompt, then published steps."""
        longest = max(self._options.contexts)
        self._fill(block, min(PROMPT_TOKENS, min(self._options.contexts) // 2))
        for _ in publish_steps(self._cache, block, longest, self._options.step_tokens, self._rng):
            self._raise_if_stopped()

    def _ids(self, count: int) -> tuple[int, ...]:
        return random_ids(count, self._backend.spec.vocab_size, self._rng)

    def _raise_if_stopped(self) -> None:
        if self._stopped():
            raise Stopped

    def _case(self, stack: contextlib.ExitStack, history: Block, workers: int, context: int) -> _Case:
        """Everything that is needed to run passes; given back when the stack is closed."""
        self._raise_if_stopped()
        lengths = find_lengths(self._options.layout, workers, context)
        common = history.fork("common")
        common.truncate(lengths.common)
        views = build_views(self._cache, self._options.layout, workers, common, lengths.own)
        stack.callback(release, views)
        batch, problem = self._batch(stack, workers, context)
        return _Case(context, views, SharedPass(self._cache, views), batch, problem)

    def _measure(self, cases: Sequence[_Case]) -> list[DecodeResult]:
        """The passes of all cases take turns; none is given when not one round was completed."""
        steps: list[Step] = [step for case in cases for step in (case.shared, case.batch) if step is not None]
        taken = take_turns(steps, self._options.passes, self._options.warmup, self._stopped)
        times = iter([tuple(1000 * seconds for seconds in seen) for seen in taken])
        found = [(case, next(times), next(times) if case.batch else ()) for case in cases]
        return [self._result(*entry) for entry in found if entry[1]]

    def _result(self, case: _Case, step_ms: tuple[float, ...], batch_ms: tuple[float, ...]) -> DecodeResult:
        spec, warmup = self._backend.spec, self._options.warmup
        rows = rows_of(case.views, [0] * len(case.views))
        return DecodeResult(
            workers=len(rows),
            context=case.context,
            distinct_tokens=distinct_tokens(rows),
            step_ms=step_ms,
            forward_ms=1000 * median(case.shared.forward_seconds[warmup : warmup + len(step_ms)]),
            batch_ms=batch_ms,
            batch_problem=case.batch_problem,
            bytes=pass_bytes(spec, rows, self._backend.info.kv_dtype),
            bandwidth=self._bandwidth,
            shared_kv_bytes=pages_held(case.views) * self._cache.pool.page_size * spec.kv_bytes_per_token,
            separate_kv_bytes=sum(view_lengths(rows)) * spec.kv_bytes_per_token,
        )

    def _batch(self, stack: contextlib.ExitStack, workers: int, context: int) -> tuple[Step | None, str | None]:
        """The independent batch, or why there is none."""
        if not self._options.batch:
            return None, "not asked for"
        info = self._backend.info
        each = sum(token_bytes(layer, DTYPE_BYTES[info.dtype]) for layer in self._backend.spec.layers)
        needed = int(_ROOM * workers * context * each)
        free = free_bytes(info.name, info.device == "cpu")
        if free is not None and needed > free:
            return None, f"no room: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        try:
            with _memory_errors("the batch"):
                batch = self._yardstick.batch(self._cache, workers, context, self._options.seed)
                return stack.enter_context(batch), None
        except PoolExhausted:
            return None, "no room on the device"


@contextlib.contextmanager
def _memory_errors(what: str) -> Iterator[None]:
    """Turn a framework's complaint about memory into ours."""
    try:
        yield
    except HogwildError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()  # "illegal memory access" is a broken kernel
        if not isinstance(error, MemoryError) and ("memory" not in text or "memory access" in text):
            raise
        raise PoolExhausted(
            f"the device has no room for {what}",
            got=" ".join(str(error).split())[:160],
            remedy="use fewer workers, a shorter context or a smaller dtype",
        ) from error


def _line(result: DecodeResult) -> str:
    overhead = "" if result.overhead is None else f", {result.overhead:.2f} of an independent batch"
    return (
        f"W={result.workers}, {result.context} tokens: {result.step_ms_p50:.2f} ms a pass, "
        f"{result.tokens_per_second:.1f} tokens/s, {100 * result.floor_reached:.0f} % of the floor{overhead}"
    )
