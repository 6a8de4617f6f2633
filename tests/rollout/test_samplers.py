"""One place makes samplers, and one that is not ours trains, evaluates, resumes and is asked with no other change."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rung
from rung.cli import main
from rung.errors import InputError
from rung.models import starter
from rung.network import model as models
from rung.rollout.samplers import SAMPLERS, Kind, make_sampler
from rung.rollout.torch_sampler import TorchSampler

torch.set_num_threads(1)
SMALL = {
    "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "max_new_tokens": 8, "threads": 1,
    "learning_rate": 2e-3, "quiet": True,
}  # fmt: skip
GAP = 0.05  # nats


class Foreign:
    """Another engine: it has weights of its own once it is given some, its numbers are others, and it knows no entropies."""

    same_numbers = False
    made: list["Foreign"] = []  # noqa: RUF012

    def __init__(self, model, at_once, alone):
        directory, dtype = model.hf.name_or_path, model.hf.dtype
        self.model = replace(model, hf=type(model.hf).from_pretrained(directory, dtype=dtype))
        for weight in self.model.hf.parameters():
            weight.data.fill_(torch.nan)
        self.inner, self.loads, self.alone = TorchSampler(self.model, max_batch=at_once), [], alone
        self.made.append(self)

    def load(self, weights, version):
        self.model.hf.load_state_dict(dict(weights))
        self.inner.load((), version)
        self.loads.append(version)

    def sample(self, prompts, law, draws):
        noise = torch.Generator().manual_seed(draws.seed % 2**32)
        return [
            replace(r, entropy=None, logp=tuple((torch.tensor(r.logp) + GAP * torch.randn(len(r.logp), generator=noise)).tolist()))
            for r in self.inner.sample(prompts, law, draws)
        ]  # fmt: skip


@pytest.fixture
def foreign(monkeypatch):
    monkeypatch.setattr(Foreign, "made", [])
    monkeypatch.setitem(SAMPLERS, "torch", Kind(Foreign, at_once=7))
    return Foreign.made


def weights(run):
    return run.load()[0].state_dict()


@pytest.mark.parametrize("recipe", ["dr_grpo", "grpo", "ppo"])
def test_a_foreign_sampler_trains_what_ours_trains(tmp_path, monkeypatch, recipe):
    """It draws the same tokens, and the trainer goes by its own numbers: nothing that is learned may depend on the others."""
    ours = rung.train(recipe, steps=3, out=tmp_path / "ours", **SMALL)
    monkeypatch.setattr(Foreign, "made", [])
    monkeypatch.setitem(SAMPLERS, "torch", Kind(Foreign, at_once=7))
    theirs = rung.train(recipe, steps=3, out=tmp_path / "theirs", **SMALL)
    (sampler,) = Foreign.made
    assert sampler.loads == [0, 1, 2, 3], "the weights of the start, and of every step"
    for (name, a), b in zip(weights(ours).items(), weights(theirs).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5, msg=name)
    for a, b in zip(ours.metrics, theirs.metrics, strict=True):
        assert ("entropy" in a) == ("reward" in a) and "entropy" not in b
        for name in (
            "reward",
            "eval/reward",
            "kl",
            "kl_k1",
            "kl_coef",
            "old_kl",
            "ratio/token_p01",
            "advantage/abs_mean",
        ):
            assert b.get(name) == pytest.approx(a.get(name), abs=1e-5), name
    gaps = [row["sampling/logp_gap_mean"] for row in theirs.metrics if row.get("loss_tokens")]
    assert all(0.5 * GAP < gap < 1.2 * GAP for gap in gaps), "what it reports is still told"


def test_a_foreign_sampler_is_resumed_evaluated_and_asked(tmp_path, foreign):
    whole = rung.train("grpo", steps=3, out=tmp_path / "whole", **SMALL)
    rung.train("grpo", steps=2, out=tmp_path / "cut", **SMALL)
    again = rung.load(tmp_path / "cut").resume(steps=3, quiet=True)
    assert foreign[-1].loads == [0, 2, 3], "the restored weights before the next answer"
    for (name, a), b in zip(weights(whole).items(), weights(again).values(), strict=True):
        assert torch.equal(a, b), name
    asked = len(foreign)
    found = rung.evaluate(again, problems=8, max_new_tokens=8)
    assert len(foreign) == asked + 1 and foreign[-1].loads == [0]
    assert found.accuracy == again.after.accuracy and again.ask("1+2=").now[0].text


def test_ask_and_eval_take_another_sampler(monkeypatch, capsys, tmp_path):
    """One engine serves all questions to a model; a name that is none is refused before a model is loaded."""
    monkeypatch.setattr(Foreign, "made", [])
    monkeypatch.setitem(SAMPLERS, "vllm", Kind(Foreign, at_once=7))
    assert main(["ask", "starter", "1+1=", "2+1=", "--sampler", "vllm"]) == 0
    assert [x.loads for x in Foreign.made] == [[0]]
    alone = ["--problems", "4", "--max-new-tokens", "4", "--out", str(tmp_path / "answers.jsonl")]
    assert main(["eval", "starter", "--task", "chained_arithmetic", "--sampler", "vllm", *alone]) == 0
    assert len(Foreign.made) == 2 and all(x.alone for x in Foreign.made), "nothing else is on their device"
    monkeypatch.setattr(models, "load", None)
    for words in (["ask", "starter", "1+1="], ["eval", "starter", "--task", "chained_arithmetic"]):
        assert main([*words, "--sampler", "vlm"]) == 2
        assert re.search(r"sampler.*'vlm'.*vllm", capsys.readouterr().err)


def test_a_sampler_shares_its_device_with_a_trainer_and_with_another_sampler(tmp_path, foreign):
    """What another engine takes of a GPU's memory goes by it."""
    run = str(rung.train("grpo", steps=1, out=tmp_path / "run", **SMALL).path)
    assert [x.alone for x in foreign] == [False]
    pair = [run, "--compare", "starter", "--problems", "4", "--max-new-tokens", "4"]
    assert main(["eval", *pair]) == 0 and main(["ask", run, "1+1="]) == 0
    assert [x.alone for x in foreign[1:]] == [False] * 4, "two models each time"
    assert main(["eval", run, "--problems", "4"]) == 0 and main(["ask", "starter", "1+1="]) == 0
    assert [x.alone for x in foreign[5:]] == [True] * 2


def test_one_place_makes_samplers_and_names_are_read_from_it(capsys):
    source = Path(rung.__file__).parent
    files = {str(p.relative_to(source)): p.read_text(encoding="utf-8") for p in source.rglob("*.py")}
    assert {name for name, text in files.items() if re.search(r"\bTorchSampler\b", text)} == {
        "rollout/samplers.py", "rollout/torch_sampler.py",
    }  # fmt: skip
    model = models.load(str(starter.path()))
    assert isinstance(made := make_sampler(model).sampler, TorchSampler) and made.max_batch == SAMPLERS["torch"].at_once
    assert made.same_numbers and not TorchSampler(replace(model, hf=model.hf.to(torch.bfloat16))).same_numbers
    with pytest.raises(InputError, match=r"sampler 'touch'.*Did you mean 'torch'"):
        make_sampler(model, "touch")
    with pytest.raises(InputError, match="sampler is 'touch'; it must be one of torch, vllm"):
        rung.train(sampler="touch")
