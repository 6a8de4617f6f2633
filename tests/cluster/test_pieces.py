"""Answers in pieces: which version draws which token, each from its own weights, and the same random numbers as in one piece."""

import time
from dataclasses import dataclass, replace

import pytest
import torch
from cluster_steps import model

from rung.cluster.ahead import Ahead
from rung.cluster.engine import Actors
from rung.cluster.pieces import Pieces
from rung.recipes import GRPO
from rung.records import SamplingLaw, State
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.cluster import Cluster
from rung.tasks import registry

STEPS, LONGEST = 7, 12


@dataclass
class Weights:
    """In the place of a pool: the sampler of each version, in this process."""

    models: list
    closed: bool = False

    def at(self, version):
        return TorchSampler(self.models[version], version)


@pytest.fixture(scope="module")
def versions():
    """A model for each step's weights, a little further each."""
    found = [model() for _ in range(STEPS)]
    torch.manual_seed(1)
    moves = [0.02 * torch.randn_like(p) for p in found[0].hf.parameters()]
    with torch.no_grad():
        for k, one in enumerate(found):
            for p, move in zip(one.hf.parameters(), moves, strict=True):
                p.add_(k * move)
    return found


def plain(one, greedy=False, samples=3):
    law, env = SamplingLaw(max_new_tokens=LONGEST), registry.load("chained_arithmetic").train
    return Collector(env, one.codec, TorchSampler(one), law, GRPO.data, 3, samples, 0, greedy)


def collect(collector, models, kind=Pieces, first=0, staleness=3, **more):
    """What each step from `first` on gets, and where the problems stood then."""
    options = {
        "pool": Weights(models),
        "staleness": staleness,
        "steps_in_all": STEPS,
        "begun": time.monotonic(),
        **more,
    }
    ahead = kind.of(collector, **options)
    found = [(ahead.collect(step, State()), ahead.position()) for step in range(first, STEPS)]
    ahead.end()
    assert not ahead.drawing.is_alive()
    return found


@pytest.mark.parametrize(("first", "staleness", "piece"), [(0, 3, 2), (2, 2, 5), (0, 4, 3)], ids=str)
def test_the_place_of_a_token_says_which_version_draws_it(versions, first, staleness, piece):
    found = collect(plain(versions[0]), versions, first=first, staleness=staleness, piece=piece)
    seen = set()
    for k, (collected, _) in enumerate(found, first):
        for row in collected.scored:
            rule = [max(first, min(k - 1, k - staleness + j // piece)) for j in range(len(row.rollout.tokens))]
            assert list(row.rollout.drawn_by) == rule and row.rollout.version == rule[-1]
            seen |= {k - v for v in rule}
        behind = [k - v for row in collected.scored for v in row.rollout.drawn_by]
        assert collected.counters["sampling/staleness_mean"] == sum(behind) / len(behind)
        assert collected.counters["sampling/staleness_max"] == max(behind)
    assert seen == {*range(staleness + 1)}, "none at the first step, and every lag up to the bound"


@torch.no_grad()
def says(one, ids):
    """The log-probability of the last token."""
    return float(one.hf(ids[:, :-1]).logits[0, -1].log_softmax(-1)[ids[0, -1]])


def test_the_log_probability_of_a_token_is_that_of_the_weights_that_drew_it(versions):
    apart = []
    for collected, _ in collect(plain(versions[0]), versions, piece=2)[3:]:
        for rollout in (row.rollout for row in collected.scored):
            ids = torch.tensor([rollout.prompt + rollout.tokens])
            for j, (said, v) in enumerate(zip(rollout.logp, rollout.drawn_by, strict=True)):
                at = len(rollout.prompt) + j
                own, other = (says(versions[i], ids[:, : at + 1]) for i in (v, v + 1))
                assert said == pytest.approx(own, abs=1e-4)
                apart.append(abs(own - other))
            assert len(rollout.entropy) == len(rollout.logp) == len(rollout.tokens)
    assert sorted(apart)[len(apart) // 2] > 1e-3, "the next weights' would be seen"


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "with a greedy baseline"])
def test_pieces_by_equal_weights_are_the_whole_answers(versions, greedy):
    """The same problems, random numbers, rewards and walk as in one piece."""
    same, collector = [versions[0]] * STEPS, plain(versions[0], greedy)
    whole = [(collector.collect(k, State()), collector.position()) for k in range(STEPS)]
    for piece in (1, 5):
        cut = collect(plain(versions[0], greedy), same, piece=piece)
        for (mine, here), (theirs, there) in zip(cut, whole, strict=True):
            pairs = list(zip(mine.scored, theirs.scored, strict=True))
            assert [(a.task.id, a.rollout.tokens, a.rollout.stop, a.rewards) for a, _ in pairs] == [
                (b.task.id, b.rollout.tokens, b.rollout.stop, b.rewards) for _, b in pairs
            ]
            torch.testing.assert_close(mine.batch.behavior_logp_BT, theirs.batch.behavior_logp_BT, rtol=0, atol=1e-4)
            assert here == there and mine.sampled == theirs.sampled
            if greedy:
                assert torch.equal(mine.batch.greedy_B, theirs.batch.greedy_B)


def test_pieces_that_no_answer_fills_are_whole_answers_of_one_version(versions):
    """But for the numbers' last digits: other rows are drawn beside them."""
    cut = collect(plain(versions[0]), versions, piece=LONGEST)
    whole = collect(plain(versions[0]), versions, Ahead)
    for (mine, _), (theirs, _) in zip(cut, whole, strict=True):
        for a, b in zip(mine.scored, theirs.scored, strict=True):
            assert replace(a.rollout, versions=None, logp=(), entropy=()) == replace(b.rollout, logp=(), entropy=())


@pytest.mark.parametrize(("piece", "kind"), [(LONGEST, Ahead), (LONGEST - 1, Pieces), (None, Ahead)], ids=str)
def test_a_run_has_pieces_only_where_an_answer_may_have_two(versions, piece, kind):
    actors = Actors(Cluster(staleness=2, partial=piece), Weights(versions))
    ahead = actors.collecting(plain(versions[0]))
    ahead.end()
    assert type(ahead) is kind


def test_what_fails_is_raised_where_it_is_waited_for(versions):
    models = [*versions[:3], None, *versions[4:]]
    ahead = Pieces.of(
        plain(versions[0]), pool=Weights(models), staleness=2, steps_in_all=STEPS, begun=time.monotonic(), piece=2
    )
    for step in range(4):
        ahead.collect(step, State())
    with pytest.raises(AttributeError, match="NoneType"):
        ahead.collect(4, State())
    ahead.end()
    assert not ahead.drawing.is_alive()
