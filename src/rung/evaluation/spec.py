"""How a model is evaluated, as one record that is stored with the answers, so that every model is evaluated alike."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rung.errors import InputError, setting, unknown
from rung.records import SamplingLaw
from rung.rollout.samplers import USUAL, SamplerName
from rung.settings import documents
from rung.settings.paths import path_of
from rung.settings.ranges import Answers, Count, Flags, Natural, Seed, Temperature, TopP
from rung.settings.shared import Problems, given
from rung.tasks.environments.protocol import Environment
from rung.training.evaluation import EVAL_SEED, answers_per_problem

if TYPE_CHECKING:
    from rung.settings.flags import Eval

FORMAT = 1
_SETTINGS = ("split", "problems", "samples", "temperature", "top_p", "top_k", "max_new_tokens", "seed", "sampler")
_OWN = tuple(f.name for f in dataclasses.fields(Problems) if f.name != "template_options")
TALK = ("max_new_tokens", "max_turns", "max_turn_tokens", "max_total_tokens")
_LAW = ("temperature", "top_p", "top_k", "sampler", "dtype", "template_options")  # of a run's own, whatever the task


@dataclass(frozen=True)
class EvalSpec(Problems, Flags):
    """Everything that an accuracy depends on besides the model.

    environment: a run's own; then a conversation has the run's limits.
    samples: None, only before the task is loaded: as many as a run's own evaluations take.
    max_new_tokens: None only before the task is loaded.
    sampler, dtype: what draws the answers, and what the model computes in.
    fingerprint: of the problems' ids and prompts; another one means other data.
    """

    split: Literal["eval", "train"] = "eval"
    problems: Count = 256
    samples: Answers | None = 1
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: Natural = 0
    max_new_tokens: Count | None = None
    max_turns: Count | None = None
    max_turn_tokens: Count | None = None
    max_total_tokens: Count | None = None
    sampler: SamplerName = USUAL
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = EVAL_SEED
    fingerprint: str | None = None
    format: int = FORMAT

    @property
    def name(self) -> str:
        return self.task or self.environment or ""

    @property
    def law(self) -> SamplingLaw:
        assert self.max_new_tokens is not None
        names = ("temperature", "top_p", "top_k", *TALK)
        return SamplingLaw(**{name: getattr(self, name) for name in names if getattr(self, name) is not None})

    def filled(self, environment: Environment, max_new_tokens: int) -> EvalSpec:
        """The spec with the task's defaults in it."""
        if not len(environment):
            raise InputError(
                f"the task {self.name} has no problems on its side {self.split!r}. Choose the other {setting('split')}."
            )
        return replace(
            self,
            problems=min(self.problems, len(environment)),
            samples=self.samples or answers_per_problem(None, self.problems, len(environment)),
            max_new_tokens=self.max_new_tokens or max_new_tokens,
        )

    def with_fingerprint(self, value: str) -> EvalSpec:
        return replace(self, fingerprint=value)

    def to_dict(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def fingerprint(environment: Environment, problems: int) -> str:
    """A hash of the ids and prompts of the first `problems` problems."""
    digest = hashlib.sha256()
    for index in range(min(problems, len(environment))):
        task = environment[index]
        prompt = task.prompt if isinstance(task.prompt, str) else [dict(message) for message in task.prompt]
        digest.update(json.dumps([task.id, prompt], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def spec_from(args: Eval, stored: dict[str, Any]) -> EvalSpec:
    """The spec of the flags over what a run evaluated itself with; or the stored one, untouched.

    stored: the settings of the run. Another --task has its own limits and sizes, but the run's sampling.
    """
    problems = given(args, Problems)
    chosen = {name: value for name in _SETTINGS if (value := getattr(args, name)) is not None}
    if args.spec is not None:
        if problems or chosen:
            flag = "--" + next(iter({**problems, **chosen})).replace("_", "-")
            raise InputError(f"--spec {args.spec} says how to evaluate, and {flag} would change it. Leave one out.")
        return read(args.spec)
    if (
        "task_path" in problems and problems["task_path"].is_file()
    ):  # a single file given for an evaluation is all of it
        problems["task_options"] = {"eval_share": 1.0, **problems.get("task_options", {})}
    own = own_settings(stored, problems.get("task"))
    if (
        "problems" in chosen and own.get("samples") is None
    ):  # a number of problems is not made up by more answers to each
        own["samples"] = 1
    return EvalSpec(**own | over(own, problems, args.model) | chosen)


def fewer(args: Eval, environment: Environment) -> list[str]:
    """A note where more problems are asked for than there are."""
    if args.problems is None or args.problems <= len(environment):
        return []
    return [f"{setting('problems', args.problems)}, and there are {len(environment)}: all of them are taken"]


def over(own: Mapping[str, Any], problems: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The settings of the problems: those that were given over a run's own."""
    names = [f.name for f in dataclasses.fields(Problems)]
    found = {k: v for k, v in own.items() if k in names} | dict(problems)
    for name in ("task_options", "template_options"):
        found[name] = {**own.get(name, {}), **problems.get(name, {})}
    if not found.keys() & {"task", "environment"} and model == "starter":
        found["task"] = "chained_arithmetic"
    if not found.keys() & {"task", "environment"}:
        raise InputError(f"{model} is not a run, so it does not know its task. Say which with {setting('task')}.")
    return found


def own_settings(stored: dict[str, Any], task: str | None = None) -> dict[str, Any]:
    """What a run evaluated itself with; of another task than its own only how it samples."""
    if not stored:
        return {}
    if "eval_problems" not in stored:
        where = Path(stored.get("directory", "")) / "config.toml"
        raise InputError(
            f"{where} has no eval_problems, so it is not as a run left it. Evaluate a model's directory instead."
        )
    names = _LAW if task not in (None, stored.get("task")) else (*_LAW, *_OWN, *TALK)
    own = {name: stored[name] for name in names if stored.get(name) is not None}
    own |= {"task_path": path_of(own["task_path"])} if "task_path" in own else {}
    if names is not _LAW:
        own |= {"problems": stored["eval_problems"], "samples": stored.get("eval_samples")}
    return own


def deviations(spec: EvalSpec, stored: dict[str, Any]) -> list[str]:
    """In which settings the spec is not the run's own, in words."""
    own = EvalSpec(**own_settings(stored)) if stored.get("task") or stored.get("environment") else None
    if own is None:
        return []
    names = [f.name for f in dataclasses.fields(EvalSpec) if f.name not in ("fingerprint", "format")]
    pairs = [(name, getattr(spec, name), getattr(own, name)) for name in names]
    return [
        f"{name} {now}" + (f" and not {then}" if then is not None else "") for name, now, then in pairs if now != then
    ]


def read(path: Path) -> EvalSpec:
    """A stored spec. Unknown keys are errors, not ignored settings."""
    try:
        data = documents.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--spec {path} cannot be read: {error.strerror}. Give a stored .spec.json file.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--spec {path} is no JSON: {error}. Give a stored .spec.json file.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not (data.get("task") or data.get("environment")):
        raise InputError(f"--spec {path} is no evaluation spec of format {FORMAT}. Give a stored .spec.json file.")
    known = {f.name for f in dataclasses.fields(EvalSpec)}
    for key in data:
        if key not in known:
            raise unknown(f"setting in {path}", key, known)
    place = data.get("task_path")
    restored: dict[str, Any] = {**data, **({"task_path": path_of(place)} if isinstance(place, str) else {})}
    try:
        return EvalSpec(**restored)
    except TypeError as error:
        raise InputError(f"--spec {path} holds a value of the wrong kind: {error}.") from error
