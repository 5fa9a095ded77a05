"""Every family of the catalogue on MLX: exact, or refused at load for the reason that is named; MLX against torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.numpy import load_file, save_file  # noqa: E402

from hogwild.backends import cuda, mlx  # noqa: E402
from hogwild.conformance.coverage import CPU, TOLERANCE, Outcome, try_family  # noqa: E402
from hogwild.conformance.families import FAMILIES, family  # noqa: E402
from hogwild.conformance.families.entry import FULL, SLIDING  # noqa: E402
from hogwild.conformance.small_models import (  # noqa: E402
    checkpoint_of,
    logits_in_blocks,
    random_model,
    random_tokens,
    write_folder,
)
from hogwild.errors import ModelRefused  # noqa: E402
from tests.backends.mlx_models import load_folder, write_mlx_model  # noqa: E402

EXACT = [known.name for known in FAMILIES if "mlx" not in known.refused]
REFUSED = [known.name for known in FAMILIES if "mlx" in known.refused]
NAMED = (  # by issue 4, section 1
    "llama", "llama-linear", "llama-llama3", "llama-yarn", "qwen2", "qwen3", "qwen3_moe", "mistral-window",
    "mixtral-window", "phi3", "gemma2", "gemma3_text", "gpt_oss", "glm4", "cohere2", "olmo2", "olmo3", "smollm3",
    "granite", "deepseek_v2", "deepseek_v3",
)  # fmt: skip
TOKENS = random_tokens()
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
SCALINGS = {
    "yarn": YARN,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 512},
}


def outcome_of(name: str) -> Outcome:
    outcome = try_family(family(name), "mlx")
    if not outcome.tried:
        pytest.skip(outcome.reason)
    return outcome


@pytest.mark.parametrize("name", EXACT)
def test_a_view_of_blocks_is_the_plain_model(name: str) -> None:
    outcome = outcome_of(name)
    assert outcome.error is not None, outcome.reason
    assert outcome.error <= TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_the_reason(name: str) -> None:
    outcome = outcome_of(name)
    assert outcome.error is None
    assert family(name).refused["mlx"] in outcome.reason


def test_the_families_that_were_promised_are_exact() -> None:
    assert set(NAMED) <= set(EXACT)


@pytest.mark.parametrize("name", ["llama-llama3", "llama-yarn", "gemma3_text", "gemma2", "mistral-window", "olmo3"])
def test_both_backends_find_the_same_layers(tmp_path: Path, name: str) -> None:
    """That their logits are the same too is shown by comparing each with transformers."""
    checkpoint = write_folder(random_model(family(name).config), tmp_path, family(name).config)
    assert_same_layers(cuda.load(checkpoint, CPU), mlx.load(checkpoint, CPU))


def test_gpt_oss_is_the_same_on_both_backends(tmp_path: Path) -> None:
    """Experts lie otherwise in mlx-lm; its YaRN rounds the ramp's ends, which this config forbids."""
    config = family("gpt_oss").config
    (tmp_path / "torch").mkdir()
    (tmp_path / "mlx").mkdir()
    theirs = write_folder(random_model(config), tmp_path / "torch", config)
    weights = dict(_gpt_oss_of_mlx_lm(load_file(tmp_path / "torch" / "model.safetensors")))
    save_file(weights, tmp_path / "mlx" / "model.safetensors", {"format": "mlx"})
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(dict(config)))
    assert_same_on_torch_and_mlx(theirs, checkpoint_of(tmp_path / "mlx", config))


def _gpt_oss_of_mlx_lm(weights: dict[str, np.ndarray]) -> Any:
    for name, values in weights.items():
        if ".experts." not in name:
            yield name, values
            continue
        is_bias = name.endswith("_bias")
        stem, part = name.removesuffix("_bias"), "bias" if is_bias else "weight"
        rows = values if is_bias else values.swapaxes(1, 2)
        if stem.endswith("gate_up_proj"):
            yield f"{stem.replace('gate_up_proj', 'gate_proj')}.{part}", np.ascontiguousarray(rows[:, 0::2])
            yield f"{stem.replace('gate_up_proj', 'up_proj')}.{part}", np.ascontiguousarray(rows[:, 1::2])
        else:
            yield f"{stem}.{part}", np.ascontiguousarray(rows)


def assert_same_on_torch_and_mlx(torch_checkpoint: Any, mlx_checkpoint: Any) -> None:
    on_torch, on_mlx = cuda.load(torch_checkpoint, CPU), mlx.load(mlx_checkpoint, CPU)
    expected, found = logits_in_blocks(on_torch, TOKENS), logits_in_blocks(on_mlx, TOKENS)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert_same_layers(on_torch, on_mlx)


def assert_same_layers(on_torch: Any, on_mlx: Any) -> None:
    windows = [[layer.window for layer in backend.spec.layers] for backend in (on_torch, on_mlx)]
    assert windows[0] == windows[1]
    for theirs, ours in zip(on_torch.spec.layers, on_mlx.spec.layers, strict=True):
        np.testing.assert_allclose(ours.rotary.inv_freq, theirs.rotary.inv_freq, rtol=1e-5)
    on_torch.close()
    on_mlx.close()


@pytest.mark.parametrize(
    ("name", "rope_type", "is_read"),
    [
        ("qwen3_moe", "yarn", False),
        ("qwen3_moe", "linear", False),
        ("mixtral", "linear", False),
        ("cohere2", "llama3", False),
        ("olmoe", "yarn", True),
    ],
)
def test_a_scaling_that_mlx_lm_leaves_out_is_refused(tmp_path: Path, name: str, rope_type: str, is_read: bool) -> None:
    """Some of its files never read `rope_scaling`; those that do agree with transformers."""
    config = {**family(name).config, "rope_scaling": SCALINGS[rope_type]}
    checkpoint = write_folder(random_model(config), tmp_path, config)
    if is_read:
        assert_same_on_torch_and_mlx(checkpoint, checkpoint)
        return
    with pytest.raises(ModelRefused, match="no layer turns by the frequencies that its config states"):
        mlx.load(checkpoint, CPU)


@pytest.mark.parametrize("option", [{"attention_factor": 1.5}, {"truncate": False}, {"beta_fast": 8.0}])
def test_every_option_of_yarn_is_followed(tmp_path: Path, option: dict[str, Any]) -> None:
    config = {**family("llama-yarn").config, "rope_scaling": {**YARN, **option}}
    checkpoint = write_folder(random_model(config), tmp_path, config)
    assert_same_on_torch_and_mlx(checkpoint, checkpoint)


def test_a_scaling_of_one_layer_type_must_be_there(tmp_path: Path) -> None:
    """Newer configs name a rule for each type of layer; mlx-lm's gemma3 reads none of them."""
    config = dict(family("gemma3_text").config)
    config["layer_types"] = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    config["rope_parameters"] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    }
    write_mlx_model(tmp_path, **config)
    with pytest.raises(ModelRefused, match="no layer turns by the frequencies"):
        load_folder(tmp_path)


def test_a_base_of_one_layer_type_must_be_there(tmp_path: Path) -> None:
    config = dict(family("gemma3_text").config)
    rules = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in ((SLIDING, 1e4), (FULL, 5e6))}
    write_mlx_model(tmp_path, **config, layer_types=[*[SLIDING] * 5, FULL, SLIDING], rope_parameters=rules)
    with pytest.raises(ModelRefused, match="no layer turns by the frequencies"):
        load_folder(tmp_path)


def test_shares_and_bases_in_the_newer_place_are_read(tmp_path: Path) -> None:
    """As transformers 5 stores them, whose folders mlx-lm alone does not read."""
    old = family("glm4").config
    new = {name: value for name, value in old.items() if name not in ("rope_theta", "partial_rotary_factor")}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 7e4, "partial_rotary_factor": 0.5}
    write_folder(random_model(new), tmp_path, new)
    on_mlx = mlx.load(checkpoint_of(tmp_path, new), CPU)
    assert_same_layers(cuda.load(checkpoint_of(tmp_path, new), CPU), on_mlx)
    assert on_mlx.spec.layers[0].rotary.num_dims == 8


@pytest.mark.parametrize(("name", "activation"), [("llama", "gelu"), ("gemma3_text", "silu"), ("phi", "relu2")])
def test_an_activation_function_that_is_another_one_is_refused(tmp_path: Path, name: str, activation: str) -> None:
    config = {**family(name).config, "hidden_act": activation, "hidden_activation": activation}
    write_mlx_model(tmp_path, **config)
    with pytest.raises(ModelRefused, match="another activation function"):
        load_folder(tmp_path)
