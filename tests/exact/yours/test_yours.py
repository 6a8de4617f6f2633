"""The instrument's own controls: for every check a function that must set it off, and inputs that are refused by name."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from itertools import product

import pytest
import torch

from rung.cli import main
from rung.errors import InputError
from rung.exact import assert_policy_gradient, audit_function
from rung.exact.audit import WORLD as AUDITED
from rung.exact.world import World
from rung.exact.yours.checks import a_step
from rung.exact.yours.ratios import kl_of
from rung.exact.yours.signature import NAMES, OURS, Yours
from rung.exact.yours.steps import Pair
from rung.exact.yours.verdict import FIRST, SECOND, _third, settled

WORLD = World(vocabulary=2, horizon=3, prompts=2, samples=2)


def reinforce(logp, rewards, mask):
    return -((logp * mask).sum(1) * rewards).mean()


def found(loss=None, advantages=None):
    return audit_function(loss, advantages=advantages, world=WORLD)


def status(findings, name):
    return next(c.status for c in findings.checks if c.name == name)


def test_reinforce_is_unbiased_and_every_check_holds_or_says_what_it_assumes():
    f = found(reinforce)
    assert (f.kind, f.words, f.right) == ("unbiased", "unbiased", True)
    assert {c.status for c in f.checks} == {"holds", "assumes"}


def padding(logp, rewards, mask):
    return -((logp * mask).sum(1) * rewards).sum() / mask.numel()


def junk(logp, rewards, mask):
    return -(logp.sum(1) * rewards).mean()


def observations(reward_BT, mask):
    return reward_BT.flip(1).cumsum(1).flip(1) * mask * (0.5 ** torch.arange(mask.shape[1]))


def order(logp, rewards, mask):
    return -((logp * mask).sum(1) * (rewards - rewards.roll(1))).mean()


def order_within_groups(logp, rewards, mask, groups):
    first = torch.stack([(groups == g).nonzero()[0, 0] for g in groups])
    return -((logp * mask).sum(1) * (rewards - rewards[first])).mean()


def accumulation(logp, rewards, mask):
    return -((logp * mask).sum(1) * rewards).sum()


def micro_batches(logp, rewards, mask, micro_batches):
    return -((logp * mask).sum(1) * rewards).mean() / micro_batches


def temperature(logits, tokens, rewards, mask):
    return -((logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] * mask).sum(1) * rewards).mean()


def truncated(logp, rewards, mask):
    return -((logp * mask).sum(1) / mask.sum(1) * rewards).mean()


def all_truncated(logp, rewards, mask, truncated):
    kept = mask & ~truncated[:, None]
    return -((logp * kept).sum(1) * rewards).sum() / kept.any(1).sum()


def no_signal(logp, rewards, mask, groups):
    x = torch.stack(
        [
            (r - rewards[groups == g].mean()) / (rewards[groups == g].std() + 1e-9)
            for r, g in zip(rewards, groups, strict=True)
        ]
    )
    return -((logp * mask).sum(1) * x.detach()).mean()


def far_reference(logp, rewards, mask, ref_logp):
    return -((logp * mask).sum(1) * rewards).mean() + (((ref_logp - logp).exp() * mask).sum(1)).mean()


def group_size(logp, rewards, mask, group_size):
    return -((logp * mask).sum(1) * mask.sum(1).double() ** (group_size - 2) * rewards).mean()


def inputs(logp, rewards, mask, old_logp):
    return reinforce(logp, rewards, mask)


def ratio(logp, advantages, mask, old_logp):
    return -((old_logp - logp.detach()).exp() * logp * advantages * mask).sum(1).mean()


def kl(logp, rewards, mask, ref_logp):
    return reinforce(logp, rewards, mask) + ((logp - ref_logp) * mask).sum(1).mean()


CONTROLS = {
    "padding": [padding, junk],
    "order": [order, order_within_groups],
    "accumulation": [accumulation],
    "micro-batches": [micro_batches],
    "temperature": [temperature],
    "truncated": [truncated, all_truncated],
    "no signal": [no_signal],
    "far reference": [far_reference],
    "group size": [group_size],
    "inputs": [inputs],
    "ratio": [ratio],
    "KL": [kl],
}


@pytest.mark.parametrize(
    ("check", "f"), [(k, f) for k, fs in CONTROLS.items() for f in fs], ids=lambda x: getattr(x, "__name__", x)
)
def test_for_every_check_a_control_sets_it_off(check, f):
    assert status(found(f), check) == "fails"


def test_a_control_for_observations_and_none_is_missing():
    assert status(found(advantages=observations), "observations") == "fails"
    asks_all = found(ratio), found(kl), found(inputs), found(advantages=observations)
    assert {c.name for f in asks_all for c in f.checks} == {*CONTROLS, "observations"}


def test_nan_is_a_failure_whatever_the_rest_says():
    def sometimes(logp, rewards, mask):
        return -((logp * mask).sum(1) * rewards).mean() + 0.0 / (rewards[0] - rewards[1]).abs()

    f = found(sometimes)
    assert (f.kind, f.right) == ("not finite", False)
    assert re.match(r"not finite: \d+% of the batches give NaN or inf, such as rewards \[", f.words)
    with pytest.raises(AssertionError, match="not finite"):
        assert_policy_gradient(sometimes)


def test_wrong_signs_zeros_and_halves_are_said():
    def flipped(logp, rewards, mask):
        return -reinforce(logp, rewards, mask)

    def nothing(logp, mask):
        return (logp * mask).sum() * 0

    def losers(logp, advantages, mask):
        return -(logp * advantages.clamp(min=0) * mask).sum(1).mean()

    assert "the sign is wrong" in found(flipped).words
    assert "the expected gradient is 0" in found(nothing).words
    assert "answers below the others to their prompt have no gradient" in found(losers).words


def test_the_scale_is_a_formula_and_can_be_asked_for():
    def half(logp, advantages_B, mask, max_response_length, global_batch_size):
        return -((logp * mask).sum(1) * advantages_B).sum() / (max_response_length * global_batch_size)

    f = assert_policy_gradient(half, c=0.5)
    assert f.words == "right up to a constant: c = 1/M = 0.5"
    with pytest.raises(AssertionError, match=r"the constant is 0\.5, not 1"):
        assert_policy_gradient(half, c=1)


@pytest.mark.parametrize("c", [0.5, 2, 4, 0.75])
def test_a_plain_factor_is_no_formula(c):
    assert audit_function(lambda logp, rewards, mask: c * reinforce(logp, rewards, mask)).constant == f"{c:g}"


def test_a_factor_that_grows_with_the_batch_is_a_formula():
    def summed(logp, advantages, mask):  # of advantages that hold (G-1)/G already
        return -(logp * advantages * mask).sum()

    assert audit_function(summed, advantages=group_mean).constant == "(G-1)/G B = 2"


def test_two_formulas_of_a_constant_differ_in_one_of_the_worlds_that_tell_them_apart():
    seen, world = dict[tuple[float, ...], set[str]](), AUDITED
    worlds = (world, replace(world, vocabulary=2, horizon=world.horizon + 2, prompts=1, samples=3), _third(world))
    for (a, f), (b, g) in product(FIRST.items(), SECOND.items()):
        seen.setdefault(tuple(round(f(w) * g(w), 9) for w in worlds), set()).add(f"{a} {b}")
    assert all(len(set(values)) > 1 for values, names in seen.items() if names != {"1 1"})
    assert [names for names in seen.values() if len(names) > 1] == []


def test_names_of_other_projects_per_token_losses_tuples_and_float_masks():
    def verl(log_prob, old_log_prob, advantages, response_mask, uid):
        x = -(log_prob - old_log_prob).exp() * advantages * (1 - (1 - response_mask))  # 1 - mask: no booleans
        assert str(uid[0]).startswith("prompt ")
        return x, {"loss": float(x.mean())}

    assert found(verl).kind == "unbiased"
    assert len(OURS) == sum(1 + len(others) for _, others in NAMES.values()), "an alias stands for one thing"


def truncated_importance_sampling(logp, old_logp, rollout_log_probs, advantages, mask):
    weight, ratio = (old_logp - rollout_log_probs).exp().clamp(max=2), (logp - old_logp).exp()
    return -(weight * torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * mask).sum(1).mean()


def whole_answers_ratio(logp, old_logp, advantages_B, mask):
    return -(((logp - old_logp) * mask).sum(1).exp() * advantages_B).mean()


def group_mean(token_level_rewards, response_mask, index):
    total = token_level_rewards.sum(-1)
    return (
        torch.stack([r - total[torch.tensor(index == uid)].mean() for r, uid in zip(total, index, strict=True)])[
            :, None
        ]
        * response_mask
    )


def test_what_others_write_sets_off_no_alarm():
    tis, whole = (
        assert_policy_gradient(truncated_importance_sampling, c=1),
        assert_policy_gradient(whole_answers_ratio, c=1),
    )
    assert "importance ratio: each token's own" in str(tis) and "the whole answer's" in str(whole)
    assert whole.off_policy == pytest.approx(1) and tis.off_policy < 0.99
    assert assert_policy_gradient(advantages=group_mean, c=0.5).constant == "(G-1)/G = 0.5"


def constant(rewards, mask):
    return rewards[:3]


class Pull(torch.nn.Module):
    """`reinforce` as a loss of many projects is written: an object with a forward."""

    def __init__(self, exits=False):
        super().__init__()
        self.exits = exits

    def forward(self, logp, rewards, mask):
        if self.exits:
            raise SystemExit("enough")
        return reinforce(logp, rewards, mask)


REFUSED = [
    (lambda logp, rewards: -logp.sum(1) * rewards, "returned the shape .6. for 6 answers"),
    (lambda logp, images: logp.sum(), "input 'images' of .*which a small world cannot give"),
    (lambda logp, reward: logp.detach().sum(), "without a gradient"),
    (lambda logp: float(logp.sum()), "returned float"),
    (lambda logp: torch.nn.functional.dropout(logp).sum(), "stochastic"),
    (lambda rewards: rewards.sum(), "nothing to differentiate"),
    (lambda logp, old_logp, old_log_probs: logp.sum(), "are one thing"),
    (
        lambda logp, advantages: (logp @ advantages).sum(),
        r"raised RuntimeError: .*It was given logp \[6, 3\], advantages \[6, 3\]",
    ),
    (3, "cannot be called"),
    (lambda *args, **more: args[0].sum(), r"asks for nothing by name \(\*args, \*\*more may be anything\)"),
    (Pull, r"Pull is a class, .* gives no loss\. Give one that is made: Pull\(\.\.\.\)"),
    (Pull(exits=True), r"Pull raised SystemExit: enough\. See .*test_yours\.py:\d+\. It was given logp \[6, 3\]"),
    (torch.nn.Linear(2, 2), "input 'input' of Linear, which a small world cannot give"),
]


def test_a_module_of_torchs_asks_for_what_its_forward_asks():
    plain = found(reinforce)
    assert found(Pull()).words == plain.words == "unbiased" and found(Pull()).checks == plain.checks


@pytest.mark.parametrize(("f", "why"), REFUSED)
def test_what_cannot_be_audited_is_said(f, why):
    with pytest.raises(InputError, match=why):
        found(f)


def test_bad_advantage_functions_and_pairs_are_said():
    for f, why in ((constant, "shape .3. for 6 answers"), (lambda advantages: advantages, "asks for advantages")):
        with pytest.raises(InputError, match=why):
            found(advantages=f)
    with pytest.raises(InputError, match="has nothing to do"):
        found(reinforce, observations)
    with pytest.raises(InputError, match="nothing to audit"):
        found()


@pytest.mark.parametrize(("what_follows", "name"), [(False, "k2 = (log pi/ref)^2 / 2"), (True, None)])
def test_a_kl_that_charges_for_what_follows_is_not_called_k2(what_follows, name):
    def advantages(old_logp, ref_logp, mask):
        kl = (old_logp - ref_logp) * mask
        return -(kl.flip(1).cumsum(1).flip(1) if what_follows else kl)

    def loss(logp, old_logp, advantages, mask):
        return -((logp - old_logp).exp() * advantages * mask).sum() / len(mask)

    assert kl_of(settled(Pair(Yours(loss), Yours(advantages, "advantages"))), a_step((3, 3), 21)) == name


def test_the_command(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("def loss(logp, rewards, mask):\n    return -((logp * mask).sum(1) * rewards).mean()\n")
    out, start = tmp_path / "found.json", time.process_time()
    assert main(["audit", "--of", f"{file}:loss", "--json", str(out)]) == 0
    assert time.process_time() - start < 20
    assert "loss: unbiased." in capsys.readouterr().out
    rows = {r["check"]: r["status"] for r in json.loads(out.read_text())}
    assert rows["verdict"] == "unbiased" and rows["padding"] == "holds"
    assert main(["audit", "grpo", "--of", f"{file}:loss"]) == 2
    assert main(["audit", "--of", f"{file}:los"]) == 2
    assert "Did you mean 'loss'" in capsys.readouterr().err
    assert main(["audit", "--of", f"{file}:loss", "--horizon", "3", "--samples", "3"]) == 2
    assert "one call each, would take about" in capsys.readouterr().err
