"""Does a model's way through this project give the numbers of its own plain forward? One row of docs/models.md a model.

Every kind is built tiny and random, with weights sharp enough that a wrong mask or position shows. Three computations
of the same tokens' log-probabilities meet: the sampler's, one token at a time; the trainer's, packed; and the
definition, `model(input_ids, attention_mask)` on padded rows with its own backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rung.records import SamplingLaw, Tokens
from rung.rollout import adapter, checkpointing
from rung.rollout.model import Model, wrap
from rung.rollout.sampler import TorchSampler
from rung.train.policy import Policy

V, D = 40, 16
BOS, EOS, TURN = 1, 2, 3  # pad is EOS too; TURN ends a turn: two end tokens
COMMON: dict[str, Any] = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": BOS, "eos_token_id": EOS,
    "pad_token_id": EOS,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4, "head_dim": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "num_hidden_layers": 3, "layer_types": MIXED},
    "gpt2": {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 24},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": {},
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<t> {{ m['role'] }} {{ m['content'] }} <t> {% endfor %}"
    "{% if add_generation_prompt %}<t> assistant {% endif %}"
)
PROMPTS = ("w5 w6 w7 w8 w9", "w10 w11", "w4 w4 w4 w4 w12 w4 w4")


@dataclass(frozen=True)
class Conformance:
    """What was measured for one kind of model; gaps in nats, gradient errors relative to the definition's norm."""

    kind: str
    packs: bool
    tied: bool
    window: int | None
    sampler_gap: float  # max |sampler's logp - trainer's|
    trainer_gap: float  # max |trainer's logp - definition's|
    gradient_error: float
    checkpointed_error: float  # the same with gradient checkpointing
    lora_gap: float  # max |sampler's logp - trainer's| with an adapter that is not zero
    lora_gradient_error: float  # of the adapter's gradient
    reference_gap: float  # max |adapter off - before the adapter was added|
    bos: tuple[int, int]  # begin tokens in front of a text prompt, of a chat prompt
    ends: int  # end tokens that end an answer


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w4 ... and a few roles; it puts BOS in front of text, and its chat template writes BOS as well."""
    words = ["<u>", "<s>", "</s>", "<t>", *(f"w{i}" for i in range(4, V - 4)), "user", "assistant", "system", "tool"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<u>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<u>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<t>"]})
    fast.chat_template = TEMPLATE
    return fast


def tiny(kind: str, seed: int = 0) -> Model:
    """A random model of this kind in float32."""
    torch.manual_seed(seed)
    common = {k: COMMON[k] for k in ("vocab_size", "bos_token_id", "eos_token_id")} if kind == "gpt2" else COMMON
    config = transformers.AutoConfig.for_model(kind, **{**common, **KINDS[kind]})
    hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.generation_config.eos_token_id = [EOS, TURN]
    for weight in hf.parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)
        elif kind in ("gpt2", "phi"):
            weight.data.add_(0.1 * torch.randn_like(weight))  # biases that are not zero
    return wrap(hf, tokenizer())


def check(kind: str) -> Conformance:
    """Every figure of one row."""
    model = tiny(kind)
    tokens, sampled_BT = draw(model)
    logp_BT, gradient = trained(model, tokens)
    truth_BT, truth = defined(model, tokens)
    kept = tiny(kind)
    checkpointing.enable(kept)
    _, again = trained(kept, tokens)
    window = getattr(model.hf.config, "sliding_window", None)
    tied = model.head[0] is model.hf.get_input_embeddings().weight
    prompt = [{"role": "user", "content": "w5"}]
    return Conformance(
        kind, model.packs, tied, window, gap(sampled_BT, logp_BT), gap(logp_BT, truth_BT),
        relative(gradient, truth), relative(again, truth), *_lora(model, logp_BT, tokens),
        bos=(model.encode("w5").count(BOS), model.encode(prompt).count(BOS)), ends=len(model.end_ids),
    )  # fmt: skip


def _lora(model: Model, base_BT: Tensor, tokens: Tokens) -> tuple[float, float, float]:
    adapter.add(model, rank=2)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.hf.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    with adapter.adapter_off(model.hf), torch.no_grad():
        reference = gap(Policy(model).score(tokens).logp_BT, base_BT)
    drawn, sampled_BT = draw(model)
    logp_BT, gradient = trained(model, drawn)
    truth_BT, truth = defined(model, drawn)
    return max(gap(sampled_BT, logp_BT), gap(logp_BT, truth_BT)), relative(gradient, truth), reference


def draw(model: Model, samples: int = 3) -> tuple[Tokens, Tensor]:
    """Answers of the sampler as the trainer reads them, and the sampler's own log-probabilities [B, T]."""
    prompts = [model.encode(p) for p in PROMPTS]
    rollouts = TorchSampler(model).sample(prompts, SamplingLaw(max_new_tokens=11), samples, seed=0)
    length_B = torch.tensor([len(r.tokens) for r in rollouts])
    T = int(length_B.max())
    tokens_BT = torch.tensor([[*r.tokens, *[EOS] * (T - len(r.tokens))] for r in rollouts])
    logp_BT = torch.tensor([[*r.logp, *[0.0] * (T - len(r.logp))] for r in rollouts])
    group_B = torch.arange(len(rollouts)) // samples
    mask_BT = torch.arange(T) < length_B[:, None]
    return Tokens([torch.tensor(p) for p in prompts], tokens_BT, mask_BT, length_B, group_B), logp_BT


def trained(model: Model, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The trainer's log-probabilities [B, T] and the gradient of a weighted sum of them."""
    logp_BT = Policy(model).score(tokens).logp_BT
    return logp_BT.detach(), _gradient(model, logp_BT)


def defined(model: Model, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The same from the model's own forward on padded rows, nothing of ours in between."""
    rows = [
        torch.cat([tokens.prompts[int(g)], row[: int(n)]])
        for g, row, n in zip(tokens.group_B, tokens.tokens_BT, tokens.length_B, strict=True)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=EOS)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    log_p = model.hf(input_ids=ids, attention_mask=seen, use_cache=False).logits.float().log_softmax(-1)
    at = torch.zeros(tokens.mask_BT.shape)
    for b, n in enumerate(tokens.length_B.tolist()):
        start = len(rows[b]) - n
        inside = log_p[b, start - 1 : start - 1 + n].gather(-1, rows[b][start:, None])[:, 0]
        at = at.index_put((torch.full((n,), b), torch.arange(n)), inside)
    return at.detach(), _gradient(model, at)


def _gradient(model: Model, logp_BT: Tensor) -> Tensor:
    up = torch.linspace(-1.0, 1.5, logp_BT.numel()).view_as(logp_BT)
    leaves = [p for p in model.hf.parameters() if p.requires_grad]
    parts = torch.autograd.grad((up * logp_BT).sum(), leaves, materialize_grads=True)
    return torch.cat([g.flatten() for g in parts])


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def table(rows: Sequence[Conformance]) -> str:
    """The rows as Markdown."""
    head = (
        "| model | packs | tied head | window | sampler - trainer | trainer - definition | gradient | with checkpointing "
        "| LoRA | LoRA gradient | adapter off | BOS text, chat | end tokens |"
    )
    lines = [head, "|" + "---|" * 13]
    for r in rows:
        figures = (
            r.sampler_gap, r.trainer_gap, r.gradient_error, r.checkpointed_error, r.lora_gap, r.lora_gradient_error,
            r.reference_gap,
        )  # fmt: skip
        words = [f"`{r.kind}`", _yes(r.packs), _yes(r.tied), str(r.window or "")]
        words += [f"{x:.0e}" if x else "0" for x in figures]
        lines.append("| " + " | ".join([*words, f"{r.bos[0]}, {r.bos[1]}", str(r.ends)]) + " |")
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
