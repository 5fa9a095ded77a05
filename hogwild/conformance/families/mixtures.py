"""Mixtures of experts, and latent attention."""

from __future__ import annotations

from hogwild.conformance.families.entry import (
    DEEPSEEK_YARN,
    EXPERTS,
    FULL,
    LATENT,
    OTHER_NAMES,
    SLIDING,
    WINDOW,
    entry,
)

MIXTURES = (
    entry(
        "mixtral", "mistralai/Mixtral-8x7B-Instruct-v0.1", "experts",
        rope_theta=1e6, sliding_window=None, max_position_embeddings=32768, num_local_experts=4,
        num_experts_per_tok=2,
    ),
    entry(
        "mixtral-window", "mistralai/Mixtral-8x7B-v0.1, first revision", "experts, sliding window",
        rope_theta=1e6, sliding_window=WINDOW, max_position_embeddings=32768, num_local_experts=4,
        num_experts_per_tok=2,
    ),
    entry(
        "qwen2_moe", "Qwen/Qwen1.5-MoE-A2.7B", "experts and a shared one",
        num_experts=4, decoder_sparse_step=1, shared_expert_intermediate_size=48, norm_topk_prob=False,
        use_sliding_window=False, max_position_embeddings=8192, rope_theta=1e6, num_key_value_heads=4,
        rms_norm_eps=1e-6, **EXPERTS,
    ),
    entry(
        "qwen3_moe", "Qwen/Qwen3-30B-A3B", "experts, norms of q and k",
        num_experts=4, decoder_sparse_step=1, head_dim=24, norm_topk_prob=True, max_position_embeddings=40960,
        rope_theta=1e6, mlp_only_layers=[], use_sliding_window=False, sliding_window=None, rms_norm_eps=1e-6,
        **EXPERTS,
    ),
    entry(
        "gpt_oss", "openai/gpt-oss-20b", "sinks, a window in every other layer, YaRN without truncation",
        own_mlx=OTHER_NAMES, head_dim=16, attention_bias=True, rope_theta=150000, max_position_embeddings=131072,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, layer_types=[SLIDING, FULL, SLIDING],
        swiglu_limit=7.0, rope_scaling={"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
        "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    ),
    entry(
        "mimo_v2_flash", "XiaomiMiMo/MiMo-V2-Flash",
        "experts; sinks and a base of their own in windowed layers; a third of each head turns; narrower values",
        num_hidden_layers=4, head_dim=24, v_head_dim=16,
        num_key_value_heads=2, attention_value_scale=0.707,
        max_position_embeddings=262144, layernorm_epsilon=1e-5, rope_theta=5000000, swa_rope_theta=10000,
        partial_rotary_factor=0.334, sliding_window=12, sliding_window_size=12,
        layer_types=[FULL, SLIDING, SLIDING, FULL], hybrid_layer_pattern=[0, 1, 1, 0], moe_layer_freq=[0, 1, 1, 1],
        add_swa_attention_sink_bias=True, add_full_attention_sink_bias=False, swa_num_attention_heads=4,
        swa_num_key_value_heads=4, swa_head_dim=24, swa_v_head_dim=16, n_routed_experts=4, n_shared_experts=None,
        n_group=1, topk_group=1, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True,
        routed_scaling_factor=None, **EXPERTS,
    ),
    entry(
        "granitemoe", "ibm-granite/granite-3.1-1b-a400m-instruct", "experts, scaled attention",
        num_local_experts=4, num_experts_per_tok=2, attention_multiplier=0.015625, embedding_multiplier=12.0,
        residual_multiplier=0.22, logits_scaling=6.0, rope_theta=1.5e6, max_position_embeddings=131072,
        tie_word_embeddings=True,
    ),
    entry(
        "olmoe", "allenai/OLMoE-1B-7B-0924", "experts, norms over all heads of q and k",
        num_experts=4, num_experts_per_tok=2, norm_topk_prob=False, clip_qkv=None, num_key_value_heads=4,
    ),
    entry(
        "ernie4_5_moe", "baidu/ERNIE-4.5-21B-A3B-PT", "experts, interleaved rotary embedding",
        mlx="it leaves out the router's correction of the experts' scores", moe_num_experts=4, moe_k=2,
        moe_intermediate_size=32, moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=2,
        moe_layer_interval=1, use_bias=False, rope_theta=500000.0, max_position_embeddings=131072,
        tie_word_embeddings=True,
    ),
    entry(
        "glm4_moe", "zai-org/GLM-4.5", "experts in groups, half of each head turns, norms of q and k",
        head_dim=16, partial_rotary_factor=0.5, use_qk_norm=True, attention_bias=True, n_routed_experts=4,
        n_shared_experts=1, n_group=1, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True,
        first_k_dense_replace=1, rope_theta=1000000, max_position_embeddings=131072, rope_scaling=None, **EXPERTS,
    ),
    entry(
        "dots1", "rednote-hilab/dots.llm1.inst", "experts in groups, norms of q and k",
        head_dim=16, n_routed_experts=4, n_shared_experts=2, n_group=1, topk_group=1, routed_scaling_factor=2.5,
        norm_topk_prob=True, first_k_dense_replace=1, moe_layer_freq=1, scoring_func="noaux_tc", rope_theta=10000000,
        max_position_embeddings=32768, num_key_value_heads=4, sliding_window=None, **EXPERTS,
    ),
    entry(
        "minimax_m2", "MiniMaxAI/MiniMax-M2", "experts, half of each head turns, norms over all heads of q and k",
        head_dim=16, rotary_dim=8, use_qk_norm=True, qk_norm_type="per_layer", num_local_experts=4,
        num_experts_per_tok=2, rope_theta=5000000, max_position_embeddings=196608, rms_norm_eps=1e-6,
        shared_intermediate_size=0, scoring_func="sigmoid", use_routing_bias=True,
    ),
    entry(
        "deepseek_v2", "deepseek-ai/DeepSeek-V2-Lite", "latent attention, half of q and k turn; YaRN",
        **LATENT, q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False,
        routed_scaling_factor=1.0, scoring_func="softmax", rms_norm_eps=1e-6, max_position_embeddings=163840,
        rope_scaling={**DEEPSEEK_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    entry(
        "deepseek_v3", "deepseek-ai/DeepSeek-V3", "latent attention with low-rank queries; YaRN in the scale too",
        **LATENT, q_lora_rank=32, topk_method="noaux_tc", n_group=2, topk_group=1,
        norm_topk_prob=True, routed_scaling_factor=2.5, scoring_func="sigmoid", rms_norm_eps=1e-6,
        max_position_embeddings=163840, rope_scaling={**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    entry(
        "glm4_moe_lite", "zai-org/GLM-4.7-Flash", "latent attention, interleaved rotary embedding",
        **LATENT, q_lora_rank=32, topk_method="noaux_tc", n_group=1, topk_group=1,
        norm_topk_prob=True, routed_scaling_factor=1.8, scoring_func="sigmoid", rope_theta=1000000,
        rope_interleave=True, max_position_embeddings=202752, rope_scaling=None,
    ),
    entry(
        "longcat_flash", "meituan-longcat/LongCat-Flash-Chat", "two latent attentions in each layer",
        own_mlx=OTHER_NAMES, num_layers=2, ffn_hidden_size=96, expert_ffn_hidden_size=32,
        moe_topk=2, n_routed_experts=4, zero_expert_num=2, zero_expert_type="identity", q_lora_rank=32,
        kv_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=24, v_head_dim=20, num_key_value_heads=4,
        mla_scale_q_lora=True, mla_scale_kv_lora=True, attention_method="MLA", routed_scaling_factor=6.0,
        router_bias=False, rope_theta=10000000.0, max_position_embeddings=131072, num_hidden_layers=4, head_dim=16,
    ),
)  # fmt: skip
