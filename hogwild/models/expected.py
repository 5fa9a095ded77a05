"""Which tensors a checkpoint of the Llama family must hold, and in which shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hogwild.errors import CheckpointError, ModelRefused

Shape = tuple[int, ...]


def expected_tensors(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name and shape of every tensor of a llama, qwen2 or qwen3 model with this config."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    layer = _layer_tensors(config)
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_tensors(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    family, bias = config["model_type"], config.get("attention_bias", False)
    if bias or family == "qwen2":
        shapes |= {f"self_attn.{part}_proj.bias": (size,) for part, size in (("q", queries), ("k", keys), ("v", keys))}
    if bias:
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if family == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return shapes


def check_tensors(config: Mapping[str, Any], found: Mapping[str, Shape], source: str) -> None:
    """Raise `CheckpointError` for a missing or misshapen tensor, `ModelRefused` for one too many."""
    if config["num_hidden_layers"] > len(found):  # before a list of a forged length is built
        raise CheckpointError(
            f"{source} lacks layers", expected=str(config["num_hidden_layers"]), got=f"{len(found)} tensors"
        )
    expected = expected_tensors(config)
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{source} has no tensor {name!r}", remedy="fetch the file again")
        if tuple(found[name]) != shape:
            raise CheckpointError(
                f"tensor {name!r} of {source} has a wrong shape", expected=str(shape), got=str(found[name])
            )
    extra = [name for name in found if name not in expected]
    if extra:
        raise ModelRefused(f"{source} has a tensor that {config['model_type']} models do not use", got=repr(extra[0]))
