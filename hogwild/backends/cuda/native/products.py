"""Builds products.cpp with the machine's C++ compiler and calls it on tensors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hogwild.backends.base import LayerSpec

LANES = 16  # of products.cpp: dimensions must be multiples of it
MAX_TOKENS = 32  # more make products of matrices the better choice
_SOURCE = Path(__file__).with_name("products.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
_PATIENCE = 120  # seconds for a build, which takes one or two


class BuildError(Exception):
    """There is no library; the message says why."""


def has_products(layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device, kv_dtype: str) -> bool:
    """Whether products.cpp serves a model: float32 on a CPU, with head dimensions that are multiples of `LANES`."""
    in_float32 = device.type == "cpu" and dtype == torch.float32 and kv_dtype == "auto"
    return in_float32 and not any(layer.key_dim % LANES or layer.value_dim % LANES for layer in layers)


class Products:
    """products.cpp, built and loaded. Raises `BuildError`. All tensors are float32 or int64 and contiguous."""

    def __init__(self) -> None:
        self._library = _build()
        self._check()

    def scores(
        self,
        queries: Tensor,
        angles: tuple[Tensor, Tensor],
        partners: Tensor,
        token_row: Tensor,
        keys: Tensor,
        slots: Tensor,
        run_start: Tensor,
        out: Tensor,
    ) -> None:
        """`out [kv_heads, rows, C]` of `queries [kv_heads, rows, D]`, rows ordered (G, t).

        angles: cos and signed sin `[N, R, D]` for each run and row. partners: `[D]`, see `AngleTables`.
        token_row: `[t]`. keys: `[kv_heads, num_slots, D]`. slots: `[C]` of the columns. run_start: `[N + 1]` in them.
        """
        heads, rows, dim = queries.shape
        pointers = (queries, *angles, partners, token_row, keys, slots, run_start, out)
        sizes = (heads, rows, len(token_row), dim, keys.shape[1], len(run_start) - 1, angles[0].shape[1], len(slots))
        self._call("hogwild_scores", pointers, (*sizes, torch.get_num_threads()))

    def mix(self, weights: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        """`[kv_heads, rows, Dv]` for `weights [kv_heads, rows, C]` and `values [kv_heads, num_slots, Dv]`."""
        heads, rows, columns = weights.shape
        num_threads = torch.get_num_threads()
        parts = -(-num_threads // heads)
        out = weights.new_empty(parts, heads, rows, values.shape[2])
        sizes = (heads, rows, values.shape[2], values.shape[1], columns, parts, num_threads)
        self._call("hogwild_mix", (weights, values, slots, out), sizes)
        return out[0] if parts == 1 else out.sum(0)

    def _check(self) -> None:
        """Two runs, three rows and ten columns must give what torch gives."""
        generator = torch.Generator().manual_seed(0)
        draw = [torch.randn(shape, generator=generator) for shape in ((2, 3, 32), (2, 1, 32), (2, 1, 32), (2, 16, 32))]
        queries, *angles, keys = draw
        partners, slots, start = torch.arange(32).roll(16), torch.arange(15, 5, -1), torch.tensor([0, 3, 10])
        scores = torch.empty(2, 3, 10)
        self.scores(queries, (angles[0], angles[1]), partners, torch.zeros(1).long(), keys, slots, start, scores)
        run = torch.repeat_interleave(torch.tensor([3, 7]))
        turned = queries[:, :, None] * angles[0][run, 0] + queries[:, :, None, partners] * angles[1][run, 0]
        expected = (turned * keys[:, None, slots]).sum(-1)
        mixed = self.mix(scores, keys, slots)
        if not (
            torch.allclose(scores, expected, atol=1e-4) and torch.allclose(mixed, expected @ keys[:, slots], atol=1e-3)
        ):
            raise BuildError("what was built computes wrong numbers")

    def _call(self, name: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
        assert all(tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int64) for tensor in tensors)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        getattr(self._library, name)(*pointers, *map(ctypes.c_int64, sizes))


def _build() -> ctypes.CDLL:
    """The library; its file is gone once it is loaded, so that none of another machine is ever found."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        raise BuildError("no C++ compiler (CXX, c++, g++, clang++)")
    with tempfile.TemporaryDirectory(prefix="hogwild-") as folder:
        library = Path(folder) / "products.so"
        for threads in (["-fopenmp"], []):
            command = [compiler, *_FLAGS, *threads, str(_SOURCE), "-o", str(library)]
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
