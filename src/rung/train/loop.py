"""`rung train`: from settings to a run. Evaluate, then sample -> score -> learn for some steps, evaluate again, save."""

from __future__ import annotations

import difflib
import json
import math
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rung import starter
from rung.errors import InputError, unknown
from rung.io import smollm2
from rung.io.console import Console
from rung.io.run_dir import RunDir
from rung.io.state import load_state, save_state
from rung.io.summary import Example, summary
from rung.recipe_io import brief
from rung.recipe_rules import check_sampling
from rung.recipes import Recipe
from rung.records import Scored
from rung.rollout import model as models
from rung.rollout.collect import Collected, Collector, encode
from rung.rollout.model import Model
from rung.rollout.sampler import TorchSampler
from rung.tasks import registry
from rung.tasks.environment import Splits
from rung.train.config import TrainConfig, to_toml
from rung.train.evaluate import Evaluation, evaluate
from rung.train.learner import Hyper, Learner
from rung.train.metrics import reward_metrics

OURS = ("starter", "smollm2")
EVAL_SEED = 20_000_003  # evaluations draw from a seed of their own: the same one before and after


@dataclass
class Run:
    """What a training returns: where it lies, accuracy before and after, and whether the user cut it short."""

    path: Path
    before: Evaluation
    after: Evaluation
    steps: int
    interrupted: bool = False
    metrics: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Setup:
    """Everything that a run is made of, checked before anything is written."""

    config: TrainConfig
    recipe: Recipe
    splits: Splits
    model: Model
    learner: Learner
    sampler: TorchSampler
    collector: Collector


def locate(name: str) -> str:
    """'starter' and 'smollm2' to the directories they stand for; anything else as it is."""
    if name == "starter":
        return str(starter.path())
    if name == "smollm2":
        found = smollm2.path()
        if found is None:
            raise InputError(
                "the model smollm2 is not on this machine yet. Run `make smollm2` (or `rung smollm2`) once, then try again."
            )
        return str(found)
    if "/" not in name and not Path(name).exists() and difflib.get_close_matches(name.lower(), OURS, n=1, cutoff=0.75):
        raise unknown("model", name, OURS, more=" Or give a directory with a Hugging Face model, or a hub id.")
    return name


def prepare(config: TrainConfig) -> Setup:
    """Check the settings, cheapest first, then load task and model and build the learner."""
    config = config.resolved()
    recipe = config.build_recipe()
    if config.threads:
        torch.set_num_threads(config.threads)
    splits = registry.load(config.task or "", path=config.task_path, reward=config.reward, options=config.task_options)
    if config.max_new_tokens is None:
        config = replace(config, max_new_tokens=splits.max_new_tokens)
    assert config.prompts_per_step and config.max_new_tokens and config.learning_rate is not None
    check_sampling(
        recipe,
        samples_per_prompt=config.samples_per_prompt,
        rows=config.prompts_per_step * config.samples_per_prompt,
        temperature=config.temperature,
        is_full=config.law().is_full,
        max_new_tokens=config.max_new_tokens,
    )
    torch.manual_seed(config.seed)
    model = models.load(
        locate(config.model), dtype=getattr(torch, config.dtype), trust_remote_code=config.trust_remote_code
    )
    if config.trainable is not None:
        _train_only(model, config.trainable)
    if torch.cuda.is_available():
        model.hf.to("cuda")
    for env in (splits.train, splits.eval):  # a prompt that does not fit is found now, not after an hour
        for i in range(min(len(env), 512)):
            encode(model, env[i], config.max_new_tokens)
    hyper = Hyper(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        activation_gib=config.activation_gib,
        seed=config.seed,
    )
    learner = Learner(recipe, model, hyper)
    sampler = TorchSampler(model)
    collector = Collector(
        splits.train, model, sampler, config.law(), recipe.data, config.prompts_per_step, config.samples_per_prompt,
        config.seed, greedy="greedy" in recipe.needs, steps="steps" in recipe.needs,
    )  # fmt: skip
    return Setup(config, recipe, splits, model, learner, sampler, collector)


def _train_only(model: Model, pattern: str) -> None:
    """Freeze every parameter whose name the pattern does not find."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--trainable {pattern!r} is not a regular expression: {error}.") from error
    names = [name for name, _ in model.hf.named_parameters()]
    if not any(found.search(name) for name in names):
        raise InputError(f"--trainable {pattern!r} finds no parameter, so nothing would be trained. Names look like {names[-2]!r}.")
    for name, parameter in model.hf.named_parameters():
        parameter.requires_grad_(bool(found.search(name)))


def train(config: TrainConfig, console: Console | None = None) -> Run:
    """Train as `config` says. Ctrl-C ends the run after the phase at hand and still saves and evaluates it."""
    console = console or Console()
    if config.resume and config.out is None:
        raise InputError("--resume goes on with a run, but --out does not say which. Give its directory with --out.")
    setup = prepare(config)
    config = setup.config
    if config.resume:
        run = RunDir.open(config.out or Path(), write=True)
    else:
        run = RunDir.create(Path("runs"), f"{setup.recipe.name}-{Path(config.model).name}", config.out)
    with run, console:
        if not config.resume:
            run.write_config(to_toml(config, setup.recipe))
        run.write_environment()
        return _Loop(setup, run, console).go()


class _Interrupt:
    """The first Ctrl-C asks the loop to end after the step at hand; the second one raises at once."""

    def __init__(self, console: Console) -> None:
        self.console, self.now = console, False

    def __enter__(self) -> _Interrupt:
        self.main = threading.current_thread() is threading.main_thread()
        self.before = signal.signal(signal.SIGINT, self._ask) if self.main else None
        return self

    def __exit__(self, *error: object) -> None:
        if self.main:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: object) -> None:
        if self.now:
            raise KeyboardInterrupt
        self.now = True
        self.console.message("interrupted: finishing this step, then saving (Ctrl-C once more to leave at once)")


@dataclass
class _Loop:
    setup: Setup
    run: RunDir
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def go(self) -> Run:
        setup, config = self.setup, self.setup.config
        setup.learner.phase = setup.collector.phase = self.phase
        first, before = self._resume() if config.resume else (0, None)
        assert config.steps is not None
        self.console.start(self._header(), config.steps, first)
        done = first
        with _Interrupt(self.console) as asked:
            if before is None:
                before = self._evaluate(first)
            for step in range(first, config.steps):
                if asked.now:
                    break
                self._step(step)
                done = step + 1
                if config.eval_every and done % config.eval_every == 0 and done < config.steps:
                    self._evaluate(done)
                if config.save_every and done % config.save_every == 0 and done < config.steps:
                    self._save(done)
            self._save(done)
            after = before if asked.now else self._evaluate(done)
        if asked.now:
            self.console.finish("interrupted")
            again = f"rung train {config.recipe} ... --out {self.run.path} --resume"
            self.console.message(f"the run lies in {self.run.path} with a loadable model; go on with: {again}")
        else:
            self.console.finish("finished")
            self._conclude(before, after)
        return Run(self.run.path, before, after, done, asked.now, self.run.metrics())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.console.phase(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _step(self, step: int) -> None:
        setup, config = self.setup, self.setup.config
        self.seconds, start = {}, time.perf_counter()
        collected = setup.collector.collect(step, setup.learner.state)
        metrics = setup.learner.step(collected)
        setup.sampler.load(None, setup.learner.version)
        self.tokens += sum(len(r.rollout.tokens) for r in collected.scored)
        row = {
            "step": step + 1,
            **reward_metrics(collected, config.samples_per_prompt),
            **metrics,
            "num_tokens": float(self.tokens),
            "step_time": time.perf_counter() - start,
            **{
                f"time/{name}": self.seconds.get(name, 0.0)
                for name in ("sample", "reward", "logprob", "update", "sync")
            },
        }
        self.run.log(row)
        if config.save_rollouts:
            self.run.write_rollouts(step + 1, rollout_rows(collected, setup.learner.last_adv_BT))
        self.console.step(row)
        if not math.isfinite(row["grad_norm"]):
            self.console.message(
                f"step {step + 1}: the gradient is not finite, so nothing was changed. Lower the learning rate."
            )

    def _evaluate(self, step: int) -> Evaluation:
        setup, config = self.setup, self.setup.config
        with self.phase("eval"):
            result = evaluate(
                setup.splits.eval, setup.model, setup.sampler, config.law(), config.eval_problems, 1, EVAL_SEED
            )
        self.run.log({"step": step, **result.metrics()})
        self.console.step({"step": step, **result.metrics()})
        self._keep_answers(step, result)
        return result

    def _keep_answers(self, step: int, result: Evaluation) -> None:
        """Evaluation answers stand beside the rollouts, in the same form."""
        path = self.run.path / "evaluations"
        path.mkdir(exist_ok=True)
        with (path / f"step_{step:06d}.jsonl").open("w", encoding="utf-8") as file:
            for a in result.answers:
                file.write(json.dumps(answer_row(a)) + "\n")

    def _save(self, step: int) -> None:
        setup = self.setup

        def write(directory: Path) -> None:
            setup.model.hf.save_pretrained(directory)
            setup.model.tokenizer.save_pretrained(directory)
            save_state(directory, {"learner": setup.learner.state_dict(), "step": step, "tokens": self.tokens})

        self.run.checkpoint(step, write)

    def _resume(self) -> tuple[int, Evaluation | None]:
        """Continue from the newest complete checkpoint: weights, optimizer, critic, counters. Metrics after it are set aside."""
        checkpoint = self.run.latest_checkpoint()
        if checkpoint is None:
            raise InputError(
                f"{self.run.path} holds no complete checkpoint to resume from. Start a new run with another --out."
            )
        stored = self.run.config().get("expanded_recipe", {}).get("name")
        if stored != self.setup.recipe.name:
            raise InputError(
                f"{self.run.path} was trained with recipe {stored!r}, not {self.setup.recipe.name!r}. "
                f"Resume it with `rung train {stored} ... --out {self.run.path} --resume`."
            )
        restore(self.setup, checkpoint)
        state = load_state(checkpoint)
        self.tokens = int(state["tokens"])
        self.run.truncate_metrics(int(state["step"]))
        return int(state["step"]), None

    def _header(self) -> Mapping[str, str]:
        s, c = self.setup, self.setup.config
        assert c.prompts_per_step
        parameters = sum(p.numel() for p in s.model.hf.parameters())
        return {
            "recipe": f"{s.recipe.name}: {brief(s.recipe.credit)}",
            "model": f"{c.model}, {parameters / 1e6:.3g} M parameters",
            "task": f"{c.task}, {len(s.splits.train)} problems",
            "batch": f"{c.prompts_per_step} prompts x {c.samples_per_prompt} answers = {c.prompts_per_step * c.samples_per_prompt}",
            "run": str(self.run.path),
        }

    def _conclude(self, before: Evaluation, after: Evaluation) -> None:
        config, path = self.setup.config, self.run.path
        summary(
            self.console,
            before.summary(),
            after.summary(),
            examples(before, after),
            path,
            [
                f"rung eval {path} --task {config.task}",
                f"rung explain {self.setup.recipe.name}",
                "rung recipes",
            ],
        )


def restore(setup: Setup, checkpoint: Path) -> None:
    """Put the weights and the learner's state of a checkpoint into a setup that was built from scratch."""
    saved = type(setup.model.hf).from_pretrained(checkpoint, dtype=setup.model.hf.dtype)
    setup.model.hf.load_state_dict(saved.state_dict())
    setup.learner.load_state_dict(load_state(checkpoint)["learner"])
    setup.sampler.load(None, setup.learner.version)


def examples(before: Evaluation, after: Evaluation, count: int = 3) -> list[Example]:
    """Problems to show: first those that were wrong and became right, then the others, in their order."""
    pairs = [(b, a) for b, a in zip(before.answers, after.answers, strict=True)]
    pairs.sort(key=lambda pair: -((pair[1].reward > 0) and not (pair[0].reward > 0)))
    return [
        Example(prompt_text(b), b.text, a.text, before_right=b.reward > 0, after_right=a.reward > 0)
        for b, a in pairs[:count]
    ]


def prompt_text(row: Scored) -> str:
    prompt = row.task.prompt
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def answer_row(row: Scored) -> dict[str, Any]:
    """One answer as JSON: what was asked, what was said, what it earned."""
    prompt = row.task.prompt
    return {
        "task": row.task.id,
        "prompt": prompt if isinstance(prompt, str) else [dict(m) for m in prompt],
        "answer": row.text,
        "reward": row.reward if math.isfinite(row.reward) else None,
        "rewards": {k: v if math.isfinite(v) else None for k, v in row.rewards.items()},
        "stop": row.rollout.stop,
        "version": row.rollout.version,
    }


def rollout_rows(collected: Collected, adv_BT: torch.Tensor | None) -> list[dict[str, Any]]:
    """All answers of a step with tokens, log-probabilities, rewards and advantages, one JSON object each."""
    assert adv_BT is not None, "a step has taken its advantages"
    out = []
    for row, group, adv in zip(collected.scored, collected.batch.group_B.tolist(), adv_BT.tolist(), strict=True):
        n = len(row.rollout.tokens)
        tokens = {"tokens": list(row.rollout.tokens), "logp": [round(x, 6) for x in row.rollout.logp]}
        out.append({**answer_row(row), "group": group, **tokens, "advantages": [round(x, 6) for x in adv[:n]]})
    return out
