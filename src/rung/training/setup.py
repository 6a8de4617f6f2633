"""From settings to a run's parts: everything is checked here, cheapest first, before anything is written."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from rung.advice import stands_for_a_run
from rung.errors import InputError, setting, unknown
from rung.io.files import scratch
from rung.io.run_dir import RunDir
from rung.kernels.device import choose
from rung.models import smollm2, starter
from rung.network import adapter, checkpointing
from rung.network import model as models
from rung.network.model import Model
from rung.network.place import place
from rung.plan import fit
from rung.recipe_io import override
from rung.recipe_rules import refuse_sampling
from rung.recipes import Recipe
from rung.records import SamplingLaw
from rung.rollout.ask import encode
from rung.rollout.collect import Collector
from rung.rollout.sampler import Sampler
from rung.rollout.samplers import SAMPLERS, make_sampler
from rung.settings.paths import path_of
from rung.settings.shared import Problems, Weights
from rung.tasks.environments.protocol import Conversational, Environment, Splits
from rung.tasks.problems import problems_of
from rung.tasks.sources.given import MADE
from rung.text import Codec, listed
from rung.training import defaults
from rung.training.config import TrainConfig
from rung.training.evaluation import answers_per_problem
from rung.training.learner import Hyper, Learner, LocalLearner
from rung.training.micro import kept_gib
from rung.training.needs import collected

OURS = ("starter", "smollm2")
PROMPTS_TRIED = 512
PROMPTS_LOOKED_AT = 64


class Engine(Protocol):
    """Who learns and who draws the answers: this process (Here), or several (cluster/)."""

    def refuse(self, config: TrainConfig, recipe: Recipe, where: str | Model, splits: Splits) -> None:
        """Refuse what there is no room for, before anything is loaded. config: every default in place; where: of the weights."""

    def parts(
        self, config: TrainConfig, recipe: Recipe, where: str | Model, model: Model, longest: int
    ) -> tuple[Learner, Sampler]:
        """A learner and a sampler that begin with the weights in `where`. model: this process's own; longest: a row's tokens."""

    def collecting(self, collector: Collector) -> Collector:
        """The collector as the loop asks it."""


class Here:
    """This process learns and draws."""

    def refuse(self, config: TrainConfig, recipe: Recipe, where: str | Model, splits: Splits) -> None:
        fit.refuse_too_large(config, recipe, where, (splits.train, splits.eval))

    def parts(
        self, config: TrainConfig, recipe: Recipe, where: str | Model, model: Model, longest: int
    ) -> tuple[Learner, Sampler]:
        return LocalLearner(recipe, model, hyper(config)), make_sampler(model, config.sampler)

    def collecting(self, collector: Collector) -> Collector:
        return collector


@dataclass
class Setup:
    """Everything that a run is made of, checked before anything is written."""

    config: TrainConfig
    recipe: Recipe
    splits: Splits
    model: Model
    learner: Learner
    sampler: Sampler
    collector: Collector


def is_run(path: Path) -> bool:
    return (path / "config.toml").is_file()


def locate(name: str) -> str:
    """'starter', 'smollm2' and a run's directory to the directory of the model they stand for; anything else as it is."""
    stands_for_a_run(name)
    if name == "starter":
        return str(starter.path())
    if name == "smollm2":
        found = smollm2.path()
        if found is None:
            raise smollm2.absent()
        return str(found)
    if name.startswith(MADE):
        raise InputError(
            f"the model {name.removeprefix(MADE)} came from Python as an object, and no file holds it. Give it again there, or "
            "save it (save_pretrained) and give its directory."
        )
    if is_run(path := path_of(name)):
        return str(RunDir.open(path).model_path())
    if "/" not in name and not path.exists() and difflib.get_close_matches(name.lower(), OURS, n=1, cutoff=0.75):
        raise unknown("model", name, OURS, more=" Or give a directory with a Hugging Face model, or a hub id.")
    place(name)  # refuses a path without a model
    return name


def settle(
    config: TrainConfig, splits: Splits | None = None, own: Recipe | None = None
) -> tuple[TrainConfig, Recipe, Splits]:
    """The settings with every default in place, the recipe and the task that they name, all checked; no model is loaded.

    splits, own: problems and a recipe made in Python, instead of those that `config` names.
    """
    given, config = config, config.resolved(own)
    config.spread()
    choose(config.here)
    SAMPLERS[config.sampler].usable()
    recipe = config.build_recipe() if own is None else override(own, config.overrides)
    if config.threads:
        torch.set_num_threads(config.threads)
    splits = problems_of(config) if splits is None else splits
    config, splits = defaults.by_task(given, splits, own)
    config = replace(
        config,
        max_new_tokens=config.max_new_tokens or splits.max_new_tokens,
        eval_samples=answers_per_problem(config.eval_samples, config.eval_problems, len(splits.eval)),
    )
    assert config.prompts_per_step and config.max_new_tokens
    refuse_sampling(
        recipe,
        samples_per_prompt=config.samples_per_prompt,
        rows=config.prompts_per_step * config.samples_per_prompt,
        temperature=config.temperature,
        is_full=config.law().is_full,
        max_new_tokens=config.max_new_tokens,
    )
    return config, recipe, defaults.by_recipe(recipe, config.steps, splits)


def prepare(
    config: TrainConfig, splits: Splits | None = None, own: Recipe | None = None, brought: Model | None = None,
    engine: Engine = Here(),  # noqa: B008  it holds nothing
) -> Setup:  # fmt: skip
    """Check the settings, cheapest first, then load task and model and build the learner. Arguments as of `settle`.

    brought: a model that is in memory already, instead of the one that `config` names.  engine: who learns and who draws.
    """
    given = config
    config, recipe, splits = settle(given, splits, own)
    torch.manual_seed(config.seed)
    where = locate(config.model) if brought is None else _usable(config, brought)
    engine.refuse(config, recipe, where, splits)
    model = where if isinstance(where, Model) else load_weights(where, config, config.here)
    ready(model, config, config)
    try_saving(model)
    config, splits = defaults.by_model(given, config, splits, model.codec)
    assert config.prompts_per_step and config.max_new_tokens and config.learning_rate is not None
    longest = reach(model, config.law(), splits.train, splits.eval)
    for env in (splits.train, splits.eval):  # a task none of whose prompts fit is refused now
        first = [env[i] for i in range(min(len(env), PROMPTS_TRIED))]
        if first and not any(model.codec.room(task.prompt) >= config.max_new_tokens for task in first):
            encode(model.codec, first[0], config.max_new_tokens)
    learner, sampler = engine.parts(config, recipe, where, model, longest)
    collector = Collector(
        splits.train, model.codec, sampler, config.law(), recipe.data, config.prompts_per_step, config.samples_per_prompt,
        config.seed, **collected(recipe.needs),
    )  # fmt: skip
    return Setup(config, recipe, splits, model, learner, sampler, engine.collecting(collector))


def hyper(config: TrainConfig) -> Hyper:
    """The settings of the optimization, once every default is in place."""
    assert config.max_new_tokens and config.learning_rate is not None
    return Hyper(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        decay_shape=config.decay_shape,
        steps=config.steps or 0,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        activation_gib=kept_gib(config),
        seed=config.seed,
    )


def load_weights(where: str, weights: Weights, device: str, *, merge: bool = True) -> Model:
    """The model as it is trained, its own adapters merged into what they belong to, unless they are what is trained."""
    return models.load(
        where, dtype=getattr(torch, weights.dtype), trust_remote_code=weights.trust_remote_code, merge=merge,
        device=choose(device),
    )  # fmt: skip


def ready(model: Model, weights: Weights, asked: Problems) -> None:
    """Which of its weights are trained, the new adapter if there is one, and how prompts are written."""
    if names := weights.trained_names():
        train_only(model, names)
    if weights.lora_rank and adapter.has_adapter(model.hf):
        adapter.train_alone(model.hf)
    elif weights.lora_rank:
        adapter.add(model, weights.lora_rank, weights.lora_alpha, weights.lora_targets)
    if not any(p.requires_grad for p in model.hf.parameters()):
        raise InputError(
            "every parameter of the model is frozen (requires_grad is False), so there is nothing to train. Unfreeze what is to "
            f"learn, or train an adapter: {setting('lora_rank', 8)}."
        )
    model.codec = model.codec.writing(asked)
    if weights.gradient_checkpointing:
        checkpointing.enable(model)


def _usable(config: TrainConfig, model: Model) -> Model:
    """A model that is in memory already, which is trained itself and not as a copy."""
    if adapter.has_adapter(model.hf) and not (config.resume and config.lora_rank):
        raise InputError(
            "the model has a LoRA adapter already, and an object is trained as it is. Give the model without it and lora_rank, "
            "or save both (save_pretrained) and give the directory."
        )
    if config.lora_rank and not model.hf.name_or_path:
        raise InputError(
            "an adapter is stored without the weights below it, and this model was loaded from nowhere. Save it first "
            "(save_pretrained) and give its directory."
        )
    if model.hf.dtype != getattr(torch, config.dtype):
        raise InputError(
            f"the model's weights are {str(model.hf.dtype).removeprefix('torch.')} and dtype is {config.dtype!r}. An object is "
            f"trained as it is: bring it to a dtype before (model.to(torch.{config.dtype}))."
        )
    return model


def reach(model: Model, law: SamplingLaw, *envs: Environment) -> int:
    """Make room for the longest rows under `law`, where the model reads long rows in another way than short ones.

    Returns their tokens; 0: all rows are read alike.
    """
    if model.limit is None:
        return 0
    prompts = [
        env[i].prompt
        for env in envs
        if not isinstance(env, Conversational)
        for i in range(min(len(env), PROMPTS_TRIED))
    ]
    longest = max((len(model.codec.encode(prompt)) for prompt in prompts), default=0) + law.max_new_tokens
    longest = max(longest, law.max_total_tokens or 0)
    model.reach(longest)
    return longest


def try_saving(model: Model) -> None:
    """Everything of a checkpoint but the weights, written and thrown away: what cannot be saved is not trained."""
    with scratch() as directory:
        try:
            model.hf.save_pretrained(directory, state_dict={})
            model.codec.save(directory)
        except Exception as error:  # whatever saving raises, it would raise after the training too
            raise InputError(
                f"this model cannot be saved, so a training would be lost ({type(error).__name__}: {error}). Give the model "
                f"with plain weights, or train an adapter ({setting('lora_rank')})."
            ) from error


def plain_prompts(codec: Codec, splits: Splits) -> bool:
    """Whether problems are plain text although the model has a chat template, which then stays unused.

    Both splits are looked at, since a curriculum's later parts are only in the evaluation's first problems.
    """
    if not codec.chats or isinstance(splits.train, Conversational):
        return False
    return any(isinstance(env[i].prompt, str) for env in (splits.train, splits.eval) for i in range(min(len(env), 8)))


def unread_letters(codec: Codec, *envs: Environment) -> str | None:
    """A sentence for people if the tokenizer reads some of the first prompts' letters as its token for the unknown."""
    tasks = [
        env[i] for env in envs if not isinstance(env, Conversational) for i in range(min(len(env), PROMPTS_LOOKED_AT))
    ]
    found = [pieces for task in tasks if (pieces := codec.unread(task.prompt))]
    if not found:
        return None
    pieces = list(dict.fromkeys(p for part in found for p in part))
    return (
        f"{len(found)} of {len(tasks)} prompts contain {listed(pieces)}, which the model's tokenizer does not know: it "
        f"reads each of them as {codec.tokenizer.unk_token!r}"
    )


def train_only(model: Model, pattern: str | re.Pattern[str]) -> None:
    """Freeze every parameter whose name the pattern does not find."""
    found = re.compile(pattern)
    names = [name for name, _ in model.hf.named_parameters()]
    if not any(found.search(name) for name in names):
        raise InputError(
            f"{setting('trainable', found.pattern)} finds no parameter, so nothing would be trained. Names look like {names[-2]!r}."
        )
    for name, parameter in model.hf.named_parameters():
        parameter.requires_grad_(bool(found.search(name)))
