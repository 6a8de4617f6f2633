"""Whole runs and commands on the stand-in, and everything about a model that a recipe's plain steps do not touch."""

import json

import pytest
import second_device
import torch
from second_device import DEVICE
from two_steps import CPU, assert_same, made, two_steps

import rung
from rung.cli import main
from rung.evaluation.conformance import PROMPTS, tiny
from rung.experiments import why
from rung.experiments.why_experiments import Arm, Experiment, Quantity
from rung.io.run_dir import RunDir
from rung.kernels import device
from rung.maths import wide
from rung.network import model as models
from rung.network import streams
from rung.recipe_io import find, override
from rung.records import SamplingLaw
from rung.rollout import torch_sampler
from rung.rollout.draws import Draws
from rung.rollout.sampler import keeping
from rung.rollout.torch_sampler import TorchSampler

torch.set_num_threads(1)
SMALL = {"prompts_per_step": 4, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1, "max_new_tokens": 8}
TINY = ["--prompts-per-step", "2", "--samples-per-prompt", "2", "--device", "fake"]
SHARED = {"credit.critic.shared": True, "credit.critic.minibatches": 1, "credit.critic.epochs": 1}


# -- the model --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"dtype": torch.bfloat16}),
        ("trpo", {"dtype": torch.bfloat16}),
        ("ppo", {"lora": 2}),
        ("dr_grpo", {"checkpoint": True}),
        ("grpo", {"packs": False}),
    ],
    ids=["bfloat16", "masters", "LoRA", "checkpointing", "the model's own forward"],
)
def test_a_model_of_another_kind_takes_the_steps_of_the_cpu(name, settings):
    recipe = override(find(name), {"update.epochs": 1} if name == "ppo" else {})
    assert_same(*(two_steps(recipe, at, prompts=2, **settings) for at in (CPU, DEVICE)), half="dtype" in settings)


@pytest.mark.parametrize("overrides", [SHARED, {"entropy": 0.01, "update.target_kl": 1e-4}], ids=["shared", "target"])
def test_a_shared_critic_entropy_and_an_early_stop(overrides):
    recipe = override(find("ppo"), overrides)
    assert_same(*(two_steps(recipe, at, prompts=2) for at in (CPU, DEVICE)))


# -- sampling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "mistral", pytest.param("gemma3_text", marks=pytest.mark.slow)])
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("way", ["packed", "cache", "whole"])
def test_answers_are_those_of_the_cpu_while_rows_leave_the_batch(kind, temperature, way, monkeypatch):
    """However often the host looks: what a row says after its end is never seen."""
    law, answers, kept = SamplingLaw(max_new_tokens=14, temperature=temperature), [], []
    for at, look in ((CPU, 1), (DEVICE, 1), (DEVICE, 4)):
        monkeypatch.setattr(torch_sampler, "LOOK_EVERY", look)
        stream = {"packed": streams.PackedStream, "cache": streams.CacheStream, "whole": streams.WholeStream}[way]
        whole = stream.keep
        monkeypatch.setattr(stream, "keep", lambda s, rows, whole=whole: (kept.append(len(rows)), whole(s, rows))[1])
        model = tiny(kind)
        model.hf.to(at)
        model.decodes, model.short_steps = way, model.short_steps and way == "packed"
        answers.append(TorchSampler(model).sample([model.codec.encode(p) for p in PROMPTS], law, Draws.whole(1, 3 * len(PROMPTS))))
    assert temperature == 0 or kept, "rows have left the batch"
    for other in answers[1:]:
        assert [(r.tokens, r.stop) for r in other] == [(r.tokens, r.stop) for r in answers[0]]
        for a, b in zip(answers[0], other, strict=True):
            assert a.logp == pytest.approx(b.logp, abs=1e-4) and a.entropy == pytest.approx(b.entropy, abs=1e-4)


@pytest.mark.parametrize("way", ["packed", "cache"])
def test_what_is_kept_between_turns_is_that_of_the_cpu(way):
    law, answers = SamplingLaw(max_new_tokens=14), []
    for at in (CPU, DEVICE):
        model = tiny("llama")
        model.hf.to(at)
        model.decodes, model.short_steps = way, way == "packed"
        rows, draws = [tuple(model.codec.encode(p)) for p in PROMPTS], Draws.whole(1, 3)
        with keeping(TorchSampler(model)) as sampler:
            said = sampler.sample(rows, law, draws)
            rows = [(*r.prompt, *r.tokens, *range(5, 8 + 2 * i)) for i, r in enumerate(said)]
            answers.append(sampler.sample(rows, law, draws.turn(1)))
    assert [(r.tokens, r.read) for r in answers[1]] == [(r.tokens, r.read) for r in answers[0]]
    assert sum(r.read for r in answers[0]) < sum(len(r.prompt) for r in answers[0])
    for a, b in zip(*answers, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=1e-4)


# -- runs -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return rung.train(recipe="ppo", steps=2, out=tmp_path_factory.mktemp("run") / "run", device="fake", **SMALL)


def test_a_run_writes_its_device_and_a_model_that_loads_on_the_cpu(whole):
    assert json.loads((whole.path / "environment.json").read_text())["device"] == "fake:0"
    model = models.load(str(RunDir.open(whole.path).model_path()))
    assert model.device == CPU and all(p.isfinite().all() for p in model.hf.parameters())
    assert RunDir.open(whole.path).read_rollouts(2)[0]["advantages"]


@pytest.mark.parametrize("where", ["fake", "cpu"], ids=["there again", "on the CPU"])
def test_a_resumed_run_equals_one_that_never_stopped(whole, tmp_path, where):
    """On its device bit for bit; a run may go on elsewhere, where it rounds otherwise."""
    rung.train(recipe="ppo", steps=1, out=tmp_path / "part", device="fake", **SMALL)
    part = rung.train(resume=tmp_path / "part", steps=2, device=where)
    weights = [
        models.load(str(RunDir.open(r.path).model_path())).hf.state_dict()["model.norm.weight"] for r in (whole, part)
    ]
    rewards = [[m["reward"] for m in r.metrics if "reward" in m] for r in (whole, part)]
    assert rewards[0] == rewards[1]
    if where == "fake":
        files = [RunDir.open(r.path).model_path() / "model.safetensors" for r in (whole, part)]
        assert files[0].read_bytes() == files[1].read_bytes()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_evaluation_knows_its_device(whole, capsys):
    rows = []
    for where in ("cpu", "fake"):
        assert main(["eval", str(whole.path), "--problems", "4", "--device", where, "--json", "-"]) == 0
        rows += json.loads(capsys.readouterr().out)
    assert rows[0]["accuracy"] == rows[1]["accuracy"] and rows[0]["length"] == rows[1]["length"]


@pytest.mark.slow
def test_plan_rehearses_there(capsys):
    assert main(["plan", "--device", "fake", "--json", "-"]) == 0
    assert any(row["what"] == "whole step" for row in json.loads(capsys.readouterr().out))


# -- the laboratory ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_variance_is_that_of_the_cpu(capsys):
    tables = []
    for where in ("cpu", "fake"):
        words = ["variance", "starter", "--batches", "3", "--warmup-batches", "1", "--recipes", "grpo,value_baseline"]
        assert main([*words, *TINY[:-1], where, "--json", "-"]) == 0
        tables.append(json.loads(capsys.readouterr().out))
    for a, b in zip(*tables, strict=True):
        assert a["trace"] == pytest.approx(b["trace"], rel=1e-3) and a["cosine"] == pytest.approx(b["cosine"], abs=1e-3)


@pytest.mark.slow
def test_why_measures_there(capsys, tmp_path, monkeypatch):
    arms, measure = (
        (Arm("reinforce", "reinforce"), Arm("grpo", "grpo")),
        Quantity("trace", "variance", "ratio", "lower"),
    )
    settings = {"prompts": 2, "samples": 2, "batches": 3, "warmup": 1}
    noise = Experiment("grpo", "g", "gradient", "claim", "stress", *arms, (measure,), settings, seeds=2)
    monkeypatch.setattr(why, "EXPERIMENTS", (noise,))
    assert main(["why", "grpo", "--out", str(tmp_path / "why"), "--device", "fake", "--json", "-"]) == 0
    assert [row["measure"] for row in json.loads(capsys.readouterr().out)] == ["variance"]


@pytest.mark.slow
def test_the_ladder_trains_and_measures_there(capsys, tmp_path):
    flags = ["--recipes", "reinforce,grpo", "--seeds", "2", "--sweep-seeds", "1", "--rates", "1e-3", "--tokens", "32"]
    more = [
        "--max-new-tokens",
        "8",
        "--eval-problems",
        "2",
        "--gradient-batches",
        "3",
        "--out",
        str(tmp_path / "ladder"),
    ]
    assert main(["ladder", *flags, *more, *TINY, "--json", "-"]) == 0
    run = next((tmp_path / "ladder" / "runs").iterdir())
    assert json.loads((run / "environment.json").read_text())["device"] == "fake:0"


# -- a device without float64 (MPS) -----------------------------------------------------------------------------------
def test_nothing_wide_is_sent_or_made_where_there_is_no_float64(monkeypatch):
    monkeypatch.setattr(second_device, "FLOAT64", False)
    with pytest.raises(RuntimeError, match="float64"):
        torch.zeros(2, device=DEVICE).double()
    monkeypatch.setattr(device, "WITHOUT_FLOAT64", {"fake"})
    monkeypatch.setattr(wide, "WITHOUT_FLOAT64", {"fake"})
    for name in ("dr_grpo", "dapo", "grpo_process", "vapo"):
        learner, collector = made(find(name), DEVICE, prompts=2)
        assert learner.step(collector.collect(0, learner.state)).metrics["update/steps"] >= 0
