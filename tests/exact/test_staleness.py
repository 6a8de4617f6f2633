"""What answers of earlier weights cost, exactly: the bias without a correction, and the variance with one."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from rung.cli import main
from rung.exact.audit import WORLD as AUDITED
from rung.exact.audit import audit
from rung.exact.staleness import Mixed, lag, lags
from rung.exact.world import Condition, Scene, World
from rung.parts import NoCorrection, SequenceTIS, TokenTIS
from rung.recipes import GRPO, REINFORCE, RLOO

WORLD = World(vocabulary=3, horizon=2, prompts=2, samples=2, policy="tabular")


@pytest.mark.parametrize("recipe", [RLOO, GRPO], ids=lambda r: r.name)
def test_fresh_answers_are_what_the_audit_says_whatever_corrects_them(recipe):
    known = audit(recipe, world=WORLD)
    for correction in (NoCorrection(), TokenTIS(), SequenceTIS()):
        fresh = lag(recipe, correction, 0, 0.01, WORLD)
        assert (fresh.relative_error, fresh.cosine) == pytest.approx((known.relative_error, known.cosine), abs=1e-12)
        assert fresh.kl == 0 and fresh.ess == pytest.approx(1)


def test_each_update_moves_the_policy_along_its_gradient_as_far_as_is_said():
    scenes = [Scene(WORLD, Condition("stale", staleness=s, step_kl=0.02)) for s in range(3)]
    assert [(s.behavior == scenes[0].theta).all() for s in scenes] == [True] * 3, "the sampler stays where it was"
    for before, after in pairwise(scenes):
        step = after.theta - before.theta
        assert after.kl(after.theta, before.theta) == pytest.approx(0.02, rel=1e-6)
        g = before.true_gradient(REINFORCE)
        assert float(step @ g / (step.norm() * g.norm())) == pytest.approx(1, abs=1e-9)


def test_without_a_correction_the_bias_grows_a_tokens_weight_repairs_most_of_it_and_an_answers_all_of_it():
    found = {
        (c, s): lag(RLOO, c, s, 0.01, WORLD)
        for c in (NoCorrection(), TokenTIS(), SequenceTIS(cap=100.0))
        for s in (1, 2, 4)
    }
    none, token, answer = (
        [found[c, s] for s in (1, 2, 4)] for c in (NoCorrection(), TokenTIS(), SequenceTIS(cap=100.0))
    )
    assert none[0].relative_error < none[1].relative_error < none[2].relative_error
    for n, t, a in zip(none, token, answer, strict=True):
        assert a.relative_error < 1e-12 < t.relative_error < n.relative_error
    cut = lag(RLOO, SequenceTIS(cap=1.0), 4, 0.01, WORLD)
    assert cut.relative_error > 1e-3 and cut.variance < answer[2].variance, "truncation trades variance for bias"
    assert 1 > answer[0].ess > answer[1].ess > answer[2].ess > 0


LONG = World(vocabulary=2, horizon=4, prompts=1, samples=2, policy="tabular", seed=1)


@pytest.mark.parametrize("piece", [1, 2])
def test_answers_that_several_versions_drew_are_repaired_by_the_weight_of_the_whole_answer(piece):
    whole, mixed = (lag(RLOO, SequenceTIS(cap=100.0), 4, 0.02, LONG, n) for n in (None, piece))
    assert mixed.relative_error < 1e-12
    assert 0 < mixed.kl < whole.kl and mixed.ess > whole.ess, "later tokens are less stale"
    for correction in (NoCorrection(), TokenTIS()):
        assert lag(RLOO, correction, 4, 0.02, LONG, piece).relative_error > 1e-3


def test_the_law_of_pieces_is_that_of_the_version_of_each_token():
    condition = Condition("stale", staleness=3, step_kl=0.02)
    at, versions = Mixed(LONG, condition, 1), [Scene(LONG, replace(condition, staleness=v)) for v in range(3)]
    assert at.prob_PA.sum(1).tolist() == pytest.approx([1.0])
    for t, v in enumerate((0, 1, 2, 2)):
        assert (at.drawn[..., t] == at.logp(at.law(versions[v].theta))[..., t]).all()
    assert lag(RLOO, TokenTIS(), 3, 0.02, LONG, LONG.horizon) == lag(RLOO, TokenTIS(), 3, 0.02, LONG)
    assert lag(RLOO, TokenTIS(), 0, 0.02, LONG, 1).kl == 0


def test_the_command_prints_each_staleness_under_each_correction(tmp_path, capsys):
    small = ["--vocabulary", "2", "--horizon", "2", "--prompts", "1"]
    assert main(["audit", "rloo", "--staleness", "3", *small, "--json", str(tmp_path / "lag.json")]) == 0
    rows = json.loads((tmp_path / "lag.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    assert [(r["staleness"], r["correction"]) for r in rows][:4] == [
        (0, "NoCorrection()"), (0, "TokenTIS()"), (0, "SequenceTIS()"), (1, "NoCorrection()"),
    ]  # fmt: skip
    assert sorted({r["staleness"] for r in rows}) == [0, 1, 2, 3]
    assert main(["audit", "--staleness", "3"]) == 2
    assert "name one, such as rloo" in capsys.readouterr().err


def test_the_page_says_what_the_command_finds():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    found = [
        f"| {x.staleness} | `{x.correction.removesuffix('()')}` | {x.kl:.4f} | {x.ess:.3f} "
        f"| {x.relative_error:.3f} | {x.cosine:.3f} | {x.variance:.2f} |"
        for x in lags([RLOO], 8, Condition().step_kl, AUDITED)
    ]
    assert len(found) == 15 and "\n".join(found) in page
    mixed, whole = (lag(RLOO, NoCorrection(), 4, Condition().step_kl, AUDITED, n) for n in (1, None))
    assert f"KL is {mixed.kl:.4f} instead of {whole.kl:.4f}" in page
    assert f"{mixed.relative_error:.3f} instead of {whole.relative_error:.3f}" in page
