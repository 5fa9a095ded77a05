"""Weights that mlx-lm has quantised: one width, one for each layer, several group sizes; logits are mlx-lm's own."""

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
from hogwild.conformance.families import family  # noqa: E402
from hogwild.conformance.small_models import logits_in_blocks, random_tokens  # noqa: E402
from hogwild.conformance.small_models_mlx import plain_mlx_logits, write_mlx_folder  # noqa: E402
from tests.backends.mlx_models import CPU_FLOAT32, load_folder  # noqa: E402

AUTO = LoadOptions(device="cpu")
TOKENS = random_tokens()
TOLERANCE = 2e-5
WIDE = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128}


def quantised(folder: Path, name: str, **options: Any) -> Path:
    """A folder as mlx-lm writes it."""
    (folder / "plain").mkdir(parents=True)
    config = {**family(name).config, **WIDE}
    if name == "gpt_oss":  # whose published config asks for a ramp that mlx-lm alone would round
        config["rope_scaling"] = {**config["rope_scaling"], "truncate": True}
    write_mlx_folder(folder / "plain", config)
    model, config = quantize_model(*load_model(folder / "plain"), **options)
    save_model(folder / "quantised", model)
    (folder / "quantised" / "config.json").write_text(json.dumps(config))
    return folder / "quantised"


def assert_is_mlx_lms_own(folder: Path) -> MlxBackend:
    """The model stays quantised, and its logits are those of mlx-lm, which loads the folder by itself."""
    own, _ = load_model(folder)
    expected = plain_mlx_logits(own, TOKENS)
    backend = load_folder(folder, AUTO)
    assert np.abs(logits_in_blocks(backend, TOKENS) - expected).max() <= TOLERANCE * np.abs(expected).max()
    return backend


def widths(model: Any) -> set[tuple[int, int]]:
    return {(module.bits, module.group_size) for _, module in model.named_modules() if "scales" in module}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_each_width_and_group_size(tmp_path: Path, bits: int, group_size: int) -> None:
    folder = quantised(tmp_path, "llama", bits=bits, group_size=group_size)
    assert widths(assert_is_mlx_lms_own(folder).model) == {(bits, group_size)}


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gpt_oss", "gemma3_text", "deepseek_v3"])
def test_other_families_in_4_bits(tmp_path: Path, name: str) -> None:
    folder = quantised(tmp_path, name, bits=4, group_size=32)
    assert (4, 32) in widths(assert_is_mlx_lms_own(folder).model)  # mlx-lm gives the routers of experts 8 bits


def test_widths_that_differ_between_layers(tmp_path: Path) -> None:
    def choose(path: str, module: Any) -> bool | dict[str, int]:
        if "lm_head" in path:
            return False
        return {"bits": 8, "group_size": 128} if "down_proj" in path or "v_proj" in path else True

    folder = quantised(tmp_path, "llama", bits=4, group_size=64, quant_predicate=choose)
    backend = assert_is_mlx_lms_own(folder)
    assert widths(backend.model) == {(4, 64), (8, 128)}
    assert backend.model.model.layers[1].mlp.down_proj.bits == 8
    assert not hasattr(backend.model.lm_head, "bits")


@pytest.mark.parametrize("bits", [4, 8])
def test_float32_dequantises_to_the_same_logits(tmp_path: Path, bits: int) -> None:
    folder = quantised(tmp_path, "qwen3", bits=bits, group_size=64)
    own, _ = load_model(folder)
    expected = plain_mlx_logits(own, TOKENS)
    backend = load_folder(folder, CPU_FLOAT32)
    assert not widths(backend.model)
    assert np.abs(logits_in_blocks(backend, TOKENS) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_quantising_changes_the_logits(tmp_path: Path) -> None:
    """The comparisons above would see weights of another width."""
    folder = quantised(tmp_path, "llama", bits=4, group_size=64)
    found, plain = (logits_in_blocks(load_folder(path), TOKENS) for path in (folder, tmp_path / "plain"))
    assert np.abs(found - plain).max() > 100 * TOLERANCE * np.abs(plain).max()
