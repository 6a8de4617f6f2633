"""What makes it fast, on one device, each checked against the plain way.

attention       Attention over packed tokens: what texts share once, each text behind what it goes on from, no padding elsewhere.
bfloat16        Attention in bfloat16 on a CPU with instructions for it, by plain products of all heads at once.
continued       Rows that go on: the keys of their first tokens are known, and only the new tokens run through the model.
decode          One new token per answer with a memory of keys and values: all answers to a prompt read its keys once.
device          The device that a model computes on: chosen here, and what goes there and back.
llama_step      One decoding step of a Llama-style model, on its own weights, in half of the operations that its own code takes.
packed_weights  Products with few rows, as decoding has them, from weights in oneDNN's blocked layout.
replay          What a GPU is told token after token, told once: a decoding step as a CUDA graph.
rope            Rotary embeddings that depend on how long the longest row is (longrope): fixed once, for every row of a run.
varlen          Attention over packed tokens by one call of FlashAttention, on GPUs: no padding and no mask.
"""
