"""Failing loudly: what goes wrong is said while it trains, with its likely cause and what to do.

`SYMPTOMS` is the table (docs/health.md prints it). `Health` holds a run's rows against it: each symptom is said once, in
the step in which it is seen first, and marked as `health/NAME` in the metrics of every step in which it is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rung.errors import InputError
from rung.records import Scored
from rung.rollout.samplers import USUAL, numbers_of
from rung.training import signs
from rung.training.seen import Facts, Row, Seen

RECENT = 8  # newest steps: the most that a sign reads is 5


@dataclass(frozen=True)
class Symptom:
    """sign: when it is there, in words; seen: what is seen in a run, with numbers, or None."""

    name: str
    seen: Callable[[Seen], str | None]
    sign: str
    cause: str
    remedy: str


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "template_unused", signs.template_unused,
        "prompts are plain text although the model has a chat template",
        "rows with text prompts for a model that was trained to chat",
        'Give messages instead: "prompt": [{"role": "user", "content": ...}]. A model that never chatted needs none.',
    ),
    Symptom(
        "letters_unread", signs.letters_unread,
        "the tokenizer reads some of the prompts' letters as its token for the unknown",
        "prompts in letters that this model was not made for",
        "Use another model, or write the prompts without these letters.",
    ),
    Symptom(
        "rewards_unscored", signs.unscored,
        "half of a step's answers or more have no reward",
        "a verifier or reward function that fails, runs out of time, or returns None",
        "Look at what it returns for a few answers; if this goes on, stop with Ctrl-C, mend it, and go on with --resume.",
    ),
    Symptom(
        "held_out_unscored", signs.held_out_unscored,
        "a held-out answer has no reward",
        "a verifier or reward function that fails, runs out of time, or returns None",
        "Look at what it returns for them; `eval/unscored` counts on.",
    ),
    Symptom(
        "reward_constant", signs.no_signal("constant"),
        "for 3 steps the answers to each prompt earn the same, and it is neither all nothing nor all solved",
        "a reward that does not read the answer, or pays any of the right form; or answers to a prompt that are all alike by now",
        "Call the reward function on a right and on a wrong answer: it must tell them apart (`rung verify` does so). If `entropy` "
        "is near 0, lower the learning rate.",
    ),
    Symptom(
        "problems_too_easy", signs.no_signal("easy"),
        "for 3 steps every answer earns the best, positive reward",
        "problems that the model solves already; or a reward that is paid for anything",
        "Take harder problems, or stop here. Read a few answers first: are they really right?",
    ),
    Symptom(
        "problems_too_hard", signs.no_signal("hard"),
        "for 3 steps no answer earns more than 0",
        "problems that the model never solves by chance; a form of answer that it does not know; a verifier that rejects all",
        "Take easier problems or a better model, show the form in the prompt, and run `rung verify` on the task.",
    ),
    Symptom(
        "signal_lost", signs.signal_lost,
        "for 3 steps 10 % or more of the prompts have answers of different rewards and no advantage",
        "a mean reward of 0 or less, which has no success rate to divide by (maxrl); a greedy answer without a reward (remax)",
        "Give rewards from 0 to 1, or use a recipe that subtracts a mean and does not divide by it (dr_grpo).",
    ),
    Symptom(
        "eps_dominates", signs.eps_dominates,
        "in half of the prompts with a signal, rewards differ by less than the recipe's eps",
        "rewards so small that eps sets the size of the advantages",
        "Multiply the rewards, or lower eps.",
    ),
    Symptom(
        "gradient_tiny", signs.gradient_tiny,
        "the root mean square of the gradient is below Adam's 1e-8",
        "rewards, and so advantages, that are very small",
        "Multiply the rewards, or use a recipe that divides by their std (grpo).",
    ),
    Symptom(
        "reward_is_noise", signs.noise,
        "over 5 steps, identical answers to a prompt differ in reward half as much as any two answers, or more",
        "a verifier that draws lots or mixes up the order of the answers; a judge model that is sampled",
        "Score one answer twice: the reward must be the same. Return rewards in the order of the answers.",
    ),
    Symptom(
        "reward_slow", signs.reward_slow,
        "for 3 steps the reward takes a second or more, and half of the step",
        "a reward function that computes long or waits; it is called once a prompt, with the group of answers to it",
        "Judge the answers of a call together, wait for other machines side by side (`async def`), or keep what was judged before.",
    ),
    Symptom(
        "reward_is_length", signs.paid_by_length,
        "for 3 steps reward and length of the answers to a prompt correlate with 0.95 or more",
        "a reward that pays for length, not for the answer",
        "Look at the longest answers; cap or drop the part of the reward that grows with length.",
    ),
    Symptom(
        "answers_cut", signs.cut,
        "over 3 steps half of the answers or more end at the token limit",
        "a limit that is too small for the task, or a model that has unlearned to stop",
        "Raise --max-new-tokens; if answers were shorter before, lower the learning rate.",
    ),
    Symptom(
        "format_not_found", signs.no_format,
        "over 3 steps the verifier finds no final answer in 90 % of the answers that were not cut",
        "answers in another form than the verifier reads",
        "Say in the prompt how the answer is to be given, or choose the verifier that reads this form (`rung verify`).",
    ),
    Symptom(
        "length_grows", signs.length_grows,
        "answers are 1.5 times as long as at the start, and the held-out score (else the reward) has not risen by a tenth of "
        "its std, by 3 standard errors",
        "length that is paid for itself, or long wrong answers that are spared (per-answer means, as in grpo)",
        "Use a recipe without a mean per answer (dr_grpo), fine overlong answers (dapo), or read the reward again.",
    ),
    Symptom(
        "reward_falls", signs.reward_falls,
        "the mean reward of 3 steps is half of that of the first two or less, by 3 standard errors",
        "steps that are too long, or a reward that changed on the way",
        "Lower the learning rate (a tenth), or use a recipe with a leash to the reference (grpo).",
    ),
    Symptom(
        "held_out_falls", signs.held_out_falls,
        "the held-out score's 95 % interval lies below its best one's, while the training reward rose by 2 standard errors",
        "a training reward that can be earned without solving the task, or training problems learned by heart",
        "Compare answers of training and held-out problems (`rung report`), mend the reward; keep an earlier checkpoint.",
    ),
    Symptom(
        "entropy_collapses", signs.entropy_collapses,
        "the entropy is below 0.05 nats and a fifth of the first step's, and the prompts are not solved",
        "steps that are too long, or a reward whose zero lies so that every sampled answer is pushed up",
        "Lower the learning rate, subtract a baseline (leave_one_out, grpo), add entropy or a KL to the reference.",
    ),
    Symptom(
        "kl_runs_away", signs.kl_runs_away,
        "both estimates of the KL to the reference are above 1 nat a token for 2 steps",
        "steps that are too long, or a weight of the KL that is too small",
        "Lower the learning rate, or raise the coefficient (--recipe.kl.coef).",
    ),
    Symptom(
        "ratios_useless", signs.ratios_useless,
        "over 3 steps ratio/ess is below 0.5, or old_kl above 0.15 nats a token",
        "too many or too long steps on one batch: what is learned belongs to answers that the policy no longer gives",
        "Fewer epochs or minibatches (--recipe.update.epochs), a lower learning rate, or a bound (--recipe.update.target-kl).",
    ),
    Symptom(
        "sampler_disagrees", signs.sampler_disagrees,
        "before any update, sampler and trainer differ by more than 0.002 nats a token in float32, 0.1 in bfloat16 or with another "
        "engine",
        "another temperature, precision or set of weights in the sampler than in the trainer",
        "Sample with the weights and the law that are trained; in bfloat16 try --dtype float32.",
    ),
    Symptom(
        "critic_blind", signs.critic_blind,
        "the critic explains less than 0.001 of the returns' variance in 4 steps, or -0.5 of it over 5",
        "a critic that does not learn (its learning rate), or is thrown about by it",
        "Change --recipe.credit.critic.learning-rate, or use a recipe without a critic (rloo, grpo).",
    ),
    Symptom(
        "not_finite", signs.not_finite,
        "the gradient, the advantages, a KL or the critic's loss is not finite",
        "a learning rate that is too high, or rewards that are too large for float32",
        "Lower the learning rate; where advantages are above 1e12 divide the rewards, or use a recipe that divides by "
        "their std (grpo).",
    ),
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Finding:
    """A symptom that a run has shown: what was seen first, in which step, and where it was seen last."""

    symptom: Symptom
    seen: str
    first: int
    last: int
    steps: int = 1  # in how many it was there

    @property
    def name(self) -> str:
        return self.symptom.name

    @property
    def when(self) -> str:
        """steps 3 to 12 (8 of them)"""
        if self.first == self.last:
            return f"step {self.first}"
        span = self.last - self.first + 1
        return f"steps {self.first} to {self.last}" + (f" ({self.steps} of {span})" if self.steps < span else "")

    def __repr__(self) -> str:
        return f"<{self.name}, {self.when}: {self.seen}. Likely cause: {self.symptom.cause}. What to do: {self.symptom.remedy}>"

    def message(self) -> str:
        s = self.symptom
        return f"step {self.first}, {s.name}: {self.seen}. Likely cause: {s.cause}. What to do: {s.remedy}"


def find(run: Seen) -> list[tuple[Symptom, str]]:
    """The symptoms that are there after the newest row, each with what is seen."""
    return [(symptom, seen) for symptom in SYMPTOMS if (seen := symptom.seen(run))]


@dataclass
class Health:
    """A run's rows, those that a sign may still read, and what they have shown so far."""

    facts: Facts
    train: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)
    found: dict[str, Finding] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)  # what the newest row is marked with

    def look(self, step: int, row: Row | None = None) -> list[Finding]:
        """Take the next row, of a step or of an evaluation; returns what is found for the first time."""
        if row is not None:
            (self.train if "step_time" in row else self.held_out).append(row)
        new, run = [], Seen(self.facts, self.train, self.held_out)
        here = find(run)
        self.train, self.held_out = still_read(run)
        for symptom, seen in here:
            known = self.found.get(symptom.name)
            if known is None:
                new.append(Finding(symptom, seen, step, step))
            elif known.last < step:
                self.found[symptom.name] = replace(known, last=step, steps=known.steps + 1)
        self.found |= {finding.name: finding for finding in new}
        self.marks = {f"health/{symptom.name}": 1.0 for symptom, _ in here}
        return new

    def replay(self, rows: Iterable[Row]) -> Health:
        """Look at the rows of an earlier process, or of a run that is over."""
        for row in rows:
            self.look(int(row["step"]), row)
        return self


def still_read(run: Seen) -> tuple[list[Row], list[Row]]:
    """The steps and evaluations that a sign may read later on, however long the run: both ends, and what stands out."""
    best = signs.best_of(run.held_out) if run.held_out else None
    first = next(filter(signs.differ, run.train), None), next(filter(signs.full, run.held_out), None)

    def some(rows: Sequence[Row], oldest: int, newest: int) -> list[Row]:
        ends = {*range(oldest), *range(len(rows) - newest, len(rows))}
        out = (best, *first)
        near = (i in ends or any(r is x for x in out) or (best and signs.around(best, r)) for i, r in enumerate(rows))
        return [r for r, stays in zip(rows, near, strict=True) if stays]

    return some(run.train, signs.START, RECENT), some(run.held_out, 1, 1)


def of_run(config: Mapping[str, Any], rows: Sequence[Row]) -> list[Finding]:
    """What a stored run's rows show, in the order in which it was seen."""
    marked = {key for row in rows for key in row if key.startswith("health/")}
    samples = int(config.get("samples_per_prompt", 1))
    unread = "some of the prompts contain letters that the model's tokenizer does not know"
    facts = Facts(
        answers=samples * int(config.get("prompts_per_step", 1)),
        samples=samples,
        numbers=numbers_of(
            str(config.get("sampler", USUAL)), str(config.get("dtype", "float32")),
            int(config.get("cluster_options", {}).get("staleness", 0)),
        ),
        plain_prompts="health/template_unused" in marked,
        unread=unread if "health/letters_unread" in marked else None,
    )
    return list(Health(facts).replay(rows).found.values())


def table() -> str:
    """The symptoms as Markdown, as docs/health.md has them."""
    rows = [f"| `{s.name}` | {s.sign} | {s.cause} | {s.remedy.replace('|', chr(92) + '|')} |" for s in SYMPTOMS]
    return "\n".join(["| symptom | sign | likely cause | what to do |", "|---|---|---|---|", *rows])


def refuse_unscored(rows: Sequence[Scored], step: int) -> None:
    """Refuses a run whose first answers could not be scored at all: there is nothing to learn from."""
    if any(math.isfinite(row.reward) for row in rows):
        return
    first = rows[0]
    given = ", ".join(f"{name} {value}" for name, value in first.rewards.items()) or "no reward at all"
    raise InputError(
        f"step {step}: none of the {len(rows)} answers could be scored, so there is nothing to learn from. Every reward is "
        f"None or no number; for problem {first.task.id!r} the verifier or reward function gave: {given}. Return a number "
        "for answers that can be judged (None means: leave this one out)."
    )
