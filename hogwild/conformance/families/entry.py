"""What an entry of the catalogue is, and the parts that many configs share.

A config here is that of the named checkpoint as far as it says how attention, positions, norms and scales work; widths,
depth, vocabulary, experts and windows are small. Windows are shorter than the texts of the tests, depths reach every
kind of layer. What a backend does with it is data too: exact, or refused for a reason. Both are run by the tests and by
`scripts/coverage`, which writes docs/coverage.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW = 8


@dataclass(frozen=True, slots=True)
class Family:
    """One model family.

    Attributes:
        name: `model_type`, with what sets the variant apart after a dash.
        checkpoint: the published model that the config follows.
        special: what a backend must get right, in a few words.
        config: a complete small `config.json`.
        refused: by backend ("cuda", "mlx") a phrase of the reason; a backend that is not named computes it exactly.
        own: by backend why its framework's model is not quite transformers' one, or cannot read what transformers
            writes; weights and the logits to be met are then made by that framework.
    """

    name: str
    checkpoint: str
    special: str
    config: Mapping[str, Any]
    refused: Mapping[str, str]
    own: Mapping[str, str]

    @property
    def model_type(self) -> str:
        """`model_type` of the config."""
        return str(self.config["model_type"])


SIZES: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 20,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    **EXPERTS,
}
DEEPSEEK_YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]}
SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"

NOT_IN_MLX_LM = "mlx-lm cannot build a model"
NO_INTERFACE = "does not use transformers' attention interface"
POSITION_IN_INPUT = "the position changes its input"
LINEAR_LAYERS, CHUNKED_LAYERS = "layers of type 'linear_attention'", "layers of type 'chunked_attention'"
OTHER_NAMES = "mlx-lm reads other tensor names than transformers writes"
RECURRENT_IN_MLX = "recurrent state"


def entry(
    name: str,
    checkpoint: str,
    special: str,
    *,
    both: str | None = None,
    cuda: str | None = None,
    mlx: str | None = None,
    own_mlx: str | None = None,
    **config: Any,
) -> Family:
    """An entry of the catalogue.

    both, cuda, mlx: why the model is refused there. own_mlx: see `Family.own`. config: what differs from `SIZES`.
    """
    reasons = {"cuda": cuda or both, "mlx": mlx or both}
    return Family(
        name=name,
        checkpoint=checkpoint,
        special=special,
        config={"model_type": name.split("-")[0], **SIZES, **config},
        refused={backend: reason for backend, reason in reasons.items() if reason is not None},
        own={"mlx": own_mlx} if own_mlx is not None else {},
    )
