"""Q3 and Q19: two real ranks (gloo, CPU) make the step of one process, and decide alike. two_ranks.py is what they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rung.parts as p
from rung.records import State

CASES = [
    *(
        ("unequal", x)
        for x in ("SequenceSum", "SequenceMean", "TokenMean", "FixedBudget", "PromptMean", "ppo", "dr_grpo")
    ),
    *(("one has nothing in the loss", x) for x in ("TokenMean", "ppo")),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks report: {(rows, recipe): {name: tensor}} each."""
    folder = tmp_path_factory.mktemp("ranks")
    script, environment = Path(__file__).with_name("two_ranks.py"), os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, script, str(rank), folder], env=environment) for rank in (0, 1)]
    try:
        assert [process.wait(120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    found = [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
    assert list(found[0]) == list(found[1]) == CASES
    return found


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_Q3_two_ranks_with_global_denominators_make_the_step_of_one_process(ranks, case):
    one, two = (found[case] for found in ranks)
    assert one["whole"].norm() > 0.01
    torch.testing.assert_close(one["together"], one["whole"], rtol=0, atol=1e-6 * float(one["whole"].norm()))
    assert torch.equal(one["together"], two["together"])
    assert torch.equal(one["weights"], two["weights"]), "clipped and stepped, ranks stay the same model bit for bit"
    torch.testing.assert_close(one["weights"], one["weights of the whole"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "case", [("unequal", "TokenMean"), ("unequal", "ppo"), ("one has nothing in the loss", "TokenMean")]
)
def test_Q3_denominators_of_each_rank_do_not(ranks, case):
    found = ranks[0][case]
    assert (found["own denominators"] - found["whole"]).norm() > 0.1 * found["whole"].norm()


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_Q19_with_the_kl_summed_over_ranks_every_rank_decides_what_one_process_would(ranks, case):
    """Drift holds sums and a count of tokens: added over ranks they give the KL of the whole step on each."""
    one, two = (found[case] for found in ranks)
    assert torch.equal(one["kl"], two["kl"])
    assert float(one["kl"]) == pytest.approx(float(one["kl of the whole"]), rel=1e-6)
    assert decisions(float(one["kl"])) == decisions(float(two["kl"]))


def test_Q19_with_the_kl_of_its_own_rows_each_rank_goes_its_own_way(ranks):
    one, two = (found["unequal", "TokenMean"] for found in ranks)
    kl = float(one["kl"])
    assert min(float(one["own kl"]), float(two["own kl"])) < kl < max(float(one["own kl"]), float(two["own kl"]))
    apart = [decisions(float(x["own kl"]), around=kl) for x in (one, two)]
    assert all(a != b for a, b in zip(*apart, strict=True)), "early stop, Ziegler's beta and PPO's beta_old all differ"


def decisions(kl: float, around: float = 0.02) -> tuple[bool, float, float]:
    """Early stop, adaptive beta, adaptive beta_old: what is done with a measured KL, here at targets near `around`."""
    start = State(kl_coef=0.1, trust_coef=1.0)
    stop = kl > around  # 1.5 target_kl
    beta = p.K1(0.1, target=around, horizon=100).observe(start, kl, 6).kl_coef
    return stop, beta, p.OldKL(target=around / 1.3).observe(start, kl).trust_coef
