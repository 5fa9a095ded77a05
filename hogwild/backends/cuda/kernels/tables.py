"""The numbers of a pass on the device: every table in one int32 buffer, which goes over in one transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 32  # numbers, 128 bytes
_LEAST = 64  # numbers of the smallest table


class PassTables:
    """Named int32 tables at addresses that stay, so that a captured graph reads the numbers of each new pass.

    A table that outgrows its room gets twice as much; all addresses change then, and `generation` counts it. What a
    table does not fill is padding: 0, or the number given for it. The last table has none, and is sent as far as it is
    filled.

    Attributes:
        generation: how often the addresses have changed.
    """

    def __init__(self, names: Sequence[str], device: torch.device, padding: Mapping[str, int] | None = None) -> None:
        self._room = dict.fromkeys(names, 0)
        self._padding = dict(padding or {})
        self._device = device
        self._sent: torch.cuda.Event | None = None
        self.generation = 0
        self._views: dict[str, Tensor] = {}
        self._host: dict[str, NDArray[np.int32]] = {}

    def __getitem__(self, name: str) -> Tensor:
        """A table on the device, flat, with its padding."""
        return self._views[name]

    def room(self, name: str) -> int:
        """How many numbers a table has room for."""
        return self._room[name]

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Have room for so many numbers in some tables; what they hold is lost when one of them grows."""
        if any(size > self._room[name] for name, size in sizes.items()):
            self._grow(sizes)

    def load(self, tables: Mapping[str, NDArray[np.int32] | NDArray[np.int64]]) -> None:
        """Send the numbers of a pass, which fit 32 bits. The tables are those that were named, of any shape."""
        assert tables.keys() == self._room.keys(), f"tables {sorted(tables)}, expected {sorted(self._room)}"
        self.reserve({name: max(table.size, 1) for name, table in tables.items()})
        if self._sent is not None:
            self._sent.synchronize()  # the copy of the last pass reads the same staging memory
        *padded, last = tables
        for name in padded:
            host, count = self._host[name], tables[name].size
            host[:count] = tables[name].ravel()
            host[count:] = self._padding.get(name, 0)
        self._host[last][: tables[last].size] = tables[last].ravel()
        end = len(self._staging) - self._room[last] + tables[last].size
        self._buffer[:end].copy_(self._staging[:end], non_blocking=True)
        if self._device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record(torch.cuda.current_stream(self._device))

    def _grow(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            room = max(self._room[name], _LEAST)
            while room < size:
                room *= 2
            self._room[name] = room
        starts = np.cumsum([0, *(-(-room // _ALIGNMENT) * _ALIGNMENT for room in self._room.values())]).tolist()
        on_gpu = self._device.type == "cuda"
        if self._sent is not None:
            self._sent.synchronize()
        self._staging = torch.empty(starts[-1], dtype=torch.int32, pin_memory=on_gpu)
        self._buffer = torch.zeros(starts[-1], dtype=torch.int32, device=self._device)
        for name, start in zip(self._room, starts, strict=False):
            place = slice(start, start + self._room[name])
            self._host[name] = self._staging[place].numpy()
            self._views[name] = self._buffer[place]
        self.generation += 1
