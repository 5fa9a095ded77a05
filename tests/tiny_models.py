"""Tiny models with random weights: real folders that transformers, mlx-lm and hogwild load alike.

Needs numpy, safetensors and tokenizers. Weights are float32 and the same for the same family, seed and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
CONTROL_TOKENS = ("<|bos|>", "<|eos|>", "<|start|>", "<|end|>", "<|pad|>")
MERGES = (
    ("Ċ", "Ċ"), ("Ġ", "t"), ("h", "e"), ("Ġ", "a"), ("i", "n"), ("Ġt", "he"), ("e", "r"), ("Ġ", "s"), ("r", "e"),
    ("o", "n"), ("Ġ", "w"), ("a", "t"), ("n", "d"), ("Ġa", "nd"), ("o", "r"), ("Ġ", "c"), ("Ġ", "o"), ("e", "n"),
    ("i", "s"), ("i", "t"), ("o", "u"), ("in", "g"), ("a", "l"), ("Ġ", "i"), (".", "ĊĊ"),
)  # fmt: skip
MATRIX_STD, VOCABULARY_STD = 0.12, 0.4  # lively logits: a standard deviation of about 3
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
ROPE_SCALING: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
}
"""Values for `rope_scaling=`, one of each kind that is computed."""

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_cache": True,
    "torch_dtype": "float32",
}
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False, "head_dim": 16},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None, "head_dim": 16},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 24,
        "use_sliding_window": False,
        "num_key_value_heads": 1,
    },
}


def write_tiny_model(folder: Path, family: str = "llama", seed: int = 0, **config_overrides: Any) -> Path:
    """Write a model folder and return it.

    family: one of `FAMILIES`. config_overrides: entries of `config.json`, e.g. `num_hidden_layers=1`,
    `sliding_window=8` (mistral), `rope_scaling=ROPE_SCALING["yarn"]`, `tie_word_embeddings=True`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    ids = {token: tokenizer.token_to_id(token) for token in CONTROL_TOKENS}
    end = {"bos_token_id": ids["<|bos|>"], "eos_token_id": ids["<|eos|>"], "pad_token_id": ids["<|pad|>"]}
    vocab = {"vocab_size": tokenizer.get_vocab_size()}
    config = {"model_type": family, **_BASE, **_OF_FAMILY[family], **vocab, **end, **config_overrides}
    generation = {**end, "eos_token_id": [ids["<|eos|>"], ids["<|end|>"]], "do_sample": True, "temperature": 0.8}
    rng = np.random.default_rng(seed)
    save_file(dict(_weights(config, rng)), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {**generation, "top_p": 0.9})
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(config))
    return folder


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of a model with this config, as transformers has them."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    family = config["model_type"]
    outputs = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows in outputs.items():
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, hidden)
            if family == "qwen2" or config.get("attention_bias"):
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, heads * head_dim)
        if config.get("attention_bias"):
            shapes[f"{layer}self_attn.o_proj.bias"] = (hidden,)
        if family == "qwen3":
            shapes |= {f"{layer}self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            shapes[f"{layer}mlp.{name}_proj.weight"] = shape
            if config.get("mlp_bias"):
                shapes[f"{layer}mlp.{name}_proj.bias"] = shape[:1]
        shapes |= {f"{layer}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _weights(config: dict[str, Any], rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, shape in tensor_shapes(config).items():
        centre = 1.0 if "norm.weight" in name else 0.0
        std = VOCABULARY_STD if name in ("model.embed_tokens.weight", "lm_head.weight") else MATRIX_STD
        yield name, (centre + std * rng.standard_normal(shape)).astype(np.float32)


def _tokenizer() -> Tokenizer:
    """Bytes, a few merges and the control tokens; a blank line is one token, also with the full stop before it."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[.!?]?\n\n| ?[^\s.!?]+|[.!?]|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    return tokenizer


def _tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|start|>", "<|end|>"],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
