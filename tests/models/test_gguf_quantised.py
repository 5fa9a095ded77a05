"""Quantised GGUF files through the whole loader, on each backend, against the dequantisation of the `gguf` package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from write_gguf import Packed, row_order, write_gguf

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.conformance.small_models import logits_in_blocks, random_tokens
from hogwild.models import find_checkpoint
from tests.tiny_models import write_tiny_model

PACKAGES = {"reference": "numpy", "cuda": "transformers", "mlx": "mlx"}
WRITTEN = (Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)
SCALES = {  # where the 16-bit scales stand in a block of a type that the package reads but does not write
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,),
    Type.IQ4_NL: (0,), Type.IQ4_XS: (0,),
}  # fmt: skip
SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "head_dim": 64}
TOKENS = random_tokens(48)
TOLERANCE = 1e-6  # the weights are the same
QUANTISED_TOLERANCE = 2e-5  # MLX multiplies by packed weights in another order


def random_blocks(shape: tuple[int, ...], kind: Type, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Bytes of any value between scales that give a standard deviation of about 0.1."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // block_size, block_bytes), np.uint8)

    def set_scales(size: float) -> None:
        for place in SCALES[kind]:
            scales = rng.choice([-size, size], len(blocks)).astype(np.float16)
            blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)

    set_scales(1.0)
    set_scales(0.1 / float(gguf.quants.dequantize(blocks, kind).std()))
    return blocks.reshape(shape[0], -1)


def pack(values: NDArray[np.float32], kind: Type, rng: np.random.Generator) -> Packed:
    blocks = random_blocks(values.shape, kind, rng) if kind in SCALES else gguf.quants.quantize(values, kind)
    return blocks, kind


def quantised(folder: Path, kinds: tuple[Type, ...]) -> tuple[Path, Path]:
    """A GGUF file whose matrices have these types in turn, and a folder with the values they stand for."""
    family = "qwen2" if Type.Q5_K in kinds else "llama"  # rows of q and k in another order, and not
    write_tiny_model(folder, family, **SIZES)
    config = json.loads((folder / "config.json").read_text())
    rng = np.random.default_rng(0)
    weights = load_file(folder / "model.safetensors")
    packed: dict[str, Packed] = {}
    for name in [name for name, values in weights.items() if values.ndim == 2]:
        order = row_order(name, len(weights[name]), config)
        packed[name] = pack(weights[name][order], kinds[len(packed) % len(kinds)], rng)
        weights[name] = np.empty_like(weights[name])
        weights[name][order] = gguf.quants.dequantize(*packed[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return write_gguf(folder, folder / "model.gguf", packed=packed), folder


def logits(path: Path, backend: str, dtype: str) -> NDArray[np.float32]:
    loaded = find_backend(backend).loader()(find_checkpoint(str(path)), LoadOptions(dtype=dtype, device="cpu"))
    found = logits_in_blocks(loaded, TOKENS)
    loaded.close()
    return found


def assert_same(file: Path, folder: Path, backend: str, dtype: str) -> None:
    """The file gives the logits of the folder with its dequantised weights; both are computed in float32."""
    if importlib.util.find_spec(PACKAGES[backend]) is None:
        pytest.skip(f"{PACKAGES[backend]} is not installed")
    expected = logits(folder, backend, "float32")
    assert np.abs(expected).max() > 1
    tolerance = TOLERANCE if dtype == "float32" else QUANTISED_TOLERANCE
    assert np.abs(logits(file, backend, dtype) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("kind", [*WRITTEN, *SCALES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("backend", PACKAGES)
def test_a_quantised_file_is_its_dequantised_weights(tmp_path: Path, backend: str, kind: Type) -> None:
    assert_same(*quantised(tmp_path, (kind,)), backend, "float32")


@pytest.mark.parametrize("backend", PACKAGES)
def test_types_may_differ_between_tensors(tmp_path: Path, backend: str) -> None:
    """As in files that are called Q4_K_M or Q8_0 with K-quants in some tensors."""
    assert_same(*quantised(tmp_path, (Type.Q4_K, Type.Q6_K, Type.Q8_0, Type.F16, Type.IQ4_XS)), backend, "float32")


@pytest.mark.parametrize("kinds", [(Type.Q4_0,), (Type.Q4_1,), (Type.Q8_0,), (Type.Q4_0, Type.Q8_0)])
def test_mlx_keeps_what_it_knows_quantised(tmp_path: Path, kinds: tuple[Type, ...]) -> None:
    mlx = pytest.importorskip("hogwild.backends.mlx", exc_type=ImportError)
    file, folder = quantised(tmp_path, kinds)
    loaded = mlx.load(find_checkpoint(str(file)), LoadOptions(device="cpu"))
    bits = {module.bits for _, module in loaded.model.named_modules() if "scales" in module}
    assert bits == {4 if kind != Type.Q8_0 else 8 for kind in kinds}
    loaded.close()
    assert_same(file, folder, "mlx", "auto")


def test_mlx_computes_a_quantised_file_in_one_dtype_on_a_gpu_too(tmp_path: Path) -> None:
    """Norms in float32 make all of it float32; scales in another dtype would be turned into it in every pass."""
    mx = pytest.importorskip("mlx.core")
    weights = pytest.importorskip("hogwild.backends.mlx.weights", exc_type=ImportError)
    file, _ = quantised(tmp_path, (Type.Q4_0, Type.Q8_0))
    for dtype, expected in ((None, mx.float32), (mx.float16, mx.float16)):
        with mx.stream(mx.cpu):
            model = weights.load_weights(find_checkpoint(str(file)), dtype, keep_quantised=True)
        found = [x.dtype for _, x in weights.tree_flatten(model.parameters()) if mx.issubdtype(x.dtype, mx.floating)]
        assert set(found) == {expected}


def test_every_row_of_q_and_k_matters(tmp_path: Path) -> None:
    """The comparison sees two rows of one head that are exchanged."""
    file, folder = quantised(tmp_path, (Type.Q8_0,))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name][[0, 1]] = weights[name][[1, 0]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssertionError):
        assert_same(file, folder, "reference", "float32")
