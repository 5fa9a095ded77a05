"""Random transformers models of any family, and transformers' own answers, for the tests of the torch backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hogwild.backends.cuda import TorchBackend, load
from hogwild.backends.cuda.attention import ATTENTION_NAME
from hogwild.backends.cuda.loading import quiet
from hogwild.backends.options import LoadOptions
from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.models.source import find_checkpoint

CPU = LoadOptions(device="cpu")
BASE: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}


def random_model(family: str, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A transformers model of that family with random weights that are large enough to matter."""
    torch.manual_seed(0)
    with quiet():
        values = AutoConfig.for_model(family, **{**BASE, **config})
        model = AutoModelForCausalLM.from_config(values, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.1)
            else:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
    return model


def load_folder(folder: Path, options: LoadOptions = CPU) -> TorchBackend:
    """The backend of a model folder."""
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


def random_tokens(count: int, vocab_size: int = 250, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(5, vocab_size, count).tolist())


def logits_in_blocks(backend: TorchBackend, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Logits of all tokens, written as a prompt, a published step in it, another's block, then an own block."""
    cache = SharedCache(backend, num_tokens=16)
    common, step, other, own = (cache.new_block(name) for name in ("common", "step", "other", "own"))
    n = len(token_ids)
    parts = [
        token_ids[a:b] for a, b in zip((0, n // 4, n // 2, 3 * n // 4), (n // 4, n // 2, 3 * n // 4, n), strict=True)
    ]
    found = [cache.forward([Row((common,), parts[0], logits="all")]).logits]
    found.append(cache.forward([Row((common, step), parts[1], logits="all")]).logits)
    common.link(step)
    found.append(cache.forward([Row((common, other), parts[2], logits="all")]).logits)
    for token in parts[3]:
        found.append(cache.forward([Row((common, other, own), (token,))]).logits)
    return torch.cat(found)
