"""A checkpoint of a known shape with random weights, for measuring speed where no such model is at hand.

    python benchmarks/random_model.py qwen3-0.6b --tokenizer PATH --out DIR

Its numbers mean nothing; a step with it takes as long as with the real one. The tokenizer is any checkpoint's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

# As in their config.json on the Hugging Face hub.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "rope_theta": 100000.0,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rope_theta": 1000000.0,
    },
    "qwen3-1.7b": {
        "model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rope_theta": 1000000.0,
    },
}  # fmt: skip


def save(shape: str, tokenizer: str, out: Path) -> None:
    torch.manual_seed(0)
    codec = AutoTokenizer.from_pretrained(tokenizer)
    config = AutoConfig.for_model(
        **SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=8192, bos_token_id=codec.bos_token_id,
        eos_token_id=codec.eos_token_id, pad_token_id=codec.pad_token_id,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(out)
    codec.save_pretrained(out)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("shape", choices=SHAPES)
    flags.add_argument("--tokenizer", required=True, help="a directory with a tokenizer and its chat template")
    flags.add_argument("--out", type=Path, required=True)
    args = flags.parse_args()
    save(args.shape, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
