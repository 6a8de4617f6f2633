"""A finished run as Python sees it: what it reached, and everything that can be done with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import InputError
from rung.io import hub, notebook
from rung.io.held_out import NAMES, evaluations, interval, is_graded, kind, mean
from rung.io.recorded import Metrics, Rollouts
from rung.io.run_dir import RunDir
from rung.io.summary import said
from rung.io.terminal import counted, figure
from rung.settings.calls import takes
from rung.settings.paths import path_of
from rung.tasks.sources.given import MADE

if TYPE_CHECKING:
    from rung.evaluation.interview import Interview, Reply
    from rung.evaluation.models import Measured
    from rung.training.evaluation import Evaluation
    from rung.training.health import Finding
    from rung.training.loop import Outcome


@dataclass(frozen=True, repr=False)
class Objects:
    """What Python gave a run as objects, for what comes after it in the same process; None: a name did."""

    task: Any = None
    reward: Any = None
    environment: Any = None
    model: Any = None
    recipe: Any = None

    def given(self) -> dict[str, Any]:
        """Those that there are, as arguments of rung.train."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, repr=False)
class Loaded:
    """A model of transformers that is in memory already, and the name that stands for it."""

    name: str
    model: Any
    tokenizer: Any


class Run:
    """A run's directory and what lies in it. `rung.train` returns one, `rung.load(PATH)` opens one.

    before, after: the first and the newest evaluation: `.accuracy` where every reward was 0 or 1 (else NaN), `.reward` on any
        scale, `.interval()`, `.answers`; None where it was not kept.
    interrupted: Ctrl-C ended it.  stopped: the callback that ended it.  quiet: nothing was printed, nor is by resume().  All of
        this process only.

    All of it is as the run's files are now, whoever went on with the run, and however often it was looked at before.
    """

    def __init__(
        self, path: Path, objects: Objects | None = None, outcome: Outcome | None = None, *, quiet: bool = False
    ) -> None:  # fmt: skip
        self.quiet = quiet
        self.path, self.objects = Path(path), objects or Objects()
        self._interview: Interview | None = None
        self._found: dict[str, Any] = {}  # what was read of the files as `_seen` has them
        self._ended(outcome)

    def _ended(self, outcome: Outcome | None) -> None:
        """What this process knows of the run beside its files."""
        self._seen, self._outcome = _stamps(RunDir.open(self.path)), outcome
        self._found, self._interview = {}, None
        self.interrupted = outcome is not None and outcome.interrupted
        self.stopped = "" if outcome is None else outcome.stopped

    def _dir(self) -> RunDir:
        """The run's directory, which must still be there. What was known of other files than those of now is forgotten."""
        run = RunDir.open(self.path)
        if (now := _stamps(run)) != self._seen:
            self._seen, self._found, self._interview, self._outcome = now, {}, None, None
        return run

    def _kept(self, name: str, read: Callable[[RunDir], Any]) -> Any:
        """Read once, until the files change."""
        run = self._dir()
        if name not in self._found:
            self._found[name] = read(run)
        return self._found[name]

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """A run by its directory."""
        return cls(path_of(path))

    # -- what it was and what it reached
    @property
    def config(self) -> dict[str, Any]:
        """The settings as they were run, every default in place; `expanded_recipe` holds the recipe part by part."""
        return dict(self._kept("config", _config))

    @property
    def recipe(self) -> str:
        return str(self.config["expanded_recipe"]["name"])

    @property
    def metrics(self) -> Metrics:
        """metrics.jsonl as a table: metrics["reward"] is {step: value}."""
        found: Metrics = self._kept("metrics", lambda run: Metrics(run.metrics()))
        return found

    @property
    def steps(self) -> int:
        """Training steps that were done."""
        return max((int(row["step"]) for row in self.metrics if "step_time" in row), default=0)

    @property
    def rollouts(self) -> Rollouts:
        """{step: its answers}, read when they are asked for."""
        return Rollouts(self._dir())

    @property
    def before(self) -> Evaluation | None:
        found: Evaluation | None = self._kept(
            "before", lambda run: self._evaluation(run, 0) if self._outcome is None else self._outcome.before
        )
        return found

    @property
    def after(self) -> Evaluation | None:
        found: Evaluation | None = self._kept(
            "after", lambda run: self._evaluation(run, -1) if self._outcome is None else self._outcome.after
        )
        return found

    def _evaluation(self, run: RunDir, which: int) -> Evaluation | None:
        from rung.training.held_out import stored

        rows = evaluations(self.metrics)
        found = stored(run, int(rows[which]["step"])) if rows else None
        return None if found is None else replace(found, graded=any(map(is_graded, rows)))

    @property
    def health(self) -> Sequence[Finding]:
        """What went wrong, in the order in which it was seen (docs/health.md); empty if nothing did."""
        from rung.training.health import of_run

        found: Sequence[Finding] = self._kept(
            "health", lambda run: of_run(self.config, self.metrics) if self._outcome is None else self._outcome.health
        )
        return found

    # -- what can be done with it
    @property
    def model_path(self) -> Path:
        """The newest model, in Hugging Face format: for from_pretrained, or as `model` of another run."""
        return self._dir().model_path()

    def load(self) -> tuple[Any, Any]:
        """(model, tokenizer) of transformers, on the CPU, an adapter merged into the weights."""
        import torch

        from rung.network.model import load

        dtype, trust = getattr(torch, self.config["dtype"]), self.config["trust_remote_code"]
        model = load(str(self.model_path), dtype=dtype, trust_remote_code=trust, merge=True)
        return model.hf, model.codec.tokenizer

    @takes("Run.ask", question=str, before=bool, probabilities=bool)
    def ask(
        self, question: str, samples: int = 1, *, before: bool = True, temperature: float | None = None,
        max_new_tokens: int | None = None, seed: int = 0, probabilities: bool = False, sampler: str = "torch",
    ) -> Reply:  # fmt: skip
        """What the model says now, and what the one that it began with says, to a question like the run's problems.

        temperature: None: one answer is greedy, several are drawn as in the run.
        probabilities: of each token, too.
        """
        from rung.evaluation.interview import Interview

        self._dir()  # another model may lie there by now
        if self._interview is None or (before and self._interview.before is None and not self._interview.missing):
            self._interview = Interview.of(self.path, before=before)
        room = self._interview if before else replace(self._interview, before=None, missing="")
        return room.ask(
            question, samples, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
            probabilities=probabilities, sampler=sampler,
        )  # fmt: skip

    @takes("Run.evaluate")
    def evaluate(self, **settings: Any) -> Measured:
        """rung.evaluate(run, ...): with nothing given, on the run's own held-out problems as it evaluated itself."""
        from rung.api import evaluate

        return evaluate(self, **settings)

    @takes("Run.resume")
    def resume(self, steps: int | None = None, **settings: Any) -> Run:
        """Go on until `steps` steps are done in all. settings: what may change (docs/python.md), and callbacks, quiet."""
        from rung.api import train

        goal = {} if steps is None else {"steps": steps}
        longer = train(resume=self.path, **{**self.objects.given(), "quiet": self.quiet, **goal, **settings})
        self._ended(longer._outcome)
        return longer

    @takes("Run.report", out=str | Path | None)
    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, one HTML file; returns its path (None: report.html in the run)."""
        from rung.report import write_report

        return write_report((self.path,), None if out is None else path_of(out))

    @takes("Run.push_to_hub", repo=str, private=bool | None, token=str | None)
    def push_to_hub(self, repo: str, *, private: bool | None = None, token: str | None = None) -> str:
        """The newest model and a card to the Hugging Face hub; returns the address."""
        title = f"{Path(self.config['model'].removeprefix(MADE)).name} trained with {self.recipe}"
        base, tags = str(self.config["model"]), ["rung", "reinforcement-learning", self.recipe]
        settings = {k: v for k, v in self.config.items() if k not in ("out", "resume", "threads", "device")}
        text = hub.card(title, self._facts()[1:], base, tags, settings)
        return hub.push(self.model_path, repo, text, private=private, token=token)

    # -- how it shows itself
    def __repr__(self) -> str:
        what = f"{self.recipe} on {self._name('model')}, {self._task()}, {self._progress()}"
        todo = 'run.ask("..."), run.metrics, run.evaluate(), run.resume(steps=...), run.report()'
        return f"run {self.path}: {what}\n{self._reached()}\n{todo}"

    def _repr_html_(self) -> str:
        rows = evaluations(self.metrics)
        shown = kind(rows)
        points = [
            notebook.Point(row["step"], value, *interval(row, shown))
            for row in rows
            if (value := mean(row, shown)) is not None
        ]
        training = [(s["step"], s["reward"]) for s in self.metrics if s.get("reward") is not None]
        return notebook.page(f"run {self.path}", self._facts()[1:], notebook.curve(training, points, NAMES[shown]))

    def _facts(self) -> Sequence[tuple[str, str]]:
        first, last = (None if e is None else e.shown() for e in (self.before, self.after))
        found = [("run", str(self.path)), ("recipe", self.recipe), ("model", self._name("model"))]
        found += [("task", self._task()), ("steps", self._progress())]
        for name, shown in (("before", first), ("after", last)):
            if shown is not None and shown.problems:
                low, high = shown.low, shown.high
                sure = "" if math.isnan(low) else f" (95% CI {figure(low)} to {figure(high)})"
                what = "accuracy" if shown.binary else "mean reward"
                found.append(
                    (f"held-out {what} {name}", f"{figure(shown.mean)}{sure}, {counted(shown.problems, 'problem')}")
                )
        if self.before is not None and self.after is not None:
            found.append(("change", said(self.before.change(self.after))))
        return found

    def _reached(self) -> str:
        if self.before is None or self.after is None:
            return "not evaluated"
        pair = [e.shown() for e in (self.before, self.after)]
        if not all(shown.problems for shown in pair):
            return "no held-out answer could be scored"
        what = "accuracy" if all(shown.binary for shown in pair) else "mean reward"
        change = said(self.before.change(self.after))
        return f"held-out {what} {figure(pair[0].mean)} before, {figure(pair[1].mean)} after: {change}"

    def _progress(self) -> str:
        seen = ", ".join(f.name for f in self.health)
        return f"{self.steps} of {self.config['steps']} steps{f'; health: {seen}' if seen else ''}"

    def _task(self) -> str:
        return self._name("environment") if self.config.get("environment") else self._name("task")

    def _name(self, setting: str) -> str:
        return str(self.config.get(setting, "")).removeprefix(MADE)


def _stamps(run: RunDir) -> list[tuple[int, int] | None]:
    """When what a Run reads was last written, and how long it is; None: it is not there."""
    found: list[tuple[int, int] | None] = []
    for name in ("config.toml", "metrics.jsonl"):
        try:
            seen = (run.path / name).stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((seen.st_mtime_ns, seen.st_size))
    return found


def _config(run: RunDir) -> dict[str, Any]:
    found = run.config()
    recipe = found.get("expanded_recipe")
    lacking = [name for name in ("model", "steps", "dtype", "trust_remote_code") if name not in found]
    if lacking or not isinstance(recipe, dict) or "name" not in recipe:
        raise InputError(
            f"{run.path / 'config.toml'} has no {(lacking or ['expanded_recipe'])[0]}, so it is not as a run left it. "
            "Bring it back from a copy (config.toml.bak-N beside it)."
        )
    return found
