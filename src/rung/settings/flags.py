"""The flags of the other commands but `train` and `plan`; not beside their code, so that they are read without torch.

Written for people by help.py: "; None: WORDS" at the end of a text says what a flag is where it is left out. Those that load
problems also take --task-options.NAME VALUE and --template-options.NAME VALUE, which arguments.py reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from rung.settings.ranges import (
    Answers,
    Count,
    Flags,
    Hidden,
    Natural,
    Positional,
    Seed,
    Temperature,
    TopP,
    above,
    at_least,
    between,
)
from rung.settings.shared import Problems


@dataclass(frozen=True)
class Ask(Flags):
    """Talk to what you trained: each question is put as the run's problems were, to its model and the one it began with.

    Without a question it asks for them, one a line, until an empty line or Ctrl-D.
    """

    model: Positional[str]
    """a run's directory; or a model alone: starter, smollm2, a directory, or a hub id"""
    questions: Positional[tuple[str, ...]] = ()
    """each in quotes"""
    samples: Answers = 1
    """answers of each model; a single one is its likeliest (greedy), several are drawn"""
    temperature: Temperature | None = None
    """of drawn answers, 0: greedy; None: 0 for one answer, the run's for several"""
    probabilities: bool = False
    """show each token with its probability under the model"""
    compare: str | None = None
    """another run or model beside it, instead of the one that the run began with"""
    max_new_tokens: Count | None = None
    """limit of an answer; None: the run's, else 256"""
    seed: Seed = 0
    """of drawn answers"""
    sampler: str = "torch"
    """what draws the answers: torch or vllm"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    json: str | None = None
    """write questions and answers as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Eval(Problems, Flags):
    """Accuracy of a model or run on held-out problems: mean@k, pass@k, maj@k with 95 % intervals; two models side by side."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    compare: str | None = None
    """a second model or run: the same problems, and the paired difference (first minus second)"""
    spec: Path | None = None
    """a stored .spec.json: evaluate exactly as it says; no other setting may be given"""
    split: str | None = None
    """eval or train; None: eval"""
    problems: Count | None = None
    """of the held-out ones; None: those of a run's own evaluations, else 256, or as many as there are"""
    samples: Answers | None = None
    """answers per problem; None: the run's, else 1"""
    temperature: Temperature | None = None
    """0 is greedy; None: the run's, else 1"""
    top_p: TopP | None = None
    """draw from the likeliest tokens that have this probability together; None: the run's, else 1 (all)"""
    top_k: Natural | None = None
    """draw from this many likeliest tokens, 0: from all; None: the run's, else 0"""
    max_new_tokens: Count | None = None
    """limit of an answer; None: the run's, else the task's"""
    seed: Seed | None = None
    """of the draws; None: the run's evaluations'"""
    sampler: str | None = None
    """what draws the answers: torch or vllm; None: the run's, else torch"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    threads: Annotated[int, between(0, 1024)] = 0
    """CPU threads; 0: one per core"""
    out: Path | None = None
    """every answer, to this new .jsonl file, with the .spec.json beside it; None: RUN/evaluations/eval-N.jsonl"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Data(Problems, Flags):
    """What a file or task becomes: first prompts as the model reads them, golds, verifier, lengths, what does not fit."""

    task: Positional[str] = field(kw_only=False)
    """a file of rows, or any other thing that `rung train --task` takes"""
    model: str | None = None
    """show prompts through this model's chat template, and lengths in its tokens; None: as text, in characters"""
    problems: Count = 2
    """of the training side, shown in full"""
    json: str | None = None
    """write what was found as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Verify(Problems, Flags):
    """A task's verifier on gold, corrupted and adversarial answers: false accepts (exit status 1), false rejects, time."""

    problems: Count = 10
    """of each side, training and held out, the first ones"""
    all: bool = False
    """print every case, not only those with mistakes"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Recipes:
    """The tree of recipes: each rung, its paper, and the problem of its parent that it repairs."""

    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Explain:
    """The assembled equation of a recipe, part by part, with sources."""

    recipe: Positional[str]
    """its name; or a run's directory: the recipe as it was trained"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""
    overrides: Hidden[dict[str, Any]] = field(default_factory=dict)
    """fields of the recipe, by path"""


@dataclass(frozen=True)
class Diff:
    """What changes between two recipes, and why."""

    a: Positional[str]
    """name of a recipe, or a run's directory: the recipe as it was trained"""
    b: Positional[str | None] = None
    """another one, which --recipe.FIELD changes; None: the first one"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""
    overrides: Hidden[dict[str, Any]] = field(default_factory=dict)
    """fields of the recipe, by path"""


@dataclass(frozen=True)
class Audit(Flags):
    """Is a recipe's gradient the policy gradient, on average over every batch of a small world? If not, which part bends it?"""

    recipes: Positional[tuple[str, ...]] = ()
    """names of recipes; none means all, in about a minute"""
    of: str | None = None
    """a loss of your own instead: FILE.py:NAME (docs/audit_yours.md); or of another project's: trl:dapo (docs/field.md)"""
    advantages: str | None = None
    """an advantage function of your own: FILE.py:NAME; alone, or for the loss of --of"""
    old_kl: Annotated[float, above(0, "at 0 the batch would be on-policy")] = 0.05
    """off-policy: how far the batch's policy is from the one that learns, in nats an answer"""
    staleness: Count | None = None
    """instead: what answers cost that are up to so many updates old, under each correction (docs/scale.md)"""
    step_kl: Annotated[float, above(0, "at 0 nothing would be stale")] = 0.01
    """staleness: how far each of these updates moves the policy, in nats an answer"""
    partial: Count | None = None
    """staleness: tokens that one version draws of an answer before the next one goes on with it; none: all"""
    temperature: Annotated[float, between(1e-3, 1e3)] = 2.0
    """wrong temperature: answers are drawn at this one and scored at 1"""
    vocabulary: Annotated[int, at_least(2, "the end token and another")] = 3
    """of the world, the end token included"""
    horizon: Count = 2
    """tokens of an answer at most"""
    prompts: Count = 2
    """of the world"""
    samples: Annotated[int, at_least(2, "answers to one prompt are compared")] = 2
    """answers to a prompt in a batch"""
    reward: Literal["binary", "real", "dense"] = "dense"
    """0 or 1 at the end, a number at the end, or a number at every token"""
    policy: Literal["tabular", "mlp", "transformer"] = "mlp"
    """what is differentiated"""
    seed: Seed = 0
    """of the world"""
    markdown: Path | None = None
    """write the tables of docs/audit.md to this new file"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Starter(Flags):
    """Make the starter model from a seed, in about a minute."""

    out: Path
    """a new directory"""
    seed: Seed = 0
    """of weights and training"""


@dataclass(frozen=True)
class Smollm2:
    """Fetch SmolLM2-135M-Instruct into the user's cache as a Hugging Face checkpoint."""

    out: Path | None = None
    """a new directory; None: the user's cache, where --model smollm2 finds it"""


@dataclass(frozen=True)
class Report:
    """One HTML file on a run, on runs side by side, or on what `rung ladder` or `rung why` found."""

    paths: Positional[tuple[Path, ...]]
    """directories of runs or of a ladder"""
    out: Path | None = None
    """the file; None: report.html, in the directory if there is one, else here"""
    unipo: Path | None = None
    """in place of a report: the recorded steps of one run, for the UNIPO viewer, as this JSON file"""


@dataclass(frozen=True)
class Completion:
    """A script with which the shell completes commands, flags and names with the tab key; put it where your shell looks.

    bash: rung completion bash > ~/.local/share/bash-completion/completions/rung
    zsh: rung completion zsh > ~/.rung-completion.zsh, and in ~/.zshrc: source ~/.rung-completion.zsh
    fish: rung completion fish > ~/.config/fish/completions/rung.fish
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
