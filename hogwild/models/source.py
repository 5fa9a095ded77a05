"""A model's name to its files: a folder, a GGUF file, `org/name[@revision]` on the hub, or the bundled model."""

from __future__ import annotations

import re
from pathlib import Path

from hogwild.errors import CheckpointError, ModelNotFound
from hogwild.models.checkpoint import Checkpoint

BUNDLED = "bundled"
ALIASES = {"smollm2-135m": BUNDLED, "smollm2": BUNDLED}
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


def find_checkpoint(name: str = BUNDLED, *, offline: bool | None = None) -> Checkpoint:
    """Find a model and read everything but its weights, which are read one tensor at a time later.

    name: an existing folder or `.gguf` file, `org/name` or `org/name@revision` on the hub, or "bundled".
    offline: True uses only what was downloaded before; None asks the environment variable `HF_HUB_OFFLINE`.

    Raises `ModelNotFound`, `CheckpointError` for broken files, `ModelRefused` for a format that is not read exactly.
    """
    if ALIASES.get(name, name) == BUNDLED:
        from hogwild.models.bundled import bundled_file

        return _load_path(name, bundled_file())
    path = Path(name).expanduser()
    if path.exists():
        return _load_path(name, path)
    match = _HUB_NAME.fullmatch(name)
    if match is None or path.suffix == ".gguf":
        raise ModelNotFound(
            f"no model {name!r}",
            expected=f"a folder, a .gguf file, org/name[@revision] on the Hugging Face hub, or {BUNDLED!r}",
            got="no such file or folder",
        )
    from hogwild.models.hub import download

    return _load_path(name, download(match["repo"], match["revision"], offline=offline))


def _load_path(name: str, path: Path) -> Checkpoint:
    if path.is_dir():
        from hogwild.models.folder import load_folder

        return load_folder(name, path)
    if path.suffix.lower() == ".gguf":
        from hogwild.models.gguf_file import load_gguf

        return load_gguf(name, path)
    raise CheckpointError(
        f"{path} is no model", expected="a folder with config.json, or a .gguf file", got=path.suffix or "a file"
    )
