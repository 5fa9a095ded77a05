"""The Gemmas: soft caps, windows, two bases, shared keys."""

from __future__ import annotations

from hogwild.conformance.families.entry import (
    FULL,
    NOT_IN_MLX_LM,
    SIZES,
    SLIDING,
    WINDOW,
    entry,
)

GEMMAS = (
    entry(
        "gemma", "google/gemma-7b", "norms from one, scaled embedding",
        head_dim=24, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=8192, rms_norm_eps=1e-6, num_key_value_heads=4, tie_word_embeddings=True,
    ),
    entry(
        "gemma2", "google/gemma-2-9b-it", "soft caps of scores and logits, a window in every other layer",
        head_dim=16, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=8192, rms_norm_eps=1e-6, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
        query_pre_attn_scalar=256, sliding_window=WINDOW, tie_word_embeddings=True,
    ),
    entry(
        "gemma3_text", "google/gemma-3-1b-it", "two bases, norms of q and k, a window in five of six layers",
        num_hidden_layers=7, head_dim=16, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768,
        rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0, query_pre_attn_scalar=256,
        sliding_window=WINDOW, sliding_window_pattern=6, num_key_value_heads=1, tie_word_embeddings=True,
    ),
    entry(
        "gemma3_text-linear", "google/gemma-3-4b-it (its text part)", "two bases, the global one scaled by 8",
        num_hidden_layers=7, head_dim=16, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=131072,
        rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0, query_pre_attn_scalar=256,
        sliding_window=WINDOW, sliding_window_pattern=6, tie_word_embeddings=True, rope_scaling={"factor": 8.0,
        "rope_type": "linear"},
    ),
    entry(
        "gemma3", "google/gemma-3-4b-it", "as published, with the part that sees; only text is fed",
        text_config={**SIZES, "model_type": "gemma3_text", "num_hidden_layers": 7, "head_dim": 16,
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256,
        "sliding_window": WINDOW, "sliding_window_pattern": 6, "rope_scaling": {"factor": 8.0,
        "rope_type": "linear"}}, vision_config={"model_type": "siglip_vision_model", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14}, mm_tokens_per_image=4, tie_word_embeddings=True,
    ),
    entry(
        "gemma3n_text", "google/gemma-3n-E2B-it (its text part; mlx-lm reads the whole)",
        "later layers read the keys of earlier ones",
        mlx=NOT_IN_MLX_LM, num_hidden_layers=10, num_kv_shared_layers=5, head_dim=16,
        hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0,
        rope_local_base_freq=10000.0, sliding_window=WINDOW, layer_types=[*[SLIDING] * 4, FULL] * 2,
        final_logit_softcapping=30.0, hidden_size_per_layer_input=16, vocab_size_per_layer_input=257, laurel_rank=8,
        altup_num_inputs=4, activation_sparsity_pattern=[0.95] * 2 + [0.0] * 8, tie_word_embeddings=True,
    ),
    entry(
        "gemma4", "google/gemma-4-e2b-it",
        "wider heads in full layers, a quarter of which turns; later layers read the keys of earlier ones",
        text_config={**SIZES, "model_type": "gemma4_text", "num_hidden_layers": 10, "num_kv_shared_layers": 5,
        "head_dim": 16, "global_head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "num_key_value_heads": 1,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "sliding_window": WINDOW,
        "layer_types": [*[SLIDING] * 4, FULL] * 2, "final_logit_softcapping": 30.0, "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 257, "tie_word_embeddings": True,
        "rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": 10000.0}, FULL: {"rope_type":
        "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}}, tie_word_embeddings=True,
    ),
    entry(
        "vaultgemma", "google/vaultgemma-1b", "soft caps, a window in every other layer",
        mlx=NOT_IN_MLX_LM, head_dim=16, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192,
        rms_norm_eps=1e-6, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, query_pre_attn_scalar=256,
        sliding_window=WINDOW, tie_word_embeddings=True,
    ),
)  # fmt: skip
