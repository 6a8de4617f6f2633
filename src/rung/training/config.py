"""The settings of a run: one frozen dataclass, written by flags, a TOML file or Python, and stored with the run.

Settings are read before torch is loaded, which takes seconds; so what knows recipes is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rung.advice import stands_for_a_run
from rung.errors import InputError, setting, unknown
from rung.records import SamplingLaw
from rung.rollout.samplers import USUAL, SamplerName
from rung.settings import toml
from rung.settings.cluster import Cluster, spread
from rung.settings.overrides import flatten
from rung.settings.paths import path_of
from rung.settings.ranges import (
    Answers,
    Coefficient,
    Count,
    Hidden,
    LearningRate,
    Natural,
    Positive,
    Seed,
    Settings,
    Temperature,
    TopP,
    between,
    hints,
    options_of,
    read,
    refuse,
)
from rung.settings.shared import Problems, Weights
from rung.training.together import refuse_together

if TYPE_CHECKING:
    from rung.recipes import Recipe

Beta = Annotated[float, between(0, 1, "a share of the past", below=True)]
Threads = Annotated[int, between(0, 1024)]
Aim = Annotated[float, between(-1e6, 1e6)]
MOST = 9  # evaluations between the first and the last, where nobody says how many
GROUPS = {  # of `rung train --help`: the first field of each
    "recipe": "what is trained",
    "task": "the problems, and who judges the answers",
    "steps": "how much: steps, problems, answers",
    "learning_rate": "the update",
    "dtype": "the weights",
    "eval_problems": "what is measured and kept",
    "seed": "the run",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Weights, Problems, Settings):
    """Settings of `rung train`. None means: chosen by the model and the task, and printed.

    Batch arithmetic has two knobs, prompts_per_step and samples_per_prompt; the rest follows from them.
    """

    recipe: str = "dr_grpo"
    """name of the recipe (`rung recipes` lists them)"""
    model: str = "starter"
    """starter, smollm2, a run, a directory with a Hugging Face model, a .gguf file, or a hub id"""

    steps: Natural | None = None
    """training steps"""
    tokens: Count | None = None
    """budget of sampled answer tokens: the run ends with the first step that reaches it; steps is then only a cap"""
    until: Aim | None = None
    """end the run with the first evaluation whose accuracy is at least this, or its mean reward; --resume goes on from there"""
    prompts_per_step: Count | None = None
    """problems per step"""
    samples_per_prompt: Answers = 8
    """answers per problem"""
    max_new_tokens: Count | None = None
    """token limit of an answer; of a conversation: of all that the model says in it; None: the task's own"""
    max_turns: Count = 8
    """turns of the model in a conversation"""
    max_turn_tokens: Count | None = None
    """token limit of one turn; None: max_new_tokens alone"""
    max_total_tokens: Count | None = None
    """prompt, answers and observations of a conversation together; None: the model's context"""
    temperature: Temperature = 1.0
    """sampling temperature; log-probabilities are taken at the same one"""
    top_p: TopP = 1.0
    """draw from the likeliest tokens that have this probability together; 1: from all"""
    top_k: Natural = 0
    """draw from this many likeliest tokens; 0: from all"""

    learning_rate: LearningRate | None = None
    """of AdamW, ten times as large for LoRA; update rules without one (trpo) ignore it"""
    warmup_steps: Natural = 0
    """first steps, in which the learning rate rises"""
    decay_steps: Natural = 0
    """last steps, in which the learning rate falls to zero; as many as steps: TRL's linear schedule"""
    decay_shape: Literal["linear", "cosine"] = "linear"
    """how it falls there"""
    clip_norm: Coefficient = 1.0
    """largest gradient norm; 0 is off"""
    weight_decay: Coefficient = 0.0
    """of AdamW"""
    adam_beta1: Beta = 0.9
    """Adam's memory of the gradient"""
    adam_beta2: Beta = 0.95
    """Adam's memory of its square; 0.999 is PyTorch's"""
    adam_epsilon: Positive = 1e-8
    """what Adam adds to the root of that square"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps (docs/devices.md)"""
    activation_gib: Positive | None = None
    """memory that a micro-batch's backward may keep; None: 1.25, on a GPU a fifth of its memory if that is more"""

    eval_problems: Count = 256
    """held-out problems of the evaluations"""
    eval_samples: Answers | None = None
    """answers per held-out problem; None: 1, or more where the task has fewer problems than asked for"""
    eval_every: Natural | None = None
    """steps between evaluations, 0: only before and after; None: a tenth of the run, more where they would take more than that"""
    save_every: Natural | None = None
    """steps between checkpoints, 0: only at the end; None: one every two minutes, or every twenty times as long as one takes"""
    keep_last: Natural | None = None
    """newest checkpoints that stay, older ones are removed, 0: all; None: 2 where the clock makes them, else all"""
    keep_best: bool = False
    """keep the checkpoint that did best on the held-out problems besides"""
    keep_rollouts: Natural = 0
    """sample so many answers at a time, and keep them until a checkpoint holds their step; 0: all at once, and keep none"""
    save_rollouts: bool = True
    """write all answers with rewards, log-probabilities and advantages"""

    seed: Seed = 0
    """of problems, draws and updates"""
    out: Path | None = None
    """the run's directory; None: runs/NAME-n"""
    resume: bool = False
    """go on with the run in --out from its newest checkpoint; `--resume RUN` says both"""
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """where else to show the metrics while it runs; metrics.jsonl is written in any case"""
    sampler: SamplerName = USUAL
    """what draws the answers"""
    threads: Threads = 0
    """CPU threads; 0: one per core"""
    ignore_memory: bool = False
    """start even where the estimate of `rung plan` exceeds this machine's memory"""
    cluster: Literal["local", "ray"] = "local"
    """who computes: this process, or actors of Ray (docs/scale.md); on the cluster of RAY_ADDRESS, else on this machine"""
    cluster_options: Hidden[dict[str, Any]] = field(default_factory=dict)
    """how many they are, e.g. learners=2; on the command line --cluster.learners 2"""
    overrides: dict[str, Any] = field(default_factory=dict)
    """fields of the recipe, by path: {"surrogate.high": 0.28}; on the command line --recipe.surrogate.high 0.28"""

    @property
    def small(self) -> bool:
        """Whether the starter is trained, or a run of it."""
        return "starter" in (self.model, stored_settings(self.model).get("model"))

    def updates_in_float32(self, recipe: Recipe) -> bool:
        """Whatever the model computes in: where a rule moves the model's own weights by itself."""
        return not self.lora_rank and not recipe.update.cost().adamw

    def usual_dtype(self, own: Recipe | None = None) -> tuple[str, str]:
        """What `--dtype auto` means for these settings, and why. own: a recipe made in Python, which no name finds."""
        from rung.kernels.device import choose, faster

        if self.small:
            return "float32", "the model is too small to gain by less"
        if self.updates_in_float32(own or self.build_recipe()):
            return "float32", "the recipe's update computes in float32 either way"
        return faster(choose(self.device))

    def resolved(self, own: Recipe | None = None) -> TrainConfig:
        """The same settings for this model; None stays where it depends on the device. own: a recipe made in Python."""
        past = stored_settings(self.model)
        if (past.get("task") or past.get("environment")) and self.task is None and self.environment is None:
            usual = TrainConfig()  # a run as model: its own problems, put as they were, where nothing else is said
            unsaid = [f.name for f in fields(Problems) if getattr(self, f.name) == getattr(usual, f.name)]
            return replace(self, **{name: past[name] for name in unsaid if name in past}).resolved(own)
        small = self.small
        defaults: dict[str, Any] = {
            "task": "chained_arithmetic" if small else "chain_sum",
            "steps": 100 if small else 60,
            "prompts_per_step": 32 if small else 16,
            "learning_rate": (4e-4 if small else 1e-5) * (10 if self.lora_rank else 1),  # an adapter starts at zero
        }
        if self.environment is not None:  # it may bring its own problems
            del defaults["task"]
        if self.tokens is not None:  # an answer has at least one token
            prompts = self.prompts_per_step or int(str(defaults["prompts_per_step"]))
            defaults["steps"] = -(-self.tokens // max(prompts * self.samples_per_prompt, 1))
        filled: dict[str, Any] = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        if self.dtype == "auto":
            filled["dtype"] = self.usual_dtype(own)[0]
        config = replace(self, **filled)
        if config.eval_every is None and config.tokens is None:
            config = replace(config, eval_every=config.usual_eval_every())
        refuse_together(config)
        return config

    def usual_eval_every(self) -> int:
        """A tenth of the steps; more where evaluations would take more than about a tenth of the run, 0 where any would.

        An answer that is only evaluated counts like one that is also learned from, which it does for the smallest models.
        """
        assert self.steps is not None
        between = min(MOST, self._affordable(self.steps))
        return -(-self.steps // (between + 1)) if between else 0

    def evaluates_after(self, step: int, tokens: int, before: int, answers: int | None = None) -> bool:
        """Whether an evaluation follows this step. tokens: sampled until now, before: until the step; answers: of one evaluation.

        eval_every None: a budget of tokens ends the run, and a tenth of it is what `usual_eval_every` does for steps.
        """
        if self.eval_every is not None:
            return self.eval_every > 0 and step % self.eval_every == 0
        assert self.tokens is not None, "`resolved` leaves it open for them alone"
        due = (
            min(10 * t // self.tokens, self._affordable(n, answers)) for t, n in ((before, step - 1), (tokens, step))
        )
        return next(due) < next(due)

    def evaluations_within(self, steps: int, answers: int | None = None) -> int:
        """How many there are in a run of so many steps, but for the first and the last."""
        if self.eval_every is None:
            return min(MOST, self._affordable(steps, answers))
        return max(steps - 1, 0) // self.eval_every if self.eval_every else 0

    def _affordable(self, steps: int, answers: int | None = None) -> int:
        """Evaluations that take about a tenth of so many steps. answers: of one; None: before the task is known.

        Where one of them is to end the run (`until`), they are made whatever they take.
        """
        if self.until is not None:
            return MOST
        assert self.prompts_per_step is not None
        trained = steps * self.prompts_per_step * self.samples_per_prompt
        return trained // (10 * (answers or self.eval_problems * (self.eval_samples or 1)))

    def build_recipe(self) -> Recipe:
        """The recipe by its name, with `overrides` applied; illegal combinations are refused with the reason."""
        from rung.recipe_io import find, override

        return override(find(self.recipe), self.overrides)

    def spread(self) -> Cluster:
        """Over how many processes, and how far these may be apart."""
        return spread(self.cluster, self.cluster_options)

    @property
    def here(self) -> str:
        """The device of this process's own model; of a cluster, others compute."""
        return self.device if self.cluster == "local" else "cpu"

    def law(self) -> SamplingLaw:
        assert self.max_new_tokens is not None
        return SamplingLaw(
            self.temperature, self.top_p, self.top_k, self.max_new_tokens,
            self.max_turns, self.max_turn_tokens, self.max_total_tokens,
        )  # fmt: skip


def stored_settings(model: str) -> dict[str, Any]:
    """The settings of the run that `model` names; nothing where it is no run."""
    path = path_of(model) / "config.toml"
    return from_toml(path) if path.is_file() else {}


def to_toml(config: TrainConfig, recipe: Recipe) -> dict[str, Any]:
    """What config.toml holds: every setting, and the recipe with all its parts as they were run."""
    from rung.io.origin import hashes
    from rung.recipe_io import to_dict

    plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items() if v is not None}
    changed = {k: "none" if v is None else to_dict(v) for k, v in flatten(config.overrides).items()}
    return {**plain, "overrides": changed, "files": hashes(plain), "expanded_recipe": to_dict(recipe)}


def from_toml(path: Path) -> dict[str, Any]:
    """Settings from a file, as keyword arguments of TrainConfig. Unknown keys are errors with the nearest match."""
    if not path.is_file():
        raise InputError(
            f"config {path}: there is no such file. Give the path of a TOML file, such as a run's config.toml."
        )
    try:
        data = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"config {path} is not valid TOML: {error}") from error
    for written in ("expanded_recipe", "files"):  # by a run: no settings
        data.pop(written, None)
    return typed_settings(data, where=f" in {path}")


def typed_settings(data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Keyword arguments for TrainConfig, each with its name, type and range looked at; a path may be text."""
    wanted, out = hints(TrainConfig), {}
    for key, value in data.items():
        if key not in wanted:
            raise unknown(f"setting{where}", key, wanted)
        if isinstance(value, str) and not value and {str, Path} & {*options_of(wanted[key])}:
            raise InputError(f"{key}{where} is empty. Leave it out, or say which.")
        path = isinstance(value, str) and Path in options_of(wanted[key])
        out[key] = path_of(value) if path else value if isinstance(value, str) else read(value, wanted[key])
        refuse(out[key], wanted[key], f"{key}{where}")
    return out


def which(resume: Any, out: Any) -> Path:
    """The run that `--resume RUN` names, or `--resume --out RUN`."""
    for name, value in (("resume", resume), ("out", out)):
        refuse(value, bool | str | Path | None, name)
        if value == "":
            raise InputError(f"{setting(name)} is empty. Leave it out, or give a run's directory.")
    paths = {path_of(x) for x in (resume, out) if x is not None and x is not True}
    for path in paths:
        stands_for_a_run(path)
    if not paths:
        raise InputError(
            f"{setting('resume', True)} goes on with a run, but does not say which. Give its directory: {setting('resume', 'RUN')}."
        )
    if len(paths) > 1:
        one, two = sorted(map(str, paths))
        raise InputError(
            f"{setting('resume')} and {setting('out')} name two runs, {one} and {two}. Give one: {setting('resume', 'RUN')}."
        )
    return paths.pop()
