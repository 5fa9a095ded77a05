"""The machine's C++ compiler: which one it is, what it makes for this processor, and a library of its making."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
THREADS = "-fopenmp"  # which some compilers lack, or its library
_NAMES = ("c++", "g++", "clang++")
_PATIENCE = 120  # seconds for a build, which takes a few
_ASKS = "#if __has_include(<omp.h>)\n#define THREADS_ARE_HERE\n#endif\n"


class BuildError(Exception):
    """There is no library; the message says why."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler.

    path: of the program. flags: what it is told besides sources and threads.
    """

    path: str
    flags: tuple[str, ...]

    def key(self, sources: Path) -> str | None:
        """A name for what it makes of the sources: it changes with any of them, with the compiler and the processor.

        A compiler's answer says its version and all that `-march=native` stands for on this machine, in options and in
        macros. It takes some 20 ms. None: it does not answer.
        """
        done = self._run(*self.flags, "-E", "-dM", "-v", "-x", "c++", "-", text=_ASKS)
        if done.returncode != 0:
            return None
        parts = [platform.system(), platform.machine(), self.path, *self.flags, done.stdout, done.stderr]
        for path in _files(sources, "*"):
            parts += [path.name, path.read_text(encoding="utf-8")]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]

    def build(self, sources: Path, library: Path, *more: str) -> None:
        """Write the library. more: flags. Raises `BuildError`."""
        files = map(str, _files(sources, "*.cpp"))
        done = self._run(*self.flags, *more, *files, "-o", str(library))
        if done.returncode != 0:
            raise BuildError(f"{self.path} fails: {_complaint(done.stderr)}")

    def _run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}  # its words are part of the key
        try:
            return subprocess.run(
                [self.path, *arguments],
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_PATIENCE,
                env=environment,
                cwd="/",  # which some compilers tell in their answer
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{self.path} does not run: {error}") from error


def find_compiler(flags: Sequence[str] = ()) -> Compiler:
    """The compiler that `CXX` names, or the system's. flags: besides the usual ones. Raises `BuildError`."""
    for name in (os.environ.get("CXX", ""), *_NAMES):
        path = shutil.which(name)
        if path is not None:
            return Compiler(os.path.abspath(path), (*FLAGS, *flags))
    raise BuildError(f"no C++ compiler (CXX, {', '.join(_NAMES)})")


def _complaint(text: str) -> str:
    """The first error, without the name of a temporary file before it: the same each time."""
    error = re.search("error: .*", text, re.IGNORECASE)
    return (error[0] if error else text.strip().partition("\n")[0])[:200]


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix in (".cpp", ".h"))
