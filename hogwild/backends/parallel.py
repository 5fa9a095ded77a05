"""A model over several processes, as torchrun or mlx.launch start them: rank 0 leads, the others follow.

The framework cuts the weights, so that each rank has its part of the heads, and a pool for the K/V of these. Everything
else happens on rank 0 alone: sessions, the command line, sampling. It sends each call that touches the model to the
others before it makes the call itself; so all ranks run the same plan, and a token is sampled once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend, BackendInfo, ForwardResult, Logits, ModelSpec
from hogwild.backends.options import LoadOptions
from hogwild.backends.ranks import Ranks
from hogwild.core.plan import ForwardPlan
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.errors import CheckpointError, HogwildError, PoolExhausted
from hogwild.models import find_checkpoint
from hogwild.models.checkpoint import Checkpoint

LoadPart = Callable[[Checkpoint, LoadOptions], Backend]


class Channel(Protocol):
    """How the ranks speak to each other. All of them make the same calls in the same order."""

    ranks: Ranks

    def broadcast(self, message: Any = None) -> Any:
        """What rank 0 says, on every rank."""
        ...

    def gather(self, part: Any) -> list[Any]:
        """What every rank says, on every rank."""
        ...

    def finish(self, result: ForwardResult) -> None:
        """Wait until a pass has been computed, where the framework would put that off: its sums go between ranks."""
        ...


def lead(channel: Channel, load_part: LoadPart, checkpoint: Checkpoint, options: LoadOptions) -> Backend:
    """On rank 0: load the model, together with the others."""
    channel.broadcast((str(checkpoint.path), options))
    backend, parts = _load(channel, load_part, checkpoint.path, options)
    return Leader(backend, channel, parts)


def follow(channel: Channel, load_part: LoadPart) -> None:
    """On the other ranks, in the place of the program: load what rank 0 loads and do what it does, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends the run in its own time
    while (order := channel.broadcast()) is not None:
        path, options = order
        try:
            backend, _ = _load(channel, load_part, Path(path), options)
        except HogwildError:
            continue  # rank 0 tells the user
        _obey(backend, channel)


def _load(
    channel: Channel, load_part: LoadPart, path: Path, options: LoadOptions
) -> tuple[Backend, list[tuple[int, int]]]:
    """This rank's part; query heads and K/V bytes of a token of each part. An error on all ranks or on none."""
    _agree(channel, None if path.exists() else CheckpointError(f"there is no {path}", remedy="have it on each machine"))
    problem: HogwildError | None = None
    try:
        backend = load_part(find_checkpoint(str(path)), options)
    except HogwildError as error:
        problem = error
    _agree(channel, problem)
    return backend, channel.gather((backend.spec.num_heads, backend.spec.kv_bytes_per_token))


def _agree(channel: Channel, problem: HogwildError | None) -> None:
    """Raise what any rank has to complain of: its own error, or the first one of the others."""
    problems = channel.gather(problem and str(problem))
    if problem is not None:
        raise problem
    for rank, text in enumerate(problems):
        if text is not None:
            raise CheckpointError(f"rank {rank} could not load its part", got=text)


class Leader:
    """The backend of rank 0: its own part of the model, and the others'. Implements `hogwild.backends.base.Backend`."""

    pool_owner: object = None

    def __init__(self, backend: Backend, channel: Channel, parts: Sequence[tuple[int, int]]) -> None:
        """parts: query heads, and K/V bytes of a token, of each rank."""
        self._backend, self._channel = backend, channel
        heads, kv_bytes = map(sum, zip(*parts, strict=True))
        self._spec = replace(backend.spec, num_heads=heads, kv_bytes_per_token=kv_bytes)

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model; heads and K/V bytes of all ranks, layers and weights as this one counts them."""
        return self._spec

    @property
    def info(self) -> BackendInfo:
        """Where it runs."""
        info = self._backend.info
        return replace(info, device=f"{info.device} and {self._channel.ranks.count - 1} more")

    def reserve(self, num_slots: int) -> None:
        """Make every rank's pool hold at least `num_slots` slots; `PoolExhausted` when one of them cannot."""
        self._channel.broadcast(("reserve", num_slots))
        problems = _reserve(self._backend, self._channel, num_slots)
        if problems:
            raise PoolExhausted(problems[0])

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Run the model once on all ranks."""
        self._channel.broadcast(("forward", plan, hidden_states))
        result = self._backend.forward(plan, hidden_states=hidden_states)
        self._channel.finish(result)
        return result

    def sample(self, logits: Logits, requests: Sequence[SampleRequest]) -> SampleResult:
        """Choose one token for each row of `logits [n, V]`; on this rank alone."""
        return self._backend.sample(logits, requests)

    def to_numpy(self, logits: Logits) -> NDArray[np.float32]:
        """Logits as a float32 array, `[n, V]`."""
        return self._backend.to_numpy(logits)

    def read_kv(self, layer: int, slots: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots: the heads of all ranks, in their order."""
        self._channel.broadcast(("read_kv", layer, slots))
        keys, values = zip(*self._channel.gather(self._backend.read_kv(layer, slots)), strict=True)
        return np.concatenate(keys, axis=1), np.concatenate(values, axis=1)

    def attention_shares(
        self, plan: ForwardPlan, columns: NDArray[np.int64], num_columns: int
    ) -> tuple[NDArray[np.floating[Any]], ...]:
        """For each layer `[heads, T, K]`: the heads of all ranks, in their order."""
        self._channel.broadcast(("attention_shares", plan, columns, num_columns))
        parts = self._channel.gather(self._backend.attention_shares(plan, columns, num_columns))
        return tuple(np.concatenate(layer) for layer in zip(*parts, strict=True))

    def close(self) -> None:
        """Free all parts; the other ranks then wait for another model."""
        self._channel.broadcast(("close",))
        self._backend.close()


def _obey(backend: Backend, channel: Channel) -> None:
    """Do what rank 0 does until it closes the model."""
    while True:
        match channel.broadcast():
            case ("reserve", num_slots):
                _reserve(backend, channel, num_slots)
            case ("forward", plan, hidden_states):
                channel.finish(backend.forward(plan, hidden_states=hidden_states))
            case ("read_kv", layer, slots):
                channel.gather(backend.read_kv(layer, slots))
            case ("attention_shares", plan, columns, num_columns):
                channel.gather(backend.attention_shares(plan, columns, num_columns))
            case _:
                backend.close()
                return


def _reserve(backend: Backend, channel: Channel, num_slots: int) -> list[str]:
    """Why some ranks could not; a pool that has grown stays so."""
    problem: str | None = None
    try:
        backend.reserve(num_slots)
    except PoolExhausted as error:
        problem = str(error)
    return [f"rank {rank}: {text}" for rank, text in enumerate(channel.gather(problem)) if text is not None]
