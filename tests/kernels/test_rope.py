"""Rotary factors that depend on the length: one law for sampler and trainer, whatever is beyond the original length."""

import pytest
import torch
import transformers

import rung
from rung.evaluation.conformance import NEW, PROMPTS, defined, draw, gap, tiny, trained
from rung.evaluation.model_kinds import LONG, settings
from rung.kernels import rope
from rung.training.setup import reach

torch.set_num_threads(1)
ORIGINAL = LONG["original_max_position_embeddings"]
SHORT, FAR = torch.arange(4, 4 + ORIGINAL)[None], torch.arange(4, 4 + 2 * ORIGINAL)[None]


def plain():
    """As transformers runs it: short factors within the original length, long ones beyond."""
    torch.manual_seed(0)
    name, arguments = settings("phi3 longrope")
    hf = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **arguments)).eval()
    for weight in hf.parameters():
        weight.data.mul_(5 if weight.dim() > 1 else 1)
    return hf


@torch.no_grad()
def test_each_law_is_transformers_own_on_its_side():
    hf, own = plain(), plain()
    first = own(FAR).logits[:, :ORIGINAL]
    assert (first - own(SHORT).logits).abs().max() > 0.1, "transformers' own changes with what comes later"
    assert rope.fix(hf, ORIGINAL) == ORIGINAL
    torch.testing.assert_close(hf(SHORT).logits, own(SHORT).logits)
    assert rope.fix(hf, ORIGINAL + 1) is None
    torch.testing.assert_close(hf(FAR).logits, own(FAR).logits)
    torch.testing.assert_close(hf(SHORT).logits, first, msg="and a row's beginning no longer depends on its end")
    assert rope.fix(hf, 0) == ORIGINAL, "it can be changed back"
    torch.testing.assert_close(hf(SHORT).logits, own(SHORT).logits)


@pytest.mark.parametrize("longest", [0, 32])
def test_sampler_trainer_and_forward_agree_across_the_original_length(longest):
    model = tiny("phi3 longrope")
    assert model.codec.context == ORIGINAL
    model.reach(longest)
    assert model.codec.context == (128 if longest else ORIGINAL)
    tokens, sampled = draw(model)
    assert max(len(p) for p in tokens.prompts) + int(tokens.length_B.max()) > ORIGINAL
    logp, _ = trained(model, tokens)
    assert max(gap(sampled, logp), gap(logp, defined(model, tokens)[0])) < 1e-5


def test_what_more_than_the_factors_depends_on_the_length_stays_below_it():
    name, arguments = settings("phimoe")
    parameters = {**LONG, "short_mscale": 1.1, "long_mscale": 1.3}
    config = transformers.AutoConfig.for_model(name, **arguments, rope_parameters=parameters)
    assert rope.fix(transformers.AutoModelForCausalLM.from_config(config), 100) == ORIGINAL
    assert rope.fix(tiny("llama").hf, 100) is None


def test_a_run_takes_the_law_that_its_rows_need(tmp_path):
    from rung.records import SamplingLaw, Task

    model = tiny("phi3 longrope")
    prompts = [Task(str(i), p) for i, p in enumerate(PROMPTS)]
    reach(model, SamplingLaw(max_new_tokens=4), prompts)
    assert model.codec.context == ORIGINAL
    reach(model, SamplingLaw(max_new_tokens=NEW), prompts)
    assert model.codec.context == 128
    saved = tiny("phi3 longrope")
    saved.hf.save_pretrained(tmp_path / "model")
    saved.codec.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "w5 w{i}", "answer": "w6"}}\n' for i in range(6, 14)))
    (tmp_path / "reward.py").write_text("def f(completions, **rest):\n    return [len(c) % 7 for c in completions]\n")
    run = rung.train(
        model=str(tmp_path / "model"), task=str(tmp_path / "rows.jsonl"), reward=f"{tmp_path / 'reward.py'}:f",
        steps=1, prompts_per_step=2, samples_per_prompt=8, max_new_tokens=2 * ORIGINAL, eval_problems=2, threads=1,
        out=tmp_path / "run",
    )  # fmt: skip
    step = next(m for m in run.metrics if "sampling/logp_gap_max" in m)
    assert step["completions/max_length"] > ORIGINAL and step["sampling/logp_gap_max"] < 1e-4
