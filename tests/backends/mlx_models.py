"""Folders to checkpoints, and mlx-lm's own answers, for the tests of the MLX backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes
from numpy.typing import NDArray

from hogwild.backends.mlx import MlxBackend, load
from hogwild.backends.options import LoadOptions
from hogwild.models.checkpoint import Checkpoint

CPU_FLOAT32 = LoadOptions(dtype="float32", device="cpu")


def checkpoint_of(folder: Path) -> Checkpoint:
    """A folder as a checkpoint; the backend reads its weights through mlx-lm, and no tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    nothing: Any = None
    return Checkpoint(folder.name, folder, "safetensors", config, {}, nothing, nothing)


def load_folder(folder: Path, options: LoadOptions = CPU_FLOAT32) -> MlxBackend:
    """The backend of a folder."""
    return load(checkpoint_of(folder), options)


def write_mlx_model(folder: Path, **config: Any) -> Path:
    """A folder with random weights of any class that mlx-lm has; norms too, which mlx-lm makes all ones."""
    mx.random.seed(0)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    weights |= {name: x * mx.random.uniform(0.5, 1.5, x.shape) for name, x in weights.items() if x.ndim == 1}
    mx.eval(weights)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plain_logits(model: Any, token_ids: list[int], one_by_one: bool = False) -> NDArray[np.float32]:
    """`[n, V]` by mlx-lm alone: in one forward, or token by token."""
    cache = make_prompt_cache(model)
    tokens = mx.array(token_ids)[None]
    parts = [tokens[:, i : i + 1] for i in range(len(token_ids))] if one_by_one else [tokens]
    logits = mx.concatenate([model(part, cache=cache)[0] for part in parts])
    return np.array(logits.astype(mx.float32))
