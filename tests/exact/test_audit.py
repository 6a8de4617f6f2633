"""What `rung audit` says: verdicts, constants and causes, for our recipes and for one's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import rung.exact.audit
import rung.parts as p
from rung.cli import main
from rung.errors import InputError
from rung.exact.audit import WORLD, audit, conditions, relevant, run_audit
from rung.exact.causes import estimate_of
from rung.recipe_io import all_recipes
from rung.recipes import A2C, DR_GRPO, GRPO, LADDER, REINFORCE, RLOO, VALUE_BASELINE

ON, OFF, CRITIC, HOT = conditions()


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_every_recipe_on_policy(name, declared):
    v = audit(all_recipes()[name])
    kind, constant = declared(name)
    assert v.kind == kind
    if kind != "biased":
        assert v.scale == pytest.approx(constant)
    if v.kind == "biased":
        assert v.cosine < 1 - 1e-9
        assert v.causes[-1].cosine == pytest.approx(1.0, abs=1e-12), "the causes explain all of it"


def test_constants_are_named_with_where_they_come_from():
    words = audit(DR_GRPO).words
    assert words == (
        "unbiased up to the constant c = (G-1)/(G M) = 0.25: (G-1)/G = 0.5 from credit=GroupMean(scale='none') and "
        "1/M = 0.5 from aggregate=FixedBudget()"
    )
    assert audit(LADDER["batch_mean"]).constant == "1 - 1/B = 0.75, from credit=BatchMean()"


def test_causes_come_from_swapping_parts():
    v = audit(replace(GRPO, kl=p.NoKL()))
    assert [c.what for c in v.causes] == ["aggregate=SequenceMean()", "credit=GroupMean(scale='group')"]
    assert v.words.startswith("biased, cosine 0.9")
    repaired = replace(GRPO, kl=p.NoKL(), aggregate=p.SequenceSum(), credit=p.GroupMean(scale="none"))
    assert audit(repaired).kind == "proportional"


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dr_grpo", "gspo", "rloo"])
def test_off_policy_the_detached_ratio_of_whole_answers_repairs_the_ratio(name):
    v = audit(LADDER[name], OFF)
    assert v.kind == "biased"
    assert v.causes[-1].cosine == pytest.approx(1.0, abs=1e-12)
    assert any("ratio=" in c.what for c in v.causes)


def test_a_wrong_critic_concerns_those_who_have_one():
    assert audit(VALUE_BASELINE, CRITIC).kind == "unbiased"
    assert (
        audit(replace(A2C, aggregate=p.SequenceSum(), entropy=0.0), CRITIC).causes[0].what
        == "credit=Value(estimator=GAE())"
    )
    assert not relevant(REINFORCE, CRITIC) and relevant(A2C, CRITIC)


def test_a_wrong_temperature_is_named():
    v = audit(REINFORCE, HOT)
    assert "drawn at temperature 2 but scored at 1" in v.words
    assert v.causes[-1].cosine == pytest.approx(1.0)
    exact = audit(VALUE_BASELINE, HOT)
    assert exact.constant.startswith("T = 2"), (
        "with E[A|s] = 0 the law's own mean drops out, and only the scale is left"
    )


def test_ones_own_recipe_with_a_part_of_ones_own():
    @dataclass(frozen=True)
    class SquareRoot(p.SequenceSum):
        """w_bt = m_bt / (B sqrt|y_b|)."""

        def __call__(self, mask_BT, group_B, total):
            return super().__call__(mask_BT, group_B, total) / mask_BT.sum(1, keepdim=True).clamp(min=1).sqrt()

    v = audit(replace(RLOO, name="mine", aggregate=SquareRoot()))
    assert (v.recipe, v.kind) == ("mine", "biased")
    assert [(c.what, c.instead) for c in v.causes] == [("aggregate=SquareRoot()", "SequenceSum()")]


@dataclass(frozen=True)
class Flipped(p.LeaveOneOut):
    """A_i = mean_{j != i} R_j - R_i: the sign is wrong."""

    def __call__(self, batch):
        return -super().__call__(batch)


def test_a_wrong_sign_is_no_constant():
    v = audit(replace(RLOO, kl=p.NoKL(), credit=Flipped()))
    assert v.kind == "biased"
    assert v.cosine == pytest.approx(-1.0)
    assert [c.what for c in v.causes] == ["credit=Flipped()"]


def test_the_table_as_json_and_as_markdown(tmp_path, capsys):
    assert run_audit(["dr_grpo", "a2c"], "-", markdown=tmp_path / "audit.md") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["recipe"], r["condition"]) for r in rows][:3] == [
        ("dr_grpo", "on-policy"), ("dr_grpo", "off-policy"), ("dr_grpo", "wrong temperature")
    ]  # fmt: skip
    assert set(rows[0]) == {"recipe", "condition", "verdict", "cosine", "c", "relative error", "variance"}
    text = (tmp_path / "audit.md").read_text()
    assert "| dr_grpo | unbiased up to the constant c = (G-1)/(G M) = 0.25" in text
    assert "## Wrong critic" in text


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: run_audit(["grop"]), "Did you mean 'grpo'"),
        (lambda: run_audit([], world=replace(WORLD, samples=1)), "2 samples"),
        (lambda: run_audit([], old_kl=0.0), "change nothing"),
        (lambda: run_audit([], world=replace(WORLD, horizon=3, samples=2, vocabulary=4)), "may take .* hours"),
        (lambda: run_audit([], temperature=1.0), "change nothing"),
    ],
)
def test_bad_input(call, why):
    with pytest.raises(InputError, match=why):
        call()


def test_the_example_of_the_docstring_runs(capsys):
    text = rung.exact.audit.__doc__.split("\n\n", 2)[2]
    exec("\n".join(line.removeprefix("    ") for line in text.splitlines()), {"__name__": "example"})
    assert capsys.readouterr().out.strip() == text.splitlines()[-1].removeprefix("    # ")


def test_causes_meet_in_the_cache():
    audit(GRPO)
    hits = estimate_of.cache_info().hits
    audit(GRPO)
    assert estimate_of.cache_info().hits > hits


def test_torch_keeps_its_default_precision():
    audit(REINFORCE)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_the_command(tmp_path):
    out = subprocess.run(
        [sys.executable, "-m", "rung.cli", "audit", "rloo"], capture_output=True, text=True, check=True
    )
    assert "unbiased" in out.stdout


# -- the pages ------------------------------------------------------------------------------------------------------------
DOCS = Path(__file__).parents[2] / "docs"
PROOF = (DOCS / "proof.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", PROOF, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=["part", "recipe"])
def test_the_examples_of_the_page_print_what_stands_there(code, printed, capsys):
    exec(compile(code, "docs/proof.md", "exec", dont_inherit=True), {"__name__": __name__})
    assert capsys.readouterr().out == printed


def test_the_command_writes_json_and_refuses_a_world_that_is_too_large(tmp_path, capsys):
    file = tmp_path / "audit.json"
    assert main(["audit", "reinforce", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [(r["condition"], r["verdict"].split(",")[0]) for r in rows] == [
        ("on-policy", "unbiased"), ("off-policy", "biased"), ("wrong temperature", "biased")
    ]  # fmt: skip
    assert main(["audit", "grpo", "--horizon", "9"]) == 2
    assert "1,023 answers to a prompt" in (message := capsys.readouterr().err) and "4.5 years" in message
    assert "about 4.49 years for one expected gradient" in " ".join(PROOF.split())


@pytest.mark.slow
def test_the_tables_of_the_page_are_those_of_today(tmp_path):
    """All recipes, all conditions; cosines may differ in the last digit from machine to machine, words may not."""
    assert run_audit([], "-", markdown=tmp_path / "audit.md") == 0
    now, page = ((x / "audit.md").read_text(encoding="utf-8") for x in (tmp_path, DOCS))
    number = re.compile(r"\d+\.\d+|(?<=\| )\d+(?= \|)")
    assert number.sub("#", now) == number.sub("#", page)
    pairs = zip(number.findall(now), number.findall(page), strict=True)
    assert all(float(a) == pytest.approx(float(b), rel=1e-2, abs=1e-3) for a, b in pairs)
