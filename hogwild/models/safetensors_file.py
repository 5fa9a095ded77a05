"""One safetensors file, read without trusting its header.

Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import CheckpointError, ModelRefused

MAX_HEADER_BYTES = 100_000_000
MAX_COUNT = 1 << 48
# As stored; bfloat16 has no NumPy type and is widened.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `start` counts bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class SafetensorsFile:
    """A mapped file with a checked header. Raises `CheckpointError` for a torn or forged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}", got=str(error)) from error
        self.tensors = self._read_header()

    def read(self, name: str) -> NDArray[Any]:
        """One tensor: a view into the file, or float32 for bfloat16."""
        tensor = self.tensors[name]
        if tensor.dtype not in _DTYPES:
            raise ModelRefused(
                f"tensor {name!r} of {self.path} is stored as {tensor.dtype}", expected=", ".join(_DTYPES)
            )
        raw = np.frombuffer(self._data, np.uint8, tensor.num_bytes, tensor.start)
        values: NDArray[Any] = (
            raw.view(_DTYPES[tensor.dtype]) if tensor.start % 8 == 0 else raw.copy().view(_DTYPES[tensor.dtype])
        )
        if tensor.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(tensor.shape)

    def _read_header(self) -> dict[str, StoredTensor]:
        size = len(self._data)
        length = int.from_bytes(self._data[:8], "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise self._broken("its header is longer than the file")
        try:
            header = json.loads(self._data[8 : 8 + length].decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._broken("its header is not JSON") from error
        if not isinstance(header, dict):
            raise self._broken("its header is no table")
        data_start = 8 + length
        tensors = {name: self._stored(name, row, data_start) for name, row in header.items() if name != "__metadata__"}
        self._check_cover(tensors, data_start)
        return tensors

    def _stored(self, name: str, row: Any, data_start: int) -> StoredTensor:
        try:
            dtype, shape, (begin, end) = row["dtype"], row["shape"], row["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(f"the entry of tensor {name!r} is incomplete") from error
        numbers = [begin, end, *shape] if isinstance(shape, list) else [None]
        if not isinstance(dtype, str) or not all(type(number) is int and 0 <= number < MAX_COUNT for number in numbers):
            raise self._broken(f"the entry of tensor {name!r} is malformed")
        if dtype in _DTYPES and end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
            raise self._broken(f"tensor {name!r} has a size other than its shape's")
        return StoredTensor(dtype, tuple(shape), data_start + begin, end - begin)

    def _check_cover(self, tensors: dict[str, StoredTensor], data_start: int) -> None:
        """Tensors must follow each other without gap or overlap up to the file's end."""
        position = data_start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.num_bytes)):
            if tensor.start != position or tensor.num_bytes < 0:
                raise self._broken("its tensors overlap or leave a gap")
            position += tensor.num_bytes
        if position != len(self._data):
            problem = "it is cut off" if position > len(self._data) else "it is longer than its tensors"
            raise self._broken(problem, expected=f"{position} bytes", got=f"{len(self._data)} bytes")

    def _broken(self, problem: str, *, expected: str | None = None, got: str | None = None) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is broken: {problem}", expected=expected, got=got, remedy="fetch the file again"
        )
