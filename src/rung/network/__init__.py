"""A causal model of Hugging Face's as this project uses it: loaded, asked for log-probabilities, adapted.

adapter        LoRA by peft (arXiv:2106.09685): W x + (alpha / r) B A x, where only A and B are trained and B starts at zero.
checkpointing  Gradient checkpointing: a layer's activations are computed again in the backward instead of being kept.
float32        A model of low precision computing in float32 for a while: layer by layer, or all of it on weights that are trained.
forward        What a model says about tokens that are known, with gradient: packed, or by its own forward on padded rows.
model          A Hugging Face causal model as this project uses it: its trunk, its head, its codec, and how it may be run.
place          Where a model lies: a directory, a GGUF file, an adapter's base, or a hub id. A path without a model is one message.
probe          A few tokens on which a way to run a model is compared with the model's own plain forward.
readers        Where transformers fails on a model: whether its files are the cause, known by looking at them and by a sound one.
streams        Next-token logits, one token at a time for many rows: ways to the same numbers, the fastest first.
ways           How a model is run: each way is tried when the model is loaded (probe.py), and the fastest that agrees is taken.
"""
