"""`rung eval`: one or two models on held-out problems under one stored EvalSpec, every answer kept."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rung.errors import InputError
from rung.evaluation.scores import Paired, majority, paired, pass_at_k, with_interval
from rung.evaluation.spec import EvalSpec, deviations, fewer, fingerprint, spec_from
from rung.evaluation.words import heads, notes, turned, verdict_on
from rung.io.files import to_json, write_atomic
from rung.io.held_out import NAMES, Kind
from rung.io.origin import FILES, edited, placed
from rung.io.run_dir import RunDir
from rung.io.tables import refuse_existing, refuse_target, say_verdict, show, write_new
from rung.io.terminal import counted, figure, say, say_notes
from rung.kernels.device import choose
from rung.network import model as models
from rung.records import Completion
from rung.rollout.samplers import make_sampler
from rung.settings.paths import path_of
from rung.tasks.environments.protocol import Environment, Extracts
from rung.tasks.problems import problems_of
from rung.tasks.sources.given import told
from rung.training.answers import answer_row
from rung.training.defaults import shortened, shortened_for
from rung.training.evaluation import Evaluation, evaluate
from rung.training.setup import is_run, locate, reach, unread_letters

if TYPE_CHECKING:
    from rung.settings.flags import Eval


@dataclass(frozen=True)
class Measured:
    """One model's answers under a spec, and what was read from them: lists with one entry an answer, or one a problem."""

    model: str
    result: Evaluation
    extracted: Sequence[str | None] | None = field(repr=False)  # None: the task cannot tell what an answer is
    samples: int
    other: Measured | None = field(default=None, repr=False)  # what it is compared with, on the same problems

    @property
    def difference(self) -> Paired | None:
        """The paired difference, this minus `other`, with its interval and test; None without another, or a common problem."""
        if self.other is None:
            return None
        return paired(self.result.means, self.other.result.means, self.result.binary)

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN where rewards are not all 0 or 1."""
        return self.result.accuracy

    @property
    def reward(self) -> float:
        """Mean reward over problems; NaN if nothing could be scored."""
        return self.result.reward

    def interval(self) -> tuple[float, float]:
        """95 %, of the accuracy or else of the mean reward."""
        return self.result.interval()

    def __repr__(self) -> str:
        low, high = self.interval()
        sure = "" if math.isnan(low) else f" (95% CI {figure(low)} to {figure(high)})"
        size = f"{counted(self.result.n, 'problem')} x {self.samples}"
        own = f"{self.model}: {NAMES[self.kind]} {figure(self.reward)}{sure}, {size}"
        if self.other is None:
            return own
        d = self.difference
        apart = "no problem has a reward of both" if d is None else (
            f"{figure(d.difference, '+')} (95% CI {figure(d.low, '+')} to {figure(d.high, '+')}), p {d.p:.2g}"
        )  # fmt: skip
        return f"{own}\n{self.other!r}\ndifference: {apart}"

    @property
    def rewards(self) -> list[float]:
        """One reward an answer; NaN for one that could not be judged."""
        return [self.result.earned(a) for a in self.result.answers]

    def _grouped(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        return [values[i : i + self.samples] for i in range(0, len(values), self.samples)]

    def passes(self, k: int) -> list[float]:
        """pass@k of each problem with at least k answers that could be judged right (1) or wrong (0)."""
        judged = [[r for r in group if math.isfinite(r)] for group in self._grouped(self.rewards)]
        return [pass_at_k(len(group), sum(r == 1 for r in group), k) for group in judged if len(group) >= k]

    def majorities(self) -> list[float]:
        """Whether each problem's majority is right, of the answers that could be judged."""
        assert self.extracted is not None
        both = zip(self._grouped(self.extracted), self._grouped(self.rewards), strict=True)
        judged = [[(a, r) for a, r in zip(*group, strict=True) if math.isfinite(r)] for group in both]
        return [majority([a for a, _ in group], [r for _, r in group]) for group in judged if group]

    @property
    def kind(self) -> Kind:
        return "accuracy" if self.result.binary else "reward"

    def row(self, task: str) -> dict[str, Any]:
        """What the table shows. pass@k for k = 2, 4, 8, ... and the number of samples; maj@k for all samples."""
        low, high = map(_number, self.result.interval())
        metrics = self.result.metrics()
        row: dict[str, Any] = {"model": self.model, "task": task, "problems": self.result.n, "samples": self.samples}
        row |= {self.kind: _number(self.result.reward), "95% low": low, "95% high": high}
        for k in _ladder(self.samples) if self.result.binary else ():
            row |= _with_interval(f"pass@{k}", self.passes(k))
        if self.samples > 1 and self.extracted is not None and self.result.binary:
            row |= _with_interval(f"maj@{self.samples}", self.majorities())
        missing = (
            None if self.extracted is None else sum(a is None for a in self.extracted) / max(len(self.extracted), 1)
        )
        return row | {
            "length": metrics["eval/mean_length"],
            "truncated": metrics["eval/clipped_ratio"],
            "no answer found": missing,
            "unscored": int(metrics["eval/unscored"]),
            "too long prompts": self.result.too_long,
            **{f"rewards/{name}": _number(value) for name, value in self.result.components().items()},
        }

    def answers(self) -> list[dict[str, Any]]:
        """Every answer as JSON."""
        rows = []
        for i, answer in enumerate(self.result.answers):
            read = {} if self.extracted is None else {"extracted": self.extracted[i]}
            own = {"model": self.model, "sample": i % self.samples, "length": len(answer.rollout.tokens)}
            rows.append({**answer_row(answer), **own, **read})
        return rows


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """None, and not NaN, where no problem has enough answers that could be judged."""
    found = with_interval(values) if values else (None, None, None)
    return dict(zip((name, f"{name} low", f"{name} high"), found, strict=True))


def _ladder(samples: int) -> list[int]:
    """2, 4, 8, ... up to the number of samples, and that number."""
    return [] if samples == 1 else sorted({*(2**i for i in range(1, samples.bit_length())), samples})


def run_eval(args: Eval) -> int:
    """Evaluate, compare, print and keep; exit status 0."""
    refuse_target(args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose(args.device)
    directories = [(name, *resolve(name)) for name in (args.model, args.compare) if name is not None]
    spec = spec_from(args, directories[0][2])
    out = answers_file(args.out, args.model, directories[0][2])
    splits = problems_of(spec)
    if spec.max_new_tokens is None:
        for _, directory, _ in directories:
            splits = shortened_for(splits, directory)
    stored = directories[0][2]
    same = [name for name in FILES if str(getattr(spec, name)) == str(stored.get(name))]
    kept = {name: value for name, value in stored.get("files", {}).items() if name in same}
    environment = splits.eval if spec.split == "eval" else splits.train
    say_notes([*splits.notes, *edited(vars(spec), kept), *fewer(args, environment)])
    other = deviations(spec, directories[0][2])
    spec = spec.filled(environment, splits.max_new_tokens)
    seen = fingerprint(environment, spec.problems)
    if spec.fingerprint not in (None, seen):
        raise InputError(
            f"--spec {args.spec}: the task {spec.name} now holds other problems than when the spec was stored, so the "
            "numbers would not compare. Use the same data, or evaluate anew without --spec."
        )
    alone = len(directories) == 1
    measured = settled([measure(name, place, environment, spec, device, alone) for name, place, _ in directories])
    comparison = measured[0].difference
    lost = None if out is None else keep(out, measured, spec.with_fingerprint(seen))
    report(spec, measured, comparison, out, lost, args.json, header(spec, directories[0][2], other))
    return 1 if lost and args.out is not None else 0


def evaluated(
    args: Eval, given: Mapping[str, Any], pair: tuple[Any, Any] | None = None, other: tuple[Any, Any] | None = None
) -> Measured:
    """`rung eval` for Python: nothing is printed but notes, and nothing is kept.

    given: task, reward and environment that are objects, instead of what the flags and the run name.  pair, other: a model of
    transformers with its tokenizer, likewise: instead of args.model, of args.compare.
    """
    device = choose(args.device)
    named = [(args.model, pair)] + ([] if args.compare is None else [(args.compare, other)])
    found = [(name, *(resolve(name) if held is None else ("", {})), held) for name, held in named]
    spec = spec_from(args, found[0][2])
    if given.keys() & {"task", "reward"}:  # problems that are given are judged by what comes with them, or themselves
        spec = replace(spec, reward=told(given.get("reward")))
    splits = problems_of(spec, given)
    dtype = getattr(torch, spec.dtype)
    loaded = [
        models.bring(*held, device) if held else models.load(directory, device=device, dtype=dtype)
        for _, directory, _, held in found
    ]
    if spec.max_new_tokens is None:
        for model in loaded:
            model.codec = model.codec.writing(spec)
            splits = shortened(splits, model.codec)
    environment = splits.eval if spec.split == "eval" else splits.train
    say_notes([*splits.notes, *fewer(args, environment)])
    spec = spec.filled(environment, splits.max_new_tokens)
    pairs = zip(found, loaded, strict=True)
    return settled([measure_model(name, model, environment, spec) for (name, *_), model in pairs])[0]


def header(spec: EvalSpec, stored: dict[str, Any], other: Sequence[str]) -> str:
    """What was evaluated, and whether it is what a run did itself."""
    title = f"{spec.name}, {spec.split}, temperature {spec.temperature:g}, at most {spec.max_new_tokens} tokens"
    if not stored:
        return title
    return f"{title}; {'other than in the run: ' + ', '.join(other) if other else 'as in the run'}"


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """The model's directory, and the settings of the run if `name` is one."""
    path = path_of(name)
    if not is_run(path):
        return locate(name), {}
    run = RunDir.open(path)
    return locate(name), placed(run.config(), run) | {"directory": str(path)}


def measure(name: str, place: str, env: Environment, spec: EvalSpec, device: torch.device, alone: bool) -> Measured:
    """The model's answers under the spec. alone: nothing else is on the device."""
    model = models.load(place, device=device, dtype=getattr(torch, spec.dtype))
    return measure_model(name, model, env, spec, alone)


def measure_model(
    name: str, model: models.Model, environment: Environment, spec: EvalSpec, alone: bool = False
) -> Measured:
    """The same of a model that is loaded."""
    model.codec = model.codec.writing(spec)
    reach(model, spec.law, environment)
    for note in (unread_letters(model.codec, environment), model.slow):
        if note:
            say(f"note: {note}.", sys.stderr)
    assert spec.samples is not None, "EvalSpec.filled says how many"
    sampler = make_sampler(model, spec.sampler, alone=alone)
    result = evaluate(environment, model.codec, sampler, spec.law, spec.problems, spec.samples, spec.seed)
    answers = None
    if isinstance(environment, Extracts):
        said = [(a.task, Completion(a.text, a.rollout.stop, a.rollout.tokens)) for a in result.answers]
        answers = [environment.extract(*pair) for pair in said]
    return Measured(name, result, answers, spec.samples)


def settled(measured: Sequence[Measured]) -> list[Measured]:
    """One kind for all that stand side by side: accuracies only if every reward is 0 or 1. The first knows the other."""
    graded = not all(one.result.binary for one in measured)
    same = [replace(one, result=replace(one.result, graded=graded)) for one in measured]
    return same if len(same) == 1 else [replace(same[0], other=same[1]), *same[1:]]


def answers_file(out: Path | None, model: str, stored: dict[str, Any]) -> Path | None:
    """Where the answers go: --out, or the first free RUN/evaluations/eval-N.jsonl; None for a model that is no run."""
    if out is None:
        if "directory" not in stored:
            return None
        folder = Path(stored["directory"]) / "evaluations"
        n = 1
        while any((folder / f"eval-{n}{suffix}").exists() for suffix in (".jsonl", ".spec.json")):
            n += 1
        return folder / f"eval-{n}.jsonl"
    for path in (out, out.with_suffix(".spec.json")):
        refuse_existing("--out", path)
    return out


def keep(out: Path, measured: Sequence[Measured], spec: EvalSpec) -> str | None:
    """Writes all answers, and the spec beside them. Returns why that cannot be done, for what was measured is shown even so."""
    answers = "".join(to_json(row) + "\n" for one in measured for row in one.answers())
    try:
        out.parent.mkdir(exist_ok=True)
        write_atomic(out, lambda file: file.write(answers.encode()))
        write_atomic(
            out.with_suffix(".spec.json"),
            lambda file: file.write((json.dumps(spec.to_dict(), indent=1) + "\n").encode()),
        )
    except OSError as error:
        return f"{error.filename or out}: {error.strerror}"
    return None


def report(
    spec: EvalSpec, measured: Sequence[Measured], comparison: Paired | None, out: Path | None, lost: str | None,
    json_to: str | None, title: str,
) -> None:  # fmt: skip
    """Prints the table; with two models their difference is a row of its own. Notes go to standard error."""
    rows = [one.row(spec.name) for one in measured]
    if comparison is not None:
        c = comparison
        names = f"{measured[0].model} - {measured[1].model}"
        low, high, visible = map(_number, (c.low, c.high, c.visible))
        if visible is not None and visible > 1 and measured[0].result.binary:
            visible = None  # accuracies differ by 1 at most
        extra = {"p": c.p, "test": c.test, "smallest visible": visible, "problems needed": c.problems_needed}
        difference = {"model": names, measured[0].kind: c.difference, "95% low": low, "95% high": high, **extra}
        columns = [*rows[0], *extra]
        rows = [{column: row.get(column) for column in columns} for row in (*rows, difference)]
    columns, cells = list(rows[0]), [list(row.values()) for row in rows]
    say_verdict(verdict_on(measured, comparison), json_to)
    if json_to == "-":
        show(title, columns, cells, json_to)
    else:
        show(title, ["", *heads([one.model for one in measured])], turned(rows))
    if json_to is not None and json_to != "-":
        write_new("--json", path_of(json_to), to_json(rows, indent=1) + "\n")
    for note in notes(measured, comparison):
        say(note, sys.stderr)
    kept = f"answers and spec: {out}, {out.with_suffix('.spec.json')}" if out else "answers were not kept: no --out"
    kept = f"answers could not be kept ({lost}); give another place with --out" if lost else kept
    say(kept, sys.stderr)
