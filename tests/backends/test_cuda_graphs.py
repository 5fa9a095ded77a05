"""Graphs of decoding without a GPU: work is traced to a list of operations on the very tensors it met, and replayed.

That is what a CUDA graph does: an address that moves, or a number that the host reads in between, is found here too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_cuda_sampling import VOCAB, random_request  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from hogwild.backends.cuda import sampling  # noqa: E402
from hogwild.backends.cuda.angles import AngleTables  # noqa: E402
from hogwild.backends.cuda.graphs import (  # noqa: E402
    BUCKETS,
    MOST_ROWS,
    CudaCapture,
    DecodeGraphs,
    Graphs,
    SampleGraphs,
    Work,
)
from hogwild.core.plan import ForwardPlan  # noqa: E402
from hogwild.core.sampling import SampleRequest, SamplingParams  # noqa: E402


class Traced:
    """Captures as a CUDA graph does; counts what it captured."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, work: Work) -> Work:
        self.count += 1
        with torch.no_grad():
            result = work()
        graph = make_fx(lambda: work())()

        def replay() -> torch.Tensor:
            return result.copy_(graph())

        return replay


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the whole vocabulary is sorted, without asking the host."""
    monkeypatch.setattr(sampling, "TOP_P_FIRST", 1 << 30)


@pytest.mark.usefixtures("on_a_gpu")
def test_sampling_by_graphs_is_sampling() -> None:
    rng = np.random.default_rng(1)
    traced = Traced()
    graphs = SampleGraphs(traced)
    for _ in range(40):
        requests = [random_request(rng) for _ in range(int(rng.integers(1, 10)))]
        logits = torch.from_numpy((2 * rng.standard_normal((len(requests), VOCAB))).astype(np.float32))
        expected, got = sampling.sample(logits, requests), graphs.sample(logits, requests)
        assert got is not None, graphs.failure
        assert got.token_ids.tolist() == expected.token_ids.tolist()
        assert got.finite.all()
    assert 1 < traced.count < 40, "graphs are replayed"


@pytest.mark.usefixtures("on_a_gpu")
def test_sampling_by_graphs_sees_nan_and_grows() -> None:
    graphs = SampleGraphs(Traced())
    rng = np.random.default_rng(2)
    for num_banned in (3, 70, 500, 4):
        request = SampleRequest(random_request(rng).params, 0.3, banned_ids=list(range(num_banned)))
        logits = torch.zeros(2, VOCAB)
        logits[1, 5] = float("nan")
        result = graphs.sample(logits, [request, request])
        assert result is not None
        assert result.finite.tolist() == [True, False]
        assert result.token_ids[0] >= num_banned


class Copies(TorchDispatchMode):
    """Whether each copy from the host to the device, here "meta", makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is torch.ops.aten.copy_.default and args[1].device.type == "cpu":
            self.waits.append(not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)))
        if operation is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            self.waits.append(not kwargs.get("non_blocking", False))
        return operation(*args, **kwargs)


def test_sending_numbers_does_not_wait_for_the_pass_before() -> None:
    request = SampleRequest(SamplingParams(temperature=1.0), 0.3, banned_ids=[1])
    logits = torch.zeros(2, VOCAB, device="meta")
    with Copies() as sent, contextlib.suppress(NotImplementedError):  # "meta" has no tokens to bring back
        SampleGraphs(lambda work: work).sample(logits, [request, request])
    assert sent.waits == [False]
    with Copies() as sent:
        AngleTables([], torch.float32, torch.device("meta")).to_device(np.arange(3))
    assert sent.waits == [False]


@pytest.mark.usefixtures("on_a_gpu")
def test_many_rows_are_chosen_for_some_at_a_time() -> None:
    rng, traced = np.random.default_rng(3), Traced()
    graphs, count = SampleGraphs(traced), 2 * MOST_ROWS + 5
    requests = [random_request(rng) for _ in range(count)]
    logits = torch.from_numpy((2 * rng.standard_normal((count, VOCAB))).astype(np.float32))
    for _ in range(2):
        got = graphs.sample(logits, requests)
        assert got is not None, graphs.failure
        assert got.token_ids.tolist() == sampling.sample(logits, requests).token_ids.tolist()
    assert traced.count == 2, "one for as many as go together, one for the rest"
    assert graphs.sample(torch.zeros(0, 4), []) is None


class Doubling:
    """Numbers at an address that stays, and moves when told."""

    def __init__(self) -> None:
        self.generation = 0
        self.numbers = torch.zeros(BUCKETS[-1])
        self.shape_key: Hashable = "a"

    def move(self) -> None:
        self.numbers, self.generation = torch.zeros(BUCKETS[-1]), self.generation + 1

    def load(self, plan: ForwardPlan, *, num_tokens: int = 0) -> None:
        assert num_tokens in BUCKETS
        self.numbers.zero_()[: plan.num_tokens] = torch.from_numpy(plan.token_ids).float()
        self.num_tokens = num_tokens

    def run(self) -> torch.Tensor:
        return (2 * self.numbers[: self.num_tokens])[:, None]


def plan_of(*token_ids: int, wanted: tuple[int, ...]) -> ForwardPlan:
    ids = np.array(token_ids, dtype=np.int64)
    return ForwardPlan(ids, ids, ids, np.array(wanted, dtype=np.int64), (), 0)


def test_passes_are_replayed_by_bucket_and_captured_again_when_addresses_move() -> None:
    numbers, traced = Doubling(), Traced()
    graphs = DecodeGraphs(numbers, numbers.run, traced)
    first = graphs.forward(plan_of(1, 2, 3, wanted=(0, 2)))
    assert graphs.forward(plan_of(4, 5, 6, 7, wanted=(3,))).tolist() == [[14]]
    assert first.tolist() == [[2], [6]], "what a pass gave stays"
    assert traced.count == 1
    numbers.shape_key = "b"
    assert graphs.forward(plan_of(4, 5, 6, 7, wanted=(3,))).tolist() == [[14]]
    assert graphs.forward(plan_of(9, wanted=(0,))).tolist() == [[18]]
    assert traced.count == 3
    numbers.move()
    assert graphs.forward(plan_of(8, wanted=(0,))).tolist() == [[16]]
    assert traced.count == 4
    assert graphs.forward(plan_of(*range(BUCKETS[-1] + 1), wanted=(0,))) is None


def test_a_pass_that_does_not_come_again_is_not_captured() -> None:
    numbers, traced = Doubling(), Traced()
    numbers.shape_key = None
    assert DecodeGraphs(numbers, numbers.run, traced).forward(plan_of(1, wanted=(0,))) is None
    assert traced.count == 0


def test_many_sessions_in_one_pass_are_replayed_too() -> None:
    numbers, traced = Doubling(), Traced()
    graphs = DecodeGraphs(numbers, numbers.run, traced)
    for count in (65, 100, 128):
        assert graphs.forward(plan_of(*range(count), wanted=(count - 1,))).tolist() == [[2 * (count - 1)]]
    assert traced.count == 1


def test_what_cannot_be_captured_runs_without_graphs_and_says_so() -> None:
    def refuse(work: Work) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    numbers = Doubling()
    graphs = DecodeGraphs(numbers, numbers.run, refuse)
    assert graphs.forward(plan_of(1, wanted=(0,))) is None
    assert graphs.failure == "operation not permitted when stream is capturing"


def test_a_host_read_in_between_is_found() -> None:
    """The tracing of these tests is worth something."""
    numbers = Doubling()
    graphs = DecodeGraphs(numbers, lambda: numbers.run() * float(numbers.run().sum()), Traced())
    assert graphs.forward(plan_of(1, wanted=(0,))) is None
    assert graphs.failure


class FakeStream:
    def __init__(self) -> None:
        self.waited_for: list[FakeStream] = []

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)


class FakeGraph:
    def replay(self) -> None:
        pass


class FakeCuda:
    """Torch's rules of streams and of the memory that graphs share, without a GPU.

    Memory must not be entered again once all its graphs are gone. A capture that fails leaves its stream current.
    """

    Stream, CUDAGraph = FakeStream, FakeGraph

    def __init__(self) -> None:
        self.current = self.main = FakeStream()
        self.graphs: dict[int, weakref.WeakSet[FakeGraph]] = {}
        self.num_pools = 0

    def device(self, device: torch.device) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    def graph_pool_handle(self) -> int:
        self.num_pools += 1
        return self.num_pools

    def current_stream(self) -> FakeStream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, pool: int, stream: FakeStream | None = None) -> Iterator[None]:
        if pool in self.graphs and not self.graphs[pool]:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        self.graphs.setdefault(pool, weakref.WeakSet()).add(graph)
        before, self.current = self.current, stream or FakeStream()
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        self.current = before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    for name in ("Stream", "CUDAGraph", "device", "graph_pool_handle", "current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    return cuda


def test_graphs_that_were_all_forgotten_are_captured_again(cuda: FakeCuda) -> None:
    graphs, streams = Graphs(CudaCapture(torch.device("cuda"))), []

    def work() -> torch.Tensor:
        streams.append(cuda.current)
        return torch.ones(1)

    for generation in range(3):
        for key in "ab":
            assert graphs.run(key, generation, work) is not None, graphs.failure
    assert cuda.num_pools == 3, "graphs of one generation share memory"
    assert len({id(stream) for stream in streams}) == 1, "products keep memory for each stream"
    assert cuda.main not in streams
    assert cuda.current is cuda.main


def test_after_a_capture_that_fails_work_goes_where_it_went_before(cuda: FakeCuda) -> None:
    graphs, runs = Graphs(CudaCapture(torch.device("cuda"))), []

    def work() -> torch.Tensor:
        runs.append(cuda.current)
        if len(runs) == 3:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return torch.ones(1)

    assert graphs.run("a", 0, work) is None
    assert graphs.failure == "operation not permitted when stream is capturing"
    assert cuda.current is cuda.main
    assert cuda.main.waited_for == [runs[0]], "what the runs before it wrote is there"


@pytest.mark.gpu
def test_a_gpu_chooses_by_graphs_what_the_cpu_chooses() -> None:
    rng, graphs = np.random.default_rng(1), SampleGraphs(CudaCapture(torch.device("cuda")))
    for _ in range(40):
        requests = [random_request(rng) for _ in range(int(rng.integers(1, 10)))]
        logits = torch.from_numpy((2 * rng.standard_normal((len(requests), VOCAB))).astype(np.float32))
        got = graphs.sample(logits.cuda(), requests)
        assert got is not None, graphs.failure
        assert got.token_ids.tolist() == sampling.sample(logits, requests).token_ids.tolist()


@pytest.mark.gpu
def test_a_gpu_captures_again_and_goes_on_after_a_failure() -> None:
    numbers = torch.rand(64, 64, device="cuda")

    def work() -> torch.Tensor:
        return numbers @ numbers

    graphs, others = (Graphs(CudaCapture(torch.device("cuda"))) for _ in range(2))
    for generation in range(3):
        for key in "abab":
            numbers += 1
            assert_close(graphs.run(key, generation, work), work(), graphs.failure)
    assert graphs.run("c", 2, lambda: work() * float(numbers.sum())) is None
    assert "captur" in str(graphs.failure)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert_close(others.run("a", 0, work), work(), others.failure)


def assert_close(found: torch.Tensor | None, expected: torch.Tensor, failure: str | None) -> None:
    assert found is not None, failure
    torch.testing.assert_close(found, expected)
