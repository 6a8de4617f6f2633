"""Gradient noise against brute force, against the exact oracle, and through a sketch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import rung.experiments.variance as variance
from rung.cli import main
from rung.exact.oracle import all_batches, batch_gradients, expected_gradient
from rung.exact.world import Condition, World, scene
from rung.experiments.variance import cosines, gradients, optimal_baseline, pairs_mean, quality, sketch, trace_of
from rung.experiments.variance_frozen import Frozen
from rung.network import model as models
from rung.recipes import LADDER
from rung.records import SamplingLaw
from rung.tasks import registry
from rung.training.policy import predicting_logits
from rung.training.setup import locate


@pytest.fixture(scope="module")
def frozen():
    splits = registry.load("chained_arithmetic")
    return Frozen(models.load(locate("starter")), splits.train, SamplingLaw(max_new_tokens=16), prompts=4, samples=4)


def gram(G):
    return (G @ G.T).numpy()


def test_trace_signal_and_cosine_by_their_definitions():
    G = torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3
    every = np.arange(6)
    assert trace_of(gram(G), every) == pytest.approx(float(np.cov(G.numpy().T).trace()))
    mean = G.mean(0)
    assert pairs_mean(gram(G), every) == pytest.approx(float(mean @ mean) - trace_of(gram(G), every) / 6)
    rest = G[1:].mean(0)
    assert cosines(gram(G))[0] == pytest.approx(float(torch.cosine_similarity(G[0], rest, dim=0)))
    assert trace_of(gram(G), np.array([0, 1, 1, 1, 2, 2])) == pytest.approx(
        np.average([trace_of(gram(G), np.array(p)) for p in ((0, 1), (0, 2), (1, 2))], weights=(3, 2, 6))
    ), "a batch drawn twice is not compared with itself"


@pytest.mark.parametrize("name", ["reinforce", "leave_one_out", "grpo"])
def test_the_trace_agrees_with_the_exact_oracle(name):
    recipe, small = LADDER[name], scene(World(vocabulary=3, horizon=2, prompts=1, samples=2), Condition())
    exact = expected_gradient(recipe, small)
    batches = all_batches(recipe, small)
    G = batch_gradients(recipe, small, batches)
    drawn = torch.multinomial(batches.weight_N, 3000, replacement=True, generator=torch.Generator().manual_seed(3))
    found = trace_of(gram(G[drawn]), np.arange(3000))
    assert found == pytest.approx(exact.trace, rel=0.1)


def by_hand(model, collected, R_B):
    """grad (1/B) sum_i (R_i - mean of the others) log pi(y_i), by the model's own padded forward and autograd."""
    R_PG, tokens = R_B.view(4, 4), collected.batch.tokens
    A_B = (R_PG - (R_PG.sum(1, keepdim=True) - R_PG) / 3).flatten()
    assert A_B.abs().sum() > 0
    log_p = predicting_logits(model, tokens)[0].float().log_softmax(-1)
    logp_n = log_p.gather(-1, tokens.tokens_BT[tokens.mask_BT][:, None])[:, 0]
    J = (A_B[tokens.mask_BT.nonzero()[:, 0]] * logp_n).sum() / 16
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(J, list(model.hf.parameters()))])


def close(a, b):
    return float((a - b).norm() / b.norm()) < 1e-4


def test_a_gradient_is_that_of_the_formula(frozen):
    collected = frozen.collect(1, seed=5)[0]
    G = gradients(LADDER["leave_one_out"], frozen.model, frozen.hyper(), [], [collected])
    assert close(G[0], by_hand(frozen.model, collected, torch.tensor([row.reward for row in collected.scored])))
    assert all(p.grad is None for p in frozen.model.hf.parameters()), "nothing is left behind"


def test_a_sketch_keeps_inner_products(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    G = [[torch.randn(300, 200, generator=generator), None, torch.randn(5000, generator=generator)] for _ in range(3)]
    sizes = [60_000, 77, 5000]
    exact = torch.stack([sketch(g, sizes) for g in G])
    assert exact.shape == (3, 65_077)
    monkeypatch.setattr(variance, "EXACT", 0)
    monkeypatch.setattr(variance, "CHUNK", 7_001)
    small = torch.stack([sketch(g, sizes) for g in G])
    assert small.shape == (3, variance.WIDTH)
    assert torch.allclose(small @ small.T, exact @ exact.T, atol=0.02 * 65_000)
    assert torch.equal(small[0], sketch(G[0], sizes)), "the same cells and signs every time"
    assert torch.allclose(sketch([x if x is None else 2 * x for x in G[0]], sizes), 2 * small[0])


def test_the_optimal_baseline_leaves_the_least_variance(frozen):
    batches = frozen.collect(6, seed=7)
    u, v = variance.baseline_gradients(frozen.model, frozen.hyper(), batches)
    assert torch.allclose(u, gradients(LADDER["reinforce"], frozen.model, frozen.hyper(), [], batches), atol=1e-6)
    b = optimal_baseline(u, v)
    least, more, less = (quality(u - x * v).trace.mean for x in (b, b + 0.2, b - 0.2))
    assert least < more and least < less
    assert optimal_baseline(u + 0.5 * v, v) == pytest.approx(b + 0.5), "shifting all rewards shifts the baseline"


def test_every_recipe_sees_the_same_batches_and_critics_learn_first(frozen):
    names = ("leave_one_out", "dr_grpo", "moving_average", "value_baseline")
    found = frozen.gradients([LADDER[n] for n in names], batches=3, warmup=2, seed=0)
    again = frozen.gradients([LADDER["dr_grpo"]], batches=3, warmup=2, seed=0)
    assert torch.equal(found["dr_grpo"], again["dr_grpo"])
    cosine = torch.cosine_similarity(found["dr_grpo"], found["leave_one_out"])
    assert (cosine > 1 - 1e-6).all(), "on-policy they are the same up to a constant (docs/ladder/dr_grpo.md)"
    untaught = frozen.gradients([LADDER[n] for n in names[2:]], batches=3, warmup=0, seed=0)
    assert all((found[n] - untaught[n]).norm() > 0 for n in names[2:])


def test_stale_answers_keep_the_ratios_to_the_policy_that_drew_them(frozen):
    """grad (1/B) sum_i (1/L_i) sum_t min(rho A, clip(rho) A), by the model's own forward and autograd; fresh ones have rho = 1."""
    moved = models.load(locate("starter"))
    with torch.no_grad():
        for p in moved.hf.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    behind = replace(frozen, model=moved, older=frozen.model)
    recipe = replace(LADDER["gspo"], ratio=LADDER["grpo"].ratio, surrogate=LADDER["grpo"].surrogate)
    found = behind.gradients([recipe, LADDER["leave_one_out"]], batches=1, warmup=0, seed=5)

    collected = frozen.collect(1, seed=5)[0]
    batch, tokens = collected.batch, collected.batch.tokens
    R_PG = torch.tensor([row.reward for row in collected.scored]).view(4, 4)
    A_B = ((R_PG - R_PG.mean(1, keepdim=True)) / (R_PG.std(1, keepdim=True) + 1e-4)).flatten()
    log_p = predicting_logits(moved, tokens)[0].float().log_softmax(-1)
    logp_n = log_p.gather(-1, tokens.tokens_BT[tokens.mask_BT][:, None])[:, 0]
    row_n = tokens.mask_BT.nonzero()[:, 0]
    ratio_n = (logp_n - batch.old_logp_BT[tokens.mask_BT]).exp()
    assert ((ratio_n - 1).abs() > 0.2).sum() > 5, "some are clipped"
    gain_n = torch.minimum(ratio_n * A_B[row_n], ratio_n.clamp(0.8, 1.2) * A_B[row_n])
    J = (gain_n / tokens.mask_BT.sum(1)[row_n]).sum() / 16
    by_autograd = torch.cat([g.reshape(-1) for g in torch.autograd.grad(J, list(moved.hf.parameters()))])
    assert close(found[recipe.name][0], by_autograd)

    fresh = replace(frozen, model=moved).gradients([LADDER["leave_one_out"]], batches=1, warmup=0, seed=5)
    assert torch.equal(found["leave_one_out"], fresh["leave_one_out"]), "the yardstick's answers are the policy's own"


def test_process_rewards_reach_every_recipe(frozen):
    dense = replace(frozen, process=True).collect(1, seed=0)[0].batch
    sparse = frozen.collect(1, seed=0)[0].batch
    assert torch.equal(dense.mask_BT, sparse.mask_BT)
    more_BT = dense.reward_BT - sparse.reward_BT
    assert int((sparse.reward_BT != 0).sum(1).max()) == 1 and int((more_BT > 0).sum(1).max()) > 1 and more_BT.min() == 0


def test_the_command_prints_a_table_and_json(capsys, tmp_path):
    flags = [
        "starter",
        "--batches",
        "3",
        "--warmup-batches",
        "1",
        "--prompts-per-step",
        "2",
        "--samples-per-prompt",
        "2",
    ]
    assert main(["variance", *flags, "--recipes", "reinforce,grpo", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["recipe"] for r in rows] == ["reinforce", "grpo", "constant baseline of least variance"]
    assert all(r["trace low"] <= r["trace"] <= r["trace high"] for r in rows)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["starter", "--recipes", "grppo"], "Did you mean 'grpo'"),
        (["starter", "--recipes", ","], "names none"),
        (["starter", "--batches", "2"], "at least 3 batches"),
        (["starter", "--recipes", "grpo", "--samples-per-prompt", "1"], "group of one"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, said, capsys):
    assert main(["variance", *flags]) == 2
    assert said in capsys.readouterr().err
