"""verl's configuration as a recipe, and where its names and its mathematics part.

A file may hold a part of the configuration: verl's own values stand for the rest. A script is read for its words NAME=VALUE.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rung.parts as p
from rung.errors import InputError, Refusals
from rung.export.config_file import number, read_config, read_text
from rung.export.imported import Imported, fitting, named, refuse_untrainable
from rung.export.verl_names import (
    ACTOR,
    CORRECTION,
    DEFAULTS,
    KINDS,
    NOTED,
    ONLY,
    OPTIM,
    ROLLOUT,
    WORDS,
    in_branch,
    known,
)
from rung.export.verl_warnings import warnings
from rung.recipe_io import find
from rung.recipes import Recipe
from rung.settings.documents import from_yaml
from rung.settings.ranges import read, refuse, shown

MODES = {
    "token-mean": p.TokenMean(), "seq-mean-token-mean": p.SequenceMean(), "seq-mean-token-sum": p.SequenceSum(),
    "seq-mean-token-sum-norm": p.FixedBudget(),
}  # fmt: skip
IN_LOSS = {"low_var_kl": p.K3, "k3": p.K3, "k2": p.K2, "mse": p.K2, "kl": p.K1, "k1": p.K1, "k3+": p.StraightThrough,
           "low_var_kl+": p.StraightThrough, "kl+": p.K2, "k1+": p.K2, "k2+": p.K2, "mse+": p.K2}  # fmt: skip
IN_REWARD = {"kl": p.K1, "k1": p.K1, "k2": p.K2, "mse": p.K2, "k3": p.K3, "low_var_kl": p.K3}


def from_verl(path: Path, trainer: str | None = None) -> Imported:
    """Raises: InputError: a name that verl 0.9.1 has not, or a value whose mathematics no parts stand for."""
    given = _flat(_script(path) if path.suffix in (".sh", ".txt") else dict(read_config(path).values))
    refusals = Refusals(_unknown(given))
    values = _values(given, refusals)
    found, parts, origin = _Config(values, given), dict[str, Any](), dict[str, list[str]]()
    for name in ("credit", "normalize", "ratio", "correction", "surrogate", "kl", "aggregate", "update"):
        found.asked.clear()
        with refusals, found.in_its_words(lambda said: found.origin):
            parts[name] = getattr(found, name)()
        origin[name] = found.origin
    settings = fitting(found.settings(), WORDS, refusals)
    about, entropy = "what verl computes with this configuration", float(found[f"{ACTOR}.entropy_coeff"])
    recipe = find("reward_to_go")  # where a part was refused: it asks for nothing

    def blamed(said: str) -> list[str]:
        spoken = (name for name, part in parts.items() if type(part).__name__ in said or name in said.lower())
        return [x for name in spoken for x in origin[name]]

    if not refusals.errors:
        with refusals, found.in_its_words(blamed):
            recipe = Recipe(name="from_verl", why=about, entropy=entropy, **parts)
    if f"{ROLLOUT}.n" not in given and "groups" in recipe.needs:
        settings.pop("samples_per_prompt")
    refuse_untrainable(recipe, settings, WORDS, refusals)
    refusals.refuse(str(path))
    return Imported("ppo_trainer", named(recipe), settings, tuple(warnings(values, given)), tuple(_notes(given)))


# -- reading ------------------------------------------------------------------------------------------------------------
def _script(path: Path) -> dict[str, Any]:
    """The words NAME.NAME=VALUE of a shell script, as Hydra takes them."""
    text = read_text(path, "a shell script, or a configuration in YAML or JSON")
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        found = [re.match(r"\+{0,2}([a-z_]\w*(?:\.\w+)+)=(.*)$", word, re.DOTALL) for word in words]
        return {match[1]: from_yaml(match[2]) for match in found if match}
    except ValueError as error:
        raise InputError(
            f"{path} is no shell script with words NAME=VALUE: {error}. Give its values as YAML."
        ) from error


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """With whole names: a.b stands for b in the table a."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        more = _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
        for twice in more.keys() & out.keys():
            raise InputError(
                f"{twice} stands twice, as {shown(out[twice])} and as {shown(more[twice])}. Keep one of the two."
            )
        out |= more
    return out


def _unknown(given: Mapping[str, Any]) -> list[str]:
    """A sentence for each name that verl has not, or whose value is not taken."""
    found = []
    for name, value in given.items():
        if name in ONLY:
            accepted, why = ONLY[name]
            value = number(value)
            if not any(value == x and isinstance(value, bool) == isinstance(x, bool) for x in accepted):
                found.append(f"{name}={shown(value)}: {why}. Only {accepted[0]!r} is taken.")
        elif name not in known() and not in_branch(name):
            near = difflib.get_close_matches(name, sorted(known()), n=1, cutoff=0.7)
            found.append(f"{name}: verl 0.9.1 has no such name." + (f" Did you mean {near[0]!r}?" if near else ""))
    return found


def _values(given: Mapping[str, Any], refusals: Refusals) -> dict[str, Any]:
    """All values that are read; verl's own in place of one that is refused."""
    whole = {**DEFAULTS, **{name: value for name, value in given.items() if name in DEFAULTS}}
    values = dict(DEFAULTS)
    for name, value in whole.items():
        with refusals:
            kind = _kind(name)
            resolved = _resolved(name, value, whole)
            if kind is list and isinstance(resolved, list):
                resolved = list(map(number, resolved))
            resolved = read(number(resolved) if kind in (int, int | None) else resolved, kind)
            if isinstance(resolved, float) and resolved.is_integer() and kind in (int, int | None):
                resolved = int(resolved)
            refuse(resolved, kind, name)
            if kind is list and [type(x) for x in resolved] != [float, float]:
                raise InputError(f"{name} is {shown(resolved)}; it must be a list of two numbers with a point.")
            values[name] = resolved
    return values


def _kind(name: str) -> Any:
    """What a value must be, by verl's own."""
    if name in KINDS:
        return KINDS[name]
    return {bool: bool, int: int, float: float, str: str}[type(DEFAULTS[name])]


def _resolved(name: str, value: Any, values: Mapping[str, Any]) -> Any:
    """The value that ${other.name} stands for; a shell's variable stands for nothing here."""
    if not isinstance(value, str) or "$" not in value:
        return value
    other = re.fullmatch(r"\$\{([\w.]+)\}", value)
    if other and other[1] in values:
        return _resolved(name, values[other[1]], values)
    raise InputError(
        f"{name}={value}: what that is, is known where verl runs, and here it is only read. Write the value."
    )


def _notes(given: Mapping[str, Any]) -> list[str]:
    names = [name for name in given if name in NOTED or (name not in DEFAULTS and name not in ONLY)]
    return [f"does not change the mathematics, or is not read: {', '.join(names)}"] if names else []


# -- the parts ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Config:
    """verl's values by name, and what each group of them computes."""

    values: Mapping[str, Any]
    written: Collection[str]  # names that stand in the file
    asked: list[str] = field(default_factory=list)  # names whose values were read

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return self.values[name]

    @property
    def origin(self) -> list[str]:
        """Those of the names asked for that stand in the file."""
        return [name for name in dict.fromkeys(self.asked) if name in self.written]

    @contextmanager
    def in_its_words(self, names_of: Callable[[str], Sequence[str]]) -> Iterator[None]:
        """What rung refuses inside, in words of its own, is said of the names that asked for it."""
        try:
            yield
        except InputError as error:
            names = names_of(str(error))
            if not names or any(name in str(error) for name in names):
                raise
            said = ", ".join(f"{name}={shown(self.values[name])}" for name in names)
            raise InputError(f"{said}: {error}") from error

    def credit(self) -> p.Credit:
        name, gamma = self["algorithm.adv_estimator"], float(self["algorithm.gamma"])
        if name == "grpo":
            return p.GroupMean("group" if self["algorithm.norm_adv_by_std_in_grpo"] else "none", eps=self._eps())
        if name == "reinforce_plus_plus_baseline":
            return p.GroupMean("none")
        if name in ("rloo", "rloo_vectorized"):
            return p.LeaveOneOut()
        if name == "reinforce_plus_plus":
            return p.RewardToGo(gamma)
        if name == "opo":
            return p.LengthWeighted()
        if name == "gae":
            critic = p.Critic(clip=float(self["critic.cliprange_value"]))
            return p.Value(p.GAE(gamma, float(self["algorithm.lam"])), critic=critic)
        why = {
            "remax": "verl's present trainer asks for no greedy answer; rung has it as the recipe remax",
            "gpg": "it divides by the share of rewards that are not 0", "grpo_passk": "no part of rung's computes it",
        }.get(name, "no part of rung's computes it, or it was registered by a module of your own")  # fmt: skip
        raise InputError(
            f"algorithm.adv_estimator={shown(name)}: {why}. Read are grpo, rloo, rloo_vectorized, reinforce_plus_plus, "
            "reinforce_plus_plus_baseline, opo and gae."
        )

    def _eps(self) -> float:
        return 1e-6 if self["algorithm.norm_adv_by_std_in_grpo"] else p.GroupMean.eps

    def normalize(self) -> p.AsIs | p.Whiten:
        white = ("reinforce_plus_plus", "reinforce_plus_plus_baseline", "gae")
        return p.Whiten() if self["algorithm.adv_estimator"] in white else p.AsIs()

    def ratio(self) -> p.Ratio:
        return {"gspo": p.SequenceRatio(), "gpg": p.NoRatio()}.get(
            self[f"{ACTOR}.policy_loss.loss_mode"], p.TokenRatio()
        )

    def clip(self) -> tuple[float, float]:
        """(low, high): clip_ratio stands only for one that is null."""
        ends = (self[f"{ACTOR}.clip_ratio_{end}"] for end in ("low", "high"))
        low, high = (float(self[f"{ACTOR}.clip_ratio"] if end is None else end) for end in ends)
        return low, high

    def surrogate(self) -> p.Surrogate:
        name, (low, high) = self[f"{ACTOR}.policy_loss.loss_mode"], self.clip()
        if name == "vanilla":
            return p.Clip(low, high, dual=float(self[f"{ACTOR}.clip_ratio_c"]))
        if name == "gspo":
            return p.Clip(low, high)
        if name == "cispo":
            return p.CISPO(max(1 - low, 0.0), 1 + high)
        if name == "sapo":
            return p.SAPO(float(self[f"{ACTOR}.tau_pos"]), float(self[f"{ACTOR}.tau_neg"]))
        if name == "gpg":
            return p.ScoreFunction()
        if name == "geo_mean" and low == high:
            return p.GMPO(low)
        raise InputError(
            f"{ACTOR}.policy_loss.loss_mode={shown(name)}: no part of rung's computes it (geo_mean: with two different clips), or "
            "it was registered by a module of your own. Read are vanilla, gspo, cispo, sapo, gpg and geo_mean."
        )

    def aggregate(self) -> p.Aggregate:
        name = self[f"{ACTOR}.loss_agg_mode"]
        if self[f"{ACTOR}.policy_loss.loss_mode"] in ("sapo", "geo_mean"):
            name = "seq-mean-token-mean"  # theirs, whatever is set
        if name not in MODES:
            raise InputError(
                f"{ACTOR}.loss_agg_mode={shown(name)}: rung has {', '.join(MODES)}; a sum grows with the batch."
            )
        scale = self[f"{ACTOR}.loss_scale_factor"]
        if name != "seq-mean-token-sum-norm" or scale in (None, self["data.max_response_length"]):
            return MODES[name]
        return p.FixedBudget(int(scale))

    def kl(self) -> p.ReferenceKL:
        inside, outside = self["algorithm.use_kl_in_reward"], self[f"{ACTOR}.use_kl_loss"]
        if inside and outside:
            raise InputError(
                "algorithm.use_kl_in_reward and use_kl_loss are both true, and a recipe has one KL. Keep one."
            )
        if inside and self["algorithm.kl_ctrl.type"] != "fixed":
            raise InputError(
                "algorithm.kl_ctrl.type=adaptive: verl adapts to a token's KL, rung to an answer's. Use fixed."
            )
        kinds, name = (IN_REWARD, "algorithm.kl_penalty") if inside else (IN_LOSS, f"{ACTOR}.kl_loss_type")
        coef = float(self["algorithm.kl_ctrl.kl_coef" if inside else f"{ACTOR}.kl_loss_coef"])
        if not (inside or outside) or not coef:
            return p.NoKL()
        if self[name] not in kinds:
            raise InputError(f"{name}={shown(self[name])}: no part of rung's computes it. Read are {', '.join(kinds)}.")
        return kinds[self[name]](coef, "reward" if inside else "loss")

    def correction(self) -> p.Correction:
        kind, limit = self[f"{CORRECTION}.rollout_is"], self[f"{CORRECTION}.rollout_is_threshold"]
        if kind is None:
            return p.NoCorrection()
        ends = _ends(str(limit))
        if kind == "token":
            return p.TokenMask(*ends) if len(ends) > 1 else p.TokenTIS(*ends)
        if kind == "sequence" and len(ends) == 1:
            return p.SequenceTIS(*ends)
        raise InputError(f"{CORRECTION}.rollout_is={shown(kind)} with {shown(limit)}: no part of rung's computes it.")

    def update(self) -> p.UpdateRule:
        whole, part = int(self["data.train_batch_size"]), int(self[f"{ACTOR}.ppo_mini_batch_size"])
        if part < 1 or whole % part:
            raise InputError(f"data.train_batch_size={whole} is no multiple of {ACTOR}.ppo_mini_batch_size={part}.")
        return p.GradientSteps(int(self[f"{ACTOR}.ppo_epochs"]), whole // part)

    def settings(self) -> dict[str, Any]:
        """Those of rung.train; a model and a number of steps where the file has one."""
        beta1, beta2 = self[f"{OPTIM}.betas"]
        steps, model = self["trainer.total_training_steps"], self["actor_rollout_ref.model.path"]
        return {
            "prompts_per_step": int(self["data.train_batch_size"]), "samples_per_prompt": int(self[f"{ROLLOUT}.n"]),
            "max_new_tokens": int(self["data.max_response_length"]), "temperature": float(self[f"{ROLLOUT}.temperature"]),
            "learning_rate": float(self[f"{OPTIM}.lr"]), "weight_decay": float(self[f"{OPTIM}.weight_decay"]),
            "adam_beta1": float(beta1), "adam_beta2": float(beta2), "clip_norm": float(self[f"{ACTOR}.grad_clip"]),
            "warmup_steps": max(0, int(self[f"{OPTIM}.lr_warmup_steps"] or 0)),
            **({} if steps is None else {"steps": int(steps)}), **({} if model is None else {"model": str(model)}),
        }  # fmt: skip


def _ends(limit: str) -> list[float]:
    """[high] of 2.0, [low, high] of 0.5_2.0."""
    low, _, high = limit.rpartition("_")
    try:
        return [float(end) for end in (low, high) if end]
    except ValueError as error:
        raise InputError(
            f"{CORRECTION}.rollout_is_threshold={shown(limit)}: {error}. Give HIGH or LOW_HIGH."
        ) from error
