"""vLLM as the sampler: refused by name where it cannot be, and where it is installed (`make vllm`) the same law and weights."""

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import rung
from rung.errors import InputError, RunFailed
from rung.io.run_dir import RunDir
from rung.models import starter
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout import vllm_sampler
from rung.rollout.checked import Checked
from rung.rollout.draws import Draws
from rung.rollout.samplers import make_sampler

torch.set_num_threads(1)
HERE = importlib.util.find_spec("vllm") is not None
real = pytest.mark.skipif(not HERE, reason="vLLM is not installed: make vllm")
SMALL = {
    "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "max_new_tokens": 8, "threads": 1,
    "learning_rate": 2e-3, "quiet": True,
}  # fmt: skip


@pytest.mark.parametrize("found", ["0.31.1", "0.33.0", "1.0"])
def test_a_version_that_speaks_otherwise_is_refused_before_anything_is_loaded(found, monkeypatch):
    monkeypatch.setattr(vllm_sampler, "version", lambda package: found)
    monkeypatch.setattr("rung.training.setup.load_weights", None)
    with pytest.raises(
        InputError, match=rf"vllm {re.escape(found)} is installed.*rung speaks that of 0\.32\.0.*vllm==0\.32\.0"
    ):
        rung.train(sampler="vllm", quiet=True)


def test_where_there_is_none_the_command_that_brings_it_is_named(monkeypatch):
    def absent(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(vllm_sampler, "version", absent)
    with pytest.raises(InputError, match=r"sampler='vllm' needs vllm, which is not installed.*install.*vllm==0\.32\.0"):
        rung.train(sampler="vllm", quiet=True)


def test_a_build_for_another_device_is_the_same_version(monkeypatch):
    monkeypatch.setattr(vllm_sampler, "version", lambda package: "0.32.0+cpu")
    assert vllm_sampler.refuse_another_version() is None


class OnCard:
    """A model of 2 GB, as far as memory goes, on a card of 80."""

    device = torch.device("cuda")

    class hf:
        @staticmethod
        def parameters():
            return [torch.empty(500_000_000, device="meta"), torch.empty(0, device="meta")]


def test_a_card_that_no_trainer_computes_on_is_taken_but_for_the_model_beside(monkeypatch):
    """Both copies and what is drawn are vLLM's usual nine tenths; beside a trainer it is less, and none between two calls."""
    card = SimpleNamespace(total_memory=80_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    alone, beside = (vllm_sampler.memory_of(OnCard, alone) for alone in (True, False))
    assert alone == {"gpu_memory_utilization": pytest.approx(0.9 - 2 / 80), "enable_sleep_mode": False}
    assert beside == {"gpu_memory_utilization": 0.4, "enable_sleep_mode": True}
    assert vllm_sampler.memory_of(models.load(str(starter.path())), True) == {"kv_cache_memory_bytes": 1 << 30}


# -- the engine itself
@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small Llama with heads of a size that vLLM's CPU kernels know, tied output layer and the starter's tokenizer."""
    torch.manual_seed(0)
    tokenizer = models.load(str(starter.path())).codec.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    where = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@real
def test_what_rung_asks_for_stands_beside_it():
    """One environment has both: nothing that vLLM holds back is older than rung wants."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"]):
        found = metadata.version(wanted.name).partition("+")[0]
        assert wanted.specifier.contains(found), f"{wanted}, and {found} is installed"


@pytest.fixture(scope="module")
def sampler(directory):
    """vLLM's own, out of what looks at its answers."""
    checked = make_sampler(models.load(str(directory)), "vllm")
    assert isinstance(checked, Checked)
    return checked.sampler


PROMPTS = [(5, 6, 7), (8, 9), (3, 4, 5, 6), (9,)]
LAW = SamplingLaw(max_new_tokens=12)


@real
def test_its_log_probabilities_are_those_of_the_trainers_model(sampler):
    drawn = sampler.sample(PROMPTS, LAW, Draws.whole(3, 16))
    assert len(drawn) == 16 and len({r.tokens for r in drawn}) > 8
    for i, rollout in enumerate(drawn):
        assert rollout.prompt == PROMPTS[i // 4] and rollout.entropy is None
        assert rollout.logp == pytest.approx(sampler._says(rollout), abs=1e-4)
        ended = rollout.tokens[-1] in sampler.model.codec.end_ids
        assert rollout.stop == ("stop" if ended else "length") and (ended or len(rollout.tokens) == 12)
        assert not set(rollout.tokens[:-1]) & sampler.model.codec.end_ids


@real
def test_a_rows_answer_is_its_own_however_rows_are_split_into_calls(sampler):
    draws = Draws.whole(3, 16)
    whole = sampler.sample(PROMPTS, LAW, draws)
    apart = sampler.sample(PROMPTS[2:], LAW, draws.part(range(8, 16)))
    assert [r.tokens for r in apart] == [r.tokens for r in whole[8:]]
    assert [r.tokens for r in sampler.sample(PROMPTS, LAW, Draws.whole(4, 16))] != [r.tokens for r in whole]


@real
def test_a_row_that_goes_on_has_other_random_numbers_than_at_its_beginning(sampler):
    prompt, piece = PROMPTS[:1], SamplingLaw(max_new_tokens=6)
    draws = Draws.whole(3, 8)
    first, later = (sampler.sample(prompt, piece, d) for d in (draws, draws.behind(6)))
    assert [r.tokens for r in later] == [r.tokens for r in sampler.sample(prompt, piece, draws.behind(6))]
    assert sum(a.tokens[0] == b.tokens[0] for a, b in zip(first, later, strict=True)) < 4, "of 8, by chance"


@real
def test_temperature_and_the_greedy_law(sampler):
    hot = SamplingLaw(max_new_tokens=4, temperature=2.0)
    for r in sampler.sample(PROMPTS[:1], hot, Draws.whole(0, 4)):
        ids = torch.tensor([r.prompt + r.tokens])
        z = sampler.model.hf(ids).logits[0, len(r.prompt) - 1 : -1].float() / 2
        said = z.log_softmax(-1).gather(-1, ids[0, len(r.prompt) :, None])[:, 0].tolist()
        assert r.logp == pytest.approx(said, abs=1e-4)
    greedy = [make.sample(PROMPTS, SamplingLaw(max_new_tokens=6, temperature=0), Draws.whole(0, 4))
              for make in (sampler, make_sampler(sampler.model))]  # fmt: skip
    assert [r.tokens for r in greedy[0]] == [r.tokens for r in greedy[1]] and greedy[0][0].logp == greedy[1][0].logp


@real
def test_new_weights_arrive_whole_and_a_layer_that_does_not_is_seen(sampler):
    with torch.no_grad():
        for weight in sampler.model.hf.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    sampler.load(sampler.model.hf.state_dict().items(), 7)
    assert sampler._gap() < 1e-4 and sampler.sample(PROMPTS, LAW, Draws.whole(0, 4))[0].version == 7
    kept = {k: v.clone() for k, v in sampler.model.hf.state_dict().items()}
    with torch.no_grad():
        sampler.model.hf.get_input_embeddings().weight.mul_(-1)
    with pytest.raises(RunFailed, match=r"after update 8 vLLM's log-probabilities differ.*nats a token"):
        sampler.load(kept.items(), 8)
    sampler.model.hf.load_state_dict(kept)
    sampler.load(kept.items(), 9)


@pytest.fixture
def asked(directory, tmp_path):
    """The reward counts an odd letter: a model that knows nothing must be paid now and then."""
    (tmp_path / "odd.py").write_text(
        "def odd(completions, **columns):\n    return [c.count('1') % 2 for c in completions]\n"
    )
    return {"model": directory, "task": "chained_arithmetic", "reward": f"{tmp_path / 'odd.py'}:odd"}


@real
@pytest.mark.parametrize("recipe", ["dr_grpo", "ppo"])
def test_a_run_trains_and_goes_on(asked, tmp_path, recipe):
    run = rung.train(recipe, sampler="vllm", steps=2, out=tmp_path / "run", **asked, **SMALL)
    again = rung.load(run.path).resume(steps=3, quiet=True)
    gaps = [row["sampling/logp_gap_mean"] for row in again.metrics if "sampling/logp_gap_mean" in row]
    assert len(gaps) == 3 and max(gaps) < 1e-4 and again.metrics[-1]["step"] == 3


@real
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make vllm")
def test_an_actor_of_ray_draws_and_learns_what_this_process_would(asked, tmp_path, monkeypatch):
    """The gate behind each update is the sampler's own, wherever it lives."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other work on the machine is no reason to end ours
    runs = [
        rung.train("dr_grpo", sampler="vllm", cluster=cluster, steps=2, out=tmp_path / cluster, **asked, **SMALL)
        for cluster in ("local", "ray")
    ]
    told = [[[(r["tokens"], r["logp"]) for r in RunDir.open(x.path).read_rollouts(k)] for k in (1, 2)] for x in runs]
    assert told[0] == told[1] and len({tuple(t) for t, _ in told[0][0]}) > 8
    one, other = (load_file(Path(x.model_path) / "model.safetensors") for x in runs)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    gaps = [row["sampling/logp_gap_mean"] for row in runs[1].metrics if "sampling/logp_gap_mean" in row]
    assert len(gaps) == 2 and max(gaps) < 1e-4


@real
def test_what_it_cannot_run_is_refused_by_name(directory):
    with pytest.raises(InputError, match=r"knows heads of 32, 64.*this model's have 16"):
        make_sampler(models.load(str(starter.path())), "vllm")
