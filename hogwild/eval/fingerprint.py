"""What shaped the rows of a run, as plain data: recorded with it, and compared when it is continued."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hogwild.core.layout import layout_to_dict
from hogwild.errors import ModelNotFound, OptionError
from hogwild.eval.ledger import write_whole
from hogwild.eval.methods import Method
from hogwild.eval.options import EvalOptions
from hogwild.eval.problem import Problem

VERSION = 1
RUN_FILE = "run.json"
_PACKAGE = Path(__file__).parents[1]
_CODE = ("core", "backends", "models", "prompts", "eval", "cache.py", "engine.py", "model.py")
_CONFIG = (".json", ".jinja", ".model", ".txt")
_SCORING = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym")
_BLOB = re.compile(r"[0-9a-f]{64}")
_SHOWN = 8
Data = dict[str, Any]


def fingerprint(model: str, model_facts: Mapping[str, Any], options: EvalOptions, task: Data) -> Data:
    """Everything but problem, method and seed that a row depends on."""
    return {
        "model": {**model_facts, **weights(model)},
        "code": code_hash(),
        "options": json.loads(json.dumps(dataclasses.asdict(options))),
        "task": task,
        "scoring": {name: _version(name) for name in _SCORING},
    }


def problems_hash(problems: Iterable[Problem]) -> str:
    """Of ids, texts and answers."""
    return _digest(json.dumps(dataclasses.astuple(problem)).encode() for problem in problems)


def method_data(method: Method) -> Data:
    """What a method says to its workers and lets them see."""
    data = {
        "layout": layout_to_dict(method.layout),
        "prompts": f"{method.style.name}/{method.style.version}",
        "prompts_hash": _digest([json.dumps(dataclasses.asdict(method.style), sort_keys=True).encode()]),
        "finish": method.finish,
        "num_start": method.num_start,
        "num_late": method.num_late,
    }
    return dict(json.loads(json.dumps(data)))


@functools.cache
def code_hash() -> str:
    """Of the source files that a result may depend on, so that it is the same in a checkout and in a wheel."""
    files = [path for part in _CODE for path in _sources(_PACKAGE / part)]
    return _digest(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes() for path in files)


def weights(name: str) -> Data:
    """Revision of what a model's name stands for, hash of its weights, and of its config, tokenizer and template.

    None where there is no such thing: weights that are made up, files that hold everything.
    """
    from hogwild.models import find_checkpoint  # reads files: imported only when a model is hashed

    try:
        path = find_checkpoint(name).path
    except ModelNotFound:
        return {"revision": None, "weights_sha256": None, "config_sha256": None}
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    others = [file for file in sorted(path.glob("*")) if file.suffix in _CONFIG] if path.is_dir() else []
    return {
        "revision": path.name if path.parent.name == "snapshots" else None,
        "weights_sha256": _digest(map(_file_hash, files)) if files else None,
        "config_sha256": _digest(file.name.encode() + file.read_bytes() for file in others) if others else None,
    }


def check_same(folder: Path, now: Data, methods: Mapping[str, Data]) -> None:
    """Record what shapes a run in a new folder; in one that holds a run, raise `OptionError` for every difference.

    Methods may be added to a run; those that it has must not change.
    """
    path = folder / RUN_FILE
    before = read_run(path) if path.exists() else None
    if before is None and (folder / "rows.jsonl").exists():
        raise OptionError(f"{folder} has rows but no {RUN_FILE}", remedy="give another --out")
    if before is not None:
        known = before["methods"]
        same = {name: data for name, data in methods.items() if name in known}
        found = [
            *differences(before["fingerprint"], now),
            *differences({name: known[name] for name in same}, same, "methods"),
        ]
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise OptionError(
                f"{folder} holds a run with other settings",
                got="; ".join(found[:_SHOWN]) + more,
                remedy="give the same settings, or another --out",
            )
        methods = {**known, **methods}
        if methods == known:
            return
    data = {"run": "hogwild eval", "version": VERSION, "fingerprint": now, "methods": dict(methods)}
    write_whole(path, json.dumps(data, indent=1).encode() + b"\n")


def read_run(path: Path) -> Data:
    """A `run.json`; `OptionError` for a file that is not one."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read {path}", got=str(error)[:120]) from None
    good = isinstance(data, dict) and data.get("run") == "hogwild eval" and data.get("version") == VERSION
    if not good or not all(isinstance(data.get(name), dict) for name in ("fingerprint", "methods")):
        raise OptionError(f"{path} is not the record of a run", expected=f"version {VERSION}")
    return dict(data)


def differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """`place: before -> now` for everything that is not the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{place}.{name}" if place else str(name))
    elif before != now:
        yield f"{place}: {_short(before)} -> {_short(now)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sources(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    kinds = (".py", ".toml", ".metal", ".cpp", ".h", ".json")
    return sorted(file for file in path.rglob("*") if file.suffix in kinds and "__pycache__" not in file.parts)


def _file_hash(path: Path) -> bytes:
    """Of a file's content; the hub's cache has it as the name of the file that a name there points to."""
    name = path.resolve().name
    if path.is_symlink() and _BLOB.fullmatch(name):
        return name.encode()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest().encode()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
