"""What a run will hold in memory, from the model's configuration alone.

Nothing is loaded: the model is built on PyTorch's meta device, where parameters have shapes and no storage. Every
count is a small function with its equation; `Need` adds them up the way a step does: sampling and updating do not
happen at the same time, so the peak is the larger of the two, on top of what is held all along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from rung.errors import InputError, setting
from rung.kernels.attention import common_head
from rung.kernels.packed_weights import few, packs
from rung.maths.logprob import CHUNK_ELEMENTS, keeps
from rung.network.model import Model, codec_of, quiet
from rung.network.place import place
from rung.network.readers import reading
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.tasks.environments.protocol import Environment
from rung.text import Codec
from rung.training import needs
from rung.training.config import TrainConfig
from rung.training.evaluation import answers_per_problem
from rung.training.micro import kept_gib
from rung.training.policy import activation_bytes_per_token, typical

GIB = 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DRAW_COPIES = 5  # arrays [rows, V] in float32 that live while a token is drawn
HEAD_COPIES = 2.5  # arrays [chunk, V] in float32 that live in the head's backward
LATER_IMPORTS = 64 * 2**20  # libraries that the first backward and optimizer step bring in
PROMPTS_LOOKED_AT = 128


# -- what the model and the run look like --------------------------------------------------------------------------
@dataclass(frozen=True)
class Shape:
    """Sizes of a causal model. parameters, trainable: numbers of weights, tied ones once. products: trunk weights that
    multiply every token.  width: bytes of a weight.  micro_tokens: tokens that one backward takes."""

    parameters: int
    trainable: int
    products: int
    layers: int
    D: int
    F: int
    heads: int
    key_heads: int
    head_dim: int
    V: int
    width: int
    micro_tokens: int
    adapter: bool = False  # only a LoRA adapter is trained, in float32; reference and critic share the frozen weights
    checkpoints: bool = False  # the backward recomputes one layer at a time

    @classmethod
    def of(cls, model: Model, config: TrainConfig) -> Shape:
        """The shape of a model, on the meta device or not, as `config` would train it (in its dtype)."""
        c = model.hf.config.get_text_config()
        named = list(model.hf.named_parameters())
        trunk: Any = model.hf.get_decoder()
        tables = {id(m.weight) for m in trunk.modules() if isinstance(m, torch.nn.Embedding)}
        heads = typical(getattr(c, "num_attention_heads", None) or 1)
        width = DTYPES[config.dtype].itemsize
        kept = activation_bytes_per_token(model, config.gradient_checkpointing) * width // model.hf.dtype.itemsize
        return cls(
            parameters=sum(p.numel() for _, p in named),
            trainable=trained(model, config),
            adapter=config.lora_rank > 0,
            checkpoints=config.gradient_checkpointing,
            products=sum(p.numel() for p in trunk.parameters() if p.dim() > 1 and id(p) not in tables),
            layers=c.num_hidden_layers,
            D=c.hidden_size,
            F=typical(getattr(c, "intermediate_size", None) or getattr(c, "n_inner", None) or 4 * c.hidden_size),
            heads=heads,
            key_heads=typical(getattr(c, "num_key_value_heads", None) or heads),
            head_dim=typical(getattr(c, "head_dim", None) or c.hidden_size // heads),
            V=c.vocab_size,
            width=width,
            micro_tokens=max(256, int(kept_gib(config) * GIB / kept)),
        )

    def at_work(self, recipe: Recipe) -> Shape:
        """As the update computes: in float32, where a rule moves weights of low precision by itself."""
        if recipe.update.cost().adamw or self.adapter or self.width == 4:
            return self
        return replace(self, width=4, micro_tokens=max(256, self.micro_tokens * self.width // 4))


@dataclass(frozen=True)
class Workload:
    """One step: P prompts of about `prompt` tokens (the longest has `longest`), G answers each, of `answer` tokens on
    average and at most T.  eval_rows: answers of an evaluation.  at_once: answers that the sampler decodes together.
    head: tokens that all prompts begin with, which run once."""

    P: int
    G: int
    prompt: float
    longest: int
    answer: float
    T: int
    eval_rows: int
    at_once: int = SAMPLERS[USUAL].at_once
    head: int = 0

    @classmethod
    def of(
        cls, config: TrainConfig, codec: Codec, envs: Sequence[Environment], answer: float | None = None
    ) -> Workload:
        """The work that a resolved `config` asks for; prompt lengths from the first problems of the task."""
        assert config.prompts_per_step and config.max_new_tokens
        problems = [env[i] for env in envs for i in range(min(len(env), PROMPTS_LOOKED_AT))]
        prompts = [codec.encode(task.prompt) for task in problems]
        lengths = [len(x) for x in prompts]
        samples = answers_per_problem(config.eval_samples, config.eval_problems, len(envs[-1]))
        return cls(
            P=config.prompts_per_step,
            G=config.samples_per_prompt,
            prompt=sum(lengths) / len(lengths),
            longest=max(lengths),
            answer=mean_answer(answer, config.max_new_tokens),
            T=config.max_new_tokens,
            eval_rows=min(config.eval_problems, len(envs[-1])) * samples,
            at_once=SAMPLERS[config.sampler].at_once,
            head=common_head([torch.tensor(x) for x in prompts]),
        )

    @property
    def fed(self) -> float:
        """Tokens that an update feeds: each prompt once, each answer but for its last token: P Lp - (P - 1) H + P G (L - 1)."""
        return self.read + self.P * self.G * max(self.answer - 1, 0)

    @property
    def read(self) -> float:
        """Tokens of the prompts that run, P Lp - (P - 1) H: what all begin with once."""
        return self.P * self.prompt - max(self.P - 1, 0) * self.head


def mean_answer(asked: float | None, limit: int) -> float:
    """The mean length of an answer that is planned with: what was asked for, else the limit.

    Raises:
        InputError: no answer can be so long.
    """
    if asked is not None and asked > limit:
        raise InputError(
            f"{setting('answer_tokens', f'{asked:g}')} is the mean length of an answer, and none is longer than {limit} tokens "
            f"({setting('max_new_tokens', limit)}). Give at most as many, or raise {setting('max_new_tokens')}."
        )
    return asked or limit


def sketch(name: str, dtype: str, *, trust_remote_code: bool = False) -> Model:
    """The model on the meta device: its configuration and tokenizer are read, its weights are not."""
    quiet()
    where = place(name)
    with reading(name, where, "planned"):
        config = AutoConfig.from_pretrained(**where.model, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(**where.tokenizer, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
    return Model(hf, codec_of(hf, tokenizer, frozenset({tokenizer.eos_token_id} - {None})))


# -- counts in bytes -----------------------------------------------------------------------------------------------
def trained(model: Model, config: TrainConfig) -> int:
    """Numbers that the optimizer moves: all, those that --trainable finds, or r (in + out) for each LoRA target."""
    if not config.lora_rank:
        names = config.trained_names()
        return sum(p.numel() for n, p in model.hf.named_parameters() if names is None or names.search(n))
    every, head = config.lora_targets == "all-linear", model.hf.get_output_embeddings()
    wanted = {x.strip() for x in config.lora_targets.split(",")}
    layers = [(n.rpartition(".")[2], m) for n, m in model.hf.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    chosen = [m for n, m in layers if m is not head and (every or n in wanted)]
    return config.lora_rank * sum(sum(m.weight.shape) for m in chosen)


def adam_bytes(n: int, width: int) -> tuple[int, int]:
    """(8 n + 4 n [width < 4], 4 n + 4 n [width < 4]): held (two moments, float32 masters), and alive during its step."""
    low = width < 4
    return 8 * n + 4 * n * low, 4 * n + 4 * n * low


def key_value_bytes(s: Shape, rows: int, tokens: int) -> int:
    """2 layers rows K D_h tokens width: keys and values."""
    return 2 * s.layers * rows * s.key_heads * s.head_dim * tokens * s.width


def draw_bytes(s: Shape, rows: int) -> int:
    """4 c rows V: the arrays that live while a token is drawn, c = DRAW_COPIES."""
    return 4 * DRAW_COPIES * rows * s.V


def activation_bytes(s: Shape, tokens: float, keys: float) -> float:
    """layers (tokens (7 D + 4 F + 2 H D_h) + 2 keys K D_h) width: what the backward of `tokens` keeps.

    keys: prompt and answer tokens summed over rows, for a row's keys are laid out beside its prompt's. Norms compute
    in float32 whatever the width, which adds 2 D in low precision. With checkpoints one layer at a time, and D a token of each.
    """
    per_token = (7 if s.width == 4 else 9) * s.D + 4 * s.F + 2 * s.heads * s.head_dim
    layer = s.width * (tokens * per_token + 2 * keys * s.key_heads * s.head_dim)
    return layer + s.layers * tokens * s.D * s.width if s.checkpoints else s.layers * layer


def mask_bytes(s: Shape, rows: float, T: int, keys: int) -> float:
    """rows (H / K) T (L_p + T) width: which key each token of a micro-batch may see, shared by all layers."""
    return rows * (s.heads // s.key_heads) * T * keys * s.width


def head_bytes(s: Shape, tokens: float) -> float:
    """4 c min(tokens, chunk) V + 4 tokens V + 8 V D: a chunk in its backward; log p that was kept for it, where there are few
    tokens; the head's gradient and one product."""
    chunk = min(tokens, max(1, CHUNK_ELEMENTS // s.V))
    kept = tokens if keeps(math.ceil(tokens), s.V) else 0
    return 4 * (HEAD_COPIES * chunk + kept) * s.V + 8 * s.V * s.D


# -- their sum -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Need:
    """Bytes by what they are for. held: all along; sampling, updating: on top of it, one after the other."""

    held: dict[str, float]
    sampling: dict[str, float]
    updating: dict[str, float]

    @property
    def peak(self) -> float:
        return sum(self.held.values()) + max(sum(self.sampling.values()), sum(self.updating.values()))

    def rows(self) -> list[tuple[str, str, float]]:
        parts = (("held", self.held), ("sampling", self.sampling), ("updating", self.updating))
        return [(when, name, size) for when, part in parts for name, size in part.items() if size]


def need(s: Shape, w: Workload, recipe: Recipe, process: int, *, cpu: bool = True) -> Need:
    """Memory of a run. process: bytes that Python and its libraries take by themselves.  cpu: it computes there."""
    moved = 4 if s.adapter else s.width  # an adapter is float32 whatever the model computes in
    wide = s.at_work(recipe)
    masters = 4 * s.trainable * (wide is not s)
    adam_held, adam_step = adam_bytes(s.trainable, moved) if recipe.update.cost().adamw else (masters, 0)
    held: dict[str, float] = {
        "Python and libraries": process,
        "weights": s.parameters * s.width,
        "optimizer (float32 moments, masters)": adam_held,
        "adapter": 4.0 * s.trainable * s.adapter,
        "reference policy": s.parameters * wide.width if needs.reference(recipe.needs) and not s.adapter else 0,
    }
    critic_step = 0
    if (critic := recipe.credit.learns()) is not None and not critic.shared:
        trunk = s.parameters - s.V * s.D * (s.parameters - s.products > 1.5 * s.V * s.D)  # without an untied head
        trunk = s.trainable if s.adapter else trunk
        moments, critic_step = adam_bytes(trunk, moved)
        held["critic (weights, optimizer)"] = (4 * trunk if s.adapter else s.parameters * s.width) + moments
        critic_step += trunk * moved

    rows = min(max(w.P * w.G, w.eval_rows), w.at_once)
    prefilled = min(w.P, rows) if w.eval_rows <= w.P * w.G else rows
    packed = cpu and packs(torch.float32 if s.width == 4 else torch.bfloat16) and few(rows)
    sampling = {
        "key-value memory": float(key_value_bytes(s, rows, w.T) + key_value_bytes(s, prefilled, w.longest)),
        "prefill": prefilled * w.longest * (6 * s.D + 3 * s.F) * s.width,
        "packed weights": float((s.products + s.V * s.D) * s.width * packed),
        "logits and draws": float(draw_bytes(s, rows)),
    }
    updating = _updating(wide, w, recipe, adam_step, critic_step)
    if wide is not s:
        updating["update: other weights in float32"] = 4.0 * (s.parameters - s.trainable)
    return Need(held, sampling, updating)


def _updating(s: Shape, w: Workload, recipe: Recipe, adam_step: int, critic_step: int) -> dict[str, float]:
    """A micro-batch's activations with the head's chunk, or, where that is more, the optimizer's own step."""
    whole = w.P * (w.prompt + w.G * w.T)  # every answer at its limit
    tokens = min(whole, s.micro_tokens)
    rows = max(1.0, tokens / (w.prompt / w.G + w.T))
    scored = rows * w.T
    work = {
        "activations of a micro-batch": activation_bytes(s, tokens, rows * (w.longest + w.T))
        + mask_bytes(s, rows, w.T, w.longest + w.T),
        "head: logits": head_bytes(s, scored),
    }
    gradients = float(s.trainable * (4 if s.adapter else s.width))
    parts = -(-whole // s.micro_tokens)
    cost = recipe.update.cost()
    if copies := needs.frozen_copies(recipe.needs):
        work["remembered distributions"] = copies * (parts * s.V * s.D * s.width + w.P * w.G * w.T * s.D * s.width)
    work["update: vectors"] = 4.0 * cost.vectors * s.trainable
    if cost.products:
        curved = min(cost.curved or w.fed, w.fed)
        work["update: curvature graph"] = 3 * activation_bytes(s, curved, curved * 2) + 6 * 4 * curved * s.V
    step = {"gradients": gradients, "optimizer step": float(max(adam_step, critic_step))}
    if parts > 1 or cost.vectors:  # the gradients of earlier micro-batches wait; what is made of them lies beside them
        work["gradients"] = gradients
    return max(work, step, key=lambda part: sum(part.values()))
