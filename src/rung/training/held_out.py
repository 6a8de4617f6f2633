"""The evaluations of one run: each is logged and kept once, a resumed run has the same first one, and all have one kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rung.io.answers import looked_at
from rung.io.files import readable, write_atomic
from rung.io.held_out import evaluations, is_graded, kind, mean
from rung.io.run_dir import RunDir
from rung.records import Rollout, Scored, Task
from rung.training.answers import answer_row
from rung.training.evaluation import EVAL_SEED, Evaluation, evaluate
from rung.training.setup import Setup


@dataclass
class HeldOut:
    """Evaluates, logs and keeps. `graded`: an evaluation of this run had rewards other than 0 and 1."""

    setup: Setup
    run: RunDir
    log: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.graded = any(map(is_graded, evaluations(self.run.metrics())))

    @property
    def size(self) -> int:
        """Answers of one evaluation."""
        config = self.setup.config
        return min(config.eval_problems, len(self.setup.splits.eval)) * (config.eval_samples or 1)

    def at(self, step: int) -> Evaluation:
        """The policy of now on the held-out problems; what an earlier process has logged of it is not logged again."""
        config, env = self.setup.config, self.setup.splits.eval
        assert config.eval_samples is not None, "`settle` fills it in"
        codec, sampler = self.setup.model.codec, self.setup.sampler
        result = evaluate(env, codec, sampler, config.law(), config.eval_problems, config.eval_samples, EVAL_SEED)
        self.graded = self.graded or not result.binary
        result = replace(self.settled(result), step=step)
        path = _path(self.run, step)
        known = any(row["step"] == step for row in evaluations(self.run.metrics()))
        if not (known and path.is_file()):
            path.parent.mkdir(exist_ok=True)
            lines = "".join(json.dumps(answer_row(a)) + "\n" for a in result.answers)
            write_atomic(path, lambda file: file.write(lines.encode()))
        if not known:
            self.log({"step": step, **result.metrics()})
        return result

    def owes(self, step: int, tokens: int) -> bool:
        """Whether a process before this one was ended between the run's newest step and the evaluation that follows it."""
        config, rows = self.setup.config, self.run.metrics()
        if not 0 < step < (config.steps or 0) or any(row["step"] == step for row in evaluations(rows)):
            return False
        before = next((row["num_tokens"] for row in rows if row["step"] == step - 1 and "num_tokens" in row), 0)
        return config.evaluates_after(step, tokens, int(before), self.size)

    def before(self) -> Evaluation | None:
        """The run's first evaluation, read back; None where it was not kept."""
        first = next(iter(evaluations(self.run.metrics())), None)
        return None if first is None else stored(self.run, int(first["step"]))

    def best(self) -> Path | None:
        """The checkpoint of the evaluation with the highest mean, the first of equal ones; None: it has none yet."""
        step = self._best_step()
        path = None if step is None else self.run.checkpoints.of(step)
        return path if path is not None and path.is_dir() else None

    def is_best(self, step: int) -> bool:
        return step == self._best_step()

    def _best_step(self) -> int | None:
        rows = evaluations(self.run.metrics())
        found = [(value, -row["step"]) for row in rows if (value := mean(row, kind(rows))) is not None and row["step"]]
        return -max(found)[1] if found else None

    def settled(self, result: Evaluation) -> Evaluation:
        """As it reads beside the run's other evaluations: an accuracy only if all of them are one."""
        return replace(result, graded=self.graded)


def _path(run: RunDir, step: int) -> Path:
    return run.root / "evaluations" / f"step_{step:06d}.jsonl"


def stored(run: RunDir, step: int) -> Evaluation | None:
    """The run's evaluation at this step, read back; None where it was not kept."""
    path = _path(run, step)
    if not path.is_file():
        return None
    with readable(path):
        rows = looked_at(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        answers = [read_row(row) for row in rows]
    return Evaluation(answers, len({a.task.id for a in answers}), step=step)


def read_row(row: Mapping[str, Any]) -> Scored:
    """An answer from its row in a file, without its tokens."""
    rewards = {name: math.nan if value is None else value for name, value in row["rewards"].items()}
    reward = math.nan if row["reward"] is None else row["reward"]
    rollout = Rollout((), (), (), (), row["stop"], row["version"])
    return Scored(Task(row["task"], row["prompt"]), rollout, row["answer"], rewards, reward)
