"""Answers as rows for files and for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rung.io.shown import Example, Said
from rung.records import Scored, StepResult
from rung.rollout.collect import Collected
from rung.text import inside
from rung.training.evaluation import Evaluation

LINE = 60  # characters of a problem that is shown on one line


def examples(before: Evaluation, after: Evaluation, count: int = 3) -> list[Example]:
    """The first answer to problems: those that gained most come first, then the others, in their order."""
    first = {a.task.id: a for a in reversed(before.answers)}
    last = {a.task.id: a for a in reversed(after.answers)}
    pairs = [
        (first[problem], last[problem])
        for problem in dict.fromkeys(a.task.id for a in before.answers)
        if problem in last
    ]
    pairs.sort(key=lambda pair: -max(_known(pair[1].reward) - _known(pair[0].reward), 0.0))
    return [Example(prompt_text(b), b.text, a.text, before.earned(b), after.earned(a)) for b, a in pairs[:count]]


@dataclass
class Watched:
    """One held-out problem whose answers are shown as they change.

    Of those that earned least at the first evaluation the longest whose text fits on a line: it takes longest to learn.
    """

    problem: str | None = None

    def of(self, evaluation: Evaluation) -> Said | None:
        """The first answer to it; None if it was not asked."""
        first = {a.task.id: a for a in reversed(evaluation.answers)}
        if self.problem is None and first:
            self.problem = min(
                dict.fromkeys(a.task.id for a in evaluation.answers),
                key=lambda problem: (_known(evaluation.earned(first[problem]), math.inf), *_length(first[problem])),
            )
        answer = first.get(self.problem or "")
        return None if answer is None else Said(prompt_text(answer), answer.text, evaluation.earned(answer))


def _length(row: Scored) -> tuple[bool, int]:
    size = len(prompt_text(row))
    return (False, -size) if size <= LINE else (True, size)


def _known(reward: float, otherwise: float = 0.0) -> float:
    return reward if math.isfinite(reward) else otherwise


def prompt_text(row: Scored) -> str:
    prompt = row.task.prompt
    return prompt if isinstance(prompt, str) else str(prompt[-2 if inside(prompt) and prompt[1:] else -1]["content"])


def answer_row(row: Scored) -> dict[str, Any]:
    """One answer as JSON: what was asked, what was said, what it earned."""
    prompt, episode = row.task.prompt, row.episode
    talk: dict[str, Any] = {} if row.rollout.versions is None else {"versions": list(row.rollout.versions)}
    if episode is not None:
        messages = [dict(m) for m in episode.messages]
        talk |= {"messages": messages, "turn_stops": list(episode.stops), "cut": episode.cut, **episode.counters}
    return {
        **talk,
        "task": row.task.id,
        "prompt": prompt if isinstance(prompt, str) else [dict(m) for m in prompt],
        "answer": row.text,
        "reward": row.reward if math.isfinite(row.reward) else None,
        "rewards": {k: v if math.isfinite(v) else None for k, v in row.rewards.items()},
        "stop": row.rollout.stop,
        "version": row.rollout.version,
    }


def rollout_rows(collected: Collected, result: StepResult) -> list[dict[str, Any]]:
    """All answers of a step with tokens, log-probabilities, rewards and advantages, one JSON object each.

    With a reference `ref_logp`, with a critic `values`: what it said of each token before the step. Where a batch serves
    several updates, also what the last pass saw of each token: `ratios` (null: kept out of the update) and `clipped`
    (0 no, 1 low, 2 high, 3 dual).
    """
    out, ratio_BT, clip_BT = [], result.ratio_BT, result.clip_BT
    for i, (row, group, adv) in enumerate(
        zip(collected.scored, collected.batch.group_B.tolist(), result.adv_BT.tolist(), strict=True)
    ):
        n = len(row.rollout.tokens)
        tokens: dict[str, Any] = {"tokens": list(row.rollout.tokens), "logp": [round(x, 6) for x in row.rollout.logp]}
        if row.rollout.actions is not None:
            tokens["actions"] = [int(x) for x in row.rollout.actions]
        out.append({**answer_row(row), "group": group, **tokens, "advantages": [round(x, 6) for x in adv[:n]]})
        if ratio_BT is not None and clip_BT is not None:
            ratios = [round(x, 4) if math.isfinite(x) else None for x in ratio_BT[i, :n].tolist()]
            out[-1] |= {"ratios": ratios, "clipped": clip_BT[i, :n].tolist()}
        for name, told_BT in (("ref_logp", result.ref_logp_BT), ("values", result.value_BT)):
            if told_BT is not None:
                out[-1][name] = [round(x, 6) for x in told_BT[i, :n].tolist()]
    return out
