"""From a checkpoint to a model of mlx-lm with its weights.

Folders go through mlx-lm's own loader, which reads plain and quantised safetensors and never runs a folder's code. A
GGUF file's Q4_0, Q4_1 and Q8_0 tensors stay quantised (MLX reads them as 4 and 8 bits in groups of 32); others are
dequantised by the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, dequantize_model, load_model

from hogwild.errors import CheckpointError, ModelRefused
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.gguf_names import transformers_name
from hogwild.models.shapes import RandomWeights

_GGUF_GROUP = 32
_LINEAR = (nn.Linear, nn.QuantizedLinear)
_EMBEDDING = (nn.Embedding, nn.QuantizedEmbedding)
_OLDER = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}


def load_weights(checkpoint: Checkpoint, dtype: Any, *, keep_quantised: bool) -> Any:
    """The model, evaluated, on the current default device.

    dtype: of floating-point weights and activations; None leaves them as stored. But a quantised GGUF file has norms in
    float32, so everything is computed in it: its scales, in float16, would be turned into float32 in every pass.
    """
    if isinstance(checkpoint.weights, RandomWeights):
        model = _random(checkpoint.config, checkpoint.weights)
    else:
        model = _from_gguf(checkpoint, keep_quantised) if checkpoint.format == "gguf" else _from_folder(checkpoint)
    if any("scales" in module for _, module in model.named_modules()):
        model = model if keep_quantised else _dequantised(model)
        dtype = mx.float32 if dtype is None and checkpoint.format == "gguf" else dtype
    if dtype is not None:
        model.set_dtype(dtype)
    model.eval()
    mx.eval(model.parameters())
    return model


def _from_folder(checkpoint: Checkpoint) -> Any:
    config = legacy_rope(checkpoint.config)
    try:
        model, _ = load_model(checkpoint.path, lazy=True, model_config=config, trust_remote_code=False)
    except (FileNotFoundError, RuntimeError, OSError) as error:
        raise CheckpointError(f"mlx-lm cannot read {checkpoint.path}", got=str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, SystemExit) as error:
        raise _not_built(checkpoint.config, error) from error  # some files of mlx-lm exit where a package is missing
    return model


def weight_bytes(model: Any) -> int:
    """Bytes of all arrays of a model, scales of quantised ones included; an array that serves twice counts once."""
    return sum({id(array): int(array.nbytes) for _, array in tree_flatten(model.parameters())}.values())


def lookup_bytes(model: Any, vocab_size: int) -> int:
    """Bytes of the embedding if another matrix is the head: a pass then reads single rows of it."""
    modules = [module for _, module in model.named_modules()]
    has_head = any(isinstance(m, _LINEAR) and m.weight.shape[0] == vocab_size for m in modules)
    return sum(weight_bytes(m) for m in modules if isinstance(m, _EMBEDDING)) if has_head else 0


def _random(config: Mapping[str, Any], weights: RandomWeights) -> Any:
    """A model with random weights. Arrays are lazy: each is drawn when it is wanted, in its final dtype."""
    model = _built({**config, **legacy_rope(config)})
    keys = mx.random.split(mx.random.key(weights.seed), len(weights.names()))
    drawn = {
        name: _drawn(weights.constant(name), weights.shape(name), weights.std, key)
        for name, key in zip(weights.names(), keys, strict=True)
    }
    model.load_weights(list(drawn.items()), strict=True)
    return model


def _drawn(constant: float | None, shape: tuple[int, ...], std: float, key: mx.array) -> mx.array:
    return mx.random.normal(shape, scale=std, key=key) if constant is None else mx.full(shape, constant)


def _built(config: Mapping[str, Any]) -> Any:
    try:
        model_class, args_class = _get_classes(config)
        return model_class(args_class.from_dict(config))
    except (ValueError, TypeError, KeyError, SystemExit) as error:
        raise _not_built(config, error) from error


def _from_gguf(checkpoint: Checkpoint, keep_quantised: bool) -> Any:
    model = _built({**checkpoint.config, **legacy_rope(checkpoint.config)})
    weights = _quantised_tensors(checkpoint) if keep_quantised else {}
    bits = {
        name.removesuffix(".scales"): _bits(weights, name.removesuffix(".scales"))
        for name in weights
        if name.endswith(".scales")
    }
    for name in checkpoint.weights.names():
        if name not in weights:
            weights[name] = mx.array(checkpoint.weights.read(name))
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    if bits:
        nn.quantize(
            model,
            class_predicate=lambda path, _: {"group_size": _GGUF_GROUP, "bits": bits[path]} if path in bits else False,
        )
    try:
        model.load_weights(list(weights.items()), strict=True)
    except ValueError as error:
        raise CheckpointError(f"the tensors of {checkpoint.path} do not fit the model", got=str(error)) from error
    return model


def _quantised_tensors(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """`weight`, `scales` and `biases` of every tensor that MLX reads as quantised, under transformers' names."""
    try:
        loaded: Any = mx.load(str(checkpoint.path), format="gguf", return_metadata=True)
    except (RuntimeError, ValueError):  # a quantisation that MLX does not know: everything is dequantised
        return {}
    tensors, metadata = loaded
    interleaved = metadata.get("general.architecture") == "llama"
    heads = {"q_proj": checkpoint.config["num_attention_heads"], "k_proj": checkpoint.config["num_key_value_heads"]}
    found = {}
    for stem in (name.removesuffix(".scales") for name in tensors if name.endswith(".scales")):
        name = transformers_name(f"{stem}.weight")
        if name is None:
            continue
        path = name.removesuffix(".weight")
        num_heads = heads.get(path.rsplit(".", 1)[-1]) if interleaved else None
        for part in ("weight", "scales", "biases"):
            values = tensors[f"{stem}.{part}"]
            found[f"{path}.{part}"] = values if num_heads is None else _half_split_rows(values, num_heads)
    return found


def _half_split_rows(values: mx.array, num_heads: int) -> mx.array:
    """Rows of each head from rotary pairs (0, 1), (2, 3), ... to halves; packed weights, scales and biases alike."""
    pairs = values.reshape(num_heads, values.shape[0] // num_heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _bits(weights: Mapping[str, mx.array], path: str) -> int:
    num_columns = weights[f"{path}.scales"].shape[-1] * _GGUF_GROUP
    return int(weights[f"{path}.weight"].shape[-1] * 32 // num_columns)


def _dequantised(model: Any) -> Any:
    """The model with plain float32 weights, computed from scales in float32."""
    model.set_dtype(mx.float32)
    model = dequantize_model(model)
    left = [name for name, module in model.named_modules() if "scales" in module]
    if left:
        raise ModelRefused(
            "some quantised weights cannot be dequantised", got=left[0], remedy="load the model with dtype auto"
        )
    return model


def legacy_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """What mlx-lm's files expect instead of `rope_parameters`, in which newer configs keep base, share and scaling."""
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or any(isinstance(value, Mapping) for value in parameters.values()):
        return {}
    legacy: dict[str, Any] = {}
    for name, older_names in _OLDER.items():
        if parameters.get(name) is not None:
            legacy |= {older: parameters[name] for older in older_names if config.get(older) is None}
    if not config.get("rope_scaling"):
        legacy["rope_scaling"] = None if parameters.get("rope_type", "default") == "default" else dict(parameters)
    return legacy


def _not_built(config: Mapping[str, Any], error: BaseException) -> ModelRefused:
    lacking = "required positional argument" in str(error)
    return ModelRefused(
        f"mlx-lm cannot build a model of type {config.get('model_type')!r}",
        expected="what its file asks of config.json" if lacking else "an architecture that the installed mlx-lm has",
        got=f"{type(error).__name__}: {error}",
        remedy=f"{'add what is missing to config.json' if lacking else 'use another model'}, or use the cuda backend",
    )
