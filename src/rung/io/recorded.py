"""What a run wrote down, for Python: its metrics as a table, its answers step by step, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rung.errors import unknown
from rung.io.notebook import table
from rung.io.run_dir import RunDir
from rung.io.terminal import figure
from rung.settings.ranges import Count, plain, refuse

MAIN = (
    "step",
    "reward",
    "eval/accuracy",
    "eval/reward",
    "completions/mean_length",
    "kl",
    "grad_norm",
)  # of the table shown
SHOWN = 8  # rows at either end


class Metrics(list[dict[str, Any]]):
    """The rows of metrics.jsonl, a dict a step and a dict an evaluation: pandas.DataFrame(metrics) reads them as they are.

    metrics["reward"] is {step: value}, of the rows that have it; metrics[0] and metrics[:9] are rows.
    """

    @property
    def columns(self) -> list[str]:
        """Every name, in the order of their first use (docs/metrics.md says what they are)."""
        return list(dict.fromkeys(name for row in self for name in row))

    def __getitem__(self, key: Any) -> Any:
        key = plain(key)
        refuse(key, str | int | slice, "the metric, or the row's number,")
        if not isinstance(key, str):
            return super().__getitem__(key)
        found = {row["step"]: row[key] for row in self if key in row}
        if not found:
            raise unknown("metric", key, self.columns)
        return found

    def __repr__(self) -> str:
        return f'<{len(self)} rows of {len(self.columns)} metrics: metrics["reward"] is {{step: value}}, .columns the names>'

    def _repr_html_(self) -> str:
        names = [name for name in MAIN if any(row.get(name) is not None for row in self)]
        if "eval/accuracy" in names:  # which the mean reward then is
            names = [name for name in names if name != "eval/reward"]
        far = len(self) > 2 * SHOWN + 1
        rows = [*self[:SHOWN], dict.fromkeys(names, "..."), *self[-SHOWN:]] if far else list(self)
        return table(names, [[_cell(row.get(name)) for name in names] for row in rows]) + repr(self)[1:-1]


def _cell(value: Any) -> str:
    return figure(value) if isinstance(value, float) else "" if value is None else str(value)


class Rollouts(Mapping[int, list[dict[str, Any]]]):
    """{step: every answer of the step as a row}: text, tokens, log-probabilities, rewards, advantages. A step is read when it
    is asked for."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        step = plain(step)
        refuse(step, Count, "the step of the rollouts")
        return self._run.read_rollouts(step)

    def get(self, step: int, default: Any = None) -> Any:
        """Without it a step that is not there would be an error here too: the message is no KeyError."""
        return self._run.read_rollouts(plain(step)) if step in self else default

    def __contains__(self, step: object) -> bool:
        step = plain(step)
        return isinstance(step, int) and not isinstance(step, bool) and step in self._run.rollout_steps()

    def __iter__(self) -> Iterator[int]:
        return iter(self._run.rollout_steps())

    def __len__(self) -> int:
        return len(self._run.rollout_steps())

    def __repr__(self) -> str:
        steps = self._run.rollout_steps()
        return f"<answers of {len(steps)} steps{f', {steps[0]} to {steps[-1]}' if steps else ''}: rollouts[STEP]>"
