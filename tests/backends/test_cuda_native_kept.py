"""Libraries that are built once and kept: for this machine alone, whole, of this user, and never a reason to fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.backends.cuda.native import kept, library
from hogwild.backends.cuda.native.compiler import BuildError, find_compiler
from hogwild.backends.cuda.native.kept import cache_folder, find_kept, keep
from hogwild.backends.cuda.native.library import Library

SOURCE = """extern "C" {
void hogwild_attend() {}
void hogwild_angles() {}
void hogwild_linear() {}
void hogwild_write() {}
}
"""
KEY = "0" * 32


class World:
    """Small sources, and a compiler that writes down its calls, and takes `-fopenmp` even where it is Apple's clang."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        try:
            true = find_compiler()
        except BuildError as error:
            pytest.skip(str(error))
        self.sources, self.cache, self._calls = folder / "sources", folder / "user" / "cache", folder / "calls"
        self.when_asked, self.when_building = folder / "asked", folder / "building"  # what it does besides
        self.compiler = folder / "bin" / "my c++"
        self.sources.mkdir()
        (self.sources / "tiny.cpp").write_text(SOURCE)
        self.when_asked.touch()
        self.when_building.touch()
        self.compiler.parent.mkdir()
        self.compiler.write_text(
            "#!/bin/sh\n"
            f"case \"$*\" in *-dM*) echo key >> '{self._calls}'; . '{self.when_asked}';;\n"
            f"*) echo build >> '{self._calls}'; . '{self.when_building}';; esac\n"
            'for one do shift; [ "$one" = -fopenmp ] || set -- "$@" "$one"; done\n'
            f'exec "{true.path}" -O0 "$@"\n'
        )
        self.compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(self.compiler))

    def open(self, *flags: str) -> str:
        """Open the library; what the compiler was called for."""
        self._calls.write_text("")
        Library(self.sources, flags, kept_in=self.cache)
        return " ".join(self._calls.read_text().split())

    def files(self) -> list[Path]:
        return sorted(self.cache.iterdir()) if self.cache.is_dir() else []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_it_is_built_once(world: World) -> None:
    assert world.open() == "key build"
    (path,) = world.files()
    assert (world.cache.stat().st_mode & 0o777, path.stat().st_mode & 0o077) == (0o700, 0)
    assert world.open() == "key"
    assert world.files() == [path]


def change_source(world: World) -> None:
    (world.sources / "tiny.cpp").write_text(SOURCE + "// another version\n")


def add_header(world: World) -> None:
    (world.sources / "tiny.h").write_text("")


def other_machine(world: World) -> None:
    world.when_asked.write_text("echo -march=another -mavx9 >&2")


def other_compiler(world: World) -> None:
    other = world.compiler.with_name("other")
    shutil.copy(world.compiler, other)
    os.environ["CXX"] = str(other)  # which monkeypatch puts back


@pytest.mark.parametrize("change", [change_source, add_header, other_machine, other_compiler])
def test_what_was_built_from_something_else_is_not_taken(world: World, change: Callable[[World], None]) -> None:
    world.open()
    change(world)
    assert world.open() == "key build"
    assert len(world.files()) == 2
    assert world.open() == "key"


def test_flags_count_too(world: World) -> None:
    world.open()
    assert world.open("-O0") == "key build"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [tear, flip_a_bit])
def test_a_broken_file_is_replaced(world: World, spoil: Callable[[Path], None]) -> None:
    world.open()
    (path,) = world.files()
    whole = path.read_bytes()
    spoil(path)
    assert world.open() == "key build"
    assert world.files() == [path]
    assert path.read_bytes() == whole
    assert world.open() == "key"


def test_a_whole_file_that_does_not_load_is_passed_over(world: World, tmp_path: Path) -> None:
    """As where files of that folder may not be run, or need a newer C library."""
    (tmp_path / "no library").write_text("not one")
    key = find_compiler().key(world.sources)
    assert key is not None
    keep(world.cache, key, tmp_path / "no library")
    assert world.open() == "key build"
    assert world.open() == "key"


def folder_of_all(world: World) -> None:
    world.cache.chmod(0o770)


def file_of_all(world: World) -> None:
    world.files()[0].chmod(0o606)


def link(world: World) -> None:
    (path,) = world.files()
    path.rename(world.cache.parent / "moved")
    path.symlink_to(world.cache.parent / "moved")


@pytest.mark.parametrize("spoil", [folder_of_all, file_of_all, link])
def test_what_others_may_have_written_is_not_run(
    world: World, spoil: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open()
    spoil(world)
    loaded: list[Path] = []
    load = library._load
    monkeypatch.setattr(library, "_load", lambda path: (loaded.append(path), load(path))[1])
    assert world.open() == "key build"
    assert [path.name for path in loaded] == ["kernels.so"]


def test_what_belongs_to_somebody_else_is_not_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.open()
    before = world.files()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert world.open() == "key build"
    assert world.files() == before


def no_folder(world: World) -> None:
    world.cache.parent.write_text("a file, where a folder was to be made")


def full_disk(world: World) -> None:
    def replace(*_: object) -> None:
        raise OSError(28, "No space left on device")

    os.replace = replace  # type: ignore[assignment]


@pytest.mark.parametrize("spoil", [no_folder, full_disk])
def test_nothing_is_kept_where_that_cannot_be(
    world: World, spoil: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", os.replace)
    spoil(world)
    assert world.open() == world.open() == "key build"
    assert world.files() == []


def test_several_may_build_at_once(world: World) -> None:
    with ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(Library, world.sources, (), world.cache) for _ in range(4)]:
            opened.result()
    assert len(world.files()) == 1
    assert world.open() == "key"


def test_a_build_that_fails_leaves_nothing(world: World) -> None:
    world.when_building.write_text("echo '/tmp/x8.s: Assembler messages:\n/tmp/x8.s:7: Error: what is it' >&2; exit 1")
    with pytest.raises(BuildError, match=r"my c\+\+ fails: Error: what is it$"):
        world.open()
    assert world.files() == []
    world.when_building.write_text("")
    assert world.open() == "key build"


@pytest.mark.parametrize("lack", ["exit 1", 'set -- -Wl,-z,lazy -DLACKS_THREADS "$@"'])
def test_without_threads(world: World, lack: str) -> None:
    """The compiler refuses, or makes a library that does not load."""
    (world.sources / "tiny.cpp").write_text(
        SOURCE + "#ifdef LACKS_THREADS\nvoid nowhere();\nint x = (nowhere(), 1);\n#endif\n"
    )
    world.when_building.write_text(f'case "$*" in *-fopenmp*) {lack};; esac\n')
    assert world.open() == "key build build"
    assert world.open() == "key"


def test_a_compiler_that_tells_nothing_builds_each_time(world: World) -> None:
    world.when_asked.write_text("exit 1")
    assert world.open() == world.open() == "key build"
    assert world.files() == []


def test_few_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number in range(kept.MOST + 3):
        (tmp_path / "library").write_text(str(number))
        keep(cache, KEY, tmp_path / "library")
        for path in cache.iterdir():  # time passes
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    found = {path.read_text() for path in find_kept(cache, KEY)}
    assert found == {str(number) for number in range(3, kept.MOST + 3)}


PLACES: list[tuple[str, dict[str, str], str | None]] = [
    ("linux", {"HOME": "/h"}, "/h/.cache/hogwild"),
    ("darwin", {"HOME": "/h"}, "/h/Library/Caches/hogwild"),
    ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/hogwild"),
    ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "not/absolute"}, "/h/.cache/hogwild"),
    ("linux", {"HOME": "nowhere"}, None),
]


@pytest.mark.parametrize(("system", "environment", "expected"), PLACES)
def test_where_they_are_kept(
    system: str, environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept.sys, "platform", system)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found: Any = cache_folder()
    assert found == (None if expected is None else Path(expected))
