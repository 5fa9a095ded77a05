"""The contract of a backend: a model, its K/V pool, one forward, one sampler.  Seven methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import RotarySpec
from hogwild.core.sampling import SampleRequest, SampleResult

Logits = Any  # [L, V] in the backend's own array type, on its device


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What the engine and the kernels must know of one attention layer."""

    rotary: RotarySpec
    num_kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Facts of a loaded model, the same for every backend.

    Attributes:
        family: `model_type` of its config, e.g. "llama".
        context_size: most tokens in one view.
        num_parameters: counted from the weights as stored.
        kv_bytes_per_token: K and V of all layers, as the pool stores them.
        weight_bytes: of the weights as the backend stores them; an array that serves twice (a tied head) counts once.
        lookup_bytes: the part of `weight_bytes` of which a pass reads single rows only: an embedding that is no head.
    """

    family: str
    num_layers: int
    num_heads: int
    hidden_size: int
    vocab_size: int
    context_size: int
    num_parameters: int
    kv_bytes_per_token: int
    layers: tuple[LayerSpec, ...]
    weight_bytes: int
    lookup_bytes: int


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """Where and how a model runs, for `hogwild info`, traces and reports.

    kv_dtype: of the stored keys and values; "auto": as `dtype`.
    """

    name: str
    device: str
    dtype: str
    attention: str
    versions: Mapping[str, str] = field(default_factory=dict)
    kv_dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """What one pass gives: logits of the plan's `logit_tokens`, and hidden states when they were asked for.

    Attributes:
        logits: `[L, V]`, native to the backend; `Backend.to_numpy` brings them over.
        hidden_states: for each layer its output `[T, hidden_size]` in float64, else None.
    """

    logits: Logits
    hidden_states: tuple[NDArray[np.float64], ...] | None = None


class Backend(Protocol):
    """One loaded model with its K/V pool. Not thread-safe: one thread owns it.

    Attributes:
        pool_owner: the `SharedCache` whose blocks the pool holds; set by that cache.
    """

    pool_owner: object

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model."""
        ...

    @property
    def info(self) -> BackendInfo:
        """Where it runs."""
        ...

    def reserve(self, num_slots: int) -> None:
        """Make the pool hold at least `num_slots` slots; what was written stays, bit for bit.

        Raises `PoolExhausted` when the device has no room; the pool is then as before.
        """
        ...

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Run the model once. In each layer all K/V of the pass are written first, then all rows read."""
        ...

    def sample(self, logits: Logits, requests: Sequence[SampleRequest]) -> SampleResult:
        """Choose one token for each row of `logits [n, V]` on the device."""
        ...

    def to_numpy(self, logits: Logits) -> NDArray[np.float32]:
        """Logits as a float32 array, `[n, V]`."""
        ...

    def read_kv(self, layer: int, slots: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots, in float32 (float64 if stored so)."""
        ...

    def attention_shares(
        self, plan: ForwardPlan, columns: NDArray[np.int64], num_columns: int
    ) -> tuple[NDArray[np.floating[Any]], ...]:
        """How the attention of tokens that are stored already divides over columns: for each layer `[heads, T, K]`.

        The model runs once more over the plan, by the plain attention, and writes nothing: no bit of anything that
        comes later changes. A token's shares are the softmax weights of the keys that it sees, added up by column; they
        add up to 1, or less where the model has learned sinks, which take the rest. float32; float64 if the model
        computes so. Layers come in the order in which the model computes them.

        columns: `[num_slots]` the column of the key in each slot, 0 to K - 1, or -1 for none.
        """
        ...

    def close(self) -> None:
        """Free the pool and the weights. The backend cannot be used afterwards."""
        ...
