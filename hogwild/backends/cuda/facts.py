"""What a transformers model is: its size, its context, its layers; and making its attention ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from hogwild.backends.base import LayerSpec, ModelSpec
from hogwild.backends.cuda.attention import ATTENTION_NAME
from hogwild.backends.cuda.certify import refused
from hogwild.core.rotary import MAX_OFFSET


def use_blocks(model: Any, family: str) -> None:
    """Make the model's attention ours, or `ModelRefused` if it is of a kind that cannot be changed."""
    model.set_attn_implementation(ATTENTION_NAME)
    if model.config.get_text_config()._attn_implementation != ATTENTION_NAME:
        raise refused(0, f"{family}: it does not use transformers' attention interface")


def context_size_of(config: Any) -> int:
    """Tokens of the context, or `ModelRefused` if the config does not say."""
    size = getattr(config, "max_position_embeddings", None)
    if not isinstance(size, int) or size < 1:
        raise refused(None, f"{config.model_type}: its config does not say how long its context is")
    return min(size, MAX_OFFSET)


def decoder_layers(model: nn.Module, attention: Sequence[nn.Module]) -> list[nn.Module]:
    """The module of the model's list of layers that each attention module lies in."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    found = []
    for index, module in enumerate(attention):
        match = re.match(r"(.*?\.\d+)\.", names[module] + ".")
        if match is None:
            raise refused(index, "its attention does not lie in a numbered list of layers", got=names[module])
        found.append(modules[match[1]])
    return found


def model_spec(model: Any, config: Any, layers: tuple[LayerSpec, ...], context_size: int, kv_bytes: int) -> ModelSpec:
    """What the engine and the commands know of a model."""
    return ModelSpec(
        family=config.model_type,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        context_size=context_size,
        num_parameters=model.num_parameters(),
        kv_bytes_per_token=kv_bytes,
        layers=layers,
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()),
        lookup_bytes=_lookup_bytes(model),
    )


def _lookup_bytes(model: Any) -> int:
    """Bytes of the embedding, unless the output layer multiplies with the very same array."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return 0 if head is not None and head.weight is embedding.weight else int(embedding.weight.nbytes)
