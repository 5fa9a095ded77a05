"""A pass on the device: the plan's arrays as tensors, with the angles and masks that the layers share, made once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hogwild.backends.cuda.angles import AngleTables, Rotation
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.tiles import Slice, Tiles, cut

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
    """What the tokens of one group read: columns of slices, then of tiles.

    P pieces are the slices and then the tiles. Each lies in one run, so a row has one offset for a piece.
    """

    def __init__(self, group: GroupPlan, plan: ForwardPlan, num_heads: int, key_dim: int, tables: AngleTables) -> None:
        tiles = cut(group)
        self.slices: tuple[Slice, ...] = tiles.slices
        self.num_tiles = len(tiles.tile_run)
        self.tile_slots = tables.to_device(tiles.tile_slots)
        columns = _Columns(group, plan, tiles, tables)
        per_token = columns.num_columns + key_dim * columns.num_pieces
        keep = per_token * group.num_tokens <= MAX_KEPT
        most = max(1, MAX_CHUNK // (num_heads * per_token))
        count = -(-group.num_tokens // most)
        edges = np.linspace(0, group.num_tokens, count + 1).astype(np.int64)
        self.chunks = tuple(Chunk(columns, slice(int(a), int(b)), keep) for a, b in itertools.pairwise(edges))


class Chunk:
    """Tokens of a group that are attended together; `tokens` is their place in the packed dimension."""

    def __init__(self, columns: _Columns, local: slice, keep: bool) -> None:
        start = columns.group.token_start
        self.tokens = slice(start + local.start, start + local.stop)
        self.num_tokens = local.stop - local.start
        self._columns, self._local, self._keep = columns, local, keep
        self._angles: dict[Rotation, tuple[Tensor, Tensor]] = {}
        self._hidden: dict[int | None, Tensor] = {}

    def angles(self, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """cos and signed sin for each piece and token, each `[P, 1, t, D]`."""
        if rotation in self._angles:
            return self._angles[rotation]
        angles = self._columns.angles(self._local, rotation)
        if self._keep:
            self._angles[rotation] = angles
        return angles

    def hidden(self, window: int | None) -> Tensor:
        """True where a token may not read a column, `[t, C']`."""
        if window in self._hidden:
            return self._hidden[window]
        hidden = self._columns.hidden(self._local, window)
        if self._keep:
            self._hidden[window] = hidden
        return hidden


class _Columns:
    """The columns of a group: their offsets and limits, from which angles and masks of any tokens are made."""

    def __init__(self, group: GroupPlan, plan: ForwardPlan, tiles: Tiles, tables: AngleTables) -> None:
        self.group, self._tables = group, tables
        self._positions = plan.positions[group.token_start : group.token_start + group.num_tokens]
        pieces = np.array([*(piece.run for piece in tiles.slices), *tiles.tile_run], dtype=np.int64)
        self.num_pieces, self.num_columns = len(pieces), tiles.num_columns
        self._offsets = group.offsets[:, pieces].T  # [P, R]
        self._run = tables.to_device(tiles.column_run)
        self._index = tables.to_device(tiles.column_index)
        self._row_angles: dict[Rotation, tuple[Tensor, Tensor]] = {}

    def angles(self, tokens: slice, rotation: Rotation) -> tuple[Tensor, Tensor]:
        if rotation not in self._row_angles:
            self._row_angles[rotation] = self._tables(self._offsets, rotation)
        rows = self._tables.to_device(self.group.token_row[tokens])
        cos, sin = (table.index_select(1, rows)[:, None] for table in self._row_angles[rotation])
        return cos, sin

    def hidden(self, tokens: slice, window: int | None) -> Tensor:
        end = self._tables.to_device(self.group.visible[tokens])
        hidden = self._index >= end[:, self._run]
        if window is not None:
            first = self._tables.to_device(self.group.first_visible(self._positions, window)[tokens])
            hidden |= self._index < first[:, self._run]
        return hidden


def to_device_plan(plan: ForwardPlan, num_heads: int, key_dim: int, tables: AngleTables) -> DevicePlan:
    """Bring a plan to the device; `num_heads` and `key_dim` (the largest of all layers) bound the memory of a chunk."""
    return DevicePlan(
        token_ids=tables.to_device(plan.token_ids)[None],
        positions=tables.to_device(plan.positions)[None],
        write_slots=tables.to_device(plan.write_slots),
        logit_tokens=tables.to_device(plan.logit_tokens),
        groups=tuple(GroupReader(group, plan, num_heads, key_dim, tables) for group in plan.groups),
    )
