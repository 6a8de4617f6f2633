"""Makes the starter from a seed: clean traces until the model can calculate, then a messy teacher that spoils it.

Phase 1 teaches full traces until held-out accuracy reaches `clean_target`. Phase 2 imitates a teacher who mostly
guesses, sometimes writes every intermediate result or only some of them, and slips now and then. What remains is a
model that can calculate but rarely does, and whose guesses are near chance: a reward on the last digit is enough to
find out that writing the results down pays. (A clean warm-up that is merely stopped early does not do: from there
policy gradients collapse to guessing. A teacher who skips often does, but its readers lose the thread of a trace.)
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rung.errors import InputError
from rung.records import Completion, Group, Task
from rung.tasks.sources.arithmetic import MAX_NEW_TOKENS, ChainedArithmetic, apply

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SYMBOLS = (PAD, BOS, EOS, *"0123456789+-*=>#")
Style = Literal["full", "skipping", "direct"]
Report = Callable[[str], None]


@dataclass(frozen=True)
class WarmUp:
    """How the starter is taught. The defaults are what the stored checkpoint was made with."""

    clean_steps: int = 1500  # at most; phase 1 ends at `clean_target`
    clean_target: float = 0.85  # held-out greedy accuracy
    check_every: int = 25  # clean steps between two looks at the held-out accuracy
    messy_steps: int = 150  # the learning rate falls linearly to zero over them
    batch_size: int = 128
    learning_rate: float = 3e-3
    ramp_steps: int = 50  # linear, from zero
    slip: float = 0.02  # chance that the messy teacher gets an operation wrong (later ones go on from the wrong digit)
    styles: Mapping[Style, float] = field(default_factory=lambda: {"full": 0.2, "skipping": 0.05, "direct": 0.75})
    eval_size: int = 500  # problems that the model card's accuracy is measured on


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on held-out problems: greedy, sampled at temperature 1, and of the sampled full traces and guesses."""

    greedy: float
    sampled: float
    full: float  # accuracy of the sampled answers that are full traces
    direct: float  # accuracy of the sampled answers that are guesses, '#' first
    share_full: float
    share_direct: float

    def __str__(self) -> str:
        return (
            f"greedy {self.greedy:.3f}, sampled at temperature 1 {self.sampled:.3f}, of which full traces "
            f"{self.full:.2f} ({self.share_full:.0%} of the answers), direct guesses {self.direct:.2f} "
            f"({self.share_direct:.0%})"
        )


def trace(prompt: str, style: Style = "full", slip: float = 0.0, rng: random.Random | None = None) -> str:
    """A teacher's answer: `8>6>2#2` in full, `6#2` skipping (each result kept by a coin), `#2` directly."""
    rng = rng or random.Random(0)
    result, results = int(prompt[0]), []
    for operation, digit in zip(prompt[1:-1:2], prompt[2::2], strict=True):
        result = apply(operation, result, int(digit))
        if rng.random() < slip:
            result = (result + rng.randrange(1, 10)) % 10
        results.append(result)
    if style == "direct":
        results = []
    elif style == "skipping":
        results = [r for r in results if rng.random() < 0.5]
    return f"{'>'.join(map(str, results))}#{result}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, nothing added and nothing dropped; a character that it does not know is an error."""
    # `unk_token` names no symbol of the vocabulary, which makes WordLevel raise instead of losing the character.
    backend = Tokenizer(models.WordLevel({s: i for i, s in enumerate(SYMBOLS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=128,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model() -> LlamaForCausalLM:
    """Width 64, 2 layers, 4 heads, untied head: 84,672 parameters, drawn from torch's global generator."""
    config = LlamaConfig(
        vocab_size=len(SYMBOLS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.12,  # about 1 / sqrt(width): half the steps that 0.05 takes
        tie_word_embeddings=False,
        pad_token_id=SYMBOLS.index(PAD),
        bos_token_id=SYMBOLS.index(BOS),
        eos_token_id=SYMBOLS.index(EOS),
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    return model


def batches(prompts: Iterator[str], plan: WarmUp, messy: bool, rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens int[B, T], is_answer bool[B, T]) of a teacher's answers, right-padded; answers include the end token."""
    ids = {symbol: i for i, symbol in enumerate(SYMBOLS)}
    styles, weights = list(plan.styles), list(plan.styles.values())
    while True:
        rows = []
        for prompt in (next(prompts) for _ in range(plan.batch_size)):
            style = rng.choices(styles, weights)[0] if messy else "full"
            rows.append((prompt, trace(prompt, style, plan.slip if messy else 0.0, rng)))
        width = max(len(prompt) + len(answer) + 1 for prompt, answer in rows)
        tokens = torch.full((len(rows), width), ids[PAD])
        is_answer = torch.zeros((len(rows), width), dtype=torch.bool)
        for row, (prompt, answer) in enumerate(rows):
            line = [*map(ids.__getitem__, prompt + answer), ids[EOS]]
            tokens[row, : len(line)] = torch.tensor(line)
            is_answer[row, len(prompt) : len(line)] = True
        yield tokens, is_answer


def train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, tokens: Tensor, is_answer: Tensor) -> float:
    """One step on -mean over answer tokens of log p(y_t | x, y_<t)."""
    # Right padding needs no attention mask: causal attention never looks at it, and it is not in the loss.
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    keep = is_answer[:, 1:]
    loss = F.cross_entropy(logits[keep], tokens[:, 1:][keep])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def answers(
    model: LlamaForCausalLM, problems: ChainedArithmetic, sample: bool
) -> Iterator[tuple[Completion, float, int]]:
    """(answer, correct, operations) for every problem; prompts of one length at a time, so nothing is padded."""
    tokenizer = build_tokenizer()
    by_length: dict[int, list[Task]] = {}
    for task in (problems[i] for i in range(len(problems))):
        by_length.setdefault(len(str(task.prompt)), []).append(task)
    law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    for length, tasks in by_length.items():
        prompts = torch.tensor([tokenizer.encode(task.prompt) for task in tasks])
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=MAX_NEW_TOKENS, **law)
        for task, row in zip(tasks, out[:, length:], strict=True):
            ended = bool((row == model.generation_config.eos_token_id).any())
            text = tokenizer.decode(row, skip_special_tokens=True)
            completion = Completion(text, "stop" if ended else "length")
            yield completion, problems.score(Group(task, [completion]))[0]["correct"], task.data["operations"]


def accuracy(model: LlamaForCausalLM, problems: ChainedArithmetic, sample: bool = False) -> float:
    """Share of problems answered correctly."""
    return sum(correct for _, correct, _ in answers(model, problems, sample)) / len(problems)


def accuracy_of(model: LlamaForCausalLM, problems: ChainedArithmetic) -> Accuracy:
    """What the starter can do: see `Accuracy`."""
    rows = list(answers(model, problems, sample=True))
    full = [correct for c, correct, operations in rows if c.text.count(">") == operations - 1]
    direct = [correct for c, correct, _ in rows if c.text.startswith("#")]
    return Accuracy(
        greedy=accuracy(model, problems),
        sampled=sum(correct for _, correct, _ in rows) / len(rows),
        full=sum(full) / max(len(full), 1),
        direct=sum(direct) / max(len(direct), 1),
        share_full=len(full) / len(rows),
        share_direct=len(direct) / len(rows),
    )


def warm_up(seed: int, plan: WarmUp, report: Report) -> LlamaForCausalLM:
    """Both phases, from new weights; the training problems are the train split's, drawn with `seed`."""
    rng = random.Random(seed)
    model = build_model()
    # Decay .95, not .999: the loss falls in sudden steps, and a long memory of squared gradients sits them out.
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    train = ChainedArithmetic("train", seed, 1 << 40)
    prompts = (str(train[index].prompt) for index in count())
    held_out = ChainedArithmetic("eval", seed + 1, 200)
    model.train()
    for step, batch in zip(range(1, plan.clean_steps + 1), batches(prompts, plan, False, rng), strict=False):
        optimizer.param_groups[0]["lr"] = plan.learning_rate * min(1.0, step / plan.ramp_steps)
        loss = train_step(model, optimizer, *batch)
        if step % plan.check_every == 0:
            reached = accuracy(model, held_out)
            report(f"clean traces: step {step}, loss {loss:.3f}, held-out accuracy {reached:.3f}")
            if reached >= plan.clean_target:
                break
    for step, batch in zip(range(1, plan.messy_steps + 1), batches(prompts, plan, True, rng), strict=False):
        optimizer.param_groups[0]["lr"] = plan.learning_rate * (1.0 - (step - 1) / plan.messy_steps)
        loss = train_step(model, optimizer, *batch)
        if step % 50 == 0:
            report(f"messy teacher: step {step}, loss {loss:.3f}")
    return model.eval()


def card(seed: int, plan: WarmUp, measured: Accuracy) -> str:
    """The model card: what it is, how good it is, and the command that made it."""
    return f"""# rung starter

A Llama-style model of 85 thousand parameters with a character tokenizer, for the task `chained_arithmetic`:
`4*7*2-4*2+2=` is calculated modulo 10, left to right, and answered with `8>6>2>4>6#6`.
It is a base to be improved by policy gradients: it often guesses although thinking pays.

Accuracy on {plan.eval_size} held-out problems: {measured}.

Made from seed {seed} by `rung starter --seed {seed} --out DIR`. License: Apache-2.0.
"""


def _refuse(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the starter is written as a directory: name another place with --out")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} exists and is not empty; nothing is overwritten: name a new directory with --out")


def make(out: Path, seed: int = 0, report: Report = print, plan: WarmUp = WarmUp()) -> None:
    """Make the starter from `seed` and save it at `out`, whole or not at all; torch's own seed is left as it was."""
    out = Path(out)
    _refuse(out)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; name another place with --out") from error
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = warm_up(seed, plan, report)
            measured = accuracy_of(model, ChainedArithmetic("eval", 0, plan.eval_size))
        model.save_pretrained(scratch)
        build_tokenizer().save_pretrained(scratch)
        (scratch / "README.md").write_text(card(seed, plan, measured), encoding="utf-8")
        scratch.chmod(0o755)  # mkdtemp makes it private
        _refuse(out)  # a minute has passed
        if out.exists():
            out.rmdir()
        scratch.rename(out.absolute())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report(f"{out}: {measured}")
