"""Faults to seed into the torch backend and the core, one at a time; the kit must see each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hogwild.backends.cuda import attention
from hogwild.backends.cuda.angles import AngleTables, turn
from hogwild.backends.cuda.attention import SharedPass
from hogwild.backends.cuda.device_plan import _Limits
from hogwild.backends.cuda.pool import KVPool
from hogwild.core.arrays import IntArray
from hogwild.core.plan import GroupPlan

Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {}
"""Seen at the level "attention"."""
MODEL_FAULTS: dict[str, Callable[[Patch], None]] = {}
"""Seen at the level "models", where there is more than one pass."""


def fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    FAULTS[plant.__name__] = plant
    return plant


def model_fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MODEL_FAULTS[plant.__name__] = plant
    return plant


def _offsets(patch: Patch, change: Callable[[GroupPlan, IntArray], IntArray]) -> None:
    offsets = GroupPlan.offsets.func
    patch.setattr(GroupPlan, "offsets", property(lambda self: change(self, offsets(self))))


def _reach(patch: Patch, change: Callable[[GroupPlan, IntArray], IntArray]) -> None:
    reach = GroupPlan.reach
    patch.setattr(GroupPlan, "reach", lambda self: change(self, reach(self)))


def _options(patch: Patch, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Other options of the attention call than the model gives."""
    attend = SharedPass.attend

    def changed(self: SharedPass, module: Any, q: Any, k: Any, v: Any, mask: Any, options: Any) -> Any:
        return attend(self, module, q, k, v, mask, change(dict(options)))

    patch.setattr(SharedPass, "attend", changed)


# Distances


@fault
def offset_off_by_one(patch: Patch) -> None:
    _offsets(patch, lambda group, offsets: offsets + 1)


@fault
def run_boundary_off_by_one(patch: Patch) -> None:
    """Every run of a block but the first is taken to begin one token later."""
    _offsets(patch, lambda group, offsets: offsets - (group.runs.start > 0))


@fault
def published_position_forgotten(patch: Patch) -> None:
    _offsets(patch, lambda group, offsets: offsets - group.run_shift)


@fault
def turn_in_the_wrong_direction(patch: Patch) -> None:
    _offsets(patch, lambda group, offsets: -offsets)


@fault
def workers_swapped(patch: Patch) -> None:
    _offsets(patch, lambda group, offsets: offsets[::-1])


@fault
def attention_factor_applied_twice(patch: Patch) -> None:
    """The turn scales the query, as if YaRN's factor belonged to it too."""
    angles = AngleTables.__call__
    patch.setattr(AngleTables, "__call__", lambda self, *given: tuple(1.07 * x for x in angles(self, *given)))


@fault
def rotary_base_of_another_layer(patch: Patch) -> None:
    angles = AngleTables.__call__
    patch.setattr(AngleTables, "__call__", lambda self, offsets, rotation: angles(self, offsets // 2, rotation))


@fault
def pairs_of_the_other_layout(patch: Patch) -> None:
    """Half-split features are paired as interleaved ones."""

    def neighbours(self: AngleTables, rotation: Any) -> Any:
        return torch.arange(rotation[1]).view(-1, 2).flip(-1).flatten() if rotation[1] % 2 == 0 else None

    patch.setattr(AngleTables, "partners", neighbours)


# Who sees what


@fault
def window_off_by_one(patch: Patch) -> None:
    sees = GroupPlan.sees

    def wide(self: GroupPlan, tokens: slice, run: IntArray, index: IntArray, window: int | None = None) -> Any:
        return sees(self, tokens, run, index, None if window is None else window + 1)

    patch.setattr(GroupPlan, "sees", wide)


@fault
def tail_not_masked(patch: Patch) -> None:
    """A token reads the tokens after it, too."""
    _reach(patch, lambda group, reach: np.where(reach > 0, np.maximum(reach, group.num_columns), reach))


@fault
def last_token_dropped(patch: Patch) -> None:
    """Of every block that is seen to its end."""

    def change(group: GroupPlan, reach: IntArray) -> IntArray:
        lengths = np.bincount(group.run_block[group.column_run], minlength=reach.shape[1])
        return np.minimum(reach, lengths - 1)

    _reach(patch, change)


@fault
def views_not_kept_apart(patch: Patch) -> None:
    _reach(patch, lambda group, reach: np.broadcast_to(reach.max(axis=0), reach.shape))


@fault
def padding_not_masked(patch: Patch) -> None:
    """Nothing is hidden: neither the future nor what fills a tile up."""
    hidden = _Limits.hidden

    def shown(self: _Limits, *given: Any) -> Any:
        first, mask = hidden(self, *given)
        return first, torch.zeros_like(mask)

    patch.setattr(_Limits, "hidden", shown)


# Heads, scores, sums


@fault
def wrong_kv_head_of_a_group(patch: Patch) -> None:
    attend = SharedPass.attend

    def rolled(self: SharedPass, module: Any, q: Any, *rest: Any) -> Any:
        return attend(self, module, q.roll(1, dims=1), *rest)

    patch.setattr(SharedPass, "attend", rolled)


@fault
def sinks_left_out(patch: Patch) -> None:
    _options(patch, lambda options: {**options, "s_aux": None})


@fault
def soft_cap_before_the_scale(patch: Patch) -> None:
    def wrong(options: dict[str, Any]) -> dict[str, Any]:
        cap, scale = options.get("softcap"), options["scaling"]
        return options if cap is None else {**options, "softcap": cap * scale}

    _options(patch, wrong)


@fault
def scale_of_another_head_size(patch: Patch) -> None:
    _options(patch, lambda options: {**options, "scaling": options["scaling"] * 1.1})


@fault
def weights_rounded_to_8_bits_of_mantissa(patch: Patch) -> None:
    weights = attention._Layer._weights
    patch.setattr(attention._Layer, "_weights", lambda self, *given: weights(self, *given).bfloat16().float())


# The pool


@fault
def stale_slot(patch: Patch) -> None:
    """The last token of a pass is not stored before it is read."""
    write = KVPool.write
    patch.setattr(
        KVPool, "write", lambda self, layer, slots, k, v: write(self, layer, slots[:-1], k[:, :-1], v[:, :-1])
    )


@fault
def keys_and_values_of_neighbours(patch: Patch) -> None:
    """New values are stored one slot further than their keys."""
    write = KVPool.write
    patch.setattr(KVPool, "write", lambda self, layer, slots, k, v: write(self, layer, slots, k, v.roll(1, dims=1)))


@model_fault
def keys_turned_in_place_of_the_query(patch: Patch) -> None:
    """Each reading leaves the keys one position further."""
    attend = SharedPass.attend

    def turning(self: SharedPass, module: Any, *given: Any) -> Any:
        output = attend(self, module, *given)
        layer, keys = self.layers[module.layer_idx], self.pool.keys[module.layer_idx]
        rotation = (layer.rotary, layer.key_dim)
        keys.copy_(turn(keys, *self.tables(np.ones(1, np.int64), rotation), self.tables.partners(rotation)))
        return output

    patch.setattr(SharedPass, "attend", turning)


@model_fault
def keys_of_another_layer(patch: Patch) -> None:
    """The second layer reads what the first one has stored."""
    attend = SharedPass.attend

    def first(self: SharedPass, *given: Any) -> Any:
        keys = [self.pool.keys[0], *self.pool.keys[:1], *self.pool.keys[2:]]
        pool = self.pool
        shown = type("Pool", (), {"keys": keys, "values": pool.values, "write": pool.write, "stored": pool.stored})()
        shown.stored = lambda layer: (pool.stored(0)[0] if layer == 1 else pool.stored(layer)[0], pool.stored(layer)[1])
        return attend(replace(self, pool=shown), *given)

    patch.setattr(SharedPass, "attend", first)
