"""Families with one kind of layer: Llama and its kin."""

from __future__ import annotations

from hogwild.conformance.families.entry import (
    LLAMA3,
    NOT_IN_MLX_LM,
    WINDOW,
    entry,
)

PLAIN = (
    entry("llama", "meta-llama/Llama-2-7b-hf", "half-split rotary embedding"),
    entry(
        "llama-linear", "lmsys/vicuna-7b-v1.5-16k", "linear scaling, factor 4",
        rope_scaling={"type": "linear", "factor": 4.0},
    ),
    entry(
        "llama-llama3", "meta-llama/Llama-3.2-1B", "llama3 scaling, factor 32, tied head",
        rope_theta=500000.0, max_position_embeddings=131072, head_dim=16, tie_word_embeddings=True,
        rope_scaling={**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
    ),
    entry(
        "llama-yarn", "NousResearch/Yarn-Llama-2-7b-64k", "YaRN, factor 16, attention factor",
        max_position_embeddings=65536, rope_scaling={"type": "yarn", "factor": 16.0,
        "original_max_position_embeddings": 4096},
    ),
    entry(
        "mistral", "mistralai/Mistral-7B-v0.3", "no window",
        max_position_embeddings=32768, rope_theta=1e6, sliding_window=None,
    ),
    entry(
        "mistral-window", "mistralai/Mistral-7B-v0.1", "sliding window in every layer",
        max_position_embeddings=32768, sliding_window=WINDOW,
    ),
    entry(
        "qwen2", "Qwen/Qwen2.5-7B-Instruct", "biases of q, k, v",
        max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6, use_sliding_window=False,
        sliding_window=131072, max_window_layers=28,
    ),
    entry(
        "qwen2-window", "an option of transformers", "sliding window in the later layers",
        rope_theta=1e6, rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
    ),
    entry(
        "qwen2-yarn", "Qwen/QwQ-32B", "YaRN, factor 4, as its model card switches it on",
        max_position_embeddings=131072, rope_theta=1e6, use_sliding_window=False, sliding_window=32768,
        max_window_layers=64, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    entry(
        "qwen3", "Qwen/Qwen3-8B", "norms of q and k, head size of its own",
        max_position_embeddings=40960, rope_theta=1e6, rms_norm_eps=1e-6, head_dim=24, use_sliding_window=False,
        sliding_window=None, max_window_layers=36,
    ),
    entry(
        "seed_oss", "ByteDance-Seed/Seed-OSS-36B-Instruct", "biases of q, k, v; head size of its own",
        max_position_embeddings=524288, rope_theta=1e7, head_dim=24, attention_bias=True, attention_out_bias=False,
        mlp_bias=False, rope_scaling={"rope_type": "default"}, rms_norm_eps=1e-6,
    ),
    entry(
        "ernie4_5", "baidu/ERNIE-4.5-0.3B-PT", "interleaved rotary embedding",
        head_dim=16, rope_theta=500000.0, max_position_embeddings=131072, use_bias=False, tie_word_embeddings=True,
    ),
    entry(
        "helium", "kyutai/helium-1-preview-2b", "interleaved rotary embedding",
        head_dim=16, rope_theta=100000.0, mlp_bias=False, rms_norm_eps=1e-8,
    ),
    entry(
        "apertus", "swiss-ai/Apertus-8B-Instruct-2509", "norms of q and k, llama3 scaling, xIELU",
        hidden_act="xielu", max_position_embeddings=65536, rope_theta=12000000.0, qk_norm=True, post_norm=False,
        mlp_bias=False, rope_scaling={**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
    ),
    entry(
        "arcee", "arcee-ai/AFM-4.5B", "YaRN, factor 20; squared ReLU",
        mlx=NOT_IN_MLX_LM, hidden_act="relu2", head_dim=16, mlp_bias=False, max_position_embeddings=65536,
        rope_scaling={"rope_type": "yarn", "factor": 20.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
        "beta_fast": 32.0, "beta_slow": 1.0},
    ),
    entry(
        "smollm3", "HuggingFaceTB/SmolLM3-3B", "every fourth layer without rotary embedding",
        num_hidden_layers=5, max_position_embeddings=65536, rope_theta=5000000.0, rms_norm_eps=1e-6,
        tie_word_embeddings=True, no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0, 1], use_sliding_window=False,
        sliding_window=None,
    ),
    entry(
        "granite", "ibm-granite/granite-3.3-8b-instruct", "scaled attention, embedding, residuals and logits",
        max_position_embeddings=131072, rope_theta=1e7, attention_multiplier=0.0078125, embedding_multiplier=12.0,
        residual_multiplier=0.22, logits_scaling=16.0, mlp_bias=False, tie_word_embeddings=True,
    ),
)  # fmt: skip
