"""Families with partial or interleaved rotations, windows, layers without rotary embedding, norms in odd places."""

from __future__ import annotations

from hogwild.conformance.families.entry import (
    FULL,
    LLAMA3,
    NOT_IN_MLX_LM,
    OTHER_NAMES,
    SLIDING,
    WINDOW,
    entry,
)

SPECIAL = (
    entry(
        "phi", "microsoft/phi-2", "0.4 of each head turns; attention beside the feed-forward part",
        partial_rotary_factor=0.4, hidden_act="gelu_new", head_dim=20, hidden_size=80, layer_norm_eps=1e-5,
        max_position_embeddings=2048, num_key_value_heads=4, qk_layernorm=False,
    ),
    entry(
        "phi3", "microsoft/Phi-3-mini-4k-instruct", "one matrix for q, k, v; sliding window",
        num_key_value_heads=4, sliding_window=WINDOW, original_max_position_embeddings=4096,
        rope_scaling=None,
    ),
    entry(
        "phi3-phi4", "microsoft/phi-4", "no window, base 250,000",
        max_position_embeddings=16384, original_max_position_embeddings=16384, rope_theta=250000.0,
        sliding_window=None, rope_scaling=None,
    ),
    entry(
        "glm", "zai-org/glm-4-9b-chat-hf", "half of each head turns, interleaved",
        head_dim=16, partial_rotary_factor=0.5,
        attention_bias=True, max_position_embeddings=131072, rms_norm_eps=1.5625e-7,
    ),
    entry(
        "glm4", "zai-org/GLM-4-9B-0414", "half of each head turns, interleaved; norms after each part",
        head_dim=16, partial_rotary_factor=0.5, attention_bias=True, max_position_embeddings=32768,
    ),
    entry(
        "gpt_neox", "EleutherAI/pythia-160m", "a quarter of each head turns; one matrix for q, k, v",
        rotary_pct=0.25, rotary_emb_base=10000, use_parallel_residual=True, hidden_act="gelu",
        intermediate_size=256, layer_norm_eps=1e-5, max_position_embeddings=2048, num_key_value_heads=4,
        attention_bias=True,
    ),
    entry(
        "stablelm", "stabilityai/stablelm-2-12b", "a quarter of each head turns, norms of each head of q and k",
        partial_rotary_factor=0.25, use_qkv_bias=False, qk_layernorm=True,
        use_parallel_residual=True, layer_norm_eps=1e-5,
    ),
    entry(
        "nemotron", "nvidia/Minitron-4B-Base", "half of each head turns; squared ReLU, norms from one",
        partial_rotary_factor=0.5, hidden_act="relu2", head_dim=16, norm_eps=1e-5,
    ),
    entry(
        "starcoder2", "bigcode/starcoder2-7b", "biases, layer norms, sliding window",
        use_bias=True, hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, norm_type="layer_norm",
        rope_theta=1000000.0, max_position_embeddings=16384, sliding_window=WINDOW, tie_word_embeddings=True,
    ),
    entry(
        "cohere", "CohereLabs/c4ai-command-r-plus", "interleaved; norms of each head of q and k; scaled logits",
        rope_theta=75000000.0, logit_scale=0.8333333333333334, use_qk_norm=True, layer_norm_eps=1e-5,
        max_position_embeddings=131072, tie_word_embeddings=True,
    ),
    entry(
        "cohere2", "CohereLabs/c4ai-command-r7b-12-2024", "full layers without rotary embedding, others windowed",
        num_hidden_layers=5, rope_theta=50000.0, logit_scale=0.25, layer_norm_eps=1e-5, head_dim=16,
        max_position_embeddings=132096, sliding_window=WINDOW, sliding_window_pattern=4, layer_types=[SLIDING,
        SLIDING, SLIDING, FULL, SLIDING], tie_word_embeddings=True,
    ),
    entry(
        "olmo", "allenai/OLMo-7B-0424-hf", "norms without weights; q, k, v clipped",
        mlx=NOT_IN_MLX_LM, clip_qkv=8.0, max_position_embeddings=2048, num_key_value_heads=4, layer_norm_eps=1e-5,
    ),
    entry(
        "olmo2", "allenai/OLMo-2-1124-7B", "norms over all heads of q and k; norms after each part",
        rope_theta=500000.0, num_key_value_heads=4, rms_norm_eps=1e-6,
    ),
    entry(
        "olmo3", "allenai/Olmo-3-7B-Think", "windows with the plain rule, full layers with YaRN",
        num_hidden_layers=5, rope_theta=500000.0, max_position_embeddings=65536, sliding_window=WINDOW,
        num_key_value_heads=4, rms_norm_eps=1e-6, layer_types=[SLIDING, SLIDING, SLIDING, FULL, SLIDING],
        rope_scaling={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
        "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0},
    ),
    entry(
        "exaone4", "LGAI-EXAONE/EXAONE-4.0-32B",
        "full layers without rotary embedding, llama3 scaling, norms of q and k",
        num_hidden_layers=5, rope_theta=1000000, max_position_embeddings=131072, head_dim=16, sliding_window=WINDOW,
        sliding_window_pattern="LLLG", layer_types=[SLIDING, SLIDING, SLIDING, FULL, SLIDING], rope_scaling={**LLAMA3,
        "factor": 16.0, "original_max_position_embeddings": 8192},
    ),
    entry(
        "nanochat", "karpathy/nanochat-d32", "norms without weights after rotation",
        own_mlx=OTHER_NAMES, num_key_value_heads=4, max_position_embeddings=2048, hidden_act="relu2",
        final_logit_softcapping=15.0, rms_norm_eps=1e-6,
    ),
    entry(
        "cwm", "facebook/cwm", "a window in three of four layers, llama3 scaling in all",
        mlx=NOT_IN_MLX_LM, num_hidden_layers=5, head_dim=16, rope_theta=1000000.0, max_position_embeddings=131072,
        sliding_window=WINDOW, mlp_bias=False, layer_types=[FULL, SLIDING, SLIDING, SLIDING, FULL],
        rope_scaling={**LLAMA3, "factor": 16.0, "original_max_position_embeddings": 8192},
    ),
    entry(
        "persimmon", "adept/persimmon-8b-base", "half of each head turns; one matrix for q, k, v; norms of heads",
        mlx=NOT_IN_MLX_LM, hidden_act="relu2", partial_rotary_factor=0.5, qk_layernorm=True, rope_theta=25000.0,
        layer_norm_eps=1e-5, num_key_value_heads=4, max_position_embeddings=16384,
    ),
)  # fmt: skip
