"""The C++ kernels: built with the machine's compiler, or as they were built before, and called."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import tempfile
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int64, c_void_p
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hogwild.backends.cuda.angles import pairs_of
from hogwild.backends.cuda.native.compiler import THREADS, BuildError, find_compiler
from hogwild.backends.cuda.native.kept import cache_folder, find_kept, keep
from hogwild.core.arrays import Int32Array
from hogwild.core.rotary import MAX_OFFSET, OffsetTable

_HERE = Path(__file__).parent
_ANGLES = (
    *(c_void_p, c_int64, c_void_p, c_void_p, c_int64),
    *(c_void_p, c_void_p, c_int64, c_int64, c_double, c_void_p, c_void_p),
)


class Arguments(ctypes.Structure):
    """`Layer` of attend.cpp, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("queries", "keys", "values", "key_scales", "value_scales")),
        *((name, c_void_p) for name in ("tokens", "items", "order", "segments")),
        *((name, c_void_p) for name in ("column_slots", "fetch_slots", "column_index", "turns")),
        *((name, c_void_p) for name in ("turn_cos", "turn_sin", "shift_cos", "shift_sin")),
        *((name, c_void_p) for name in ("partners", "sinks", "partial", "out")),
        *((name, c_int64) for name in ("token_stride", "head_stride", "slots", "num_items", "num_tokens", "num_heads")),
        *((name, c_int64) for name in ("kv_heads", "key_dim", "value_dim", "max_rows", "window", "num_columns")),
        *((name, c_float) for name in ("scale", "softcap")),
    ]


class Library:
    """The C++ kernels, built and loaded.

    folder: of the sources. flags: of the compiler, besides its usual ones. kept_in: the folder where built libraries
    are looked for and kept; None: it is built anew. Raises `BuildError`.
    """

    def __init__(self, folder: Path = _HERE, flags: Sequence[str] = (), kept_in: Path | None = None) -> None:
        self._library = _open(folder, flags, kept_in)
        self._library.hogwild_attend.argtypes = (ctypes.POINTER(Arguments), c_int64)
        self._library.hogwild_attend.restype = None
        self._library.hogwild_write.argtypes = (c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, *[c_int64] * 3)
        self._library.hogwild_write.restype = c_int64
        self._library.hogwild_angles.argtypes = _ANGLES
        self._library.hogwild_angles.restype = None
        self._library.hogwild_linear.argtypes = (c_void_p,) * 4 + (c_int64,) * 4
        self._library.hogwild_linear.restype = None

    def write(self, x: Tensor, pool: Tensor, slots: Tensor) -> bool:
        """Store `x [heads, T, D]` in `slots [T]` of `pool [heads, slots, D]`; whether all of it is finite."""
        x = x if x.stride(2) == 1 else x.contiguous()
        return bool(
            self._library.hogwild_write(
                *(x.data_ptr(), x.stride(0), x.stride(1), pool.data_ptr(), pool.shape[1], slots.data_ptr()), *x.shape
            )
        )

    def attend(self, arguments: Arguments) -> None:
        """One layer's attention."""
        self._library.hogwild_attend(arguments, torch.get_num_threads())

    def angles(self, offsets: Int32Array, table: OffsetTable, dim: int, scale: float) -> tuple[Tensor, Tensor]:
        """cos and signed sin of `offsets [n]`, times the scale, `[n, dim]` each: as `AngleTables` gives them."""
        high, low = table.factors(offsets)
        pairs = np.stack(pairs_of(table.spec))
        cos, sin = torch.empty(2, len(offsets), dim).unbind()
        self._library.hogwild_angles(
            *(offsets.ctypes.data, len(offsets), high.ctypes.data, low.ctypes.data, MAX_OFFSET),
            *(pairs[0].ctypes.data, pairs[1].ctypes.data, pairs.shape[1], dim, scale, cos.data_ptr(), sin.data_ptr()),
        )
        return cos, sin

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x [.., K] @ weight.T + bias` for `weight [N, K]`; float32, weight and bias contiguous."""
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], len(weight))
        self._library.hogwild_linear(
            x.data_ptr(),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            x.numel() // x.shape[-1],
            *weight.shape,
            torch.get_num_threads(),
        )
        return y


@functools.cache
def shared_library() -> Library:
    """The library of this process: one that is kept, or built when it is first asked for. Raises `BuildError`."""
    return Library(kept_in=cache_folder())


def _open(sources: Path, flags: Sequence[str], kept_in: Path | None) -> ctypes.CDLL:
    compiler = find_compiler(flags)
    key = None if kept_in is None else compiler.key(sources)
    if kept_in is not None and key is not None:
        for path in find_kept(kept_in, key):
            with contextlib.suppress(BuildError):  # where files of that folder may not be run
                return _load(path)
    with tempfile.TemporaryDirectory(prefix="hogwild-") as folder:
        built = Path(folder) / "kernels.so"
        try:
            compiler.build(sources, built, THREADS)
            library = _load(built)
        except BuildError:
            compiler.build(sources, built)
            library = _load(built)
        if kept_in is not None and key is not None:
            keep(kept_in, key, built)
    return library


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the library does not load: {error}") from error
