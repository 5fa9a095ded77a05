"""A folder as transformers and mlx-lm write it: `config.json`, safetensors, tokenizer files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hogwild.errors import CheckpointError
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.folder_tokenizer import load_tokenizer
from hogwild.models.json_file import read_json
from hogwild.models.safetensors_file import SafetensorsFile

_INDEX = "model.safetensors.index.json"


class FolderWeights:
    """Tensors of one or more safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of = _indexed_files(folder) if (folder / _INDEX).exists() else _single_file(folder)

    def names(self) -> tuple[str, ...]:
        """Every tensor's name."""
        return tuple(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._file(name).tensors[name].shape

    def read(self, name: str) -> NDArray[Any]:
        """One tensor as stored; float32 for bfloat16."""
        return self._file(name).read(name)

    def _file(self, name: str) -> SafetensorsFile:
        try:
            return self._file_of[name]
        except KeyError:
            raise CheckpointError(f"{self._folder} has no tensor {name!r}") from None


def load_folder(name: str, folder: Path) -> Checkpoint:
    """Read a folder's config, tokenizer and the headers of its weights. Raises `CheckpointError` for broken files."""
    config = read_json(folder / "config.json")
    if config is None:
        raise CheckpointError(f"{folder} is no model folder", expected="config.json", got="no such file")
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{folder / 'config.json'} does not say which model it is", expected="model_type")
    generation_config = read_json(folder / "generation_config.json") or {}
    weights = FolderWeights(folder)
    tokenizer = load_tokenizer(folder, config, generation_config)
    return Checkpoint(name, folder, "safetensors", config, generation_config, weights, tokenizer)


def _single_file(folder: Path) -> dict[str, SafetensorsFile]:
    path = folder / "model.safetensors"
    if not path.exists():
        others = sorted(entry.name for entry in folder.glob("*.safetensors"))
        if len(others) != 1:
            raise CheckpointError(
                f"{folder} has no weights that are read here",
                expected=f"model.safetensors or {_INDEX}",
                got=", ".join(others[:4]) or "no safetensors file",
                remedy="convert other formats to safetensors with transformers' save_pretrained",
            )
        path = folder / others[0]
    file = SafetensorsFile(path)
    return dict.fromkeys(file.tensors, file)


def _indexed_files(folder: Path) -> dict[str, SafetensorsFile]:
    index = (read_json(folder / _INDEX) or {}).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise CheckpointError(f"{folder / _INDEX} is broken", expected="a table weight_map")
    files = {}
    for file_name in sorted(set(index.values())):
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{folder / _INDEX} points outside its folder", got=file_name[:200])
        files[file_name] = SafetensorsFile(folder / file_name)
    for tensor, file_name in index.items():
        if tensor not in files[file_name].tensors:
            raise CheckpointError(f"{folder / file_name} lacks tensor {tensor!r}", remedy="fetch the file again")
    return {tensor: files[file_name] for tensor, file_name in index.items()}
