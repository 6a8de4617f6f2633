"""What a sampler returns is looked at: each thing that was not asked for is refused, with the first answer that has it."""

from dataclasses import replace

import pytest

from rung.errors import RunFailed
from rung.records import Rollout, SamplingLaw
from rung.rollout.checked import Checked
from rung.rollout.draws import Draws

PROMPTS, LAW = [(1, 2), (3,)], SamplingLaw(max_new_tokens=3)


class Engine:
    same_numbers = True

    def __init__(self, bend=lambda found: found):
        self.bend = bend

    def load(self, weights, version):
        self.loaded = (*weights, version)

    def sample(self, prompts, law, draws):
        samples = draws.each(len(prompts))
        good = [Rollout(p, (4, 9), (-0.5, -1.0), (0.1, 0.2), "stop") for p in prompts for _ in range(samples)]
        return self.bend(good)


def asked(bend=lambda found: found):
    return Checked(Engine(bend), 10).sample(PROMPTS, LAW, Draws.whole(0, 4))


def third(**fields):
    return lambda found: [*found[:2], replace(found[2], **fields), found[3]]


def test_what_was_asked_for_is_passed_on():
    assert asked() == Engine().sample(PROMPTS, LAW, Draws.whole(0, 4))
    edge = {"tokens": (0, 9, 9), "logp": (0.1, -80.0, 0.0), "entropy": None, "stop": "length"}
    assert asked(third(**edge))[2].tokens == (0, 9, 9)
    assert asked(third(tokens=(), logp=(), entropy=(), stop="abort"))[2].stop == "abort"
    checked = Checked(Engine(), 10)
    checked.load([1], 7)
    assert checked.same_numbers and checked.sampler.loaded == (1, 7)


@pytest.mark.parametrize(
    ("bend", "told"),
    [
        (lambda found: found[:3], "3 answers where 4 were asked for"),
        (lambda found: tuple(found), "tuple where 4 were asked for"),
        (third(prompt=(1, 2)), "another prompt than the one that was given in answer 3 of 4"),
        (third(tokens=(1, 1, 1, 1), logp=(-1.0,) * 4, entropy=None), "4 tokens where 3 are allowed"),
        (third(tokens=(4, 10)), "a token that is none of the model's 10"),
        (third(tokens=(-1, 4)), "a token that is none"),
        (third(tokens=("4", 9)), "a token that is none"),
        (third(tokens=(4.0, 9)), "a token that is none"),
        (third(logp=(-0.5,)), "1 log-probabilities for 2 tokens"),
        (third(logp=(-0.5, float("nan"))), "no number or above 0"),
        (third(logp=(-float("inf"), -0.5)), "no number or above 0"),
        (third(logp=(-9.0, 0.7)), "no number or above 0"),
        (third(entropy=(0.1,)), "1 entropies for 2 tokens"),
        (third(entropy=(0.1, float("inf"))), "one that is no number"),
        (third(stop="eos"), "the stop 'eos'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_not_is_refused_by_the_samplers_name(bend, told):
    with pytest.raises(RunFailed, match=f"the sampler Engine returned .*{told}"):
        asked(bend)
