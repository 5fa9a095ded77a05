"""Families that are refused, on torch at least."""

from __future__ import annotations

from hogwild.conformance.families.entry import (
    CHUNKED_LAYERS,
    DEEPSEEK_YARN,
    EXPERTS,
    FULL,
    LATENT,
    LINEAR,
    LINEAR_LAYERS,
    LLAMA3,
    LONG,
    NO_INTERFACE,
    NOT_IN_MLX_LM,
    OTHER_NAMES,
    POSITION_IN_INPUT,
    RECURRENT_IN_MLX,
    WINDOW,
    entry,
)

REFUSED = (
    entry(
        "gpt2", "openai-community/gpt2", "learned positions",
        own_mlx=OTHER_NAMES, cuda=POSITION_IN_INPUT, mlx=POSITION_IN_INPUT, n_embd=64, n_head=4,
        n_layer=3, activation_function="gelu_new", n_positions=1024, n_ctx=1024, layer_norm_epsilon=1e-5,
    ),
    entry(
        "opt", "facebook/opt-125m", "learned positions",
        cuda=POSITION_IN_INPUT, mlx=NOT_IN_MLX_LM, ffn_dim=96, word_embed_proj_dim=64,
    ),
    entry("bloom", "bigscience/bloom-560m", "ALiBi", cuda=NO_INTERFACE, mlx=NOT_IN_MLX_LM, n_layer=3, n_head=4),
    entry(
        "mpt", "mosaicml/mpt-7b", "ALiBi",
        cuda=NO_INTERFACE, mlx=NOT_IN_MLX_LM, d_model=64, n_heads=4, n_layers=3, max_seq_len=2048, expansion_ratio=2,
    ),
    entry(
        "llama-dynamic", "an option of transformers", "dynamic NTK: frequencies change with the length",
        both="frequencies change with the length", rope_scaling={"type": "dynamic",
        "factor": 2.0},
    ),
    entry(
        "internlm3", "internlm/internlm3-8b-instruct", "dynamic NTK: frequencies change with the length",
        both="frequencies change with the length", head_dim=16, rope_theta=50000000,
        max_position_embeddings=32768, bias=False, qkv_bias=False, rope_scaling={"factor": 6.0,
        "rope_type": "dynamic"},
    ),
    entry(
        "phi3-longrope", "microsoft/Phi-3-mini-128k-instruct", "longrope: frequencies change with the length",
        both="frequencies change with the length", max_position_embeddings=131072,
        original_max_position_embeddings=4096, rope_scaling=LONG, sliding_window=262144, num_key_value_heads=4,
    ),
    entry(
        "llama4_text", "meta-llama/Llama-4-Scout-17B-16E (its text part)", "chunked attention",
        cuda=CHUNKED_LAYERS, mlx="chunked attention", own_mlx=OTHER_NAMES, head_dim=16, intermediate_size_mlp=96,
        num_local_experts=4, num_experts_per_tok=1, attention_chunk_size=WINDOW, interleave_moe_layer_step=1,
        no_rope_layers=[1, 1, 0], use_qk_norm=True, attn_temperature_tuning=True, floor_scale=8192, attn_scale=0.1,
        rope_theta=500000.0, max_position_embeddings=10485760, rope_scaling={**LLAMA3, "factor": 16.0,
        "original_max_position_embeddings": 8192},
    ),
    entry(
        "ministral3", "mistralai/Ministral-3-8B-Instruct-2512 (its text part)", "queries scaled with the position",
        both="no pure rotation", head_dim=16, max_position_embeddings=262144, sliding_window=None,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
        "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
    ),
    entry(
        "hunyuan_v1_dense", "tencent/Hunyuan-7B-Instruct", "norms of q and k after rotation",
        both="no pure rotation", head_dim=16, use_qk_norm=True, max_position_embeddings=32768,
        rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "beta_fast": 32, "beta_slow": 1},
    ),
    entry(
        "qwen3_next", "Qwen/Qwen3-Next-80B-A3B-Instruct", "linear attention in three of four layers",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, num_hidden_layers=4, head_dim=16, num_experts=4,
        decoder_sparse_step=1, shared_expert_intermediate_size=32, norm_topk_prob=True, linear_num_value_heads=4,
        mlp_only_layers=[], linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
        linear_conv_kernel_dim=4, partial_rotary_factor=0.25, rope_theta=10000000, full_attention_interval=4,
        **EXPERTS,
    ),
    entry(
        "mamba", "state-spaces/mamba-130m-hf", "recurrent",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, state_size=16, conv_kernel=4, expand=2, time_step_rank=4,
        use_bias=False, use_conv_bias=True,
    ),
    entry(
        "falcon_h1", "tiiuae/Falcon-H1-0.5B-Instruct", "attention and Mamba side by side in each layer",
        cuda="layers of type 'hybrid'", mlx=RECURRENT_IN_MLX, head_dim=16, mamba_d_ssm=64, mamba_n_heads=4,
        mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16, mamba_d_conv=4, mamba_chunk_size=16, mamba_expand=2,
    ),
    entry(
        "bamba", "ibm-ai-platform/Bamba-9B-v2", "Mamba with a few attention layers",
        cuda=LINEAR_LAYERS, mlx=NOT_IN_MLX_LM, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16,
        mamba_n_groups=1, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=16,
    ),
    entry(
        "jamba", "ai21labs/Jamba-v0.1", "Mamba with a few attention layers, no positions",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1,
        expert_layer_period=2, num_experts=4, num_experts_per_tok=2, mamba_d_conv=4, mamba_d_state=16,
        mamba_dt_rank=4, mamba_expand=2, mamba_conv_bias=True, mamba_proj_bias=False, use_mamba_kernels=False,
    ),
    entry(
        "minimax", "MiniMaxAI/MiniMax-Text-01-hf", "linear attention in most layers",
        cuda=LINEAR_LAYERS, mlx=NOT_IN_MLX_LM, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
        rope_theta=10000000, layer_types=[LINEAR, FULL, LINEAR], block_size=16,
    ),
    entry(
        "phimoe", "microsoft/Phi-3.5-MoE-instruct", "longrope: frequencies change with the length",
        both="frequencies change with the length", num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=131072, original_max_position_embeddings=4096, sliding_window=131072,
        attention_bias=True, lm_head_bias=True, rope_scaling={**LONG, "short_mscale": 1.243163121016122,
        "long_mscale": 1.243163121016122, "original_max_position_embeddings": 4096},
    ),
    entry(
        "falcon", "tiiuae/falcon-7b", "its code does not ask for attention in transformers' way",
        cuda=NO_INTERFACE, mlx=NOT_IN_MLX_LM, multi_query=True, parallel_attn=True, alibi=False, bias=False,
        new_decoder_architecture=False, layer_norm_epsilon=1e-5,
    ),
    entry(
        "gptj", "EleutherAI/gpt-j-6b", "its code does not ask for attention in transformers' way",
        cuda=NO_INTERFACE, n_embd=64, n_head=4, n_layer=3, n_inner=256, rotary_dim=8, n_positions=2048,
        activation_function="gelu_new", layer_norm_epsilon=1e-5,
    ),
    entry(
        "deepseek_v32", "deepseek-ai/DeepSeek-V3.2-Exp", "an indexer chooses the keys of each query",
        cuda="layers of type 'indexed_attention'", mlx="an indexer chooses the keys of each query",
        **LATENT, q_lora_rank=32, n_group=2, topk_group=1, topk_method="noaux_tc", scoring_func="sigmoid",
        norm_topk_prob=True, index_topk=16, index_head_dim=16, index_n_heads=4, routed_scaling_factor=2.5,
        max_position_embeddings=163840, rope_scaling={**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    entry(
        "qwen3_5_text", "Qwen/Qwen3.5-9B (its text part)", "linear attention in three of four layers",
        cuda=LINEAR_LAYERS, mlx=NOT_IN_MLX_LM, num_hidden_layers=4, head_dim=16, linear_num_value_heads=4,
        linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4,
        partial_rotary_factor=0.25, rope_theta=10000000,
    ),
    entry(
        "recurrent_gemma", "google/recurrentgemma-2b", "recurrent layers between windowed ones",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, lru_width=64, attention_window_size=WINDOW,
        hidden_activation="gelu_pytorch_tanh", logits_soft_cap=30.0, partial_rotary_factor=0.5, conv1d_width=4,
        block_types=["recurrent", "recurrent", "attention"], embeddings_scale_by_sqrt_dim=True, head_dim=16,
        num_key_value_heads=1, tie_word_embeddings=True,
    ),
    entry(
        "granitemoehybrid", "ibm-granite/granite-4.0-h-tiny", "Mamba with a few attention layers",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, layer_types=["mamba", "attention", "mamba"], mamba_n_heads=8,
        mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=16,
        mamba_conv_bias=True, mamba_proj_bias=False, num_local_experts=4, num_experts_per_tok=2,
        shared_intermediate_size=48, position_embedding_type="nope", attention_multiplier=0.0078125,
        embedding_multiplier=12, residual_multiplier=0.22, logits_scaling=6, tie_word_embeddings=True,
    ),
    entry(
        "nemotron_h", "nvidia/Nemotron-H-8B-Base-8K", "Mamba with a few attention layers, no positions",
        cuda=LINEAR_LAYERS, mlx=RECURRENT_IN_MLX, num_hidden_layers=4, hybrid_override_pattern="M-*-", head_dim=16,
        mamba_num_heads=4, mamba_head_dim=16, n_groups=1, ssm_state_size=16, conv_kernel=4, chunk_size=16, expand=2,
        mlp_hidden_act="relu2", mamba_hidden_act="silu", use_conv_bias=True, use_bias=False, mlp_bias=False,
        mamba_proj_bias=False, layer_norm_epsilon=1e-5,
    ),
    entry(
        "lfm2", "LiquidAI/LFM2-1.2B", "convolutions with a state between attention layers",
        cuda="layers of type 'conv'", mlx=RECURRENT_IN_MLX, layer_types=["conv", FULL, "conv"], conv_bias=False,
        conv_L_cache=3, norm_eps=1e-5, block_dim=64, block_ff_dim=96, block_multiple_of=16,
        block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True, rope_theta=1000000.0,
        max_position_embeddings=128000, tie_word_embeddings=True,
    ),
    entry(
        "diffllama", "kajuma/DiffLlama-0.3B-handcut", "each layer attends twice",
        cuda="attends more than once", mlx=NOT_IN_MLX_LM, head_dim=16,
    ),
)  # fmt: skip
