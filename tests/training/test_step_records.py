"""What a step leaves for the report: each token's ratio and clipping, and the memory of each phase."""

from __future__ import annotations

import mmap
import time

import pytest
import torch

import rung
from rung.io.run_dir import RunDir
from rung.rollout.torch_sampler import TorchSampler
from rung.training.memory_watch import EVERY, STATM, MemoryWatch

SMALL = {"steps": 1, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 2, "threads": 1}


def test_several_updates_leave_the_ratios_and_clipping_of_their_last_pass(tmp_path):
    run = rung.train(recipe="ppo", learning_rate=3e-3, out=tmp_path / "ppo", **SMALL)
    rows = RunDir.open(run.path).read_rollouts(1)
    pairs = [p for r in rows for p in zip(r["ratios"], r["clipped"], r["advantages"], strict=True)]
    assert all(len(r["ratios"]) == len(r["tokens"]) for r in rows)
    assert any(ratio != 1 for ratio, _, _ in pairs) and {code for _, code, _ in pairs} >= {0, 1}
    for ratio, code, advantage in pairs:
        assert code == (1 if ratio < 0.8 and advantage < 0 else 2 if ratio > 1.2 and advantage > 0 else 0)


def test_a_single_update_leaves_none(tmp_path):
    run = rung.train(recipe="grpo", out=tmp_path / "grpo", **SMALL)
    assert not any("ratios" in row for row in RunDir.open(run.path).read_rollouts(1))


def test_handing_the_weights_over_is_timed_and_they_are_those_of_now(tmp_path, monkeypatch):
    """Once before the first answer, once after each update."""
    loaded, plain = [], TorchSampler.load

    def load(self, weights, version):
        loaded.append((version, {name: x.clone() for name, x in weights}))
        time.sleep(0.05)
        plain(self, weights, version)

    monkeypatch.setattr(TorchSampler, "load", load)
    run = rung.train(recipe="grpo", out=tmp_path / "run", learning_rate=1e-3, quiet=True, **SMALL | {"steps": 2})
    assert [version for version, _ in loaded] == [0, 1, 2]
    assert all(0.05 <= row["time/sync"] < row["step_time"] for row in run.metrics if "step_time" in row)
    kept = run.load()[0].state_dict()
    assert all(torch.equal(x, kept[name]) for name, x in loaded[-1][1].items()) and set(loaded[-1][1]) == set(kept)
    assert any(not torch.equal(x, loaded[0][1][name]) for name, x in loaded[1][1].items())


@pytest.mark.skipif(
    not STATM.exists() or torch.cuda.is_available(), reason="resident memory is read from Linux's /proc"
)
def test_memory_that_is_gone_at_the_end_of_a_phase_was_still_seen():
    watch = MemoryWatch()
    with watch.phase("small"):
        pass
    with watch.phase("large"):
        block = mmap.mmap(-1, 240_000_000)  # 0.22 GiB, and not from malloc, which may hold freed memory already
        for _ in range(240):
            block.write(b"1" * 1_000_000)
        time.sleep(20 * EVERY)  # many looks
        block.close()
    assert watch.peaks["large"] - watch.peaks["small"] > 0.2
    with watch.phase("large"):
        pass
    assert watch.peaks["large"] - watch.peaks["small"] > 0.2, "the largest of a step counts"
