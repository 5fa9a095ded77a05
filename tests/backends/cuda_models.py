"""Folders to backends, and transformers' own answers, for the tests of the torch backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hogwild.backends.cuda import TorchBackend, load
from hogwild.backends.cuda.attention import ATTENTION_NAME
from hogwild.backends.cuda.loading import quiet
from hogwild.backends.options import LoadOptions
from hogwild.models.source import find_checkpoint

CPU = LoadOptions(device="cpu", attention="plain")


def load_folder(folder: Path, options: LoadOptions = CPU) -> TorchBackend:
    """The backend of a model folder; by default with torch's operations."""
    return load(find_checkpoint(str(folder)), options)


@torch.inference_mode()
def plain(backend: TorchBackend, token_ids: Sequence[int], **options: Any) -> Any:
    """transformers' own output for one sequence, with its own eager attention."""
    with quiet():
        backend.model.set_attn_implementation("eager")
        try:
            return backend.model(input_ids=torch.tensor([list(token_ids)]), use_cache=False, **options)
        finally:
            backend.model.set_attn_implementation(ATTENTION_NAME)
