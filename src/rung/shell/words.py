"""The words of a command line as the fields of a dataclass: each flag by its name, each value by the field's own annotation.

What does not fit is refused in one sentence; a flag that other trainers have is answered with what does the same here.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal

from rung.errors import InputError
from rung.settings.paths import path_of
from rung.settings.ranges import bare, hints, is_hidden, is_positional, options_of, read, refuse, shown

# What may follow a command that was given alone.
EXAMPLES = {
    "ask": "runs/dr_grpo-starter-1 '2+3='",
    "eval": "runs/dr_grpo-starter-1",
    "report": "runs/dr_grpo-starter-1",
    "data": "rows.jsonl",
    "explain": "grpo",
    "diff": "grpo dr_grpo",
    "export": "grpo --to trl",
    "import": "trl config.yaml",
    "why": "grpo",
    "variance": "starter",
}

# Flags of other trainers: (their names, ours in order of preference, what else is to be said of it).
FOREIGN: tuple[tuple[str, str, str], ...] = (
    ("run-dir output-dir outdir save-dir save-path log-dir logdir run-name experiment-name exp-name", "--out", ""),
    ("lr actor-lr policy-lr", "--learning-rate", ""),
    (
        "batch-size train-batch-size per-device-train-batch-size rollout-batch-size n-prompts",
        "--prompts-per-step",
        "times --samples-per-prompt, the answers to each; how many are computed at a time follows from --activation-gib",
    ),
    (
        "num-generations group-size num-return-sequences n-samples-per-prompt rollout-n",
        "--samples-per-prompt --samples",
        "",
    ),
    ("num-samples n-samples k", "--samples --samples-per-prompt", ""),
    (
        "max-steps num-steps n-steps total-steps train-steps training-steps iterations num-iterations n-iters",
        "--steps",
        "",
    ),
    (
        "epochs num-epochs num-train-epochs n-epochs total-epochs",
        "--steps",
        "one pass over the problems is as many steps as there are problems / --prompts-per-step; passes over one batch are "
        "--recipe.update.epochs",
    ),
    (
        "gradient-accumulation-steps accumulation-steps micro-batch-size mini-batch-size",
        "--activation-gib",
        "a step is cut into what fits there, which changes nothing of its gradient",
    ),
    (
        "max-length max-tokens max-completion-length max-response-length response-length generate-max-len max-gen-len",
        "--max-new-tokens",
        "",
    ),
    ("beta kl-beta kl-coef kl-coeff init-kl-coef kl-loss-coef", "--recipe.kl.coef", ""),
    ("epsilon eps clip-eps clip-range cliprange clip-ratio", "--recipe.surrogate.high", "and --recipe.surrogate.low"),
    ("entropy-coef entropy-coeff ent-coef", "--recipe.entropy", ""),
    (
        "gamma lam gae-lambda lambd",
        "--recipe.credit.estimator.lam",
        "or .gamma, of recipes with a critic (`rung explain ppo`)",
    ),
    ("max-grad-norm grad-clip grad-norm gradient-clip", "--clip-norm", ""),
    ("wd", "--weight-decay", ""),
    ("warmup warmup-ratio num-warmup-steps", "--warmup-steps", ""),
    ("lr-scheduler-type lr-scheduler scheduler lr-schedule", "--decay-shape", "over the last --decay-steps"),
    ("model-name model-name-or-path model-path model-id base-model pretrained checkpoint", "--model", ""),
    ("dataset dataset-name data data-path train-file train-files env env-name", "--task", ""),
    (
        "algorithm algo method loss-type adv-estimator trainer",
        "--recipe --recipes",
        "or the first word: rung train grpo",
    ),
    ("reward-func reward-funcs reward-fn reward-function reward-model", "--reward", "FILE.py:NAME, a function"),
    ("report-to logger log-with wandb tensorboard use-wandb", "--tracker", ""),
    ("eval-steps eval-freq eval-interval evaluation-strategy eval-strategy test-freq", "--eval-every", ""),
    ("save-steps save-freq save-interval save-strategy checkpoint-every", "--save-every", ""),
    ("bf16 fp16 torch-dtype precision mixed-precision", "--dtype", ""),
    ("use-peft use-lora lora lora-r peft", "--lora-rank", ""),
    ("system-prompt", "--system", ""),
    ("template", "--prompt-template", ""),
    ("resume-from resume-from-checkpoint load-checkpoint", "--resume", ""),
    ("gpu gpus cuda cpu use-cpu", "--device", ""),
    ("random-seed", "--seed", ""),
    ("num-threads n-threads num-workers", "--threads --jobs", ""),
)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A field that words may fill."""

    field: Field[Any]
    hint: Any

    @property
    def flag(self) -> str:
        name = self.field.name
        return name.upper() if self.positional else "--" + name.replace("_", "-")

    @property
    def positional(self) -> bool:
        return is_positional(self.hint)

    @property
    def kinds(self) -> list[Any]:
        return [typing.get_origin(kind) or kind for kind in map(bare, options_of(self.hint))]

    @property
    def switch(self) -> bool:
        return bool in self.kinds

    def value(self, text: str) -> Any:
        """What the text stands for, refused if the field cannot hold it."""
        hint: Any = typing.Union[tuple(o for o in options_of(self.hint) if o is not type(None))]  # noqa: UP007
        worded = {str, Path, Literal} & {*self.kinds}
        value: Any = path_of(text) if Path in worded else text if worded else read(text, hint)
        refuse(value, hint, self.flag)
        return value


def slots(spec: Any) -> list[Slot]:
    """The fields of a command's dataclass that its words fill, positional ones in their order."""
    found = [Slot(f, hints(spec)[f.name]) for f in fields(spec)]
    return [s for s in found if not (is_hidden(s.hint) or dict in s.kinds)]


def parse(spec: Any, command: str, words: Sequence[str], default: Any = None) -> Any:
    """An instance of `spec` from the words after `rung COMMAND`. default: an instance that holds what they leave open."""
    known = {slot.flag: slot for slot in slots(spec) if not slot.positional}
    values: dict[str, Any] = {}
    free, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            free, rest = [*free, *rest], []
        elif not _is_flag(word):
            free.append(word)
        else:
            name, equals, text = word.partition("=")
            name = name.replace("_", "-")
            slot = known.get(name) or known.get(name.replace("--no-", "--", 1))
            if slot is None or (slot.flag != name and not slot.switch):
                raise _unknown(name, spec, command)
            if slot.switch:
                if equals:
                    raise InputError(f"{name} takes no value. Write {slot.flag}, or {_no(slot.flag)}.")
                values[slot.field.name] = slot.flag == name
                continue
            if not equals and (not rest or rest[0].startswith("--")):
                raise InputError(f"{name} needs a value. `rung {command} --help` says what it takes.")
            values[slot.field.name] = slot.value(text if equals else rest.pop(0))
    values |= _positional([slot for slot in slots(spec) if slot.positional], free, command)
    if default is not None:
        return dataclasses.replace(default, **values)
    missing = [s for s in known.values() if s.field.name not in values and _must(s.field)]
    if missing:
        raise InputError(f"`rung {command}` needs {missing[0].flag}. `rung {command} --help` says what it is.")
    return spec(**values)


def _is_flag(word: str) -> bool:
    """--name, or -n; a minus alone or before a number is no flag."""
    return word.startswith("--") or (len(word) == 2 and word[0] == "-" and word[1].isalpha())


def _no(flag: str) -> str:
    return flag.replace("--", "--no-", 1)


def _must(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _positional(wanted: Iterable[Slot], words: list[str], command: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    rest = list(words)
    for slot in wanted:
        if tuple in slot.kinds:
            (inner, _) = typing.get_args(bare(options_of(slot.hint)[0]))
            values[slot.field.name] = tuple(path_of(word) if inner is Path else word for word in rest)
            rest = []
        elif rest:
            values[slot.field.name] = slot.value(rest.pop(0))
        if _must(slot.field) and not values.get(slot.field.name):
            example = f" For example: rung {command} {EXAMPLES[command]}." if command in EXAMPLES else ""
            raise InputError(f"`rung {command}` needs {slot.flag}.{example} `rung {command} --help` says what it is.")
    if rest:
        raise InputError(
            f"{shown(rest[0])} is one word too many for `rung {command}`. Leave it out; a text of several words stands in quotes."
        )
    return values


def _unknown(name: str, spec: Any, command: str) -> InputError:
    """The flag that does it here, or the nearest by its letters."""
    from rung.shell.help import more_of

    own = [slot for slot in slots(spec) if not slot.positional]
    names = [slot.flag for slot in own] + [flag.name for flag in more_of(spec, command) if "." not in flag.name]
    listed = f" `rung {command} --help` lists all."
    for theirs, ours, note in FOREIGN:
        found = [
            flag for flag in ours.split() if flag in names or (flag.startswith("--recipe.") and "--recipe" in names)
        ]
        if name.removeprefix("--") in theirs.split() and found:
            more = f" ({note})" if note else ""
            return InputError(f"`rung {command}` has no flag {name}; here it is {found[0]}{more}.{listed}")
    names += [_no(slot.flag) for slot in own if slot.switch]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return InputError(f"`rung {command}` has no flag {name}.{f' Did you mean {near[0]}?' if near else ''}{listed}")
