"""`rows.jsonl`: rows that are on the disk once `append` has returned, whatever happens to the process afterwards."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

from hogwild.errors import HogwildError, OptionError
from hogwild.eval.rows import Key, Row, RowError, row_from_line, row_to_line


class WriteError(HogwildError):
    """A result could not be written; everything that was written before is whole."""


class Ledger:
    """The rows of a run, opened to be continued by one process at a time.

    A last line without its end was torn by a kill: its row was never acknowledged, and it is cut off.

    Raises `OptionError` when another process holds the file, for a line that is not a row, and for two rows with one
    key; `WriteError` when the disk does not take a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: set[Key] = set()
        self.num_failed = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync_folder(path.parent)
        except OSError as error:
            raise OptionError(f"cannot open {path}", got=error.strerror or str(error)) from None
        try:
            _lock(self._file, path)
            self._length = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def append(self, row: Row) -> None:
        """Write a row and wait until the disk has it; what was written of a row that does not fit is cut off again."""
        assert row.key not in self.keys, f"the row {row.key} is there already"
        line = f"{row_to_line(row)}\n".encode()
        try:
            _write_all(self._file, line)
            os.fsync(self._file)
        except OSError as error:
            self._cut_off()
            raise _failed(self.path, error) from None
        self._length += len(line)
        self._note(row)

    def _read(self) -> int:
        """Take in every whole line; the length of the file without a torn one."""
        with open(self._file, "rb", closefd=False) as file:
            *lines, torn = file.read().split(b"\n")
        for number, line in enumerate(lines, start=1):
            place = f"line {number} of {self.path}"
            try:
                row = row_from_line(line)
            except RowError as error:
                raise OptionError(f"{place} is not a row", got=str(error), remedy="remove the line") from None
            if row.key in self.keys:
                raise OptionError(f"{place} repeats a row", got=str(row.key), remedy="remove the line")
            self._note(row)
        length = sum(len(line) + 1 for line in lines)
        if torn:
            os.ftruncate(self._file, length)
            os.fsync(self._file)
        return length

    def _note(self, row: Row) -> None:
        self.keys.add(row.key)
        self.num_failed += row.status == "failed"

    def _cut_off(self) -> None:
        with contextlib.suppress(OSError):  # the next one to open the file finds a torn line then
            os.ftruncate(self._file, self._length)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there as a whole or not at all; raises `WriteError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _failed(path, error) from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"cannot write {path}",
        got=error.strerror or str(error),
        remedy="make room; the same command then goes on where this one stopped",
    )


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _lock(file: int, path: Path) -> None:
    """Keep other processes out until this one ends, however it ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OptionError(
            f"another process is writing to {path}", remedy="wait for it, or give this one another --out or --shard"
        ) from None
