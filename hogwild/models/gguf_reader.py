"""The header of a GGUF file: metadata and the table of tensors, read within bounds.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian). Every length is
checked against the file's size before it is used, so a forged or truncated file ends in a `CheckpointError`. The reader
of the `gguf` package makes an array for each string (seconds for a vocabulary) and trusts the lengths it finds.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hogwild.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_NAME_BYTES = 65_535
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One row of the table. `shape` is row-major (the file's order reversed); `offset` counts from `data_start`."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the weights: `metadata` by key, the tensors, and the byte where their data begins."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data_start: int


def open_gguf(path: Path) -> tuple[mmap.mmap, GgufHeader]:
    """Map a file and read its header. Raises `CheckpointError` for anything that is not a sound GGUF file."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}", got=str(error)) from error
    return data, _Cursor(data, path).read_header()


class _Cursor:
    """A position in the file that never leaves it."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0

    def read_header(self) -> GgufHeader:
        self._check_magic()
        num_tensors, num_entries = self._unpack("<QQ", "the counts")
        metadata: dict[str, Any] = {}
        self._check_count(num_entries, 13, "metadata entries")
        for _ in range(num_entries):
            key = self._string("a metadata key", MAX_NAME_BYTES)
            (kind,) = self._unpack("<I", f"the type of {key!r}")
            value = self._value(kind, key)
            if key in metadata:
                raise self._broken(f"the metadata key {key!r} stands there twice")
            metadata[key] = value
        tensors = self._tensor_table(num_tensors)
        return GgufHeader(metadata, tensors, self._data_start(metadata))

    def _check_magic(self) -> None:
        if self.data[:4] != MAGIC:
            raise CheckpointError(f"{self.path} is not a GGUF file", expected="magic GGUF", got=repr(self.data[:4]))
        self.position = 4
        (version,) = self._unpack("<I", "the version")
        if version not in VERSIONS:
            big_endian = version & 0xFFFF == 0
            raise CheckpointError(
                f"{self.path} has an unknown GGUF version",
                expected="2 or 3, little-endian",
                got="a big-endian file" if big_endian else str(version),
            )

    def _tensor_table(self, count: int) -> dict[str, GgufTensor]:
        self._check_count(count, 24, "tensors")
        tensors: dict[str, GgufTensor] = {}
        for _ in range(count):
            name = self._string("a tensor's name", MAX_NAME_BYTES)
            (num_dims,) = self._unpack("<I", f"the dimensions of {name!r}")
            if num_dims > MAX_DIMS:
                raise self._broken(f"tensor {name!r} has {num_dims} dimensions", expected=f"at most {MAX_DIMS}")
            dims = self._unpack(f"<{num_dims}Q", f"the shape of {name!r}")
            ggml_type, offset = self._unpack("<IQ", f"the type of {name!r}")
            if name in tensors:
                raise self._broken(f"tensor {name!r} stands there twice")
            tensors[name] = GgufTensor(name, tuple(reversed(dims)), ggml_type, offset)
        return tensors

    def _data_start(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment % 8:
            raise self._broken(f"general.alignment is {alignment!r}", expected="a multiple of 8")
        return -(-self.position // alignment) * alignment

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(f"the value of {key!r}")
        if kind == _ARRAY:
            item_kind, count = self._unpack("<IQ", f"the array {key!r}")
            return self._array(item_kind, count, key)
        return self._array(kind, 1, key)[0]

    def _array(self, kind: int, count: int, key: str) -> list[Any]:
        if kind == _STRING:
            self._check_count(count, 8, f"strings in {key!r}")
            return self._strings(count, key)
        if kind not in _SCALARS:
            raise self._broken(f"{key!r} has the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        self._check_count(count, dtype.itemsize, f"values in {key!r}")
        raw = self._take(count * dtype.itemsize, key)
        convert: Callable[[Any], Any] = bool if kind == _BOOL else lambda value: value
        return [convert(value) for value in np.frombuffer(raw, dtype).tolist()]

    def _strings(self, count: int, key: str) -> list[str]:
        data, position, size = self.data, self.position, len(self.data)
        length_of = struct.Struct("<Q").unpack_from
        values = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + length_of(data, position)[0]
                if position > size:
                    raise self._cut_off(f"the array {key!r}")
                values.append(data[start:position].decode("utf-8"))
        except struct.error as error:
            raise self._cut_off(f"the array {key!r}") from error
        except UnicodeDecodeError as error:
            raise self._broken(f"the array {key!r} is not UTF-8") from error
        self.position = position
        return values

    def _string(self, what: str, limit: int | None = None) -> str:
        (length,) = self._unpack("<Q", what)
        if limit is not None and length > limit:
            raise self._broken(f"{what} is {length} bytes long", expected=f"at most {limit}")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._broken(f"{what} is not UTF-8") from error

    def _unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout), what))

    def _take(self, num_bytes: int, what: str) -> bytes:
        end = self.position + num_bytes
        if end > len(self.data):
            raise self._cut_off(what)
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _check_count(self, count: int, least_bytes: int, what: str) -> None:
        if count * least_bytes > len(self.data) - self.position:
            raise self._broken(f"it claims {count} {what}, more than the file can hold")

    def _cut_off(self, what: str) -> CheckpointError:
        return self._broken(f"it ends inside {what}", remedy="fetch the file again")

    def _broken(self, problem: str, expected: str | None = None, remedy: str | None = None) -> CheckpointError:
        return CheckpointError(f"{self.path} is broken: {problem}", expected=expected, remedy=remedy)
