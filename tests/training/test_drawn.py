"""Answers that are kept until a checkpoint holds their step: a run that is ended in the middle draws none of them twice."""

import json

import pytest

import rung
from rung.rollout import torch_sampler
from rung.rollout.torch_sampler import TorchSampler

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 2, "eval_problems": 2, "max_new_tokens": 8, "threads": 1, "eval_every": 0,
         "learning_rate": 1e-3, "keep_rollouts": 2, "save_every": 1, "steps": 3}  # fmt: skip


class Cut(Exception):
    pass


def files(path):
    return {
        p.relative_to(path): p.read_bytes() for kind in ("*.zst", "step_000003/*.safetensors") for p in path.rglob(kind)
    }


@pytest.fixture
def drawn(monkeypatch):
    """(version, prompts, first row) of every call that draws; `drawn.end` ends the program at that call."""

    class Calls(list):
        end = None

    seen, sample = Calls(), TorchSampler.sample

    def watched(self, prompts, law, draws):
        if len(seen) == seen.end:
            raise Cut
        seen.append((self.version, tuple(map(tuple, prompts)), draws.seed, tuple(draws.rows)))
        return sample(self, prompts, law, draws)

    monkeypatch.setattr(torch_sampler.TorchSampler, "sample", watched)
    return seen


@pytest.mark.parametrize("settings", [{"recipe": "grpo"}, {"recipe": "dapo"}, {"recipe": "remax"}])
def test_what_was_drawn_is_not_drawn_again_and_the_run_is_what_it_would_have_been(tmp_path, drawn, settings):
    rung.train(**settings, out=tmp_path / "whole", **SMALL)
    calls = list(drawn)
    assert not list((tmp_path / "whole").rglob("kept/*.json")), "all of it is in a checkpoint's step"
    assert all(len(rows) <= 2 for *_, rows in calls)
    middle = [i for i in range(1, len(calls)) if calls[i][0] == calls[i - 1][0]]  # of the answers to a step's problems
    for end in (middle[1], middle[-2]):
        drawn.clear()
        drawn.end, path = end, tmp_path / f"cut-{end}"
        with pytest.raises(Cut):
            rung.train(**settings, out=path, **SMALL)
        assert list(path.rglob("kept/*.json"))
        drawn.end = None
        rung.train(resume=path)
        assert files(path) == files(tmp_path / "whole")
        assert len(set(drawn)) == len(drawn), "drawn twice"


def test_a_damaged_file_is_drawn_again(tmp_path, drawn):
    rung.train("grpo", out=tmp_path / "whole", **SMALL)
    drawn.clear()
    drawn.end, path = 8, tmp_path / "cut"
    with pytest.raises(Cut):
        rung.train("grpo", out=path, **SMALL)
    kept = sorted(path.rglob("kept/*.json"))
    assert kept
    kept[0].write_bytes(kept[0].read_bytes()[:-5])
    kept[-1].write_text(json.dumps([{"tokens": 3}]))
    drawn.end = None
    rung.train(resume=path)
    assert files(path) == files(tmp_path / "whole")
