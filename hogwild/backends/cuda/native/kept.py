"""Libraries that were built once, kept in the user's cache folder.

A file's name is the key of what it was built from, and the digest of its content: a torn file is found out. Folder and
files must belong to this user, and nobody else may write to them, since what is loaded is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MOST = 8  # libraries that are kept: of a few versions, compilers, and machines with one home


def cache_folder() -> Path | None:
    """Where this user's libraries are kept, there or not: `hogwild` in `XDG_CACHE_HOME` or the system's usual folder.

    None: the user has no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        return Path(chosen, "hogwild")
    home = os.path.expanduser("~")
    usual = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path(home, *usual, "hogwild") if os.path.isabs(home) else None


def find_kept(folder: Path, key: str) -> Iterator[Path]:
    """The whole libraries of that key; what is broken is removed."""
    if not _is_ours(folder):
        return
    for path in sorted(folder.glob(f"{key}-*.so")):
        with contextlib.suppress(OSError):
            if not _is_ours(path):
                continue
            if path.name == _name(key, path.read_bytes()):
                yield path
            else:
                path.unlink()


def keep(folder: Path, key: str, library: Path) -> None:
    """Keep a copy, and remove the oldest files; does nothing where that cannot be done."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            return
        content = library.read_bytes()
        _write(folder / _name(key, content), content)
        ages = sorted((path.lstat().st_mtime, path) for path in folder.iterdir())
        for _, path in ages[:-MOST]:
            path.unlink()


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _write(path: Path, content: bytes) -> None:
    """At once, or not at all."""
    handle, partial = tempfile.mkstemp(dir=path.parent)  # for this user alone
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _is_ours(path: Path) -> bool:
    """Whether it is there, of this user, and nobody else may write to it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    kind = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return kind and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
