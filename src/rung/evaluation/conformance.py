"""Does a model's way through this project give the numbers of its own plain forward? One row of docs/models.md a model.

Every kind is built tiny and random, with weights sharp enough that a wrong mask or position shows. Three computations
of the same tokens' log-probabilities meet: the sampler's, one token at a time, while other rows end; the trainer's; and
the definition, `model(input_ids)` on each row alone with its own backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rung.errors import InputError
from rung.evaluation.model_kinds import BOS, EOS, TURN, V, settings
from rung.network import adapter, checkpointing
from rung.network.model import Model, wrap
from rung.records import SamplingLaw, Tokens
from rung.rollout.draws import Draws
from rung.rollout.samplers import make_sampler
from rung.training.policy import Policy

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<t> {{ m['role'] }} {{ m['content'] }} <t> {% endfor %}"
    "{% if add_generation_prompt %}<t> assistant {% endif %}"
)
NEW = 11  # tokens of an answer at most
ENDING = frozenset(range(30, 36))  # further tokens that end an answer, so that rows end at different times
PROMPTS = ("w5 w6 w7 w8 w9", "w10 w11", "w4 w4 w4 w4 w12 w4 w4")


@dataclass(frozen=True)
class Conformance:
    """What was measured for one kind of model; gaps in nats, gradient errors relative to the definition's norm."""

    kind: str
    packs: bool
    decodes: str
    compacts: bool
    tied: bool
    window: int | None
    lengths: frozenset[int]  # of the answers: where they differ, rows have ended before others
    sampler_gap: float  # max |sampler's logp - trainer's|
    trainer_gap: float  # max |trainer's logp - definition's|
    gradient_error: float
    checkpointed_error: float | None  # the same with gradient checkpointing; None: refused
    lora_gap: float | None  # max |sampler's logp - trainer's| with an adapter that is not zero; None: refused
    lora_gradient_error: float | None  # of the adapter's gradient
    reference_gap: float | None  # max |adapter off - before the adapter was added|
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
    name, arguments = settings(kind)
    config = transformers.AutoConfig.for_model(name, **arguments)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.generation_config.eos_token_id = [EOS, TURN]
    for label, weight in hf.named_parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)
        elif label.endswith("bias"):
            weight.data.add_(0.1 * torch.randn_like(weight))
    return wrap(hf, tokenizer())


def conformance(kind: str) -> Conformance:
    """Every figure of one row."""
    model = tiny(kind)
    model.reach(max(len(model.codec.encode(p)) for p in PROMPTS) + NEW)
    tokens, sampled_BT = draw(model)
    logp_BT, gradient = trained(model, tokens)
    truth_BT, truth = defined(model, tokens)
    window = getattr(model.hf.config, "sliding_window", None)
    tied = model.head[0] is model.hf.get_input_embeddings().weight
    prompt = [{"role": "user", "content": "w5"}]
    return Conformance(
        kind, model.packs, model.decodes, model.compacts, tied, window, frozenset(tokens.length_B.tolist()),
        gap(sampled_BT, logp_BT), gap(logp_BT, truth_BT), relative(gradient, truth), _checkpointed(kind, tokens, truth),
        *_lora(model, logp_BT, tokens),
        bos=(model.codec.encode("w5").count(BOS), model.codec.encode(prompt).count(BOS)), ends=len(model.codec.end_ids),
    )  # fmt: skip


def _checkpointed(kind: str, tokens: Tokens, truth: Tensor) -> float | None:
    kept = tiny(kind)
    kept.reach(int(tokens.length_B.max()) + max(len(p) for p in tokens.prompts))
    try:
        checkpointing.enable(kept)
    except InputError:
        return None
    return relative(trained(kept, tokens)[1], truth)


def _lora(model: Model, base_BT: Tensor, tokens: Tokens) -> tuple[float | None, float | None, float | None]:
    try:
        adapter.add(model, rank=2)
    except InputError:
        return None, None, None
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
    prompts = [model.codec.encode(p) for p in PROMPTS]
    ending = replace(model, codec=replace(model.codec, end_ids=model.codec.end_ids | ENDING))
    rollouts = make_sampler(ending).sample(
        prompts, SamplingLaw(max_new_tokens=NEW), Draws.whole(0, samples * len(prompts))
    )
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
    """The same from the model's own forward on each row alone, nothing of ours in between."""
    rows = []
    for g, answer, n in zip(tokens.group_B.tolist(), tokens.tokens_BT, tokens.length_B.tolist(), strict=True):
        row = torch.cat([tokens.prompts[g], answer[:n]])
        log_p = model.hf(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(-1)
        inside = log_p[-n - 1 : -1].gather(-1, row[-n:, None])[:, 0]
        rows.append(torch.nn.functional.pad(inside, (0, tokens.mask_BT.shape[1] - n)))
    at = torch.stack(rows)
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
        "| model | known tokens | sampling | ended rows leave | tied head | window | sampler - trainer | trainer - definition "
        "| gradient | with checkpointing | LoRA | LoRA gradient | adapter off |"
    )
    lines = [head, "|" + "---|" * 13]
    for r in rows:
        figures = (
            r.sampler_gap, r.trainer_gap, r.gradient_error, r.checkpointed_error, r.lora_gap, r.lora_gradient_error,
            r.reference_gap,
        )  # fmt: skip
        words = [f"`{r.kind}`", "packed" if r.packs else "padded", r.decodes, _yes(r.compacts), _yes(r.tied)]
        words += [str(r.window or ""), *("refused" if x is None else f"{x:.0e}" if x else "0" for x in figures)]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
