"""A question put to a model as its training problems were, and its answers, with how sure it was of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rung.errors import InputError
from rung.network.model import Model
from rung.records import Message, Prompt, SamplingLaw, StopReason
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler
from rung.rollout.samplers import make_sampler


@dataclass(frozen=True)
class Token:
    """p: its probability under the model itself, softmax(logits) at temperature 1, whatever the answer was drawn with."""

    text: str
    p: float


@dataclass(frozen=True)
class Answer:
    """stop: "length" if the limit of tokens cut it.  tokens: empty unless probabilities were asked for."""

    text: str
    stop: StopReason
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Frame:
    """What stands around the question in all of a run's prompts; `chat`: they are messages and not plain text.

    head, tail: messages before and behind the user's; below: the lines under the question, such as an instruction;
    words: what --prompt-template puts before and behind both.
    """

    chat: bool = False
    head: tuple[Message, ...] = ()
    below: str = ""
    tail: tuple[Message, ...] = ()
    words: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, prompts: Sequence[Prompt], words: tuple[str, str] = ("", "")) -> Frame:
        """The frame that the prompts share; of prompts of several shapes, that of the first kind, bare.

        words: what stands before and behind each question, known beforehand (--prompt-template).
        """
        return replace(cls._of([_bare(p, words) for p in prompts]), words=words)

    @classmethod
    def _of(cls, prompts: Sequence[Prompt]) -> Frame:
        talks = [p for p in prompts if not isinstance(p, str)]
        if not talks or len(talks) < len(prompts):
            texts = [p for p in prompts if isinstance(p, str)]
            return cls(below=_shared_end(texts) if not talks else "")
        at = [_question(p) for p in talks]
        heads = [[dict(m) for m in p[:i]] for p, i in zip(talks, at, strict=True)]
        tails = [[dict(m) for m in p[i + 1 :]] for p, i in zip(talks, at, strict=True)]
        below = _shared_end([str(p[i]["content"]) for p, i in zip(talks, at, strict=True)])
        head, tail = (x[0] if all(y == x[0] for y in x) else [] for x in (heads, tails))
        return cls(True, tuple(head), below, tuple(tail))

    def around(self, question: str) -> Prompt:
        """The prompt with this question in it."""
        text = question if question.endswith(self.below) else question.rstrip() + self.below
        text = text.join(self.words)
        return [*self.head, {"role": "user", "content": text}, *self.tail] if self.chat else text


def _question(prompt: Sequence[Message]) -> int:
    """Where the user asks: the last message that is the user's."""
    return max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=len(prompt) - 1)


def _bare(prompt: Prompt, words: tuple[str, str]) -> Prompt:
    """The prompt without these words before and behind its question."""
    if isinstance(prompt, str):
        return prompt.removeprefix(words[0]).removesuffix(words[1])
    at = _question(prompt)
    text = str(prompt[at]["content"]).removeprefix(words[0]).removesuffix(words[1])
    return [*prompt[:at], {**prompt[at], "content": text}, *prompt[at + 1 :]]


def _shared_end(texts: Sequence[str]) -> str:
    """The last lines that all texts have in common, never a whole text, with the break in front of them."""
    lines = [text.split("\n") for text in texts]
    most = min(map(len, lines), default=1) - 1
    same = next((n for n in range(most) if len({line[-1 - n] for line in lines}) > 1), most)
    return "\n" + "\n".join(lines[0][-same:]) if same and len(set(texts)) > 1 else ""


@torch.no_grad()
def answers(
    model: Model, prompt: Prompt, law: SamplingLaw, samples: int = 1, seed: int = 0, *, probabilities: bool = False,
    sampler: Sampler | None = None,
) -> list[Answer]:  # fmt: skip
    """`samples` answers to one prompt, as long as `law` and the model's context allow.

    sampler: one of this model; None: the embedded one.
    """
    codec = model.codec
    ids = codec.encode(prompt)
    room = codec.context - len(ids)
    if room < 1:
        raise InputError(
            f"the question has {len(ids)} tokens and the model's context holds {codec.context}, which leaves no room for an "
            "answer. Ask something shorter."
        )
    law = replace(law, max_new_tokens=min(law.max_new_tokens, room))
    out = []
    for rollout in (sampler or make_sampler(model)).sample([ids], law, Draws.whole(seed, samples)):
        tokens = _tokens(model, ids, rollout.tokens) if probabilities else ()
        out.append(Answer(codec.decode(rollout.tokens), rollout.stop, tokens))
    return out


def _tokens(model: Model, prompt: Sequence[int], said: Sequence[int]) -> tuple[Token, ...]:
    row = torch.tensor([[*prompt, *said]], device=model.device)
    hf: Any = model.hf
    logits_TV = hf(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    p_T = logits_TV.softmax(-1).gather(-1, row[0, len(prompt) :, None])[:, 0].tolist()
    return tuple(Token(model.codec.whole([i]), p) for i, p in zip(said, p_T, strict=True))
