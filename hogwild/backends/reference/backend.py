"""The reference backend's side of the contract."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import BackendInfo, ForwardResult, LayerSpec, ModelSpec
from hogwild.backends.reference.model import Decoder
from hogwild.backends.reference.pool import KVPool
from hogwild.backends.reference.sampling import sample
from hogwild.backends.reference.shares import measure
from hogwild.backends.reference.weights import Model, pair_order
from hogwild.core.plan import ForwardPlan
from hogwild.core.sampling import SampleRequest, SampleResult

Array = NDArray[Any]


class ReferenceBackend:
    """A Llama-family model in NumPy with its K/V pool; see `hogwild.backends.base.Backend`.

    pool_fill: what slots hold that nobody wrote (tests give NaN); None for whatever was in memory. kv_dtype: see
    `LoadOptions`.
    """

    pool_owner: object = None

    def __init__(self, model: Model, *, pool_fill: float | None = None, kv_dtype: str = "auto") -> None:
        config = model.config
        self._decoder: Decoder | None = Decoder(model)
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        self._pool = KVPool(*shape, model.dtype, pool_fill, kv_dtype)
        self._feature_order = np.argsort(pair_order(config.head_dim))
        layers = tuple(
            LayerSpec(config.rotary, config.num_kv_heads, config.head_dim, config.head_dim, window)
            for window in config.windows
        )
        self._spec = ModelSpec(
            family=config.family,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            context_size=config.context_size,
            num_parameters=model.num_parameters,
            kv_bytes_per_token=self._pool.bytes_per_token,
            layers=layers,
            weight_bytes=model.weight_bytes,
            lookup_bytes=0 if model.head.weight is model.embedding else model.embedding.nbytes,
        )
        self._info = BackendInfo(
            name="reference",
            device="cpu",
            dtype=model.dtype.name,
            attention="numpy",
            versions={"numpy": np.__version__, "python": platform.python_version()},
            kv_dtype=kv_dtype,
        )

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model."""
        return self._spec

    @property
    def pool(self) -> KVPool:
        """The keys and values of every slot."""
        return self._pool

    @property
    def info(self) -> BackendInfo:
        """Where it runs."""
        return self._info

    def reserve(self, num_slots: int) -> None:
        """Make the pool hold at least `num_slots` slots."""
        self._pool.reserve(num_slots)

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Run the model once."""
        assert self._decoder is not None, "the backend is closed"
        self._pool.reserve(plan.num_slots)
        outputs: list[Array] | None = [] if hidden_states else None
        # exp(-gate) may overflow to infinity, which is right; NaN is reported by `sample`.
        with np.errstate(over="ignore", invalid="ignore"):
            logits = self._decoder(plan, self._pool, self._decoder.reader(plan), outputs)
        return ForwardResult(logits, None if outputs is None else tuple(x.astype(np.float64) for x in outputs))

    def sample(self, logits: Array, requests: Sequence[SampleRequest]) -> SampleResult:
        """Choose one token for each row of `logits [n, V]`."""
        return sample(logits, requests)

    def to_numpy(self, logits: Array) -> NDArray[np.float32]:
        """Logits as a float32 array, `[n, V]`."""
        return logits.astype(np.float32)

    def read_kv(self, layer: int, slots: Sequence[int] | NDArray[np.int64]) -> tuple[Array, Array]:
        """K `[n, kv_heads, D]`, features in the model's own order, and V `[n, kv_heads, D]`, in the backend's dtype."""
        index = np.asarray(slots, dtype=np.int64)
        keys, values = (pool[layer][:, index].transpose(1, 0, 2) for pool in (self._pool.keys, self._pool.values))
        return keys[..., self._feature_order], values

    def attention_shares(self, plan: ForwardPlan, columns: NDArray[np.int64], num_columns: int) -> tuple[Array, ...]:
        """How attention divides over columns, for each layer `[heads, T, K]` in the backend's dtype; writes nothing."""
        assert self._decoder is not None, "the backend is closed"
        with np.errstate(over="ignore", invalid="ignore"):
            return measure(self._decoder, plan, self._pool, columns, num_columns)

    def close(self) -> None:
        """Free the pool and the weights."""
        config = self._spec.layers[0]
        self._decoder = None
        self._pool = KVPool(0, config.num_kv_heads, config.key_dim, np.dtype(np.float32))
