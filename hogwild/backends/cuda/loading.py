"""From a checkpoint to a transformers model on its device: local files only, no remote code, nothing left at random."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import logging

from hogwild.backends.options import LoadOptions
from hogwild.backends.ranks import Ranks
from hogwild.errors import BackendUnavailable, CheckpointError, HogwildError, ModelRefused
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.shapes import RandomWeights


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto": the first NVIDIA GPU, else the CPU. `BackendUnavailable` if it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackendUnavailable(
            f"torch cannot use the device {name!r}",
            expected="auto, cpu, cuda or cuda:N with a working driver",
            got=" ".join(str(error).split())[:160],
        ) from error
    return device


def choose_dtype(name: str, device: torch.device, config: Mapping[str, Any]) -> torch.dtype:
    """The dtype of that name; "auto": float32 on a CPU, else the checkpoint's (bfloat16 if it does not say)."""
    if name == "auto":
        stored = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
        name = "float32" if device.type == "cpu" else str(stored).removeprefix("torch.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_model(checkpoint: Checkpoint, options: LoadOptions, ranks: Ranks | None = None) -> nn.Module:
    """The model, in evaluation mode. Quantised weights are transformers' business: its config is handed on as it is.

    ranks: the processes that hold the model together; each gets its part of the heads and of the weights.

    `ModelRefused` for an architecture that transformers does not know or computes with foreign code,
    `CheckpointError` for tensors that are missing, left over or broken, `BackendUnavailable` where a package or a
    device is missing that quantised weights need.
    """
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device, checkpoint.config)
    if ranks is not None:
        _check_parts(checkpoint, ranks.count)
    if isinstance(checkpoint.weights, RandomWeights):
        return _random(_config(checkpoint), checkpoint.weights.seed, dtype, device)
    try:
        with quiet(), contextlib.redirect_stdout(sys.stderr):  # stdout is for results; gptqmodel prints a banner
            model, info = _read(checkpoint, dtype, device, ranks)
    except HogwildError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) or quantisation(checkpoint.config) is not None:
            raise _not_here(checkpoint, error) from error
        raise CheckpointError(f"transformers cannot load {checkpoint.name}", got=_one_line(error)) from error
    for problem, names in (("lacks", info["missing_keys"]), ("does not use", info["unexpected_keys"])):
        if names:
            raise CheckpointError(
                f"the weights of {checkpoint.name} do not fit its config: the model {problem} some tensors",
                got=", ".join(sorted(map(str, names))[:3]),
            )
    ready: nn.Module = model.eval().requires_grad_(False)
    return ready


def _read(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, ranks: Ranks | None
) -> tuple[Any, Mapping[str, Any]]:
    """The model on its device, and transformers' report of missing and unexpected tensors."""
    if ranks is not None:
        return _from_pretrained(checkpoint, dtype, **_in_parts(device))
    if checkpoint.format == "safetensors":
        return _folder(checkpoint, dtype, device)
    return _named(checkpoint, dtype, device)


def quantisation(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint's weights are quantised, in transformers' words (awq, gptq, bitsandbytes, fp8); None: not."""
    found = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    return str(found.get("quant_method", "an unnamed method")) if isinstance(found, Mapping) else None


def _random(config: Any, seed: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model as transformers initialises it, made on its device in its dtype."""
    devices = [device] if device.type == "cuda" else []
    with quiet(), device, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def _folder(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Mapping[str, Any]]:
    config = _config(checkpoint)
    if quantisation(checkpoint.config) is None:
        model, info = _from_pretrained(checkpoint, dtype)
        return model.to(device), info
    _check_quantisation(config, checkpoint)
    model, info = _from_pretrained(checkpoint, dtype, device_map={"": str(device)})  # quantised ones cannot be moved
    if getattr(model, "hf_quantizer", None) is None:  # there is no kernel here: plain weights now, not all in one dtype
        model = model.to(dtype)
    return model, info


def _from_pretrained(checkpoint: Checkpoint, dtype: torch.dtype, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
        str(checkpoint.path),
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )


def _in_parts(device: torch.device) -> dict[str, Any]:
    """What makes transformers cut the weights, in its version."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):  # before transformers 5.18
        return {"tp_plan": "auto"}


def _check_parts(checkpoint: Checkpoint, count: int) -> None:
    """`ModelRefused` if this model cannot be cut into `count` parts."""
    if checkpoint.format != "safetensors" or quantisation(checkpoint.config) is not None:
        raise ModelRefused(
            f"{checkpoint.name} cannot be cut into parts for {count} processes",
            expected="a folder with safetensors that are not quantised",
            remedy="convert it, or run it in one process",
        )
    config = _config(checkpoint).get_text_config()
    heads = {"query heads": config.num_attention_heads, "kv heads": getattr(config, "num_key_value_heads", None)}
    given = {what: number for what, number in heads.items() if number}
    if any(number % count for number in given.values()):
        possible = [n for n in range(1, min(given.values()) + 1) if not any(h % n for h in given.values())]
        raise ModelRefused(
            f"the heads of {checkpoint.name} cannot be dealt out evenly to {count} processes",
            expected=f"{' or '.join(map(str, possible))} processes",
            got=f"{' and '.join(f'{number} {what}' for what, number in given.items())}",
            remedy="start torchrun with another --nproc-per-node",
        )


def _check_quantisation(config: Any, checkpoint: Checkpoint) -> None:
    """Otherwise transformers would warn, and look for weights that are not quantised."""
    try:
        known = AutoHfQuantizer.supports_quant_method(config.quantization_config)
    except ValueError:
        known = False
    if not known:
        raise ModelRefused(
            f"transformers {transformers.__version__} does not read weights that are quantised by "
            f"{quantisation(checkpoint.config)!r}",
            remedy="use a newer transformers if the method is newer, or a checkpoint in bfloat16",
        )


def _named(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Mapping[str, Any]]:
    """A model whose tensors come one by one from the checkpoint; each is held in its final dtype only."""
    config = _config(checkpoint)
    state = {name: _tensor(checkpoint, name, dtype) for name in checkpoint.weights.names()}
    model, info = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    return model.to(device), info


def _tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(checkpoint.weights.read(name))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _config(checkpoint: Checkpoint) -> Any:
    values = dict(checkpoint.config)
    family = values.pop("model_type", None)
    if "quantization" in values:
        raise ModelRefused(
            "the weights are quantised for MLX", remedy="use the mlx backend, or a checkpoint in bfloat16 or float16"
        )
    try:
        config = AutoConfig.for_model(family, **values)
    except ValueError as error:
        raise ModelRefused(
            f"transformers {transformers.__version__} does not know models of type {family!r}",
            remedy="use a newer transformers if the model is newer",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelRefused(f"models of type {family!r} do not predict the next token")
    return config


def _not_here(checkpoint: Checkpoint, error: Exception) -> BackendUnavailable:
    """For weights that transformers cannot read on this machine; its own words say which package is missing."""
    method, install = quantisation(checkpoint.config), re.search(r"pip install (-U )?'?([^`' ]+)", str(error))
    remedies = [f"run `pip install -U '{install[2]}'`"] if install else []
    if method is not None:
        remedies.append("use a checkpoint of this model in bfloat16 or float16")
    quantised = "" if method is None else f", quantised by {method},"
    return BackendUnavailable(
        f"loading {checkpoint.name}{quantised} needs what is not on this machine",
        got=_one_line(error),
        remedy=", or ".join(remedies) or "install the package that is named",
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and torch's warnings and progress bars from the user; everything is put back afterwards."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
