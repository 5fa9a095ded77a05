"""The MLX backend: mlx-lm's models, attention from MLX operations or, on an Apple GPU, from Metal kernels."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import get_total_parameters
from numpy.typing import NDArray

from hogwild.backends.base import Backend, BackendInfo, ForwardResult, ModelSpec
from hogwild.backends.mlx.channel import MlxChannel, open_channel
from hogwild.backends.mlx.hook import Hook
from hogwild.backends.mlx.kernels import KernelAttention, refuse_unfit
from hogwild.backends.mlx.model_pass import PassRunner, recorded_layers
from hogwild.backends.mlx.pool import KVPool
from hogwild.backends.mlx.probe import Certificate, certify
from hogwild.backends.mlx.rope import share_tables
from hogwild.backends.mlx.sampling import sample
from hogwild.backends.mlx.self_check import check_against_operations, check_against_plain
from hogwild.backends.mlx.shares import measure
from hogwild.backends.mlx.weights import load_weights, lookup_bytes, weight_bytes
from hogwild.backends.options import LoadOptions
from hogwild.backends.parallel import follow, lead
from hogwild.backends.ranks import Ranks, find_ranks
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import MAX_OFFSET, OffsetTable
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.errors import BackendUnavailable, HogwildError, ModelRefused, OptionError
from hogwild.models.checkpoint import Checkpoint

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_CHECK_SLOTS = 64
_TIDY_PASSES = 256  # as many as in mlx-lm


def load(checkpoint: Checkpoint, options: LoadOptions) -> Backend:
    """Load a checkpoint and certify it.

    dtype "auto": quantised weights stay quantised; on a GPU everything else stays as stored (but for GGUF files, see
    `load_weights`), on a CPU activations, K/V and plain weights are float32, since MLX computes 16-bit numbers slowly
    there. "float32" dequantises. "float16" and "bfloat16" keep quantised weights and set the dtype of everything else.
    "float64" is refused.

    attention "auto": the Metal kernels on an Apple GPU, if they compute the model and pass the check at load; what was
    chosen stands in `info`.

    In a process that mlx.launch has started the model is cut into parts, and only rank 0 comes back.

    Raises `ModelRefused`, `CheckpointError`, `BackendUnavailable`, `OptionError`.
    """
    ranks = find_ranks()
    if ranks is None or ranks.backend != "mlx":
        return _load(checkpoint, options)
    if ranks.rank:
        join(ranks)
        raise SystemExit
    channel = open_channel(ranks)
    return lead(channel, partial(_load, channel=channel), checkpoint, options)


def join(ranks: Ranks) -> None:
    """What a process of another rank does in the place of its program, until rank 0 ends."""
    channel = open_channel(ranks)
    follow(channel, partial(_load, channel=channel))


def dismiss(ranks: Ranks) -> None:
    """On rank 0, when its program ends: the others end too, even if it has never loaded a model."""
    open_channel(ranks)  # which is closed at exit


def _load(checkpoint: Checkpoint, options: LoadOptions, *, channel: MlxChannel | None = None) -> MlxBackend:
    """The model, or this rank's part of it."""
    options.refuse_compile("mlx")
    device = _find_device(options.device)
    kernels = _find_kernels(options, device)
    _keep_in_memory(device)
    with mx.stream(device):
        model = load_weights(checkpoint, _find_dtype(options.dtype, device), keep_quantised=options.dtype != "float32")
        if channel is not None:
            channel.shard(model, checkpoint.name)
        only_kernels = options.attention == "kernel"
        return MlxBackend(
            model, checkpoint.config, device, kernels, only_kernels=only_kernels, kv_dtype=options.kv_dtype
        )


class MlxBackend:
    """A loaded model; see `hogwild.backends.base.Backend`. The thread that made it must be the one that uses it."""

    pool_owner: object = None

    def __init__(
        self,
        model: Any,
        config: Mapping[str, Any],
        device: Any,
        kernels: KernelAttention | None = None,
        *,
        only_kernels: bool = False,
        kv_dtype: str = "auto",
    ) -> None:
        """kernels: to be tried before MLX's operations. only_kernels: refuse the model if they are not right for it.

        kv_dtype: see `LoadOptions`.
        """
        self._model, self._device = model, device
        self._hook = Hook(model)
        self._num_passes = 0
        try:
            self._certify(config, kernels, only_kernels, kv_dtype)
        except BaseException:
            self._hook.release()
            raise

    @property
    def model(self) -> Any:
        """mlx-lm's model itself; where its code leaves out what the config states, that is put right.

        On a CPU its rotary modules share cos and sin within a pass; to other callers they are as they were.
        """
        return self._model

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model."""
        return self._spec

    @property
    def info(self) -> BackendInfo:
        """Where it runs."""
        return self._info

    def reserve(self, num_slots: int) -> None:
        """Make the pool hold at least `num_slots` slots."""
        with mx.stream(self._device):
            self._pool.reserve(num_slots)

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Run the model once.

        Logits are lazy: they are computed when they are sampled or read. A pass that wants none computes K/V alone,
        without the vocabulary projection.
        """
        self.reserve(plan.num_slots)
        self._num_passes += 1
        if self._num_passes % _TIDY_PASSES == 0:
            mx.clear_cache()  # arrays become longer with the text, so those that MLX keeps fit nothing that comes
        with mx.stream(self._device):
            if hidden_states:
                with recorded_layers(self._model) as outputs:
                    logits = self._run(plan)
                return ForwardResult(logits, tuple(np.array(x[:, 0].astype(mx.float32), np.float64) for x in outputs))
            logits = self._run(plan)
            if not len(plan.logit_tokens):
                self._pool.evaluate()
                mx.clear_cache()  # a long text's arrays are large, and a short one's do not fit in them
            return ForwardResult(logits)

    def sample(self, logits: mx.array, requests: Sequence[SampleRequest]) -> SampleResult:
        """Choose one token for each row of `logits [n, V]`; one evaluation computes the pass and the choice."""
        with mx.stream(self._device):
            return sample(logits, requests, mx.float64 if self._device == mx.Device(mx.cpu) else mx.float32)

    def to_numpy(self, logits: mx.array) -> NDArray[np.float32]:
        """Logits as float32, `[n, V]`."""
        with mx.stream(self._device):
            return np.array(logits.astype(mx.float32))

    def read_kv(self, layer: int, slots: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """K and V of some slots in float32."""
        with mx.stream(self._device):
            return self._pool.read(layer, np.asarray(slots, dtype=np.int64))

    def attention_shares(
        self, plan: ForwardPlan, columns: NDArray[np.int64], num_columns: int
    ) -> tuple[NDArray[np.floating[Any]], ...]:
        """How attention divides over columns, for each layer `[heads, T, K]`; writes nothing."""
        with mx.stream(self._device):
            return measure(self._runner, plan, self._pool, columns, num_columns)

    def close(self) -> None:
        """Free the pool and the weights, and give mlx-lm's modules their own attention back."""
        self._hook.release()
        self._pool.clear()
        del self._model, self._runner
        mx.clear_cache()

    def _run(self, plan: ForwardPlan) -> mx.array:
        logits = self._runner.run(plan, self._pool)
        if len(plan.logit_tokens) == plan.num_tokens:
            return logits
        return logits[mx.array(plan.logit_tokens.astype(np.int32))]

    def _certify(
        self, config: Mapping[str, Any], kernels: KernelAttention | None, only_kernels: bool, kv_dtype: str
    ) -> None:
        context_size = _context_size(config)
        found = certify(self._model, config, context_size)
        if self._device == mx.Device(mx.cpu):
            share_tables(self._model)
        pool = KVPool(found.layers, found.dtype, kv_dtype)
        self._runner = PassRunner(self._model, found.layers, found.num_heads, lru_cache(OffsetTable), found.latent)
        self._spec = ModelSpec(
            family=str(config["model_type"]),
            num_layers=len(found.layers),
            num_heads=found.num_heads,
            hidden_size=_hidden_size(config),
            vocab_size=found.vocab_size,
            context_size=context_size,
            num_parameters=int(get_total_parameters(self._model)),
            kv_bytes_per_token=pool.bytes_per_token,
            layers=found.layers,
            weight_bytes=weight_bytes(self._model),
            lookup_bytes=lookup_bytes(self._model, found.vocab_size),
        )
        attention = self._choose_attention(found, kernels, only_kernels, kv_dtype)
        self._pool = pool
        self._info = _describe(self._device, found.dtype, attention, kv_dtype)

    def _choose_attention(
        self, found: Certificate, kernels: KernelAttention | None, only_kernels: bool, kv_dtype: str
    ) -> str:
        """What passes the check, in words."""
        kept = ""
        if kernels is not None:
            try:
                refuse_unfit(found.layers, found.num_heads, found.dtype)
                self._check(found, kernels, kv_dtype)
                return "Metal kernels"
            except HogwildError as error:
                if only_kernels:
                    raise
                kept = f", not Metal kernels: {error}"
        self._check(found, None, kv_dtype)
        return f"mlx operations{kept}"

    def _check(self, found: Certificate, kernels: KernelAttention | None, kv_dtype: str) -> None:
        """The model is checked on a pool of its own dtype: in 8 bits rounding could pass for an error, or hide one."""
        self._pool = KVPool(found.layers, found.dtype)
        self._pool.reserve(_CHECK_SLOTS)
        check_against_plain(self._model, found.vocab_size, found.dtype, self._run_by(kernels), _CHECK_SLOTS)
        if kernels is not None and kv_dtype == "int8":
            self._pool = KVPool(found.layers, found.dtype, kv_dtype)
            self._pool.reserve(_CHECK_SLOTS)
            runs = self._run_by(None), self._run_by(kernels)
            check_against_operations(found.vocab_size, found.dtype, *runs, _CHECK_SLOTS)
        self._runner.kernels = kernels

    def _run_by(self, kernels: KernelAttention | None) -> Callable[[ForwardPlan], mx.array]:
        def run(plan: ForwardPlan) -> mx.array:
            self._runner.kernels = kernels
            return self._run(plan)

        return run


def _context_size(config: Mapping[str, Any]) -> int:
    text = config.get("text_config") or config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"):
        if text.get(name):
            return min(int(text[name]), MAX_OFFSET - 1)
    raise ModelRefused(
        "the model's config does not say how long its context is", expected="max_position_embeddings", got="nothing"
    )


def _hidden_size(config: Mapping[str, Any]) -> int:
    text = config.get("text_config") or config
    sizes = [text[name] for name in ("hidden_size", "n_embd", "d_model", "model_dim") if text.get(name)]
    if not sizes:
        raise ModelRefused("the model's config does not say its width", expected="hidden_size", got="nothing")
    return int(sizes[0])


def _find_dtype(name: str, device: Any) -> Any:
    if name == "float64":
        raise OptionError(
            "MLX does not compute models in float64",
            expected="auto, float32, float16 or bfloat16",
            got=name,
            remedy="use the reference backend for float64",
        )
    if name == "auto":
        return mx.float32 if device == mx.Device(mx.cpu) else None
    return _DTYPES[name]


def _find_device(name: str) -> Any:
    kinds = {"cpu": mx.cpu, "gpu": mx.gpu}
    if name == "auto":
        return mx.default_device()
    if name not in kinds:
        raise OptionError(f"MLX has no device {name!r}", expected="auto, cpu or gpu", got=name)
    if not mx.is_available(kinds[name]):
        raise BackendUnavailable("MLX has no GPU on this machine", expected="a GPU", got=name, remedy="use device cpu")
    return mx.Device(kinds[name])


def _keep_in_memory(device: Any) -> None:
    """Let weights and K/V stay where an Apple GPU reads them, as mlx-lm does while it generates.

    Otherwise macOS may page them out between two passes, which makes a model that fills the memory many times slower.
    """
    if device != mx.Device(mx.cpu) and mx.metal.is_available():
        mx.set_wired_limit(int(mx.device_info(device)["max_recommended_working_set_size"]))


def _find_kernels(options: LoadOptions, device: Any) -> KernelAttention | None:
    if options.attention == "plain":
        return None
    if device == mx.Device(mx.cpu) or not mx.metal.is_available():
        options.refuse_kernel("the Metal kernels need an Apple GPU; on this device MLX's operations attend")
        return None
    return KernelAttention()


def _describe(device: Any, dtype: Any, attention: str, kv_dtype: str) -> BackendInfo:
    versions = {package: importlib.metadata.version(package) for package in ("mlx", "mlx-lm")}
    kind = "cpu" if device == mx.Device(mx.cpu) else "gpu"
    return BackendInfo("mlx", kind, str(dtype).removeprefix("mlx.core."), attention, versions, kv_dtype)
