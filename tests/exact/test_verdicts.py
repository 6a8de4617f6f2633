"""Commands that begin with what they found, in words: each sentence from numbers that are made up."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from rung.evaluation.scores import Paired
from rung.evaluation.words import verdict_on as eval_verdict
from rung.exact.audit import Verdict
from rung.exact.audit import verdict_on as audit_verdict
from rung.experiments.ladder import highest
from rung.experiments.variance import Quality
from rung.experiments.variance_frozen import OPTIMAL
from rung.experiments.variance_frozen import verdict_on as variance_verdict
from rung.io.terminal import span
from rung.plan.estimate import verdict_on as plan_verdict
from rung.statistics import Interval

GIB = 2**30


def test_spans():
    assert [span(s) for s in (0, 1, 40, 60, 90, 720, 5400, 86400)] == [
        "0 seconds", "1 second", "40 seconds", "1 minute", "1.5 minutes", "12 minutes", "1.5 hours", "1 day",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("peak", "free", "said"),
    [
        (4.1, 20, "fits: 4.1 of 23 GiB, about 12 minutes for 100 steps."),
        (4.1, 2, "fits the machine, but not beside what else is running: 4.1 of 23 GiB, and 2 are free now; about 12 "
         "minutes for 100 steps."),
        (30, 20, "does not fit: it needs 30 GiB, and there are 23; if it did: about 12 minutes for 100 steps."),
    ],
)  # fmt: skip
def test_plan(peak, free, said):
    room = SimpleNamespace(limit=23 * GIB, free=free * GIB)
    need = SimpleNamespace(peak=peak * GIB)
    plan = SimpleNamespace(need=need, room=room, run_seconds=720, steps=100, phases=["step"], crowding=1)
    assert plan_verdict(plan) == said
    plan.phases = []
    assert plan_verdict(plan) == said.replace("about 12 minutes for 100 steps", "its time is not estimated")


@dataclass
class One:
    model: str
    kind: str = "accuracy"
    reward: float = 0.74

    @property
    def result(self):
        return SimpleNamespace(n=256, means={"1": 1.0})

    def interval(self):
        return 0.68, 0.79


@pytest.mark.parametrize(
    ("difference", "low", "high", "said"),
    [
        (
            0.12,
            0.05,
            0.19,
            "after is better than before by 0.120 accuracy (95 % interval +0.050 to +0.190, p = 0.010, 250 problems).",
        ),
        (-0.12, -0.19, -0.05, "after is worse than before by 0.120"),
        (0.12, -0.01, 0.2, "No difference is shown between after and before: +0.120 accuracy"),
        (0.0, float("nan"), float("nan"), "after and before are alike on every problem"),
        (3.0, float("nan"), float("nan"), "after and before differ by +3.000 accuracy on every problem"),
        (
            3.0,
            float("-inf"),
            float("inf"),
            "No difference is shown between after and before: +3.000 accuracy (95 % interval none",
        ),
    ],
)
def test_eval(difference, low, high, said):
    c = Paired(difference, low, high, 0.01, "exact McNemar", 250, 0.1, None)
    assert eval_verdict([One("after"), One("before")], c).startswith(said)
    assert eval_verdict([One("after"), One("before")], None).startswith(
        "after and before cannot be compared: no problem"
    )
    assert eval_verdict([One("after")], None) == "after: accuracy 0.740, 95 % interval 0.680 to 0.790, on 256 problems."


def test_variance():
    flat = Interval(1.0, 1.0, 1.0)
    clear, noisy = (Quality(flat, Interval(m, m - 0.1, m + 0.1), flat) for m in (0.5, 0.2))
    found = {"reinforce": noisy, "grpo": clear, OPTIMAL: replace(clear, snr=Interval(9.0, 9.0, 9.0))}
    assert (
        variance_verdict(found)
        == "grpo has the clearest gradient: a signal to noise of 0.5 (0.4 to 0.6), against 0.2 of reinforce."
    )
    near = replace(clear, snr=Interval(0.25, 0.15, 0.35))
    assert variance_verdict({"a": noisy, "b": near}).startswith(
        "No recipe's gradient is shown to be clearer than another's"
    )
    assert variance_verdict({"a": noisy}) == "One batch's gradient of a has a signal to noise of 0.2 (0.1 to 0.3)."


def test_ladder():
    lines = [
        {"recipe": n, "accuracy": a, "low": a - 0.1, "high": a + 0.1} for n, a in (("a", 0.5), ("b", 0.8), ("c", 0.8))
    ]
    assert highest(lines[:2], "accuracy") == "b ends highest, at accuracy 0.800 (0.700 to 0.900)."
    assert highest(lines, "reward").startswith("b, c end highest, at reward")


def test_audit():
    made = [
        Verdict(n, "on-policy", k, 1.0, 1.0, 0.0, 1.0)
        for n, k in (("a", "unbiased"), ("b", "proportional"), ("c", "biased"))
    ]
    off = Verdict("a", "off-policy", "biased", 0.9, 1.0, 0.1, 1.0)
    assert audit_verdict([*made, off]) == (
        "On-policy, 2 of 3 recipes follow the policy gradient on average, 1 of them up to a constant; biased: c."
    )
    assert audit_verdict([*made[:1], off]) == "a on-policy: unbiased."
    assert audit_verdict(made[:2]).endswith("up to a constant; none is biased.")
