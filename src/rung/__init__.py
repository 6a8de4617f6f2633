"""Teach language models to reason with policy gradients: one ladder, from REINFORCE to Dr. GRPO.

    import rung
    run = rung.train("grpo", model="starter", steps=60)
    run.ask("4*7-2=")

`rung.recipes` is the file to open first; docs/python.md says everything that can be called. Nothing is loaded before it is
used: importing rung takes milliseconds.

cluster/         One run on several processes: actors of Ray draw the answers and learn, by the same loop.
compat/          TRL's names for a script that is being ported: `from rung.compat import GRPOConfig, GRPOTrainer`.
evaluation/      What a model can do: held-out problems, questions, verifiers, rows.
exact/           Small worlds in which every answer is enumerated: what a recipe's gradient is on average, and why.
experiments/     Many runs, made once and compared: the ladder, why, variance.
export/          Recipes inside other trainers, and their configurations as recipes: `rung export`, `rung import`.
io/              What a run writes down, and what people are shown of it.
kernels/         What makes it fast, on one device, each checked against the plain way.
maths/           The mathematics: tensors in, tensors out, no model and no file. The equation is each docstring's first line.
models/          Models that come with rung, or with a Python package.
network/         A causal model of Hugging Face's as this project uses it: loaded, asked for log-probabilities, adapted.
plan/            Memory and time of a run, before anything is loaded.
report/          `rung report`: one self-contained HTML file on runs, or on what `rung ladder` and `rung why` found.
rollout/         From problems to a batch: draw, sample, score, lay out.
settings/        What can be set: types and ranges, shared fields, flags, overrides. Nothing here needs torch.
shell/           From words on a command line to settings, and help.
tasks/           Problems and who judges them. Works without torch.
training/        The loop and what learns in it.
advice           What a message tells the user to type, so that it works as printed, from wherever rung was installed and started.
api              What Python calls: train, evaluate, load. Names where the command line takes names, or the objects themselves.
cli              The command line. Exit status: 0 done, 1 the run failed, 2 the user's input was refused.
errors           What a user did that we cannot do: one message that says what, why and what to do (exit status 2).
parts            All parts of a recipe in one place, and the one that is no maths: which data a step sees.
recipe_io        Recipes by name, as JSON, with fields overridden, compared, and explained.
recipe_rules     Which parts do not fit together, and why. Each rule is a condition on a recipe and the sentence that explains it.
recipes          The policy-gradient ladder, from its foot. Each rung is its parent with the fields that its paper changed, and why.
recipes_contrib  Young variants, beside the ladder: right by their papers and by our tests, but not yet part of the story.
records          One frozen record per arrow: Task -> Rollout -> Scored -> Batch -> advantages -> J -> metrics.
run              A finished run as Python sees it: what it reached, and everything that can be done with it.
statistics       Intervals and tests: what a few numbers allow to say. Three kinds of numbers are met, and each has its own way.
text             Text and tokens: the only place where one becomes the other, by a model's tokenizer and its chat template.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.api import evaluate, load, train
    from rung.errors import InputError
    from rung.run import Run
    from rung.training.callbacks import StepRecord

__all__ = ["InputError", "Run", "StepRecord", "__version__", "evaluate", "load", "recipes", "records", "train"]
__version__ = "0.1.0"  # the only place: pyproject.toml reads it here
_FOUND_IN = {
    "evaluate": "rung.api",
    "load": "rung.api",
    "train": "rung.api",
    "Run": "rung.run",
    "InputError": "rung.errors",
    "StepRecord": "rung.training.callbacks",
}
_MODULES = ("recipes", "records")


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        return getattr(importlib.import_module(_FOUND_IN[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"rung.{name}")
    raise AttributeError(f"module 'rung' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
