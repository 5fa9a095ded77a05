"""A pass on the device: the plan's arrays as tensors, with the angles and masks that the layers share, made once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor

from hogwild.backends.cuda.angles import AngleTables, Rotation
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.tiles import Slice, Tiles, cut

Angles = tuple[Tensor, Tensor]
_Made = TypeVar("_Made")

MAX_CHUNK = 1 << 24  # scores and turned features of the tokens that are attended together, over all heads
MAX_KEPT = 1 << 26  # masks and angles of a group that are kept for the next layer; beyond, they are made again


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """The plan's arrays as tensors on the device."""

    token_ids: Tensor  # [1, T]
    positions: Tensor  # [1, T]
    write_slots: Tensor  # [T]
    logit_tokens: Tensor  # [L]
    groups: tuple[GroupReader, ...]


class GroupReader:
    """What the tokens of one group read, see `Tiles`: M tiles of one size behind the slices."""

    def __init__(self, group: GroupPlan, num_heads: int, key_dim: int, tables: AngleTables) -> None:
        tiles = cut(group)
        self.slices: tuple[Slice, ...] = tiles.slices
        self.num_tiles = len(tiles.tile_run)
        self.tile_size = len(tiles.tile_slots) // max(1, self.num_tiles)
        self.tile_slots = tables.to_device(tiles.tile_slots)
        columns = _Limits(group, tiles, tables)
        per_token = columns.num_columns + key_dim * columns.num_pieces
        keep = per_token * group.num_tokens <= MAX_KEPT
        most = max(1, MAX_CHUNK // (num_heads * per_token))
        count = -(-group.num_tokens // most)
        edges = np.linspace(0, group.num_tokens, count + 1).astype(np.int64)
        self.chunks = tuple(Chunk(columns, slice(int(a), int(b)), keep) for a, b in itertools.pairwise(edges))


class Chunk:
    """Tokens of a group that are attended together; `tokens` is their place in the packed dimension."""

    def __init__(self, columns: _Limits, local: slice, keep: bool) -> None:
        start = columns.group.token_start
        self.tokens = slice(start + local.start, start + local.stop)
        self.num_tokens = local.stop - local.start
        self.num_columns = columns.num_columns
        self._columns, self._local, self._keep = columns, local, keep
        self._made: dict[Hashable, Any] = {}

    def row_angles(self, rotation: Rotation, scale: float) -> Angles:
        """cos and signed sin, times `scale`, for each slice and token, each `[S, 1, t, D]`."""
        return self._once(("rows", rotation, scale), lambda: self._columns.row_angles(self._local, rotation, scale))

    def column_angles(self, rotation: Rotation, scale: float, group_size: int) -> Angles:
        """The same for each tile and query row (`group_size` heads by t tokens), each `[M, D, rows]`."""
        make = self._columns.column_angles
        return self._once(("columns", rotation, scale), lambda: make(self._local, rotation, scale, group_size))

    def hidden(self, window: int | None) -> tuple[int, Tensor]:
        """The first column that some token may not read, and from there on which tokens may not: `[t, C' - first]`."""
        return self._once(("hidden", window), lambda: self._columns.hidden(self._local, window))

    def _once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` gives, kept for the next layer if there is room for it."""
        if key in self._made:
            return cast(_Made, self._made[key])
        made = make()
        if self._keep:
            self._made[key] = made
        return made


class _Limits:
    """Offsets and limits of a group's columns, from which angles and masks of any tokens are made.

    P pieces: the slices, then the tiles; a row has one offset for each.
    """

    def __init__(self, group: GroupPlan, tiles: Tiles, tables: AngleTables) -> None:
        self.group, self._tiles, self._tables = group, tiles, tables
        piece_run = np.concatenate([[part.run for part in tiles.slices], tiles.tile_run]).astype(np.int64)
        self.num_pieces, self.num_columns = len(piece_run), tiles.num_columns
        self._num_slices = len(tiles.slices)
        self._offsets = group.offsets[:, piece_run].T  # [P, R]
        self._row_tables: dict[tuple[Rotation, float], Angles] = {}

    def row_angles(self, tokens: slice, rotation: Rotation, scale: float) -> Angles:
        rows = self._tables.to_device(self.group.token_row[tokens])
        tables = (table[: self._num_slices] for table in self._of_rows(rotation, scale))
        cos, sin = (table.index_select(1, rows)[:, None] for table in tables)
        return cos, sin

    def column_angles(self, tokens: slice, rotation: Rotation, scale: float, group_size: int) -> Angles:
        rows = self._tables.to_device(np.tile(self.group.token_row[tokens], group_size))
        tables = (table[self._num_slices :] for table in self._of_rows(rotation, scale))
        # Whole rows, then transposed: on a CPU several times faster than selecting along the last axis.
        cos, sin = (table.index_select(1, rows).transpose(1, 2).contiguous() for table in tables)
        return cos, sin

    def hidden(self, tokens: slice, window: int | None) -> tuple[int, Tensor]:
        hidden = ~self.group.sees(tokens, self._tiles.column_run, self._tiles.column_index, window)
        somewhere = hidden.any(axis=0)
        first = int(somewhere.argmax()) if somewhere.any() else self.num_columns
        return first, self._tables.to_device(hidden[:, first:])

    def _of_rows(self, rotation: Rotation, scale: float) -> Angles:
        """`[P, R, D]` for each piece and row."""
        if (rotation, scale) not in self._row_tables:
            cos, sin = self._tables(self._offsets, rotation)
            self._row_tables[rotation, scale] = cos * scale, sin * scale
        return self._row_tables[rotation, scale]


def to_device_plan(plan: ForwardPlan, num_heads: int, key_dim: int, tables: AngleTables) -> DevicePlan:
    """Bring a plan to the device; `num_heads` and `key_dim` (the largest of all layers) bound the memory of a chunk."""
    return DevicePlan(
        token_ids=tables.to_device(plan.token_ids)[None],
        positions=tables.to_device(plan.positions)[None],
        write_slots=tables.to_device(plan.write_slots),
        logit_tokens=tables.to_device(plan.logit_tokens),
        groups=tuple(GroupReader(group, num_heads, key_dim, tables) for group in plan.groups),
    )
