"""Tiny configurations of the kinds of causal models that transformers has: what docs/models.md measures.

Windows are shorter than the rows, and whatever else begins at some length (chunks, long rotary factors) begins within them.
"""

from __future__ import annotations

from typing import Any

V, D, WINDOW = 40, 16, 4
BOS, EOS, TURN = 1, 2, 3  # pad is EOS too; TURN ends a turn: two end tokens
COMMON: dict[str, Any] = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": BOS, "eos_token_id": EOS,
    "pad_token_id": EOS,
}  # fmt: skip
SPECIAL = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")

MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": MIXED[:2]}
WIDE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
MIXTURE: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "shared_expert_intermediate_size": 16,
    "num_shared_experts": 1,
}  # fmt: skip
LATENT: dict[str, Any] = {  # value heads narrower than key heads
    "hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8, "mamba_n_groups": 1,
}  # fmt: skip
STATE: dict[str, Any] = {"hidden_size": 32, "state_size": 4}
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.0], "long_factor": [8.0, 3.0],
    "original_max_position_embeddings": 12, "factor": 16.0,
}  # fmt: skip
GPT: dict[str, Any] = {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 24}

KINDS: dict[str, dict[str, Any]] = {  # a name behind the type of the model is a variant of it
    # attention alone, every layer alike or with windows
    "llama": {},
    "mistral": {"sliding_window": WINDOW, "head_dim": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW},
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW, "num_hidden_layers": 3, "layer_types": MIXED},
    "gpt2": GPT,
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": {},
    "phi3 longrope": {"rope_parameters": LONG, "original_max_position_embeddings": 12},
    "qwen2 windows": {**SLIDING, "use_sliding_window": True, "layer_types": MIXED[1::-1], "max_window_layers": 1},
    "ministral": {**WIDE, **SLIDING},
    "smollm3": {**SLIDING, "use_sliding_window": True, "no_rope_layers": [1, 0]},
    "olmo": {}, "olmo2": {}, "olmo3": SLIDING, "starcoder2": {"sliding_window": WINDOW}, "exaone4": {**SLIDING},
    "glm": WIDE, "glm4": WIDE, "helium": WIDE, "arcee": {}, "apertus": {}, "seed_oss": WIDE, "ernie4_5": {},
    "hunyuan_v1_dense": WIDE, "persimmon": {}, "gpt_neox": {}, "biogpt": {}, "bitnet": {}, "diffllama": {}, "doge": {},
    "stablelm": {}, "nemotron": {}, "nanochat": {}, "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.3},
    "cohere": {"logit_scale": 0.5}, "cohere2": {**WIDE, **SLIDING, "logit_scale": 0.5}, "vaultgemma": {**WIDE, **SLIDING},
    "gemma4_text": {
        **WIDE, **SLIDING, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": V,
        "num_kv_shared_layers": 0, "enable_moe_block": False,
    },
    "gemma3n_text": {  # a width for each layer
        **WIDE, "sliding_window": WINDOW, "num_hidden_layers": 5, "intermediate_size": [48] * 5, "laurel_rank": 4,
        "vocab_size_per_layer_input": V, "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "num_kv_shared_layers": 2,
        "layer_types": [MIXED[0], MIXED[0], MIXED[1], MIXED[0], MIXED[1]], "activation_sparsity_pattern": [0.0] * 5,
    },
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": D}, "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "rotary_dim": 4, "n_ctx": 128}, "openai-gpt": GPT, "gpt_bigcode": GPT, "ctrl": {**GPT, "dff": 24},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "bloom": {"n_layer": 2, "n_head": 4}, "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "falcon": {"multi_query": True, "new_decoder_architecture": False, "alibi": False},
    "xglm": {"d_model": D, "ffn_dim": 24, "num_layers": 2, "attention_heads": 4},
    # mixtures of experts
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    "qwen2_moe": {**MIXTURE}, "qwen3_moe": {**WIDE, **MIXTURE}, "olmoe": {**MIXTURE}, "flex_olmo": {**MIXTURE},
    "phimoe": {**MIXTURE, "sliding_window": WINDOW}, "dots1": {**WIDE, **MIXTURE}, "glm4_moe": {**WIDE, **MIXTURE},
    "minimax_m2": {**WIDE, **MIXTURE}, "granitemoe": {**MIXTURE, "logits_scaling": 4.0},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
    "gpt_oss": {**WIDE, **MIXTURE, **SLIDING},
    "llama4_text": {
        **WIDE, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "attention_chunk_size": WINDOW,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0], "interleave_moe_layer_step": 1,
    },
    # latent attention
    "deepseek_v2": {**MIXTURE, **LATENT, "q_lora_rank": None}, "deepseek_v3": {**MIXTURE, **LATENT},
    "glm4_moe_lite": {**MIXTURE, **LATENT}, "minicpm3": LATENT, "youtu": LATENT,
    "longcat_flash": {
        **LATENT, "num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "n_routed_experts": 4,
        "zero_expert_num": 1, "moe_topk": 2, "head_dim": 4,
    },
    "deepseek_v32": {**MIXTURE, **LATENT, "index_topk": 64, "index_n_heads": 2, "index_head_dim": 8},
    # state spaces, and hybrids with attention
    "mamba": STATE, "falcon_mamba": STATE,
    "mamba2": {**STATE, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"attention_hidden_size": D}, "xlstm": {"hidden_size": 32, "num_heads": 4, "num_blocks": 2, "chunk_size": 4},
    "recurrent_gemma": {"lru_width": D, "attention_window_size": WINDOW, "num_hidden_layers": 3, "head_dim": 4},
    "jamba": {
        "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4,
    },
    "bamba": {**WIDE, **MAMBA, "attn_layer_indices": [1]}, "falcon_h1": {**WIDE, **MAMBA, "mamba_d_ssm": 64},
    "granitemoehybrid": {
        **WIDE, **MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
    },
    "nemotron_h": {
        **WIDE, **MIXTURE, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 4, "chunk_size": 8, "n_groups": 1,
    },
    "qwen3_next": {**WIDE, **LINEAR, **MIXTURE}, "qwen3_5_text": {**WIDE, **LINEAR}, "olmo_hybrid": {**WIDE, **LINEAR},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "minimax": {
        **WIDE, "num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["linear_attention", "full_attention"],
        "block_size": 8,
    },
}  # fmt: skip
# The short ones, for every commit: each way to run a model is among them.
CHEAP = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "phi", "phi3", "phi3 longrope", "diffllama",
    "gemma3n_text", "deepseek_v3", "mamba", "falcon_h1", "lfm2", "rwkv", "minimax",
)  # fmt: skip


def settings(kind: str) -> tuple[str, dict[str, Any]]:
    """The type of the model, and the arguments of its configuration."""
    name = kind.partition(" ")[0]
    common = {k: COMMON[k] for k in SPECIAL} if {"n_embd", "d_model"} & KINDS[kind].keys() else COMMON
    return name, {**common, **KINDS[kind]}
