"""`rung train`: from settings to a run. Evaluate, then sample -> score -> learn for some steps, evaluate again, save."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rung.io.console import Console
from rung.io.run_dir import RunDir
from rung.io.stopping import Stopped, Stopping
from rung.io.summary import summary
from rung.io.trackers import Tracker, open_tracker, refuse_tracker
from rung.kernels.device import title
from rung.network.model import Model
from rung.recipe_io import brief
from rung.recipes import Recipe
from rung.rollout.samplers import numbers_of
from rung.tasks.environments.protocol import Splits
from rung.tasks.sources.given import MADE
from rung.training.answers import Watched, examples, rollout_rows
from rung.training.callbacks import Listeners, StepRecord
from rung.training.checkpoint import go_on
from rung.training.config import TrainConfig, to_toml
from rung.training.drawn import forget, keep
from rung.training.evaluation import Evaluation
from rung.training.guests import guests
from rung.training.health import Finding, Health, refuse_unscored
from rung.training.held_out import HeldOut
from rung.training.memory_watch import MemoryWatch
from rung.training.metrics import reward_metrics
from rung.training.next_steps import when_done
from rung.training.resume import agreed
from rung.training.saving import Saving, explained, writing
from rung.training.seen import Facts
from rung.training.setup import Engine, Here, Setup, plain_prompts, prepare, unread_letters

WHOLE = ("update", "sync")  # phases that a signal does not break off


@dataclass
class Outcome:
    """What a training returns: where it lies, the evaluations before and after, and whether the user cut it short.

    stopped: which callback ended it, if one did.
    before, after: `.accuracy` where every reward was 0 or 1 (else NaN), `.reward` on any scale, `.answers`, `.interval()`.
    health: what went wrong, in the order in which it was seen; empty if nothing did.
    """

    path: Path
    before: Evaluation | None  # None: interrupted before it was made
    after: Evaluation | None
    steps: int
    interrupted: bool = False
    metrics: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    health: list[Finding] = field(default_factory=list)


def train(
    config: TrainConfig, console: Console | None = None, splits: Splits | None = None, recipe: Recipe | None = None,
    model: Model | None = None, callbacks: Sequence[Any] = (), engine: Engine = Here(),  # noqa: B008  it holds nothing
) -> Outcome:  # fmt: skip
    """Train as `config` says. Ctrl-C, SIGTERM and SIGHUP end the run at once, with its last finished step saved.

    splits, recipe, model: made in Python, instead of those that `config` names; the model is trained in place.
    callbacks: objects that listen (callbacks.py).  engine: who learns and who draws the answers.
    """
    console, listeners = console or Console(), Listeners(callbacks)
    changes: list[str] = []
    if config.resume:
        made = {name for name, given in (("task", splits), ("reward", splits), ("model", model)) if given is not None}
        config, recipe, changes = agreed(config, recipe, made)
    refuse_tracker(config.tracker)
    setup = prepare(config, splits, recipe, model, engine)
    config = setup.config
    if config.resume:
        run = RunDir.open(config.out or Path(), write=True)
    else:
        run = RunDir.create(
            Path("runs"), f"{setup.recipe.name}-{Path(config.model.removeprefix(MADE)).name}", config.out
        )
    with run, console, writing(run):
        keep(setup, run)
        first, tokens = go_on(setup, run) if config.resume else (0, 0)
        if changes or not config.resume:
            run.write_config(to_toml(replace(config, resume=False), setup.recipe))
        for change in changes:
            console.message(f"note: {change}")
        run.write_environment(title(setup.model.device))
        with open_tracker(config.tracker, to_toml(config, setup.recipe), run.root, console.message) as tracker:
            return _Loop(setup, run, console, tracker, listeners.until(config.until), tokens=tokens).go(first)


@dataclass
class _Loop:
    setup: Setup
    run: RunDir
    console: Console
    tracker: Tracker
    listeners: Listeners
    latest: Evaluation | None = None  # the newest of this process
    watched: Watched = field(default_factory=Watched)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: MemoryWatch = field(init=False)
    tokens: int = 0
    health: Health = field(init=False)
    stop: Stopping = field(init=False)
    saving: Saving = field(init=False)
    before: Evaluation | None = None
    after: Evaluation | None = None

    def __post_init__(self) -> None:
        self.memory = MemoryWatch(self.setup.model.device)
        self.health = Health(_facts(self.setup))
        self.stop, self.saving = Stopping(self._heard), Saving(self.setup, self.run, self.console)

    def go(self, first: int) -> Outcome:
        setup, config = self.setup, self.setup.config
        setup.learner.phase = setup.collector.phase = self.phase
        self.health.replay(self.run.metrics())
        self.held_out = HeldOut(setup, self.run, self._log_evaluation)
        assert config.steps is not None
        self.console.start(self._header(), config.steps, first)
        for note in setup.splits.notes:
            self.console.message(f"note: {note}")
        if setup.model.slow:
            self.console.message(f"note: {setup.model.slow}.")
        self._say(self.health.look(first))
        self.saving.refuse_full_disk()
        self.saving.finish(first, self.tokens)
        with self.stop:
            try:
                self._train(first)
            except Stopped:
                pass  # what it broke off is done again by whoever goes on
            except BaseException as error:
                told = explained(error, self.run, self.saving.done.step + 1)
                self.console.finish("ended")
                self.saving.leave(begun=self.run.begun() or config.resume)
                if told is None:
                    raise
                raise told from error
            if self.stop.asked:
                self.console.finish("interrupted")
                self.saving.leave(begun=True)
        if self.stop.asked not in (0, signal.SIGINT):
            signal.raise_signal(self.stop.asked)  # and it goes where it would have gone
        if not self.stop.asked:
            self._conclude()
        return self._outcome()

    def _train(self, first: int) -> None:
        """All steps and evaluations, and the checkpoints between them."""
        config = self.setup.config
        assert config.steps is not None
        self.before = self._before(first)
        if self.held_out.owes(first, self.tokens):
            self._evaluate(first)
        for step in range(first, config.steps):
            if self._over():
                break
            self.stop.check()
            before_it = self.tokens
            self._step(step, begins=step == first)
            self.stop.check()
            more = step + 1 < config.steps and not self._over()
            if more and config.evaluates_after(step + 1, self.tokens, before_it, self.held_out.size):
                self._evaluate(step + 1)
            if more and self.saving.due(step + 1):
                self._save()
        self._save()
        self.after = self._evaluate(self.saving.done.step)

    def _outcome(self) -> Outcome:
        """What this process has seen of the run."""
        seen = [
            self.held_out.settled(x) for x in (self.before, self.after or self.latest or self.before) if x is not None
        ]
        before, after = (seen[0], seen[-1]) if seen else (None, None)
        stopped, health = self.listeners.ended, [*self.health.found.values()]
        return Outcome(
            self.run.path,
            before,
            after,
            self.saving.done.step,
            bool(self.stop.asked),
            self.run.metrics(),
            stopped,
            health,
        )

    def _heard(self, number: int) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self.console.message(
            f"{name}: saving the last finished step, then ending (an update at hand is finished first)"
        )

    def _over(self) -> bool:
        """Whether a callback ended the run, or the budget of sampled tokens is used up."""
        budget = self.setup.config.tokens
        return bool(self.listeners.ended) or (budget is not None and self.tokens >= budget)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        breakable = nullcontext() if name in WHOLE else self.stop.open()
        with self.console.phase(name), self.memory.phase(name), breakable, guests():
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _step(self, step: int, *, begins: bool) -> None:
        setup, config = self.setup, self.setup.config
        self.seconds, self.memory.peaks, start = {}, {}, time.perf_counter()
        collected = setup.collector.collect(step, setup.learner.state)
        if begins:
            refuse_unscored(collected.scored, step + 1)
        result = setup.learner.step(collected)
        self.tokens += collected.sampled
        self.saving.finish(step + 1, self.tokens)
        with self.phase("sync"):
            setup.sampler.load(setup.learner.weights(), setup.learner.version)
        row = {
            "step": step + 1,
            **reward_metrics(collected, config.samples_per_prompt),
            **result.metrics,
            "num_tokens": float(self.tokens),
            "step_time": time.perf_counter() - start,
            **{
                f"time/{name}": self.seconds.get(name, 0.0)
                for name in ("sample", "reward", "logprob", "update", "sync")
            },
            **{f"memory/{name}": peak for name, peak in self.memory.peaks.items()},
        }
        found = self._log(row)
        if config.save_rollouts:
            self.run.write_rollouts(step + 1, rollout_rows(collected, result))
        self.console.step(row)
        self.saving.tell_memory(row)
        self._say(found)
        self.listeners.step(StepRecord(step + 1, dict(row), collected.scored, result))

    def _log(self, row: dict[str, Any]) -> list[Finding]:
        """Keep a row, with a mark for each symptom that is there; returns the symptoms that are new."""
        found = self.health.look(row["step"], row)
        row |= self.health.marks
        self.run.log(row)
        self.tracker.log(row)
        return found

    def _say(self, found: Sequence[Finding]) -> None:
        for finding in found:
            self.console.message(finding.message())

    def _evaluate(self, step: int) -> Evaluation:
        if self.latest is None or self.latest.step != step:
            with self.phase("eval"):
                self.latest = self.held_out.at(step)
            self._show(self.latest)
            self.listeners.evaluated(self.latest)
            if self.setup.config.keep_best and step and self.held_out.is_best(step):
                self._save()
        return self.latest

    def _show(self, result: Evaluation) -> None:
        self.console.evaluated(result.shown(), self.watched.of(result))

    def _before(self, first: int) -> Evaluation:
        """The evaluation before training: of a resumed run the one that it began with, not one of now."""
        kept = self.held_out.before() if self.setup.config.resume else None
        if kept is None and first:
            self.console.message(
                f"the evaluation before training is not in {self.run.path} any more: `before` is that of step {first}"
            )
        if kept is not None:
            self._show(kept)
        return self._evaluate(first) if kept is None else kept

    def _log_evaluation(self, row: dict[str, Any]) -> None:
        self._say(self._log(row))

    def _save(self) -> None:
        self.listeners.saved(self.saving.save(self.held_out.best() if self.setup.config.keep_best else None))

    def _header(self) -> Mapping[str, str]:
        s, c = self.setup, self.setup.config
        assert c.prompts_per_step
        parameters = sum(p.numel() for p in s.model.hf.parameters())
        return {
            "recipe": f"{s.recipe.name}: {brief(s.recipe.credit)}",
            "model": f"{c.model.removeprefix(MADE)}, {parameters / 1e6:.3g} M parameters",
            "device": title(s.model.device) if c.cluster == "local" else f"Ray: {c.spread().said}",
            "task": f"{s.splits.name if c.environment else (c.task or '').removeprefix(MADE)}, {len(s.splits.train)} problems",
            "batch": f"{c.prompts_per_step} prompts x {c.samples_per_prompt} answers = {c.prompts_per_step * c.samples_per_prompt}",
            "run": str(self.run.path),
        }

    def _conclude(self) -> None:
        assert self.before is not None and self.after is not None
        self.console.finish("finished")
        forget(self.setup, self.setup.learner.version + 1)
        if self.listeners.ended:
            self.console.message(f"{self.listeners.ended} ended the run after step {self.saving.done.step}")
        before, after = self.held_out.settled(self.before), self.held_out.settled(self.after)
        path, shown = self.run.path, examples(before, after)
        summary(
            self.console,
            before.shown(),
            after.shown(),
            before.change(after),
            shown,
            path,
            when_done(path, self.setup.config, self.setup.recipe, shown[0].prompt if shown else None),
            [f"{f.name}, {f.when}: {f.seen}" for f in self.health.found.values()],
        )


def _facts(setup: Setup) -> Facts:
    config = setup.config
    assert config.prompts_per_step
    samples = config.samples_per_prompt
    return Facts(
        config.prompts_per_step * samples, samples, numbers_of(config.sampler, config.dtype, config.spread().staleness),
        plain_prompts(setup.model.codec, setup.splits),
        unread_letters(setup.model.codec, setup.splits.train, setup.splits.eval),
    )  # fmt: skip
