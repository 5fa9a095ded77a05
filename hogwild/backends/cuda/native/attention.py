"""Attention over shared blocks by the C++ kernels: the passes of one model on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.angles import AngleTables, Rotation
from hogwild.backends.cuda.native.library import Arguments, Library
from hogwild.backends.cuda.native.turns import Turns, find_turns
from hogwild.backends.cuda.pool import KVPool
from hogwild.core.arrays import Int32Array
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import NO_ROTARY
from hogwild.core.work import WorkList, cut_work

TILE, SPAN = 8, 128  # keys, and tiles of a block in an item: enough items for many threads; a run is whole tiles, so
# short runs need short ones, or items of few keys would be many
MAX_ROWS = 96  # query rows of an item, whose sums stay in cache
_ENDLESS = 1 << 30


class NativeAttention:
    """The C++ kernels of one model.

    library: built. tables: the angles of the model's layers, in float32.
    """

    def __init__(
        self, library: Library, pool: KVPool, layers: Sequence[LayerSpec], num_heads: int, tables: AngleTables
    ) -> None:
        self.library, self.pool, self.layers, self.num_heads, self.tables = library, pool, layers, num_heads, tables
        self.group_size = max(num_heads // layer.num_kv_heads for layer in layers)

    def start(self, plan: ForwardPlan) -> NativePass:
        """A pass by that plan."""
        query_tile = max(1, MAX_ROWS // self.group_size)
        work = cut_work(plan, tile=TILE, query_tile=query_tile, num_items=1, span=SPAN)
        return NativePass(self, plan, work, find_turns(plan, work), query_tile)


@dataclass(slots=True)
class NativePass:
    """One pass by the C++ kernels; the role of `SharedPass`."""

    kernels: NativeAttention
    plan: ForwardPlan
    work: WorkList
    turns: Turns
    query_tile: int
    token_ids: Tensor = field(init=False)  # [1, T]
    positions: Tensor = field(init=False)  # [1, T]
    logit_tokens: Tensor = field(init=False)  # [L]
    _angles: dict[tuple[Rotation, float], dict[str, Tensor]] = field(default_factory=dict)
    _write_slots: Tensor = field(init=False)
    _fetch_slots: Int32Array = field(init=False)
    _partial: Tensor = field(init=False)
    _tables: dict[str, int] = field(init=False)  # arguments that all layers have in common

    def __post_init__(self) -> None:
        kernels, work, turns, to_tensor = self.kernels, self.work, self.turns, self.kernels.tables.to_device
        self.token_ids, self.positions = to_tensor(self.plan.token_ids)[None], to_tensor(self.plan.positions)[None]
        self.logit_tokens, self._write_slots = to_tensor(self.plan.logit_tokens), to_tensor(self.plan.write_slots)
        rows = self.query_tile * kernels.group_size
        widest = max(layer.num_kv_heads * (layer.value_dim + 2) for layer in kernels.layers)
        self._partial = torch.empty(work.num_items * rows * widest)
        tables = {name: getattr(work, name) for name in ("items", "order", "segments", "column_slots", "column_index")}
        self._fetch_slots = _in_order_of_memory(work)
        tables |= {"tokens": turns.tokens, "turns": turns.turns, "fetch_slots": self._fetch_slots}
        self._tables = {name: table.ctypes.data for name, table in tables.items()}
        self._tables |= {"num_items": work.num_items, "num_tokens": self.plan.num_tokens}
        self._tables |= {"num_columns": len(work.column_slots), "partial": self._partial.data_ptr()}

    def attend(
        self, module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Write the layer's K/V, then read; `[1, T, H, Dv]`."""
        index: int = module.layer_idx  # type: ignore[assignment]
        layer, kernels = self.kernels.layers[index], self.kernels
        self._write(index, k[0], v[0])
        keys, values = kernels.pool.stored(index)
        scaling, softcap, sinks = options.get("scaling"), options.get("softcap"), options.get("s_aux")
        scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
        angles = {name: table.data_ptr() for name, table in self._turn(layer, scale).items()}
        q = q if q.stride(-1) == 1 else q.contiguous()
        sinks = None if sinks is None else sinks.float().contiguous()
        out = q.new_empty(1, q.shape[2], q.shape[1], layer.value_dim)
        arguments = Arguments(
            queries=q.data_ptr(),
            keys=keys.numbers.data_ptr(),
            values=values.numbers.data_ptr(),
            key_scales=_address(keys.scales),
            value_scales=_address(values.scales),
            sinks=_address(sinks),
            out=out.data_ptr(),
            token_stride=q.stride(2),
            head_stride=q.stride(1),
            slots=keys.numbers.shape[1],
            num_heads=q.shape[1],
            kv_heads=layer.num_kv_heads,
            key_dim=layer.key_dim,
            value_dim=layer.value_dim,
            max_rows=self.query_tile * (q.shape[1] // layer.num_kv_heads),
            window=_ENDLESS if layer.window is None else layer.window,
            scale=scale,
            softcap=0.0 if softcap is None else softcap,
            **angles,
            **self._tables,
        )
        kernels.library.attend(arguments)
        return out

    def _write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """What `KVPool.write` does, which knows what becomes of values that are not finite, and of codes."""
        pool, write, slots = self.kernels.pool, self.kernels.library.write, self._write_slots
        if pool.in_8_bits or not write(values, pool.values[layer], slots):
            pool.write(layer, slots, keys, values)
        else:
            write(keys, pool.keys[layer], slots)

    def _turn(self, layer: LayerSpec, scale: float) -> dict[str, Tensor]:
        """cos and signed sin, `[.., Dk]`, of turns, times the scale, and of segments; the features' partners."""
        if layer.rotary == NO_ROTARY:
            return {}
        rotation, tables, angles = (layer.rotary, layer.key_dim), self.kernels.tables, self.kernels.library.angles
        if (rotation, scale) not in self._angles:
            table = tables.offset_table(layer.rotary)
            turns = angles(self.turns.offsets, table, layer.key_dim, scale)
            shifts = angles(self.turns.shifts, table, layer.key_dim, 1.0)
            made = dict(zip(("turn_cos", "turn_sin", "shift_cos", "shift_sin"), (*turns, *shifts), strict=True))
            self._angles[rotation, scale] = made | {"partners": tables.partners(rotation)}
        return self._angles[rotation, scale]


def _in_order_of_memory(work: WorkList) -> Int32Array:
    """`[C]` the slots of the columns, ascending among those of an item."""
    slots, first, last = work.column_slots.copy(), work.segments[work.items[:, 2], 1], work.items[:, 3] - 1
    ends = work.segments[last, 1] + work.segments[last, 2]
    for begin, end in set(zip(first.tolist(), ends.tolist(), strict=True)):
        slots[begin:end].sort()
    return slots


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
