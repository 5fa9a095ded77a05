"""Quantised weights on torch: transformers gets the checkpoint's own config; what it cannot load is a clear error."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from hogwild.backends.cuda import TorchBackend, load  # noqa: E402
from hogwild.backends.cuda.loading import quiet  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cli.app import app  # noqa: E402
from hogwild.conformance.families import family  # noqa: E402
from hogwild.conformance.small_models import (  # noqa: E402
    checkpoint_of,
    logits_in_blocks,
    random_model,
    random_tokens,
    write_folder,
)
from hogwild.errors import BackendUnavailable, ModelRefused  # noqa: E402
from tests.backends.cuda_models import plain  # noqa: E402
from tests.tiny_models import write_tiny_model  # noqa: E402

CPU = LoadOptions("float32", "cpu")
TOKENS = random_tokens()
LLAMA: dict[str, Any] = {**family("llama").config, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
HAS_GPU = torch.cuda.is_available()


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def folder_with(folder: Path, quantization_config: dict[str, Any]) -> Any:
    """A model of plain weights whose config says that they are quantised."""
    config = {**LLAMA, "quantization_config": quantization_config}
    write_folder(random_model(LLAMA), folder, config)
    return checkpoint_of(folder, config)


def assert_exact(backend: TorchBackend, tolerance: float = 2e-5) -> None:
    expected = plain(backend, TOKENS).logits[0].numpy()
    error = np.abs(logits_in_blocks(backend, TOKENS) - expected).max() / np.abs(expected).max()
    assert error <= tolerance


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": True, "sym": False}
NEEDED = {
    "gptqmodel": AWQ,
    "optimum": GPTQ,
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
}


@pytest.mark.parametrize("package", NEEDED)
def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, package: str) -> None:
    if installed(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    with pytest.raises(BackendUnavailable) as raised:
        load(folder_with(tmp_path, NEEDED[package]), CPU)
    assert f"quantised by {NEEDED[package]['quant_method']}," in raised.value.problem
    assert f"run `pip install -U '{package}" in str(raised.value.remedy)
    assert "or use a checkpoint of this model in bfloat16 or float16" in str(raised.value.remedy)


@pytest.mark.parametrize("config", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_the_config_reaches_transformers_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: dict[str, Any]
) -> None:
    """Where the packages are missing, this is as far as loading gets: the quantiser, just before it asks for them.

    What it prints (gptqmodel: a banner) must not reach stdout, where results go.
    """
    quantiser, seen = AUTO_QUANTIZER_MAPPING[config["quant_method"]], []

    def record(self: Any, **options: Any) -> None:
        seen.append((self.quantization_config.to_dict(), options["device_map"]))
        print("a banner")
        raise ImportError("stop here")

    monkeypatch.setattr(quantiser, "__init__", lambda self, found, **_: setattr(self, "quantization_config", found))
    monkeypatch.setattr(quantiser, "validate_environment", record)
    with pytest.raises(BackendUnavailable, match="stop here"):
        load(folder_with(tmp_path, config), CPU)
    assert capsys.readouterr().out == ""
    [(found, device_map)] = seen
    assert {name: found[name] for name in config} == config
    assert device_map == {"": "cpu"}


@pytest.mark.skipif(installed("gptqmodel"), reason="gptqmodel is installed")
def test_the_command_names_the_remedy_and_ends_with_2(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "llama", quantization_config=AWQ)
    result = CliRunner().invoke(app, ["info", "--model", str(folder), "--backend", "cuda", "--device", "cpu"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "run `pip install -U 'gptqmodel'`" in " ".join(result.stderr.split())


@pytest.mark.parametrize("config", [{"quant_method": "of_the_future"}, {"bits": 4}])
def test_a_method_that_transformers_does_not_know_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match="does not read weights that are quantised by"):
        load(folder_with(tmp_path, config), CPU)


@pytest.mark.skipif(HAS_GPU or not installed("accelerate"), reason="needs accelerate, and no GPU")
def test_fp8_is_dequantised_where_there_is_no_gpu(tmp_path: Path) -> None:
    checkpoint = folder_with(tmp_path, FP8)
    expected, tensors = {}, load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        blocks = [-(-size // 128) for size in tensors[name].shape]
        tensors[f"{name}_scale_inv"] = scale.expand(blocks).contiguous()
        expected[name] = tensors[name].float() * scale
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    backend = load(checkpoint, CPU)
    parameters = dict(backend.model.named_parameters())
    for name, values in expected.items():
        assert parameters[name].dtype == torch.float32
        torch.testing.assert_close(parameters[name], values, rtol=1e-2, atol=1e-6)  # bfloat16 on its way
    assert_exact(backend)


@pytest.mark.skipif(HAS_GPU or not installed("accelerate"), reason="needs accelerate, and no GPU")
def test_mxfp4_experts_of_gpt_oss(tmp_path: Path) -> None:
    """As published: blocks of 32 numbers of 4 bits with one exponent. Without its kernels they are dequantised."""
    config = {
        **family("gpt_oss").config,
        "intermediate_size": 64,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    }
    write_folder(random_model({**config, "quantization_config": None}), tmp_path, config)
    tensors = load_file(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        shape = (experts, rows, columns // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        tensors[f"{name}_scales"] = torch.full(shape, 122, dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    backend = load(checkpoint_of(tmp_path, config), CPU)
    assert {parameter.dtype for parameter in backend.model.parameters()} == {torch.float32}
    weights = backend.model.model.layers[0].mlp.experts.down_proj
    assert set((weights * 32).unique().tolist()) <= {s * v for s in (1, -1) for v in (0, 0.5, 1, 1.5, 2, 3, 4, 6)}
    assert_exact(backend)


@pytest.mark.skipif(not installed("bitsandbytes") or not installed("accelerate"), reason="needs bitsandbytes")
@pytest.mark.parametrize(("options", "tolerance"), [({"load_in_4bit": True}, 2e-5), ({"load_in_8bit": True}, 1e-1)])
def test_bitsandbytes(tmp_path: Path, options: dict[str, Any], tolerance: float) -> None:
    """In 8 bits activations are rounded too: the last bit of a float decides a step of 1/127."""
    write_folder(random_model(LLAMA), tmp_path / "plain", {**LLAMA, "architectures": ["LlamaForCausalLM"]})
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "plain", quantization_config=transformers.BitsAndBytesConfig(**options)
        )
        model.save_pretrained(tmp_path / "quantised")
    config = {**LLAMA, "quantization_config": model.config.quantization_config.to_dict()}
    backend = load(checkpoint_of(tmp_path / "quantised", config), CPU)
    assert not backend.model.model.layers[0].mlp.up_proj.weight.is_floating_point(), "the weights stay quantised"
    assert_exact(backend, tolerance)


@pytest.mark.skipif(not installed("compressed_tensors"), reason="needs compressed-tensors")
def test_compressed_tensors(tmp_path: Path) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    checkpoint = folder_with(tmp_path, {**method, "config_groups": groups, "ignore": ["lm_head"]})
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        plain_weight, stem = tensors.pop(name), name.removesuffix("weight")
        scale = plain_weight.abs().amax(1, keepdim=True) / 127
        tensors[f"{stem}weight_packed"] = pack_to_int32((plain_weight / scale).round().to(torch.int8), 8)
        tensors[f"{stem}weight_scale"], tensors[f"{stem}weight_shape"] = scale, torch.tensor(plain_weight.shape)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert_exact(load(checkpoint, CPU))


@pytest.mark.skipif(not installed("gptqmodel") or not installed("optimum"), reason="needs gptqmodel and optimum")
@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_weights_of_4_bits(tmp_path: Path, method: str) -> None:
    """Random codes as these formats pack them: AWQ eight outputs in a number, GPTQ eight inputs."""
    config = {**AWQ, "group_size": 32} if method == "awq" else {**GPTQ, "bits": 4, "desc_act": False, "sym": True}
    checkpoint = folder_with(tmp_path, config)
    tensors = load_file(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(0)

    def codes(*shape: int) -> Any:
        return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32, generator=generator)

    for name in [name for name in tensors if name.endswith("proj.weight")]:
        outputs, inputs = tensors.pop(name).shape
        stem, groups = name.removesuffix("weight"), inputs // 32
        tensors[f"{stem}scales"] = (torch.rand(groups, outputs, generator=generator) * 0.02 + 0.005).half()
        if method == "awq":
            tensors[f"{stem}qweight"], tensors[f"{stem}qzeros"] = (
                codes(inputs, outputs // 8),
                codes(groups, outputs // 8),
            )
        else:
            tensors[f"{stem}qweight"] = codes(inputs // 8, outputs)
            tensors[f"{stem}qzeros"] = torch.full((groups, outputs // 8), 0x77777777, dtype=torch.int32)
            tensors[f"{stem}g_idx"] = torch.arange(inputs, dtype=torch.int32) // 32
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    backend = load(checkpoint, CPU)
    assert not hasattr(backend.model.model.layers[0].mlp.up_proj, "weight"), "the weights stay quantised"
    assert_exact(backend)
