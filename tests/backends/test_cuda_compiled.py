"""torch.compile around attention: the same tokens, few graphs, and a notice where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch._inductor import config as inductor_config  # noqa: E402

from hogwild.backends.cuda import TorchBackend  # noqa: E402
from hogwild.backends.cuda.compiled import CompiledModel  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.backends.registry import find_backend  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.conformance.families import family  # noqa: E402
from hogwild.conformance.small_models import random_model  # noqa: E402
from hogwild.core.plan import Row  # noqa: E402
from hogwild.core.sampling import GREEDY, SampleRequest  # noqa: E402
from hogwild.errors import OptionError  # noqa: E402
from hogwild.models.source import find_checkpoint  # noqa: E402
from tests.backends.cuda_models import load_folder  # noqa: E402
from tests.tiny_models import write_tiny_model  # noqa: E402

COMPILED = LoadOptions(device="cpu", compile=True)


def written(backend: TorchBackend, num_passes: int) -> tuple[list[list[int]], np.ndarray]:
    """The greedy tokens of two workers after a prompt, one of them alone in every third pass, and the last logits."""
    cache = SharedCache(backend)
    prompt, blocks = cache.block(range(1, 40)), [cache.new_block(), cache.new_block()]
    tokens, logits = [[5], [9]], np.zeros(0)
    for number in range(num_passes):
        working = [0] if number % 3 == 2 else [0, 1]
        rows = [Row((prompt, blocks[1 - w], blocks[w]), (tokens[w][-1],)) for w in working]
        result = cache.forward(rows)
        sampled = backend.sample(result.logits, [SampleRequest(GREEDY)] * len(rows))
        for worker, token in zip(working, sampled.token_ids.tolist(), strict=True):
            tokens[worker].append(token)
        logits = backend.to_numpy(result.logits)
    return tokens, logits


def compiled_without_code(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> CompiledModel:
    """The model as torch traces it; no code is generated, which takes most of the time."""
    modules = [layer.self_attn for layer in backend._decoder_layers]
    compiled = CompiledModel(backend.model, modules, backend="eager")
    monkeypatch.setattr(backend, "_compiled", compiled)
    return compiled


@pytest.mark.slow
def test_same_tokens_by_generated_code(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, num_hidden_layers=1)
    expected, expected_logits = written(load_folder(folder), 9)
    with inductor_config.patch(compile_threads=1, **{"cpp_cache_precompile_headers": False}):  # several times cheaper
        backend = load_folder(folder, COMPILED)
        tokens, logits = written(backend, 9)
    assert backend.info.attention.endswith("; model compiled"), backend.info.attention
    assert tokens == expected
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


def test_two_graphs_serve_all_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_folder(write_tiny_model(tmp_path, num_hidden_layers=1))
    expected, expected_logits = written(backend, 9)
    torch._dynamo.utils.counters.clear()
    compiled = compiled_without_code(backend, monkeypatch)
    tokens, logits = written(backend, 9)
    assert compiled.failure is None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "for one token, and for more"
    assert tokens == expected
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_soft_caps_windows_and_sinks_reach_the_operation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(random_model(family(name).config))
    expected, expected_logits = written(backend, 4)
    compiled = compiled_without_code(backend, monkeypatch)
    tokens, logits = written(backend, 4)
    assert compiled.failure is None
    assert tokens == expected
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


def test_without_a_compiler_it_runs_and_says_so(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, num_hidden_layers=1)
    with inductor_config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.warns(RuntimeWarning, match="not compiled"):
        backend = load_folder(folder, COMPILED)
    assert "not compiled: " in backend.info.attention
    assert written(backend, 3)[0] == written(load_folder(folder), 3)[0]


def test_other_backends_refuse(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(write_tiny_model(tmp_path)))
    with pytest.raises(OptionError, match="does not compile models"):
        find_backend("reference").loader()(checkpoint, LoadOptions(compile=True))
