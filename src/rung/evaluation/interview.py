"""A run's model and the one that it began with, asked the same: what `rung ask` and `Run.ask` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rung.errors import InputError
from rung.io.answers import looked_at
from rung.io.files import readable
from rung.io.run_dir import RunDir
from rung.kernels.device import choose
from rung.network import model as models
from rung.network.model import Model
from rung.records import Prompt, SamplingLaw
from rung.rollout.question import Answer, Frame, answers
from rung.rollout.sampler import Sampler
from rung.rollout.samplers import USUAL, SamplerName, make_sampler
from rung.settings.paths import path_of
from rung.settings.ranges import Answers, Checked, Count, Seed, Temperature
from rung.tasks.sources.wording import SLOT
from rung.training.setup import is_run, locate

LOOKED_AT = 64  # stored prompts, for what all of them share
MAX_NEW_TOKENS = 256  # of a model that is no run


@dataclass(frozen=True)
class Asked(Checked):
    """How many answers, and how they are drawn, checked before a model is asked."""

    samples: Answers = 1
    temperature: Temperature | None = None
    max_new_tokens: Count | None = None
    seed: Seed = 0
    sampler: SamplerName = USUAL


@dataclass(frozen=True)
class Reply:
    """Answers to one question. before: of the model that the run began with; empty if that was not asked, `missing`: why it
    could not be."""

    question: str
    now: Sequence[Answer]
    before: Sequence[Answer] = ()
    missing: str = ""

    def __repr__(self) -> str:
        lines = [self.question]
        for label, said in (("before", self.before), ("now", self.now)):
            lines += [f"{label:8}{a.text.strip()}{' [cut]' if a.stop == 'length' else ''}" for a in said]
        return "\n".join([*lines, *([f"(not asked before: {self.missing})"] if self.missing else [])])


@dataclass(frozen=True)
class Interview:
    """Models ready to be asked. `missing`: why there is no `before` to ask; empty where there is one, or was not to be.

    law: as the run's answers were drawn, with its limit of tokens.  made: samplers, by their model and name.
    alone: nothing but these models is on their device.
    """

    now: Model
    before: Model | None = None
    frame: Frame = field(default_factory=Frame)
    law: SamplingLaw = field(default_factory=lambda: SamplingLaw(max_new_tokens=MAX_NEW_TOKENS))
    missing: str = ""
    alone: bool = False
    made: dict[tuple[int, str], Sampler] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str | Path, *, before: bool = True, device: str = "auto") -> Interview:
        """A run by its directory, with the model that it began with; or any model, by what `--model` takes."""
        path, where = path_of(name), choose(device)
        if not is_run(path):
            now = models.load(locate(str(name)), device=where)
            return cls(now, frame=Frame(chat=now.codec.chats))
        run = RunDir.open(path)
        stored = run.config()
        how: dict[str, Any] = {
            "dtype": getattr(torch, stored.get("dtype", "float32")),
            "trust_remote_code": stored.get("trust_remote_code", False), "device": where,
        }  # fmt: skip
        now, first, missing = models.load(str(run.model_path()), **how), None, ""
        if before:
            try:
                first = models.load(locate(str(stored["model"])), **how)
            except InputError as error:  # it was moved, or never stored; what was trained can be asked all the same
                missing = str(error)
        for model in (now, first):
            if model is not None:
                model.codec = model.codec.using(stored.get("template_options", {}))
        law = SamplingLaw(stored.get("temperature", 1.0), max_new_tokens=stored.get("max_new_tokens", MAX_NEW_TOKENS))
        before_it, _, behind = stored.get("prompt_template", SLOT).partition(SLOT)
        return cls(now, first, Frame.of(stored_prompts(run), (before_it, behind)), law, missing)

    def ask(
        self, question: str, samples: int = 1, *, temperature: float | None = None, max_new_tokens: int | None = None,
        seed: int = 0, probabilities: bool = False, sampler: SamplerName = USUAL,
    ) -> Reply:  # fmt: skip
        """The question in the frame of the run's problems. temperature: None: one answer is greedy, several are drawn as
        the run drew them."""
        asked = Asked(samples, temperature, max_new_tokens, seed, sampler)
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"the question is {question!r:.80}; it must be a text that is not blank.")
        heat = asked.temperature if asked.temperature is not None else 0.0 if samples == 1 else self.law.temperature
        law = SamplingLaw(heat, max_new_tokens=asked.max_new_tokens or self.law.max_new_tokens)
        prompt = self.frame.around(question)

        def said(model: Model | None) -> list[Answer]:
            how = asked.samples, asked.seed
            if model is None:
                return []
            kind = self._sampler(model, asked.sampler)
            return answers(model, prompt, law, *how, probabilities=probabilities, sampler=kind)

        return Reply(question, said(self.now), said(self.before), self.missing)

    def _sampler(self, model: Model, name: str) -> Sampler:
        """Made once: another engine takes long to start, and no weight moves between questions."""
        key = id(model), name
        if key not in self.made:
            self.made[key] = make_sampler(model, name, alone=self.alone and self.before is None)
        return self.made[key]


def stored_prompts(run: RunDir) -> list[Prompt]:
    """Some of the run's problems as its models read them: of its first evaluation, else of its first stored step."""
    kept = sorted((run.path / "evaluations").glob("step_*.jsonl"))
    if kept:
        with readable(kept[0]), kept[0].open(encoding="utf-8") as lines:
            rows = looked_at(json.loads(line) for _, line in zip(range(LOOKED_AT), lines, strict=False))
            return [row["prompt"] for row in rows]
    steps = run.rollout_steps()
    if not steps:
        return []
    rows = run.read_rollouts(steps[0])[:LOOKED_AT]
    with readable(run.path / "rollouts"):
        return [row["prompt"] for row in looked_at(rows)]
