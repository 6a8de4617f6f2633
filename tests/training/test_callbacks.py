"""Callbacks see what the run writes down, and end it as it would end by itself."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.training.config import TrainConfig
from rung.training.loop import train

SMALL = {"recipe": "ppo", "prompts_per_step": 4, "samples_per_prompt": 2, "eval_problems": 4, "threads": 1}


def run(path, *callbacks, **settings):
    return train(TrainConfig(**{**SMALL, "out": path, **settings}), callbacks=callbacks)


def test_a_callback_sees_what_is_written_down(tmp_path):
    steps, evaluations = [], []
    done = run(tmp_path / "run", SimpleNamespace(on_step=steps.append, on_evaluate=evaluations.append), steps=2)
    written = [row for row in RunDir.open(done.path).metrics() if "reward" in row]
    assert [s.step for s in steps] == [1, 2]
    for seen, row in zip(steps, written, strict=True):
        assert json.loads(json.dumps({k: v if math.isfinite(v) else None for k, v in seen.metrics.items()})) == row
        stored = RunDir.open(done.path).read_rollouts(seen.step)
        assert [a.text for a in seen.answers] == [r["answer"] for r in stored]
        for i, r in enumerate(stored):
            n = len(r["tokens"])
            assert torch.allclose(seen.result.adv_BT[i, :n].float(), torch.tensor(r["advantages"]), atol=1e-6)
            ratios = [math.nan if x is None else x for x in r["ratios"]]
            assert torch.allclose(seen.result.ratio_BT[i, :n].float(), torch.tensor(ratios), atol=1e-4, equal_nan=True)
            assert seen.result.clip_BT[i, :n].tolist() == r["clipped"]
    assert [e.step for e in evaluations] == [0, 2] and evaluations[0] == done.before and evaluations[1] == done.after
    assert len(repr(evaluations[0])) < 200, "256 answers are not printed"


def test_a_callback_hears_of_each_checkpoint(tmp_path):
    saved = []
    done = run(tmp_path / "run", SimpleNamespace(on_save=saved.append), steps=3, save_every=2)
    assert [(p.name, p.is_dir()) for p in saved] == [("step_000002", True), ("step_000003", True)]
    assert saved[-1] == RunDir.open(done.path).model_path()


class Until:
    """Ends a run in its second step, or at its second evaluation."""

    def __init__(self, hook, says):
        self.seen, self.says = 0, says
        setattr(self, hook, self.hear)

    def hear(self, what):
        self.seen += 1
        return self.says if self.seen == 2 else None


@pytest.mark.parametrize("says", [False, np.bool_(False)])
def test_false_ends_the_run_saved_and_evaluated(tmp_path, says, capsys):
    done = run(tmp_path / "run", Until("on_step", says), steps=5)
    assert (done.steps, done.stopped, done.interrupted, done.after.step) == (2, "Until.on_step", False, 2)
    assert RunDir.open(done.path).model_path().name == "step_000002"
    assert "Until.on_step ended the run after step 2" in capsys.readouterr().out


def test_an_evaluation_may_end_it_too_and_is_not_made_twice(tmp_path):
    until, seen = Until("on_evaluate", False), []
    done = run(tmp_path / "run", until, SimpleNamespace(on_evaluate=seen.append), steps=6, eval_every=2)
    assert (done.steps, done.stopped, until.seen) == (2, "Until.on_evaluate", 2)
    assert [e.step for e in seen] == [0, 2] and done.after is not None


@pytest.mark.parametrize("says", [None, True, 0, "", 0.0, []])
def test_no_other_answer_ends_it(tmp_path, says):
    assert run(tmp_path / "run", Until("on_step", says), steps=3, eval_problems=1).steps == 3


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (SimpleNamespace(on_setp=print), "Did you mean 'on_step'"),
        (Until, r"Give an object: Until\(\)"),
        (print, "none of on_step"),
        (SimpleNamespace(on_step=3), r"on_step of the callback SimpleNamespace is 3\. It must be a method"),
    ],
)
def test_what_could_never_hear_is_refused_before_anything_is_written(tmp_path, callback, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", callback, steps=1)
    assert not (tmp_path / "run").exists()


def test_what_a_callback_raises_is_the_callers_to_see(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", SimpleNamespace(on_step=lambda step: 1 / 0), steps=1, eval_problems=1)
