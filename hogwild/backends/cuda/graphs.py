"""Decoding as captured CUDA graphs: one launch for a whole pass, and one for the choice of its tokens.

A graph is captured for a *bucket* of tokens, by hand, and replayed for every pass that fits. All that changes from pass
to pass lies in device memory at addresses that stay: tokens, positions and work in the kernels' tables, what tokens
are sampled with in a table of its own. Rows that only fill up a bucket write nothing and read nothing.

What cannot be captured (a model that asks the host in the middle of a pass) runs without graphs; `failure` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hogwild.backends.cuda.sampling import Kinds, Numbers, choose, host_numbers, kinds_of, to_result, unpack
from hogwild.core.plan import ForwardPlan
from hogwild.core.sampling import SampleRequest, SampleResult

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
MOST_ROWS = 32
_LEAST_PLACES = 64

Work = Callable[[], Tensor]
Capture = Callable[[Work], Work]  # from work to something that repeats it and gives the same tensor, filled anew


class StaticPass(Protocol):
    """A pass whose numbers lie at addresses that stay until `generation` changes."""

    @property
    def generation(self) -> int: ...
    @property
    def shape_key(self) -> Hashable:
        """What the grids and constants of the loaded pass depend on, but for the number of tokens.

        None: on more than comes again.
        """
        ...

    def load(self, plan: ForwardPlan, *, num_tokens: int = 0) -> None:
        """Send a plan, filled up to `num_tokens`."""
        ...


class Graphs:
    """Captured work by key; forgotten when addresses change."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._replays: dict[Hashable, Work] = {}
        self._generation = -1
        self.failure: str | None = None

    def run(self, key: Hashable, generation: int, work: Work) -> Tensor | None:
        """Repeat the work of that key; None once something could not be captured."""
        if generation != self._generation:
            self._replays, self._generation = {}, generation
        if key not in self._replays and self.failure is None:
            try:
                self._replays[key] = self._capture(work)
            except RuntimeError as error:
                first = error.__context__ or error  # torch then complains that the capture has failed
                self.failure = str(first).partition("\n")[0]
        return self._replays[key]() if key in self._replays else None


class DecodeGraphs:
    """Passes of at most `BUCKETS[-1]` tokens.

    run: computes logits `[bucket, V]` of all tokens of the pass that was loaded.
    """

    def __init__(self, numbers: StaticPass, run: Work, capture: Capture) -> None:
        self._numbers, self._run = numbers, run
        self._graphs = Graphs(capture)

    @property
    def failure(self) -> str | None:
        """Why there are no graphs, if so."""
        return self._graphs.failure

    def forward(self, plan: ForwardPlan) -> Tensor | None:
        """Logits `[L, V]` of the tokens that are wanted; None for a pass that is to be run without a graph."""
        bucket = next((size for size in BUCKETS if size >= plan.num_tokens), None)
        if bucket is None or self.failure is not None:
            return None
        self._numbers.load(plan, num_tokens=bucket)
        key = self._numbers.shape_key
        logits = None if key is None else self._graphs.run((bucket, key), self._numbers.generation, self._run)
        if logits is None:
            return None
        wanted = torch.from_numpy(plan.logit_tokens).to(logits.device, non_blocking=True)
        return logits.index_select(0, wanted)  # a copy: the next pass writes over the graph's own


class SampleGraphs:
    """The choice of tokens, for `MOST_ROWS` rows at a time: it takes many float64 numbers for each logit."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._buckets: dict[int, tuple[_SampleTable, Graphs]] = {}

    @property
    def failure(self) -> str | None:
        """Why there are no graphs, if so."""
        return next((graphs.failure for _, graphs in self._buckets.values() if graphs.failure), None)

    def sample(self, logits: Tensor, requests: Sequence[SampleRequest]) -> SampleResult | None:
        """As `sampling.sample`; None for what is to be done without a graph."""
        if self.failure is not None:
            return None
        kinds, chosen = kinds_of(requests, logits.shape[1]), list[Tensor]()
        for start in range(0, len(requests), MOST_ROWS):
            rows = slice(start, start + MOST_ROWS)
            part = self._choose(logits[rows], requests[rows], kinds)
            if part is None:
                return None
            chosen.append(part)
        return to_result(torch.cat(chosen, dim=1)) if chosen else None

    def _choose(self, logits: Tensor, requests: Sequence[SampleRequest], kinds: Kinds) -> Tensor | None:
        """As `sampling.choose`."""
        bucket = next(size for size in BUCKETS if size >= len(requests))
        if bucket not in self._buckets:
            self._buckets[bucket] = _SampleTable(bucket, logits), Graphs(self._capture)
        table, graphs = self._buckets[bucket]
        table.load(logits, *host_numbers(requests, logits.shape[1]))
        chosen = graphs.run(kinds, table.generation, lambda: choose(table.logits, table.numbers, kinds))
        return None if chosen is None else chosen[:, : len(requests)].clone()  # the next rows may take its place


class _SampleTable:
    """Logits and numbers of up to `size` rows, at addresses that stay until `generation` changes."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.logits = torch.zeros(size, like.shape[1], dtype=like.dtype, device=like.device)
        self.generation = 0
        self._room = [0, 0]
        self._grow([_LEAST_PLACES, _LEAST_PLACES])

    @property
    def numbers(self) -> Numbers:
        """What `choose` takes."""
        return unpack(self._buffer, len(self.logits), self._room[0])

    def load(
        self, logits: Tensor, columns: NDArray[np.float64], seen: NDArray[np.int64], banned: NDArray[np.int64]
    ) -> None:
        """Send the logits and numbers of a batch; what they do not fill says nothing."""
        if len(seen) > self._room[0] or len(banned) > self._room[1]:
            self._grow([len(seen), len(banned)])
        size, count = len(self.logits), columns.shape[1]
        host = np.full(self._buffer.shape, size * self.logits.shape[1], dtype=np.int64)
        rows = host[: columns.shape[0] * size].view(np.float64).reshape(-1, size)
        rows[:], rows[:, :count] = 1.0, columns
        start = rows.size
        host[start : start + len(seen)] = seen
        host[start + self._room[0] :][: len(banned)] = banned
        self._buffer.copy_(torch.from_numpy(host), non_blocking=True)  # the pass before it is still being computed
        self.logits[:count].copy_(logits)

    def _grow(self, least: Sequence[int]) -> None:
        self._room = [_doubled(room, size) for room, size in zip(self._room, least, strict=True)]
        total = 6 * len(self.logits) + sum(self._room)
        self._buffer = torch.zeros(total, dtype=torch.int64, device=self.logits.device)
        self.generation += 1


class CudaCapture:
    """Captures work on a device, on a stream of its own.

    Its graphs share memory: they never run at the same time, and each one's result is copied before the next runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._alive: WeakSet[Work] = WeakSet()

    def __call__(self, work: Work) -> Work:
        """Capture, after two runs that make kernels and libraries ready."""
        if not self._alive:
            self._memory = torch.cuda.graph_pool_handle()  # memory whose graphs are all gone cannot be shared again
        with torch.cuda.device(self._device):
            # Always the same one: each stream on which products ran keeps tens of megabytes for them.
            stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(current)
            try:
                with torch.cuda.stream(stream):  # torch itself stays on the stream of a capture that fails
                    for _ in range(2):
                        work()
                    with torch.cuda.graph(graph, pool=self._memory, stream=stream):
                        result = work()
            finally:
                current.wait_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return result

        self._alive.add(replay)
        return replay


def _doubled(room: int, least: int) -> int:
    room = max(room, 1)
    while room < least:
        room *= 2
    return room
