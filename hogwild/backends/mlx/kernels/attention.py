"""Attention over the pool by the Metal kernels: the same role as the plain `PassReader`.

For each layer: one start of `attend` for all groups of the pass, one of `merge`. Arrays that depend on the pass alone
are made once per pass, those that depend on the layer alone once per model; nothing waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx

from hogwild.backends.base import LayerSpec
from hogwild.backends.mlx.kernels.launch import CAPACITIES, MAX_TOKENS, TILE, Launch, choose_launch
from hogwild.backends.mlx.kernels.source import (
    ATTEND_MATRIX,
    ATTEND_VECTOR,
    MERGE,
    MERGE_BLOCKS,
    Call,
    Starter,
    start_on_gpu,
)
from hogwild.backends.mlx.kernels.tables import pack_tables, rotary_tables
from hogwild.backends.mlx.stored import Quantized, Stored
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import RotarySpec
from hogwild.core.work import WorkList, cut_work
from hogwild.errors import HogwildError, ModelRefused

NO_WINDOW = (1 << 31) - 1
Chooser = Callable[[int, int, int, int], Launch]  # see choose_launch
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


@dataclass(frozen=True, slots=True)
class Attended:
    """What attention gives.

    Attributes:
        output: `[T, H, Dv]`, of the queries' dtype.
        log_sum_exp: `[T, H]` float32, of the scores a token sees, without sinks.
        by_block: `[T, H, B]` float32, the same for each block of the token's group, -inf for a block that it does not
            see, or that its group does not have; None unless asked for.
    """

    output: mx.array
    log_sum_exp: mx.array
    by_block: mx.array | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """A pass as a launch sees it."""

    tables: mx.array
    num_items: int


class KernelAttention:
    """One model's attention by kernels; keeps what depends on the model alone.

    span: 0, or how many tiles of a block make an item, whatever else is in the pass (see `cut_work`). The launch is
    then that for many tokens, so that the schedule changes no bit. It costs speed.
    """

    def __init__(self, start: Starter = start_on_gpu, choose: Chooser = choose_launch, span: int = 0) -> None:
        self.start, self.choose, self.span = start, choose, span
        self.rotary_tables = lru_cache(rotary_tables)
        self.integers = lru_cache(_integers)
        self.reals = lru_cache(_reals)
        self._no_scales = mx.zeros((8,))  # an array so long is in device memory, as scales are

    def stored(self, keys: Stored, values: Stored) -> tuple[mx.array, ...]:
        """K, V and their scales as the kernels take them."""
        if isinstance(keys, Quantized) and isinstance(values, Quantized):
            return keys.codes, values.codes, keys.scales, values.scales
        assert isinstance(keys, mx.array)
        assert isinstance(values, mx.array)
        return keys, values, self._no_scales, self._no_scales

    def reader(self, plan: ForwardPlan) -> KernelReader:
        """What reads the pool in one pass."""
        return KernelReader(plan, self)


class KernelReader:
    """How one pass reads the pool; made once per pass, used by every layer."""

    def __init__(self, plan: ForwardPlan, attention: KernelAttention) -> None:
        self._plan, self._attention = plan, attention
        most = max((group.num_tokens for group in plan.groups), default=1)
        self._most_tokens = MAX_TOKENS if attention.span else most
        self._num_columns = sum(group.num_columns for group in plan.groups)
        self._work: dict[tuple[int, int, bool], _Work] = {}

    def attend(
        self,
        queries: mx.array,
        keys: Stored,
        values: Stored,
        *,
        rotary: RotarySpec,
        window: int | None,
        scale: float,
        sinks: mx.array | None,
        softcap: float | None = None,
    ) -> mx.array:
        """`queries [T, H, 1, Dk]`, one layer's pool `[kv_heads, slots, D]`; returns `[T, H, 1, Dv]`."""
        attended = self.attend_all(
            queries[:, :, 0], keys, values, rotary=rotary, window=window, scale=scale, sinks=sinks, softcap=softcap
        )
        return attended.output[:, :, None]

    def attend_all(
        self,
        queries: mx.array,
        keys: Stored,
        values: Stored,
        *,
        rotary: RotarySpec,
        window: int | None,
        scale: float,
        sinks: mx.array | None = None,
        softcap: float | None = None,
        by_block: bool = False,
    ) -> Attended:
        """`queries [T, H, Dk]`, one layer's pool `[kv_heads, slots, D]`.

        window: a key is seen when it stands less than so many tokens away. softcap: scores become
        `softcap * tanh(score / softcap)`. sinks: `[H]`. by_block: also the log-sum-exp of each block.

        Raises `HogwildError` for what the kernels do not compute; see `refuse_unfit`.
        """
        (num_tokens, num_heads, key_dim), kv_heads = queries.shape, keys.shape[0]
        _check(num_heads, queries.dtype, keys, values)
        head_dim = max(key_dim, values.shape[-1])
        launch = self._attention.choose(self._most_tokens, num_heads // kv_heads, head_dim, queries.dtype.size)
        work = self._cut(launch, kv_heads, by_block)
        shared = self._attention
        limit = NO_WINDOW if window is None else min(window, NO_WINDOW)
        pairing = int(rotary.pairing == "interleaved")
        sizes = shared.integers(limit, launch.stored_rows, rotary.start, len(rotary.inv_freq), pairing)
        inputs = (
            queries,
            *shared.stored(keys, values),
            work.tables,
            *shared.rotary_tables(rotary),
            sizes,
            shared.reals(scale, softcap or 0.0),
        )
        partial, partial_lse = self._start_attend(launch, inputs, work.num_items)
        output, log_sum_exp = self._merge(partial, partial_lse, work, queries, sinks)
        blocks = self._merge_blocks(partial_lse, work, num_tokens, num_heads) if by_block else None
        return Attended(output, log_sum_exp, blocks)

    def _cut(self, launch: Launch, kv_heads: int, by_block: bool) -> _Work:
        key = (launch.query_tile, launch.num_items(kv_heads, self._num_columns), by_block)
        if key not in self._work:
            query_tile, num_items, _ = key
            work: WorkList = cut_work(
                self._plan,
                tile=TILE,
                query_tile=query_tile,
                num_items=num_items,
                by_block=by_block,
                span=self._attention.span,
            )
            self._work[key] = _Work(pack_tables(work), work.num_items)
        return self._work[key]

    def _start_attend(self, launch: Launch, inputs: Sequence[mx.array], num_items: int) -> list[mx.array]:
        keys, values = inputs[1], inputs[2]
        template: list[tuple[str, Any]] = [
            ("ROWS", launch.rows),
            ("CAPACITY", launch.capacity),
            ("SIMDGROUPS", launch.simdgroups),
            ("QUANTIZED", keys.dtype == mx.int8),
        ]
        if launch.is_matrix:
            template = [("T", inputs[0].dtype), ("KEYS", launch.keys), *template]
        rows = (num_items, keys.shape[0], launch.stored_rows)
        call = Call(
            inputs=inputs,
            template=template,
            grid=(launch.threads, keys.shape[0] * launch.row_blocks, num_items),
            threads=launch.threads,
            outputs=[((*rows, values.shape[-1]), mx.float32), (rows, mx.float32)],
        )
        return self._attention.start(ATTEND_MATRIX if launch.is_matrix else ATTEND_VECTOR, call)

    def _merge(
        self, partial: mx.array, partial_lse: mx.array, work: _Work, queries: mx.array, sinks: mx.array | None
    ) -> list[mx.array]:
        num_tokens, num_heads, _ = queries.shape
        shared = self._attention
        given = shared.reals(0.0) if sinks is None else sinks.astype(mx.float32)
        call = Call(
            inputs=(partial, partial_lse, work.tables, given, shared.integers(int(sinks is not None))),
            template=[("O", queries.dtype)],
            grid=(32, num_heads, num_tokens),
            threads=32,
            outputs=[
                ((num_tokens, num_heads, partial.shape[-1]), queries.dtype),
                ((num_tokens, num_heads), mx.float32),
            ],
        )
        return shared.start(MERGE, call)

    def _merge_blocks(self, partial_lse: mx.array, work: _Work, num_tokens: int, num_heads: int) -> mx.array:
        num_blocks = max(group.turns.shape[1] for group in self._plan.groups)
        call = Call(
            inputs=(partial_lse, work.tables, self._attention.integers(num_blocks)),
            template=[],
            grid=(num_heads, num_tokens, 1),
            threads=math.gcd(num_heads, 32),
            outputs=[((num_tokens, num_heads, num_blocks), mx.float32)],
        )
        return self._attention.start(MERGE_BLOCKS, call)[0]


def refuse_unfit(layers: Sequence[LayerSpec], num_heads: int, dtype: mx.Dtype) -> None:
    """Raise `ModelRefused` for a model with layers that the kernels do not compute."""
    for number, layer in enumerate(layers):
        reason = _why_not(num_heads, layer.num_kv_heads, layer.key_dim, layer.value_dim, dtype)
        if reason is not None:
            raise ModelRefused(
                f"the Metal kernels do not compute layer {number}",
                expected=f"heads of 8, 16, .. {CAPACITIES[-1]} features in float32, float16 or bfloat16",
                got=reason,
                remedy="load the model with attention='plain'",
            )


def _why_not(num_heads: int, kv_heads: int, key_dim: int, value_dim: int, dtype: mx.Dtype) -> str | None:
    if dtype not in DTYPES:
        return f"queries are {dtype}, not float32, float16 or bfloat16"
    if num_heads % kv_heads:
        return f"{num_heads} query heads do not divide among {kv_heads} kv heads"
    if max(key_dim, value_dim) > CAPACITIES[-1] or key_dim % 8 or value_dim % 8:
        return f"heads have {key_dim} and {value_dim} features, not multiples of 8 up to {CAPACITIES[-1]}"
    return None


def _check(num_heads: int, dtype: mx.Dtype, keys: Stored, values: Stored) -> None:
    reason = _why_not(num_heads, keys.shape[0], keys.shape[-1], values.shape[-1], dtype)
    if reason is None:
        reason = _other_dtype("K", keys, dtype) or _other_dtype("V", values, dtype)
    if reason is None and isinstance(keys, Quantized) != isinstance(values, Quantized):
        reason = "of K and V only one is in 8 bits"
    if reason is not None:
        raise HogwildError(
            "the Metal kernels do not compute this attention",
            expected="what docs/kernels.md lists",
            got=reason,
            remedy="load the model with attention='plain'",
        )


def _other_dtype(name: str, stored: Stored, dtype: mx.Dtype) -> str | None:
    if isinstance(stored, Quantized) or stored.dtype == dtype:
        return None
    return f"{name} is {stored.dtype}, but queries are {dtype}"


def _integers(*numbers: int) -> mx.array:
    return mx.array(numbers, dtype=mx.int32)


def _reals(*numbers: float) -> mx.array:
    return mx.array(numbers, dtype=mx.float32)
