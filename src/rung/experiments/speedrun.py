"""`rung speedrun`: how soon a language model calculates. A training for each seed, ended by the evaluation at the target.

    time of a seed = sum of step_time over its steps, up to the checkpoint whose accuracy is confirmed

Every few steps few answers are looked at, which may be lucky, the more so the more often one looks. So the checkpoint is asked
again, with more answers from a seed of their own, and the clock stops where these reach the target, too; else the run goes on.
Loading, evaluations, confirmations and checkpoints are not counted, for they are no part of learning.
"""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rung.errors import InputError, setting
from rung.evaluation.models import evaluated
from rung.experiments.runs import Row, ready, say, write_json
from rung.experiments.shuffled import Shuffled
from rung.experiments.speedrun_row import apart_in_words, busy, markdown, outside, table
from rung.io.console import Console
from rung.io.environment import keep_freed_memory, waited
from rung.io.files import readable, to_json, write_atomic
from rung.io.held_out import evaluations, kind, mean
from rung.io.run_dir import RunDir
from rung.io.tables import refuse_target, show
from rung.io.terminal import figure
from rung.settings.flags import Eval
from rung.settings.speedrun import Speedrun
from rung.tasks.environments.protocol import Splits
from rung.tasks.problems import problems_of
from rung.tasks.sources.given import MADE
from rung.training.callbacks import StepRecord
from rung.training.config import TrainConfig
from rung.training.evaluation import EVAL_SEED, Evaluation
from rung.training.loop import train
from rung.training.resume import begun
from rung.training.setup import locate, settle

LOOKED_AT = 4  # answers to each held-out problem in an evaluation of the run
CONFIRMED_BY = 16  # answers to each, from another seed, that must reach the target as well
CONFIRM_SEED = EVAL_SEED + 1
OWN = ("seeds", "seed", "target", "control", "json", "out")  # flags that are no settings of a training


def run_speedrun(args: Speedrun) -> int:
    """Train every seed that is not there yet, keep each as it is done, print the table and the line; exit status 0."""
    refuse_target(args.json)
    runs = [Timed(args, args.seed + s) for s in range(args.seeds)]
    settle(runs[0].settings)
    locate(args.model)  # both refuse what cannot be, before anything is made
    ready(args.out)
    _agree(args)
    keep_freed_memory()
    line = ""
    for run in runs:
        row = run.timed()
        say(f"seed {row['seed']}: {told(row, args.target)}")
        line = keep(args)
    columns, cells = table(stored(args.out, "control" if args.control else "seed"))
    show(f"training time to {args.target:g} on held-out problems", columns, cells, args.json)
    if args.json != "-":
        sys.stdout.write(line)
    return 0


def keep(args: Speedrun) -> str:
    """Write what there is so far, and return the line for the table."""
    runs, control = stored(args.out, "seed"), stored(args.out, "control")
    apart = outside(runs, control, args)
    line = markdown(runs, control, args) + "".join(f"{text}\n" for text in (*apart_in_words(apart), *busy(runs)))
    whole = to_json({"target": args.target, "runs": runs, "control": control, "outside": apart}, indent=1) + "\n"
    write_atomic(args.out / "speedrun.json", lambda file: file.write(whole.encode()))
    write_atomic(args.out / "row.md", lambda file: file.write(line.encode()))
    return line


def told(row: Row, target: float) -> str:
    """A seed's result in words."""
    if row["control"]:
        return f"{figure(row['before'])} before, {figure(row['accuracy'])} after {row['steps']} steps with shuffled rewards"
    what = f"{figure(row['accuracy'])} in {row['seconds'] / 60:.2g} minutes, {row['steps']} steps"
    return what if row["reached"] else f"{what}: not at {target:g}"


def stored(out: Path, name: str) -> list[Row]:
    """The results of one kind that lie in the folder, by their seeds."""
    found = []
    for path in out.glob(f"{name}-*/result.json"):
        with readable(path):
            found.append(json.loads(path.read_bytes()))
    return sorted(found, key=lambda row: int(row["seed"]))


# -- one folder, one set of settings ---------------------------------------------------------------------------------
def _agree(args: Speedrun) -> None:
    """Runs that are compared have the same settings: those with which the folder was begun."""
    path = args.out / "settings.json"
    now = {k: v for k, v in vars(args).items() if k not in OWN} | {"target": args.target, "decay_steps": args.decay()}
    now = json.loads(json.dumps(now, default=str))
    if not (path.exists() and any(args.out.glob("*/config.toml"))):
        write_json(path, now)
        return
    with readable(path):
        before = json.loads(path.read_bytes())
    other = [f"{k} is {before.get(k)!r}, not {v!r}" for k, v in now.items() if before.get(k) != v]
    if other:
        raise InputError(
            f"{args.out} holds runs with other settings, which no table may mix: {'; '.join(other)}. Give another {setting('out')}."
        )


# -- one seed --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timed:
    """One training against the clock, or its control."""

    args: Speedrun
    seed: int

    @property
    def path(self) -> Path:
        return self.args.out / f"{'control' if self.args.control else 'seed'}-{self.seed}"

    @property
    def settings(self) -> TrainConfig:
        apart = {*OWN, "recipe", "overrides", "decay_steps", "eval_every"}
        own = {f.name for f in fields(TrainConfig)} & {f.name for f in fields(Speedrun)} - apart
        recipe, changes = self.args.named()
        return TrainConfig(
            **{name: getattr(self.args, name) for name in own}, recipe=recipe, overrides=changes, seed=self.seed, out=self.path,
            decay_steps=self.args.decay(), eval_every=self.args.looks(), eval_samples=LOOKED_AT,
            until=self.args.target, save_rollouts=False, keep_last=1,
        )  # fmt: skip

    def timed(self) -> Row:
        """What came out, kept in the run's folder; a seed that is there already is not trained again."""
        path = self.path / "result.json"
        if not path.exists():
            write_json(path, self._control() if self.args.control else self._timed())
        with readable(path):
            return dict(json.loads(path.read_bytes()))

    def _timed(self) -> Row:
        """Train until an evaluation is at the target and is confirmed, or until the steps are done."""
        target, steps = self.args.target, self.args.steps
        while True:
            if not self._at_target():
                self._train(self.settings)
            if not self._at_target():
                return self._row(reached=False)
            found = self._confirm()
            if found["accuracy"] >= target or found["step"] >= steps:
                return self._row(reached=found["accuracy"] >= target)

    def _control(self) -> Row:
        """Train as long as the slowest seed of the folder, else for all steps, each group's rewards dealt out at random."""
        problems = problems_of(self.settings.resolved())
        told = f"{MADE}{problems.name}, rewards shuffled"
        self._train(replace(self.settings, task=told, until=None), replace(problems, train=Shuffled(problems.train)))
        rows = evaluations(RunDir.open(self.path).metrics())
        return {**self._row(reached=False), "before": mean(rows[0], kind(rows))}

    def _train(self, config: TrainConfig, splits: Splits | None = None) -> None:
        """Begin the run, or go on with it as it was begun."""
        if (self.path / "config.toml").is_file():
            config, _ = begun(self.path)
        began, cpu, queue = time.perf_counter(), time.process_time(), waited()
        outcome = train(config, Console(io.StringIO()), splits, callbacks=(Telling(self, self._last()),))
        now = waited()
        lost = None if queue is None or now is None else now - queue
        parts = [
            *self._parts(),
            {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "waited": lost},
        ]
        write_atomic(self.path / "parts.json", lambda file: file.write(to_json(parts).encode()))
        if outcome.interrupted:
            say(f"{self.path.name} is saved at its last finished step; the same command goes on")
            raise KeyboardInterrupt

    def _parts(self) -> list[Row]:
        """Of each process that trained the seed: its seconds, those of CPU, and those in which other work had the processor."""
        path = self.path / "parts.json"
        if not path.exists():
            return []
        with readable(path):
            return list(json.loads(path.read_bytes()))

    def _last(self) -> int:
        """The step that ends the run, whatever its evaluations say."""
        slowest = max((row["steps"] for row in stored(self.args.out, "seed")), default=self.args.steps)
        return int(slowest) if self.args.control else self.args.steps

    def _at_target(self) -> bool:
        """Whether the newest checkpoint is one whose evaluation is at the target and is not confirmed or refuted yet."""
        if not (self.path / "config.toml").is_file():
            return False
        run = RunDir.open(self.path)
        rows, saved = evaluations(run.metrics()), run.latest_checkpoint()
        if not rows or saved is None or saved.name != f"step_{rows[-1]['step']:06d}":
            return False
        value = mean(rows[-1], kind(rows))
        asked = [found["step"] for found in self._confirmations()]
        return value is not None and value >= self.args.target and rows[-1]["step"] not in asked

    def _confirmations(self) -> list[Row]:
        path = self.path / "confirmations.json"
        if not path.exists():
            return []
        with readable(path):
            return list(json.loads(path.read_bytes()))

    def _confirm(self) -> Row:
        """More answers to all held-out problems, from a seed of their own, by the model as it was saved."""
        rows = evaluations(RunDir.open(self.path).metrics())
        measured = evaluated(Eval(model=str(self.path), samples=CONFIRMED_BY, seed=CONFIRM_SEED), {})
        low, high = measured.interval()
        found = {
            "step": rows[-1]["step"], "looked": mean(rows[-1], kind(rows)), "accuracy": measured.reward, "low": low, "high": high,
            "answers": len(measured.result.answers), "problems": measured.result.n,
        }  # fmt: skip
        write_json(self.path / "confirmations.json", [*self._confirmations(), found])
        say(
            f"seed {self.seed}, step {found['step']}: {figure(found['looked'])} with {LOOKED_AT} answers to a problem, "
            f"{figure(found['accuracy'])} with {CONFIRMED_BY} others"
        )
        return found

    def _row(self, *, reached: bool) -> Row:
        """The seed as a row. accuracy: of the newest confirmation; where none was made, of the last evaluation."""
        run = RunDir.open(self.path)
        steps = [row for row in run.metrics() if "step_time" in row]
        evals, asked, about = evaluations(run.metrics()), self._confirmations(), run.environment()
        accuracy = {"accuracy": mean(evals[-1], kind(evals)), "low": evals[-1].get("eval/accuracy_ci_low"),
                    "high": evals[-1].get("eval/accuracy_ci_high")}  # fmt: skip
        parts = self._parts()
        known = [part for part in parts if part["waited"] is not None]
        if asked and asked[-1]["step"] == evals[-1]["step"]:
            accuracy = {name: asked[-1][name] for name in accuracy}
        return {
            "seed": self.seed, "control": self.args.control, "reached": reached, "steps": len(steps),
            "seconds": seconds(run), "tokens": int(steps[-1]["num_tokens"]) if steps else 0, **accuracy, "confirmations": asked,
            "cpu_seconds": sum(part["cpu"] for part in parts),
            "waited": sum(p["waited"] for p in known) / sum(p["wall"] for p in known) if known else None,
            "dtype": run.config()["dtype"], "cpu": about["cpu"], "cores": about["cores"], "threads": about["torch_threads"],
            "gpu": about["gpu"] if about["device"] != "cpu" else None, "started": about["started"],
            "version": about["versions"]["rung"], "commit": about["git"]["commit"], "dirty": about["git"]["dirty"],
        }  # fmt: skip


@dataclass(frozen=True)
class Telling:
    """Says on standard error how far a run is, and ends it after step `last`."""

    timed: Timed
    last: int

    def on_step(self, record: StepRecord) -> bool:
        return record.step < self.last

    def on_evaluate(self, evaluation: Evaluation) -> None:
        clock = seconds(RunDir.open(self.timed.path)) / 60
        say(f"seed {self.timed.seed}, step {evaluation.step}: {figure(evaluation.reward)} after {clock:.2g} minutes")


def seconds(run: RunDir) -> float:
    """The training clock: what the run's steps took, each counted once however often the run was broken off."""
    return float(sum(row["step_time"] for row in run.metrics() if "step_time" in row))
