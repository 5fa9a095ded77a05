"""Attention over shared blocks by the kernels: the passes of one backend, and the buffers that they share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.kernels.attend import attend
from hogwild.backends.cuda.kernels.launch import PROGRAMS_PER_SM, choose_for_all, padded, query_tile
from hogwild.backends.cuda.kernels.merge import merge, merge_by_block
from hogwild.backends.cuda.kernels.prefill import Prefill, lone_rows
from hogwild.backends.cuda.kernels.rotation import Angles
from hogwild.backends.cuda.kernels.tables import PassTables
from hogwild.backends.cuda.kernels.write import write
from hogwild.backends.cuda.pool import KVPool
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import NO_ROTARY, RotarySpec
from hogwild.core.work import cut_work

INTERPRETED = isinstance(attend, InterpretedFunction)  # TRITON_INTERPRET=1 when triton was imported: on the CPU
TABLES = (
    *("counts", "token_ids", "positions", "write_slots", "tokens"),
    *("items", "order", "segments", "turns", "offsets", "column_slots", "column_index"),
)
_ENDLESS = 1 << 30
_BLOCK_ITEMS = 16
_BLOCK_BLOCKS = 16
_BLOCK_WRITE = 4096  # features of a token that a program writes at once


class KernelAttention:
    """The kernels of one model, with their tables on the device.

    A pass is `load(plan)`, which sends its numbers, then `start()`, whose result answers for each layer. Everything
    from `start()` on reads nothing but the device's memory at addresses that stay, and launches grids that depend on
    the room of the tables alone; so it can be captured in a graph, for a number of tokens, and replayed after another
    `load`, as long as `generation` has not changed.

    span: 0, or how many tiles of a block make an item, whatever else is in the pass (see `cut_work`). Chunks are then
    always full, and torch's own attention is not used, so that the schedule changes no bit. It costs speed.
    """

    def __init__(self, pool: KVPool, layers: Sequence[LayerSpec], num_heads: int, span: int = 0) -> None:
        self.pool, self.layers, self._span = pool, layers, span
        device = pool.keys[0].device
        self._launch = choose_for_all(layers, pool.dtype.itemsize)
        self._group_size = max(num_heads // layer.num_kv_heads for layer in layers)
        num_programs = _num_processors(device) * PROGRAMS_PER_SM
        self._num_items = max(1, num_programs // max(layer.num_kv_heads for layer in layers))
        self.tables = PassTables(TABLES, device, {"write_slots": -1})
        rotations = {layer.rotary for layer in layers if layer.rotary != NO_ROTARY}
        self.angles: dict[RotarySpec, Angles] = {spec: Angles(spec, device) for spec in rotations}
        self._nothing = torch.zeros(1, device=device)
        self._partial = torch.empty(0, device=device)
        self._largest = max(num_heads * (layer.value_dim + 1) for layer in layers)
        self._bare_scores = all(layer.window is None and layer.key_dim == layer.value_dim for layer in layers)
        self._resized = 0

    @property
    def generation(self) -> int:
        """How often an address has changed that a captured graph would hold."""
        return self.tables.generation + self._resized + self.pool.generation

    @property
    def shape_key(self) -> Hashable:
        """What else the launches of the loaded pass depend on, beside its number of tokens; None: on where it lies."""
        return None if self._prefills else (self.query_tile, self._has_work)

    def load(self, plan: ForwardPlan, *, num_tokens: int = 0, by_block: bool = False) -> None:
        """Cut a pass into work and send the tables.

        num_tokens: the pass is filled up to so many with tokens that write nothing and read nothing. by_block: so that
        `KernelPass.attend_by_block` may be called; there are then more items, and no prefill by torch.
        """
        most = max((group.num_tokens for group in plan.groups), default=1)
        self.query_tile = query_tile(self._launch, self._group_size, self._launch.max_rows if self._span else most)
        self._prefills = {} if by_block or self._span or not self._bare_scores else lone_rows(plan)
        self._plan, self._num_tokens = plan, max(num_tokens, plan.num_tokens)
        work = cut_work(
            plan,
            tile=self._launch.tile,
            query_tile=self.query_tile,
            num_items=self._num_items,
            by_block=by_block,
            span=self._span,
            skip=self._prefills,
        )
        self.tables.reserve({"token_ids": num_tokens, "positions": num_tokens, "tokens": 5 * num_tokens})
        self.tables.reserve({"write_slots": num_tokens})
        self.tables.load(
            {
                "counts": np.array([len(work.offsets)], dtype=np.int32),
                "token_ids": plan.token_ids,
                "positions": plan.positions,
                "write_slots": plan.write_slots,
                "tokens": work.tokens,
                "items": work.items,
                "order": work.order,
                "segments": work.segments,
                "turns": work.turns,
                "offsets": work.offsets,
                "column_slots": work.column_slots,
                "column_index": work.column_index,
            }
        )
        self._has_work = work.num_items > 0
        self._num_blocks = max((group.turns.shape[1] for group in plan.groups), default=0) if by_block else 0
        self._reserve()

    def _reserve(self) -> None:
        """Room for the angles, and for the parts: those of an item are a chunk's, for all query heads."""
        for angles in self.angles.values():
            self._resized += angles.reserve(self.tables.room("offsets"))
        size = self.tables.room("items") // 5 * self.query_tile * self._largest
        if self._partial.numel() < size:
            self._partial = self._partial.new_empty(size)
            self._resized += 1

    @property
    def token_ids(self) -> Tensor:
        """`[1, T]` int32, filling included."""
        return self.tables["token_ids"][None, : self._num_tokens]

    @property
    def positions(self) -> Tensor:
        """`[1, T]` int32 within the own blocks, filling included."""
        return self.tables["positions"][None, : self._num_tokens]

    def start(self) -> KernelPass:
        """The pass that was loaded, its angles made."""
        with torch.cuda.device_of(self._nothing):  # type: ignore[no-untyped-call]  # triton launches on the current one
            for angles in self.angles.values():
                angles.compose(self.tables["offsets"], self.tables["counts"])
        prefills = tuple(self._prefills.values())
        return KernelPass(self, prefills, self._has_work, self._num_blocks)

    def do_without_prefill(self) -> None:
        """A layer caps its scores or has sinks, which torch's own attention does not know: the kernel reads all."""
        self._bare_scores = False
        self.load(self._plan, num_tokens=self._num_tokens)
        self.start()

    def read(
        self, index: int, q: Tensor, scale: float, softcap: float | None, sinks: Tensor | None, block_lse: Tensor | None
    ) -> Tensor:
        """`[1, T, H, Dv]`: what the tokens that have work read in a layer, for `q [H, T, Dk]`."""
        layer, launch, tables = self.layers[index], self._launch, self.tables
        keys, values = self.pool.keys[index], self.pool.values[index]
        (num_heads, num_tokens, _), kv_heads = q.shape, layer.num_kv_heads
        group_size, num_items = num_heads // kv_heads, tables.room("items") // 5
        rows = self.query_tile * group_size
        partial_out, partial_lse = self._parts(num_items, kv_heads, rows, layer.value_dim)
        block_value = padded(layer.value_dim)
        q = q if q.stride(-1) == 1 else q.contiguous()
        angles = self._nothing if layer.rotary == NO_ROTARY else self.angles[layer.rotary].values
        attend[(num_items, kv_heads)](
            q,
            keys,
            values,
            *self._scales(index),
            tables["tokens"],
            tables["items"],
            tables["segments"],
            tables["turns"],
            tables["column_slots"],
            tables["column_index"],
            angles,
            partial_out,
            partial_lse,
            q.stride(1),
            q.stride(0),
            keys.stride(0),
            values.stride(0),
            keys.shape[1],
            scale,
            1.0 if softcap is None else softcap,
            _ENDLESS if layer.window is None else layer.window,
            GROUP=group_size,
            ROWS=rows,
            BLOCK_ROWS=padded(rows),
            TILE=launch.tile,
            KEY_DIM=layer.key_dim,
            VALUE_DIM=layer.value_dim,
            BLOCK_KEY=padded(layer.key_dim),
            BLOCK_VALUE=block_value,
            ROTARY_START=layer.rotary.start,
            ROTARY_PAIRS=len(layer.rotary.inv_freq),
            INTERLEAVED=layer.rotary.pairing == "interleaved",
            HAS_SOFTCAP=softcap is not None,
            HAS_WINDOW=layer.window is not None,
            QUANTIZED=self.pool.in_8_bits,
            ROW_UNITS=self.pool.in_8_bits and self._span > 0,
            UPCAST=INTERPRETED and q.dtype.itemsize < 4,
            num_warps=launch.warps(padded(rows)),
            num_stages=launch.num_stages,
        )
        out = q.new_empty(1, num_tokens, num_heads, layer.value_dim)
        block_heads = padded(num_heads, 1) if INTERPRETED else 1
        merge[(num_tokens, -(-num_heads // block_heads))](
            tables["tokens"],
            tables["order"],
            partial_out,
            partial_lse,
            self._nothing if sinks is None else sinks,
            out,
            num_heads,
            GROUP=group_size,
            ROWS=rows,
            KV_HEADS=kv_heads,
            VALUE_DIM=layer.value_dim,
            BLOCK_VALUE=block_value,
            BLOCK_ITEMS=_BLOCK_ITEMS,
            BLOCK_HEADS=block_heads,
            HAS_SINKS=sinks is not None,
        )
        if block_lse is not None:
            num_blocks = block_lse.shape[-1]
            merge_by_block[(num_tokens, num_heads, -(-num_blocks // _BLOCK_BLOCKS))](
                tables["tokens"],
                tables["items"],
                tables["order"],
                partial_lse,
                block_lse,
                num_blocks,
                GROUP=group_size,
                ROWS=rows,
                KV_HEADS=kv_heads,
                BLOCK_ITEMS=_BLOCK_ITEMS,
                BLOCK_BLOCKS=_BLOCK_BLOCKS,
            )
        return out

    def write(self, index: int, keys: Tensor, values: Tensor) -> None:
        """Store K `[kv_heads, T, Dk]` and V `[kv_heads, T, Dv]` of a layer, as `KVPool.write` does."""
        layer = self.layers[index]
        keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (keys, values))
        stored_keys, stored_values = self.pool.keys[index], self.pool.values[index]
        block_key, block_value = padded(layer.key_dim), padded(layer.value_dim)
        write[(keys.shape[1],)](
            keys,
            values,
            self.tables["write_slots"],
            stored_keys,
            stored_values,
            *self._scales(index),
            keys.stride(1),
            keys.stride(0),
            values.stride(1),
            values.stride(0),
            stored_keys.stride(0),
            stored_values.stride(0),
            stored_keys.shape[1],
            KV_HEADS=layer.num_kv_heads,
            BLOCK_HEADS=min(padded(layer.num_kv_heads, 1), _BLOCK_WRITE // max(block_key, block_value)),
            KEY_DIM=layer.key_dim,
            VALUE_DIM=layer.value_dim,
            BLOCK_KEY=block_key,
            BLOCK_VALUE=block_value,
            QUANTIZED=self.pool.in_8_bits,
        )

    def _scales(self, index: int) -> tuple[Tensor, Tensor]:
        """Those of K and of V, where codes are stored."""
        if not self.pool.in_8_bits:
            return self._nothing, self._nothing
        return self.pool.key_scales[index], self.pool.value_scales[index]

    def _parts(self, num_items: int, kv_heads: int, rows: int, value_dim: int) -> tuple[Tensor, Tensor]:
        """Room for partial outputs `[I, K, rows, Dv]` and their log-sum-exp `[I, K, rows]`, side by side."""
        count = num_items * kv_heads * rows
        out, lse = self._partial[: count * value_dim], self._partial[count * value_dim :][:count]
        return out, lse


@dataclass(frozen=True, slots=True)
class KernelPass:
    """One pass by the kernels; the role of `SharedPass`."""

    kernels: KernelAttention
    prefills: tuple[Prefill, ...]
    has_work: bool
    num_blocks: int

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Write the layer's K/V, then read; `[1, T, H, Dv]`."""
        return self._attend(module.layer_idx, q, k, v, options, None)  # type: ignore[arg-type]

    def attend_by_block(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The same, and the log-sum-exp of the scores `[T, H, B]` for each block of the token's group, without sinks.

        -inf for a block that a token does not see. The pass must have been loaded `by_block`.
        """
        assert self.num_blocks, "load the pass by_block"
        block_lse = torch.empty(q.shape[2], q.shape[1], self.num_blocks, device=q.device)
        return self._attend(index, q, k, v, options, block_lse), block_lse

    def _attend(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], block_lse: Tensor | None
    ) -> Tensor:
        scaling = options.get("scaling")
        scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
        softcap, sinks = options.get("softcap"), options.get("s_aux")
        bare = softcap is None and sinks is None
        with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]  # as in `start`
            if self.prefills and not bare:
                self.kernels.do_without_prefill()  # once in a model's life
            self.kernels.write(index, k[0], v[0])
            if self.has_work or not (self.prefills and bare):
                out = self.kernels.read(index, q[0], scale, softcap, sinks, block_lse)
            else:
                out = q.new_empty(1, q.shape[2], q.shape[1], v.shape[-1])
            for prefill in self.prefills if bare else ():
                prefill.attend(q, *self.kernels.pool.stored(index), scale, out)
        return out


def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
