"""Builds the C++ kernels with the machine's compiler, and calls them."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int64, c_void_p
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hogwild.backends.cuda.angles import pairs_of
from hogwild.core.blocks import Int32Array
from hogwild.core.rotary import MAX_OFFSET, OffsetTable

_HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
_ANGLES = (
    *(c_void_p, c_int64, c_void_p, c_void_p, c_int64),
    *(c_void_p, c_void_p, c_int64, c_int64, c_double, c_void_p, c_void_p),
)
_PATIENCE = 120  # seconds for a build, which takes a few


class BuildError(Exception):
    """There is no library; the message says why."""


class Arguments(ctypes.Structure):
    """`Layer` of attend.cpp, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("queries", "keys", "values", "key_scales", "value_scales")),
        *((name, c_void_p) for name in ("tokens", "items", "order", "segments", "turns", "column_slots")),
        *((name, c_void_p) for name in ("cos", "sin", "partners", "sinks", "partial", "out")),
        *((name, c_int64) for name in ("token_stride", "head_stride", "slots", "num_items", "num_tokens", "num_heads")),
        *((name, c_int64) for name in ("kv_heads", "key_dim", "value_dim", "max_rows", "window", "num_columns")),
        *((name, c_float) for name in ("scale", "softcap")),
    ]


class Library:
    """The C++ kernels, built and loaded.

    folder: of the sources. flags: of the compiler, besides its usual ones. Raises `BuildError`.
    """

    def __init__(self, folder: Path = _HERE, flags: Sequence[str] = ()) -> None:
        self._library = _build(folder, flags)
        self._library.hogwild_attend.argtypes = (ctypes.POINTER(Arguments), c_int64)
        self._library.hogwild_attend.restype = None
        self._library.hogwild_angles.argtypes = _ANGLES
        self._library.hogwild_angles.restype = None
        self._library.hogwild_linear.argtypes = (c_void_p,) * 4 + (c_int64,) * 4
        self._library.hogwild_linear.restype = None

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
    """The library of this process, built when it is first asked for. Raises `BuildError`."""
    return Library()


def _build(sources: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """The library; its file is gone once it is loaded, so that none of another machine is ever found."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        raise BuildError("no C++ compiler (CXX, c++, g++, clang++)")
    with tempfile.TemporaryDirectory(prefix="hogwild-") as folder:
        library = Path(folder) / "kernels.so"
        for threads in (["-fopenmp"], []):
            command = [
                compiler,
                *_FLAGS,
                *flags,
                *threads,
                *sorted(map(str, sources.glob("*.cpp"))),
                "-o",
                str(library),
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f"{compiler} does not run: {error}") from error
            if done.returncode == 0:
                return _load(library)
    raise BuildError(f"{compiler} fails: {done.stderr.strip().partition(chr(10))[0][:200]}")


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the library does not load: {error}") from error
