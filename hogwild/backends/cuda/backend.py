"""The backend: a transformers model, its K/V pool, one forward, one sampler."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from hogwild.backends.base import Backend, BackendInfo, ForwardResult, ModelSpec
from hogwild.backends.cuda.angles import AngleTables
from hogwild.backends.cuda.attention import PASS_KEYWORD, Pass, SharedPass, register_attention
from hogwild.backends.cuda.certify import certify_layers
from hogwild.backends.cuda.channel import device_of, open_channel
from hogwild.backends.cuda.choice import PLAIN, Choice, choose_attention
from hogwild.backends.cuda.compiled import CompiledModel
from hogwild.backends.cuda.device_plan import to_device_plan
from hogwild.backends.cuda.facts import context_size_of, decoder_layers, model_spec, use_blocks
from hogwild.backends.cuda.forwards import Forwards
from hogwild.backends.cuda.graphs import CudaCapture, DecodeGraphs, SampleGraphs
from hogwild.backends.cuda.loading import load_model, quiet
from hogwild.backends.cuda.native.attention import NativeAttention
from hogwild.backends.cuda.native.linear import few_rows
from hogwild.backends.cuda.norms import fused_norms
from hogwild.backends.cuda.pool import KVPool
from hogwild.backends.cuda.sampling import sample
from hogwild.backends.cuda.self_check import check_against_operations, check_against_plain, short_view
from hogwild.backends.cuda.shares import Measuring
from hogwild.backends.cuda.workspace import Workspace
from hogwild.backends.options import LoadOptions
from hogwild.backends.parallel import follow, lead
from hogwild.backends.ranks import Ranks, find_ranks
from hogwild.core.plan import ForwardPlan
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.errors import ModelRefused, OptionError
from hogwild.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from hogwild.backends.cuda.kernels.attention import KernelAttention

FEW_TOKENS = 32  # the compiled model gives the logits of all tokens, which a prefill does not want


def load(checkpoint: Checkpoint, options: LoadOptions) -> Backend:
    """Load a model and certify that it can be computed exactly over shared blocks; else `ModelRefused`.

    In a process that torchrun has started the model is cut into parts, and only rank 0 comes back.
    """
    ranks = find_ranks()
    if ranks is None or ranks.backend != "cuda":
        return TorchBackend(load_model(checkpoint, options), options)
    if ranks.rank:
        join(ranks)
        raise SystemExit
    return lead(open_channel(ranks), _load_part, checkpoint, options)


def join(ranks: Ranks) -> None:
    """What a process of another rank does in the place of its program, until rank 0 ends."""
    follow(open_channel(ranks), _load_part)


def dismiss(ranks: Ranks) -> None:
    """On rank 0, when its program ends: the others end too, even if it has never loaded a model."""
    open_channel(ranks)  # which is closed at exit


def _load_part(checkpoint: Checkpoint, options: LoadOptions) -> TorchBackend:
    ranks = find_ranks()
    assert ranks is not None
    options = replace(options, device=device_of(ranks, options.device))
    return TorchBackend(load_model(checkpoint, options, ranks), options)


class TorchBackend:
    """A transformers model over shared blocks. Implements `hogwild.backends.base.Backend`.

    Attributes:
        model: the transformers model; its attention is ours.
        pool: the keys and values of every slot.
    """

    pool_owner: object = None

    @torch.inference_mode()
    def __init__(self, model: nn.Module, options: LoadOptions | None = None) -> None:
        """Take a loaded causal language model in evaluation mode; its attention implementation is replaced."""
        register_attention()
        with quiet():
            config = model.config.get_text_config()  # type: ignore[union-attr,operator]
            use_blocks(model, config.model_type)
            context_size = context_size_of(config)
            modules, layers, num_heads = certify_layers(model, config, context_size)
        first = next(model.parameters())
        self.model, self._dtype, self._device = model, first.dtype, first.device
        self._decoder_layers = decoder_layers(model, modules)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._tables = AngleTables(layers, first.dtype, first.device)
        self._workspace = Workspace()
        options = options or LoadOptions()
        kv_bytes = KVPool(layers, first.dtype, first.device, options.kv_dtype).bytes_per_token
        self._spec = replace(model_spec(model, config, layers, context_size, kv_bytes), num_heads=num_heads)
        self._compiled = _compiled(model, modules, options)
        wanted = choose_attention(options, layers, first.dtype, first.device)
        try:
            self._check(wanted, options.kv_dtype)
        except ModelRefused as error:
            if not wanted.kernels or options.attention == "kernel":
                raise
            self._check(wanted.without_kernels(error), options.kv_dtype)
        if self._compiled is not None:
            self._compiled.warn()

    @property
    def spec(self) -> ModelSpec:
        """Facts of the model."""
        return self._spec

    @property
    def info(self) -> BackendInfo:
        """Where it runs."""
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else str(self._device)
        return BackendInfo(
            name="cuda",
            device=device,
            dtype=str(self._dtype).removeprefix("torch."),
            attention=self._describe(),
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
            kv_dtype="int8" if self.pool.in_8_bits else "auto",
        )

    @torch.inference_mode()
    def reserve(self, num_slots: int) -> None:
        """Make the pool hold at least `num_slots` slots; see `KVPool.reserve`."""
        self.pool.reserve(num_slots)

    @torch.inference_mode()
    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        """Run the model once on the packed tokens of all rows."""
        if not hidden_states:
            logits = self._graphs.forward(plan) if self._graphs is not None else None
            return ForwardResult(self._run_plan(plan) if logits is None else logits)
        outputs: list[Tensor] = []
        hooks = [layer.register_forward_hook(_keep_output(outputs)) for layer in self._decoder_layers]
        try:
            logits = self._run_plan(plan, as_it_is=True)
        finally:
            for hook in hooks:
                hook.remove()
        return ForwardResult(logits, tuple(output.double().cpu().numpy() for output in outputs))

    def sample(self, logits: Tensor, requests: Sequence[SampleRequest]) -> SampleResult:
        """Choose one token for each row of `logits [n, V]` on the device."""
        result = self._sample_graphs.sample(logits, requests) if self._sample_graphs is not None else None
        return sample(logits, requests) if result is None else result

    def to_numpy(self, logits: Tensor) -> NDArray[np.float32]:
        """Logits as a float32 array, `[n, V]`."""
        return logits.float().cpu().numpy()

    @torch.inference_mode()
    def read_kv(self, layer: int, slots: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """K `[n, kv_heads, Dk]` and V `[n, kv_heads, Dv]` of some slots, in float32 (float64 if stored so)."""
        index = torch.from_numpy(np.array(slots, dtype=np.int64)).to(self._device)
        wide = torch.float64 if self._dtype == torch.float64 else torch.float32
        keys, values = self.pool.read(layer, index)
        return keys.to(wide).cpu().numpy(), values.to(wide).cpu().numpy()

    @torch.inference_mode()
    def attention_shares(
        self, plan: ForwardPlan, columns: NDArray[np.int64], num_columns: int
    ) -> tuple[NDArray[np.floating[Any]], ...]:
        """How attention divides over columns, for each layer `[heads, T, K]`; writes nothing."""
        reading = self._plain_pass(plan)
        measuring = Measuring(reading, columns, num_columns)
        self._run(reading.plan.token_ids, reading.plan.positions, measuring, reading.plan.logit_tokens)
        return tuple(shares.cpu().numpy() for shares in measuring.shares)

    def close(self) -> None:
        """Free the pool and the weights."""
        del self.model, self.pool, self._decoder_layers, self._tables, self._workspace
        del self._kernels, self._graphs, self._sample_graphs, self._compiled, self._native, self._forwards
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, choice: Choice, kv_dtype: str) -> None:
        """Take this attention, and refuse the model unless a short view gives its own logits."""
        layers, vocab_size = self._spec.layers, self._spec.vocab_size
        with quiet():
            self._take(choice, "auto")  # in 8 bits, rounding could pass for an error of the model, or hide one
            check_against_plain(self.model, layers, vocab_size, self._check_logits)
            self._take(choice, kv_dtype)
            if choice.kernels and kv_dtype == "int8" and find_ranks() is None:  # another rank may have no kernels
                kernels = short_view(layers, vocab_size, self._check_logits)
                self._take(PLAIN, kv_dtype)
                check_against_operations(self.model, kernels, short_view(layers, vocab_size, self._check_logits))
                self._take(choice, kv_dtype)

    def _take(self, choice: Choice, kv_dtype: str) -> None:
        """Attend so, with an empty pool and what holds on to its arrays."""
        self._choice = choice
        self._forwards = _forwards(self.model, choice, self._device)
        self.pool = KVPool(self._spec.layers, self._dtype, self._device, kv_dtype)
        self._kernels: KernelAttention | None = None
        self._graphs: DecodeGraphs | None = None
        self._sample_graphs: SampleGraphs | None = None
        self._native: NativeAttention | None = None
        if choice.library is not None:
            self._native = NativeAttention(
                choice.library, self.pool, self._spec.layers, self._spec.num_heads, self._tables
            )
        elif choice.kernels:
            from hogwild.backends.cuda.kernels.attention import KernelAttention  # imports triton

            self._kernels = KernelAttention(self.pool, self._spec.layers, self._spec.num_heads)
            if self._device.type == "cuda" and find_ranks() is None:
                self._graphs = DecodeGraphs(self._kernels, self._run_loaded, CudaCapture(self._device))
                self._sample_graphs = SampleGraphs(CudaCapture(self._device))

    def _run_plan(self, plan: ForwardPlan, *, as_it_is: bool = False) -> Tensor:
        """Logits `[L, V]` of the tokens that are wanted, without a graph. as_it_is: not compiled."""
        run = self._run if as_it_is or plan.num_tokens > FEW_TOKENS else self._run_compiled
        if self._kernels is not None:
            self._kernels.load(plan)
            wanted = self._tables.to_device(plan.logit_tokens)
            return run(self._kernels.token_ids, self._kernels.positions, self._kernels.start(), wanted)
        if self._native is not None:
            native = self._native.start(plan)
            return run(native.token_ids, native.positions, native, native.logit_tokens)
        current = self._plain_pass(plan)
        return run(current.plan.token_ids, current.plan.positions, current, current.plan.logit_tokens)

    def _plain_pass(self, plan: ForwardPlan) -> SharedPass:
        key_dim = max(layer.key_dim for layer in self._spec.layers)
        ready = to_device_plan(plan, self._spec.num_heads, key_dim, self._tables)
        return SharedPass(ready, self.pool, self._spec.layers, self._tables, self._workspace)

    def _run_loaded(self) -> Tensor:
        """Logits `[T, V]` of the pass that the kernels have loaded, filling included; device operations only."""
        assert self._kernels is not None
        return self._run_compiled(self._kernels.token_ids, self._kernels.positions, self._kernels.start(), None)

    def _run_compiled(self, token_ids: Tensor, positions: Tensor, current: Pass, wanted: Tensor | None) -> Tensor:
        """`_run` for a decoding pass, through the compiled model if there is one."""
        logits = None if self._compiled is None else self._compiled(token_ids, positions, current)
        if logits is None:
            return self._run(token_ids, positions, current, wanted)
        return logits if wanted is None else logits.index_select(0, wanted)

    def _run(self, token_ids: Tensor, positions: Tensor, current: Pass, wanted: Tensor | None) -> Tensor:
        """Logits `[L, V]` of the tokens that are wanted, None: of all."""
        keep = {"logits_to_keep": wanted} if self._keeps_logits and wanted is not None else {}
        with self._forwards.applied():
            output = self.model(
                input_ids=token_ids, position_ids=positions, use_cache=False, **keep, **{PASS_KEYWORD: current}
            )
        logits: Tensor = output.logits[0]
        return logits if keep or wanted is None else logits.index_select(0, wanted)

    def _describe(self) -> str:
        """Attention, and whether the model around it is compiled."""
        if self._compiled is None:
            return self._describe_attention()
        failure = self._compiled.failure
        return f"{self._describe_attention()}; model {f'not compiled: {failure}' if failure else 'compiled'}"

    def _describe_attention(self) -> str:
        if self._graphs is None or self._sample_graphs is None:
            return str(self._choice)
        if self._graphs.failure:
            return f"{self._choice}, no CUDA graphs: {self._graphs.failure}"
        failure = self._sample_graphs.failure
        return f"{self._choice}, decoding as CUDA graphs" + (f", choosing tokens without: {failure}" if failure else "")

    def _check_logits(self, plan: ForwardPlan) -> Tensor:
        self.reserve(plan.num_slots)
        logits: Tensor = self.forward(plan).logits
        return logits


def _compiled(model: nn.Module, modules: Sequence[nn.Module], options: LoadOptions) -> CompiledModel | None:
    if options.compile and find_ranks() is not None:
        raise OptionError(
            "a model that lies in parts on several processes is not compiled", remedy="leave --compile out"
        )
    return CompiledModel(model, modules) if options.compile else None


def _forwards(model: nn.Module, choice: Choice, device: torch.device) -> Forwards:
    """What passes through the model that is not compiled compute in another way than it does itself."""
    if choice.library is not None:
        return few_rows(model, choice.library)
    return fused_norms(model) if device.type == "cuda" else Forwards()


def _keep_output(outputs: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).flatten(0, -2))

    return hook
