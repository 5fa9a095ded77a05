"""The MLX backend against mlx-lm itself: the same model, plain forward and ordinary cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

from mlx_lm.utils import load_model, quantize_model, save_model  # noqa: E402

from hogwild.backends.mlx import MlxBackend  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.core.plan import Row  # noqa: E402
from hogwild.core.sampling import GREEDY, SampleRequest  # noqa: E402
from hogwild.errors import BackendUnavailable, CheckpointError, ModelRefused, OptionError  # noqa: E402
from tests.backends.mlx_models import CPU_FLOAT32, load_folder, plain_logits, write_mlx_model  # noqa: E402
from tests.tiny_models import ROPE_SCALING, write_tiny_model  # noqa: E402

AUTO = LoadOptions(device="cpu")
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 250, 180)]
# mlx-lm's llama file without a "full_attention" layer fails, hence the mixture.
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 11}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "linear": ("llama", {"rope_scaling": ROPE_SCALING["linear"]}),
    "llama3": ("llama", {"rope_scaling": ROPE_SCALING["llama3"]}),
    "yarn": ("llama", {"rope_scaling": ROPE_SCALING["yarn"]}),
    "windows": ("llama", WINDOWS),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
}


def in_blocks(backend: MlxBackend, token_ids: list[int]) -> np.ndarray:
    """The logits `[n, V]` of one worker whose text lies in many blocks: prefilled, published, split, moved, decoded."""
    cache = SharedCache(backend, num_tokens=32)
    hole = cache.new_block("hole")
    hole.append([1] * 40)
    common, own = cache.new_block("common"), cache.new_block("own")
    logits = []

    def feed(view: tuple[Any, ...], part: list[int]) -> None:
        logits.append(cache.to_numpy(cache.forward([Row(view, tuple(part), logits="all")])))

    feed((common,), token_ids[:20])
    hole.clear()
    at = 20
    for length in (1, 17, 3, 40, 5, 34):
        feed((common, own), token_ids[at : at + length])
        at += length
        common.link(own)
    header = cache.new_block("header")
    feed((common, header), token_ids[at : at + 9])
    for token in token_ids[at + 9 :]:
        feed((common, header, own), [token])
    return np.concatenate(logits)


@pytest.mark.parametrize("name", CASES)
def test_one_worker_in_many_blocks_is_the_plain_model(tmp_path: Path, name: str) -> None:
    family, overrides = CASES[name]
    backend = load_folder(write_tiny_model(tmp_path / name, family, **overrides))
    plain = plain_logits(backend.model, TOKENS)
    np.testing.assert_allclose(in_blocks(backend, TOKENS), plain, atol=2e-4)
    backend.close()


def test_windows_are_found(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path, "llama", **WINDOWS))
    assert [layer.window for layer in backend.spec.layers] == [11, None, 11]


def test_mistrals_window_is_applied_though_mlx_lm_leaves_it_out(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path / "a", "mistral", sliding_window=8))
    assert [layer.window for layer in backend.spec.layers] == [8, 8, 8]
    unlimited = load_folder(write_tiny_model(tmp_path / "b", "mistral", sliding_window=None))
    windowed, full = in_blocks(backend, TOKENS), in_blocks(unlimited, TOKENS)
    np.testing.assert_allclose(windowed[:8], full[:8], atol=1e-4)
    assert np.abs(windowed[8:] - full[8:]).max() > 0.01


def test_newer_rope_parameters_are_understood(tmp_path: Path) -> None:
    old = load_folder(write_tiny_model(tmp_path / "old", "llama", rope_theta=5e5, rope_scaling=ROPE_SCALING["yarn"]))
    folder = write_tiny_model(tmp_path / "new", "llama")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    config["rope_parameters"] = {"rope_theta": 5e5, **ROPE_SCALING["yarn"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_folder(folder).spec.layers == old.spec.layers


def test_yarn_factor_is_reported_but_not_part_of_the_turn(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path, "llama", rope_scaling=ROPE_SCALING["yarn"]))
    assert backend.spec.layers[0].rotary.factor == pytest.approx(1.13862943)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_stay_quantised_and_agree(tmp_path: Path, bits: int) -> None:
    plain_folder = write_tiny_model(tmp_path / "plain", "llama")
    model, config = load_model(plain_folder)
    model, config = quantize_model(model, config, group_size=16 * 2, bits=bits)
    folder = tmp_path / "quantised"
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    backend = load_folder(folder, AUTO)
    assert backend.model.model.layers[0].self_attn.q_proj.bits == bits
    np.testing.assert_allclose(in_blocks(backend, TOKENS), plain_logits(backend.model, TOKENS), atol=3e-4)
    dequantised = load_folder(folder, CPU_FLOAT32)
    assert not hasattr(dequantised.model.model.layers[0].self_attn.q_proj, "bits")
    np.testing.assert_allclose(in_blocks(dequantised, TOKENS), plain_logits(backend.model, TOKENS), atol=3e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.06), ("float16", 0.008)])
def test_sixteen_bit_numbers(tmp_path: Path, dtype: str, tolerance: float) -> None:
    folder = write_tiny_model(tmp_path, "llama")
    backend = load_folder(folder, LoadOptions(dtype=dtype, device="cpu"))
    assert backend.info.dtype == dtype
    exact = plain_logits(load_folder(folder).model, TOKENS)
    error = np.abs(in_blocks(backend, TOKENS) - exact).max()
    plain_error = np.abs(plain_logits(backend.model, TOKENS) - exact).max()
    assert error <= max(1.25 * plain_error, tolerance * np.abs(exact).max())


def test_greedy_decoding_is_mlx_lms_own(tmp_path: Path) -> None:
    from mlx_lm.generate import generate_step

    backend = load_folder(write_tiny_model(tmp_path, "llama", num_hidden_layers=4))
    prompt = TOKENS[:33]
    plain = [int(token) for token, _ in generate_step(mx.array(prompt), backend.model, max_tokens=220)]
    cache = SharedCache(backend)
    common, own = cache.block(prompt[:-1]), cache.new_block()
    token, tokens = prompt[-1], []
    for _ in plain:
        result = cache.forward([Row((common, own), (token,))])
        token = int(backend.sample(result.logits, [SampleRequest(GREEDY)]).token_ids[0])
        tokens.append(token)
    assert tokens == plain


def test_prefill_in_chunks_of_tokens_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_folder(write_tiny_model(tmp_path, "llama", **WINDOWS))
    plain = plain_logits(backend.model, TOKENS)
    monkeypatch.setattr("hogwild.backends.mlx.attention.MAX_CHUNK_BYTES", 40_000)
    np.testing.assert_allclose(in_blocks(backend, TOKENS), plain, atol=2e-4)


def test_hidden_states_are_each_layers_output(tmp_path: Path) -> None:
    backend = load_folder(write_tiny_model(tmp_path, "llama"))
    cache = SharedCache(backend)
    own = cache.new_block()
    result = cache.forward([Row((own,), tuple(TOKENS[:30]), logits="all")], hidden_states=True)
    assert result.hidden_states is not None
    assert [x.shape for x in result.hidden_states] == [(30, 64)] * 3
    h = backend.model.model.embed_tokens(mx.array(TOKENS[:30])[None])
    for layer, seen in zip(backend.model.layers, result.hidden_states, strict=True):
        h = layer(h, "causal")
        np.testing.assert_allclose(seen, np.array(h[0]), atol=1e-4)
    assert {type(layer).__mro__[1].__name__ for layer in backend.model.layers} == {"Module"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": (
        {"model_type": "gpt2", "n_ctx": 128, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}
        | {"layer_norm_epsilon": 1e-5, "vocab_size": 99},
        "the position changes its input",
    ),
    "mamba": (
        {"model_type": "mamba", "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "state_size": 8}
        | {"num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}
        | {"max_position_embeddings": 128},
        "recurrent",
    ),
    "dynamic": (
        {"model_type": "llama", **SMALL, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "frequencies change with the length",
    ),
    "window of its own": (
        {"model_type": "glm4", **SMALL, "rope_theta": 1e4, "sliding_window": 64, "head_dim": 8}
        | {"partial_rotary_factor": 0.5, "attention_bias": False, "tie_word_embeddings": False},
        "does not say in which layers",
    ),
    "unknown": ({"model_type": "no_such_model", **SMALL}, "cannot build"),
    "hunyuan": (
        {"model_type": "hunyuan", **SMALL, "attention_bias": False, "moe_topk": 1, "num_experts": 1}
        | {"num_shared_expert": 1, "use_mixed_mlp_moe": False, "use_qk_norm": True, "rope_theta": 1e4}
        | {"use_cla": False, "cla_share_factor": 1, "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"}},
        "no pure rotation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_exactly_is_refused(tmp_path: Path, name: str) -> None:
    config, reason = REFUSED[name]
    if name == "unknown":
        (tmp_path / "config.json").write_text(json.dumps(config))
        mx.save_safetensors(str(tmp_path / "model.safetensors"), {"x": mx.zeros(1)})
    else:
        write_mlx_model(tmp_path, **config)
    with pytest.raises(ModelRefused, match=reason):
        load_folder(tmp_path)


SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA_3N = {
    **{**SMALL, "num_hidden_layers": 10, "intermediate_size": [48] * 10},
    "head_dim": 8, "num_kv_shared_layers": 5, "layer_types": [*[SLIDING] * 4, FULL] * 2, "sliding_window": 12,
    "rope_theta": 1e6, "rope_local_base_freq": 1e4, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_new",
    "activation_sparsity_pattern": [0.95] * 2 + [0.0] * 8, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    "vocab_size_per_layer_input": 99, "altup_num_inputs": 4, "altup_active_idx": 0, "altup_coef_clip": 120.0,
    "altup_correct_scale": True, "model_type": "gemma3n_text", "query_pre_attn_scalar": 8,
}  # fmt: skip


def test_layers_that_read_the_keys_of_earlier_ones(tmp_path: Path) -> None:
    """Gemma 3n hands them the earlier layer's cache; transformers makes the whole model only where timm is."""
    backend = load_folder(write_mlx_model(tmp_path, model_type="gemma3n", text_config=GEMMA_3N))
    assert [layer.window for layer in backend.spec.layers] == [12, 12, 12, 12, None]
    tokens = [token % 99 for token in TOKENS]
    np.testing.assert_allclose(in_blocks(backend, tokens), plain_logits(backend.model, tokens), atol=3e-4)


def test_a_model_with_sinks_and_windows(tmp_path: Path) -> None:
    folder = write_mlx_model(
        tmp_path,
        model_type="gpt_oss",
        **SMALL,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=16,
        rope_theta=1e4,
        layer_types=["sliding_attention", "full_attention"],
    )
    backend = load_folder(folder)
    assert [layer.window for layer in backend.spec.layers] == [16, None]
    tokens = [token % 99 for token in TOKENS]
    for layer in backend.model.layers:
        layer.self_attn.sinks = mx.array([0.5, -1.0, 2.0, 0.0])
    np.testing.assert_allclose(in_blocks(backend, tokens), plain_logits(backend.model, tokens), atol=2e-4)


def test_float64_and_unknown_devices_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "llama")
    with pytest.raises(OptionError, match="float64"):
        load_folder(folder, LoadOptions(dtype="float64"))
    with pytest.raises(OptionError, match="no device"):
        load_folder(folder, LoadOptions(device="tpu"))
    if not mx.is_available(mx.gpu):
        with pytest.raises(BackendUnavailable, match="GPU"):
            load_folder(folder, LoadOptions(device="gpu"))


def test_broken_weights_are_a_checkpoint_error(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "llama")
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00nothing at all")
    with pytest.raises(CheckpointError):
        load_folder(folder)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "llama", model_file="evil.py")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelRefused):
        load_folder(folder)
