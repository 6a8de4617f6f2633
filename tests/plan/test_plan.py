"""Counts against numbers worked out by hand, the model's own count, and a run that no machine can hold."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from rung.cli import main
from rung.maths import logprob
from rung.models import starter
from rung.network import adapter
from rung.network import model as models
from rung.plan import estimate as plan
from rung.plan import fit, memory, rehearsal
from rung.plan.memory import Shape, Workload
from rung.plan.rehearsal import Line, Rates, Timings
from rung.recipe_io import find, override
from rung.records import Task
from rung.tasks import registry
from rung.training.config import TrainConfig

# Two layers of width 4, F = 8, 2 heads of 2 (1 key head), vocabulary 10, float32. Trunk weights of a layer:
# q 16 + k 8 + v 8 + o 16 + three of 4 x 8 = 96 -> 144; two layers 288. Tied embedding 40, norms 5 x 4 = 20.
SHAPE = Shape(
    parameters=348, trainable=348, products=288, layers=2, D=4, F=8, heads=2, key_heads=1, head_dim=2, V=10,
    width=4, micro_tokens=256,
)  # fmt: skip
WORK = Workload(P=2, G=3, prompt=5, longest=6, answer=4, T=4, eval_rows=6)


def test_the_shape_of_a_model_is_the_one_worked_out_by_hand():
    config = LlamaConfig(
        hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=2, vocab_size=10, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config)
    model = memory.Model(hf, None)
    # 16 D + 4 F = 96 numbers a layer are kept per token: 768 bytes in float32, so that 1 MiB holds 1365 tokens
    expected = replace(SHAPE, micro_tokens=1365)
    assert Shape.of(model, TrainConfig(activation_gib=1 / 1024)) == expected
    half = Shape.of(model, TrainConfig(activation_gib=1 / 1024, dtype="bfloat16", trainable=r"\.1\.mlp"))
    assert (half.width, half.micro_tokens, half.trainable) == (2, 2730, 96)


@pytest.mark.parametrize(
    "config",
    [GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50), starter.path()],
    ids=["gpt2", "starter"],
)
def test_parameters_are_counted_as_the_real_model_has_them(config, tmp_path):
    path = config
    if isinstance(config, GPT2Config):
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(starter.path() / name, tmp_path)
        path = tmp_path
    real = AutoModelForCausalLM.from_pretrained(path)
    sketch = memory.sketch(str(path), "float32")
    assert Shape.of(sketch, TrainConfig()).parameters == real.num_parameters()
    assert all(p.is_meta for p in sketch.hf.parameters()), "nothing was loaded"


def test_work_is_counted_as_by_hand():
    assert WORK.fed == 2 * (5 + 3 * 3)
    assert replace(WORK, head=4).fed == 4 + 2 * (1 + 3 * 3)
    assert replace(WORK, head=4, P=1).fed == 5 + 3 * 3
    assert plan.trunk_flops(SHAPE, 3, 7) == 2 * 3 * 288 + 4 * 3 * 7 * 2 * 2 * 2
    assert plan.head_flops(SHAPE, 3) == 2 * 3 * 10 * 4
    # prefill: 10 tokens, 2.5 keys on average; 24 answer tokens see 5 + 2 keys; head on 24 + 2 rows
    prefill, answers = 2 * 10 * 288 + 4 * 10 * 2.5 * 8, 2 * 24 * 288 + 4 * 24 * 7 * 8
    assert plan.sampling_flops(SHAPE, WORK) == prefill + answers + 2 * 26 * 40
    forward = 2 * 28 * 288 + 4 * 28 * 7 * 8
    assert plan.scoring_flops(SHAPE, WORK, head=True) == forward + 2 * 24 * 40
    assert plan.update_flops(SHAPE, WORK) == 3 * forward + 3 * 2 * 24 * 40


def test_logits_of_many_tokens_are_computed_twice(monkeypatch):
    trunk = 3 * plan.scoring_flops(SHAPE, WORK, head=False)
    for kept, products, more in ((24 * 10, 3, 24), (24 * 10 - 1, 4, 0)):  # 24 scored tokens, 10 words
        monkeypatch.setattr(logprob, "KEPT_ELEMENTS", kept)
        assert plan.update_flops(SHAPE, WORK) == trunk + products * 2 * 24 * 40
        assert memory.head_bytes(SHAPE, 24) == 4 * (memory.HEAD_COPIES * 24 + more) * 10 + 8 * 40
    # micro-batches of half of what is fed have half of the scored tokens
    monkeypatch.setattr(logprob, "KEPT_ELEMENTS", 12 * 10)
    assert plan.head_products(replace(SHAPE, micro_tokens=WORK.fed // 2), WORK) == 3


def test_bytes_are_counted_as_by_hand():
    assert memory.adam_bytes(100, 4) == (800, 400)
    assert memory.adam_bytes(100, 2) == (1200, 800)
    assert memory.key_value_bytes(SHAPE, rows=6, tokens=10) == 2 * 2 * 6 * 1 * 2 * 10 * 4
    assert memory.draw_bytes(SHAPE, rows=6) == 4 * memory.DRAW_COPIES * 6 * 10
    # a token keeps 7 * 4 + 4 * 8 + 2 * 2 * 2 = 68 numbers a layer, a key 2 * 1 * 2 = 4
    assert memory.activation_bytes(SHAPE, 28, 60) == 2 * 4 * (28 * 68 + 60 * 4)
    assert memory.mask_bytes(SHAPE, rows=6, T=4, keys=10) == 6 * 2 * 4 * 10 * 4
    assert memory.head_bytes(SHAPE, 24) == 4 * (memory.HEAD_COPIES + 1) * 24 * 10 + 8 * 40


def test_each_part_of_a_recipe_costs_what_it_holds():
    by = {name: memory.need(SHAPE, WORK, find(name), 0) for name in ("dr_grpo", "grpo", "ppo", "trpo")}
    assert by["dr_grpo"].held["weights"] == 348 * 4
    assert by["dr_grpo"].held["optimizer (float32 moments, masters)"] == 348 * 8
    assert by["dr_grpo"].held["reference policy"] == 0
    assert by["grpo"].held["reference policy"] == 348 * 4, "GRPO compares with a frozen copy"
    # the critic: a copy of all weights, and AdamW on its trunk (the head is tied to the embedding)
    assert by["ppo"].held["critic (weights, optimizer)"] == 348 * 4 + 348 * 8
    assert by["trpo"].held["optimizer (float32 moments, masters)"] == 0, "a natural step has no AdamW"
    assert by["trpo"].updating["update: vectors"] == 7 * 4 * 348
    half = memory.need(replace(SHAPE, width=2), WORK, find("dr_grpo"), 0)
    assert sum(half.held.values()) == 348 * (2 + 12), "bfloat16 weights, float32 moments and masters"


def test_a_natural_step_in_bfloat16_keeps_masters_and_works_in_float32():
    trpo, low = find("trpo"), replace(SHAPE, width=2, micro_tokens=512, trainable=96)
    half, wide = memory.need(low, WORK, trpo, 0), memory.need(replace(SHAPE, trainable=96), WORK, trpo, 0)
    assert half.held["optimizer (float32 moments, masters)"] == 4 * 96 and half.held["weights"] == 2 * 348
    assert half.updating == {**wide.updating, "update: other weights in float32": 4 * (348 - 96)}
    assert plan.checkpoint_bytes(low, trpo) == 2 * 348 + 4 * 96, "and no moments"
    assert plan.checkpoint_bytes(low, find("dr_grpo")) == 2 * 348 + (4 + 8) * 96
    assert replace(low, adapter=True).at_work(trpo).width == 2, "an adapter is float32 already"
    leashed = replace(trpo, kl=find("grpo").kl)
    assert memory.need(low, WORK, leashed, 0).held["reference policy"] == 4 * 348, "as what it is compared with"


def test_an_adapter_is_all_that_is_trained_and_nothing_is_held_twice():
    lora = replace(SHAPE, trainable=20, adapter=True)
    held = memory.need(lora, WORK, find("ppo"), 0).held
    assert held["adapter"] == 4 * 20 and held["optimizer (float32 moments, masters)"] == 8 * 20
    assert held["reference policy"] == 0, "the adapter off"
    assert held["critic (weights, optimizer)"] == (4 + 8) * 20, "its own adapter on the shared weights"
    whole, parts = (memory.activation_bytes(replace(SHAPE, checkpoints=c), 28, 60) for c in (False, True))
    assert parts == whole / 2 + 2 * 28 * 4 * 4, "one of two layers, and a hidden state before each"


def test_the_adapters_size_is_that_of_the_real_one():
    config = TrainConfig(lora_rank=4).resolved()
    model = models.load(str(starter.path()))
    planned = memory.trained(model, config)
    adapter.add(model, 4)
    assert planned == sum(x.numel() for x in model.hf.parameters() if x.requires_grad)


def test_weights_are_laid_out_for_a_cpu_alone(monkeypatch):
    """Only its products read them in blocks; a plan of a GPU must not count them because this CPU would."""
    monkeypatch.setattr(memory, "packs", lambda dtype: True)
    on = {
        cpu: memory.need(SHAPE, WORK, find("dr_grpo"), 0, cpu=cpu).sampling["packed weights"] for cpu in (True, False)
    }
    assert on == {True: (288 + 40) * 4, False: 0}


def test_a_backward_that_computes_layers_again_takes_more_tokens_at_a_time():
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=2, vocab_size=10
    )
    with torch.device("meta"):
        model = memory.Model(AutoModelForCausalLM.from_config(config), None)
    plain, again = (Shape.of(model, TrainConfig(gradient_checkpointing=c)).micro_tokens for c in (False, True))
    # 8 layers of 16 D + 4 F numbers a token, or D of each and one layer of them
    assert again / plain == pytest.approx(8 * (16 * 64 + 4 * 128) / (8 * 64 + 16 * 64 + 4 * 128), rel=0.01)


def test_the_peak_is_the_larger_of_sampling_and_updating():
    need = memory.Need({"a": 5.0}, {"b": 3.0, "c": 1.0}, {"d": 3.5})
    assert need.peak == 9.0


def test_seconds_add_up_as_by_hand():
    t = Timings(
        decode=Line(0.5, 0.01),
        prefill=Line(1.0, 0.1),
        forward=Line(0.0, 0.02),
        update=Line(2.0, 0.05),
        head=Line(0.3, 0.01),
    )
    rates = Rates(gemm=1.0, stream=1e30)
    sample, update = plan.phases(SHAPE, WORK, find("dr_grpo"), t, rates)
    # prefill 1 + 10 * .1, four steps of .5 and 24 rows' steps of .01; update 2 + 28 * .05, head .3 + 24 * .01
    assert sample.seconds == pytest.approx(1 + 1 + 4 * 0.5 + 24 * 0.01 + 6 * plan.ANSWER_SECONDS)
    assert update.seconds == pytest.approx(2 + 28 * 0.05 + 0.3 + 24 * 0.01 + plan.STEP_SECONDS)
    assert update.flops == plan.update_flops(SHAPE, WORK)
    ppo = {p.name: p.seconds for p in plan.phases(SHAPE, WORK, find("ppo"), t, rates)}
    # four minibatches are four times the fixed cost of a pass, of the head, and of an optimizer step
    fed = 28 * 0.05 + 4 * (2 + plan.STEP_SECONDS)
    assert ppo["update"] == pytest.approx(fed + 4 * 0.3 + 24 * 0.01)
    assert ppo["critic"] == pytest.approx(28 * 0.02 + fed)
    # answers of one token on average: the longest is taken as two, and four is the limit
    assert plan.decode_seconds(t.decode, replace(WORK, answer=1), 6) == pytest.approx(0.5 * 2 + 0.01 * 6)
    assert plan.decode_seconds(t.decode, replace(WORK, answer=3), 6) == pytest.approx(0.5 * 4 + 0.01 * 18)


def test_passes_for_the_old_policy_are_those_that_a_step_takes():
    """None in float32 but for a correction; in low precision for a KL to the reference, and for all minibatches but the first."""
    low = replace(SHAPE, width=2)
    weighed = override(find("grpo"), {"correction": "TokenTIS"})
    passes = [
        (plan.own_passes(r, SHAPE), plan.own_passes(r, low)) for r in (*map(find, ("grpo", "rloo", "ppo")), weighed)
    ]
    assert passes == [(0, 1), (0, 1), (0, 1.75), (1, 1)]


def test_a_line_through_noise_is_never_negative():
    assert Line.through((1, 2.0), (3, 4.0)) == Line(1.0, 1.0)
    assert Line.through((1, 5.0), (3, 4.0)) == Line(4.0, 0.0)
    assert Line.through((1, 0.1), (2, 4.0)) == Line(0.0, 2.0)


def test_the_rehearsal_runs_the_real_code_at_the_models_sizes():
    sketch = memory.sketch(str(starter.path()), "float32")
    shape = Shape.of(sketch, TrainConfig())
    work = Workload(P=2, G=2, prompt=5, longest=6, answer=4, T=4, eval_rows=4)
    t = rehearsal.rehearse(sketch, shape, work, torch.float32, torch.device("cpu"))
    assert t.decode(4) > 0 and t.prefill(10) > 0 and t.head(16) > 0
    assert t.update(28) > 0 and t.forward(28) > 0
    rates = rehearsal.machine_rates(shape, torch.float32, torch.device("cpu"))
    assert rates.gemm > 1e8 and rates.stream > 1e7


# -- the refusal ---------------------------------------------------------------------------------------------------
def huge(tmp_path):
    """The configuration of a model with 70 thousand million parameters, and no weights at all."""
    LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=4096, eos_token_id=2,
    ).save_pretrained(tmp_path)  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(starter.path() / name, tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(command, tmp_path, capsys):
    flags = ["--model", huge(tmp_path), "--task", "chained_arithmetic", "--max-new-tokens", "8"]
    out = ["--out", str(tmp_path / "run")]
    assert main([command, "grpo", *flags, *out]) == 2
    said = capsys.readouterr().err
    assert "would need about" in said and "GiB" in said and "--ignore-memory" in said
    assert "smaller model" in said or "would make it fit" in said
    assert not (tmp_path / "run").exists()


def starter_run(**settings):
    config = TrainConfig(task="chained_arithmetic", max_new_tokens=16, **settings).resolved()
    splits = registry.load("chained_arithmetic")
    model = memory.sketch(str(starter.path()), "float32")
    return config, model, Workload.of(config, model.codec, (splits.train, splits.eval))


def test_what_all_prompts_begin_with_is_planned_once():
    config, model, _ = starter_run(prompts_per_step=8, samples_per_prompt=4)
    same = "1+2+3+4+5+6+7+8+9-"  # 18 tokens
    env = [Task(str(i), f"{same}{i}=") for i in range(9)]
    work = Workload.of(config, model.codec, (env, env))
    assert (work.head, work.prompt, work.read) == (18, 20, 18 + 8 * 2)


def test_what_is_proposed_fits_by_the_same_estimate():
    config, model, work = starter_run(recipe="ppo", samples_per_prompt=64, prompts_per_step=64)
    cpu = torch.device("cpu")
    now = fit.estimate(config, config.build_recipe(), model, work, cpu).peak
    smaller = replace(config, samples_per_prompt=4)
    enough = fit.estimate(smaller, smaller.build_recipe(), model, replace(work, G=4), cpu).peak
    limit = int((now + enough) / 2)
    with pytest.raises(fit.InputError, match="samples_per_prompt=4") as refused:
        fit.refuse(config, config.build_recipe(), model, work, cpu, fit.Room(limit, limit, "memory of this machine"))
    assert "Any one of these would make it fit" in str(refused.value)
    fit.refuse(
        smaller,
        smaller.build_recipe(),
        model,
        replace(work, G=4),
        cpu,
        fit.Room(limit, limit, "memory of this machine"),
    )
    with pytest.raises(fit.InputError, match="smaller model"):
        fit.refuse(
            config, config.build_recipe(), model, work, cpu, fit.Room(1 << 20, 1 << 20, "memory of this machine")
        )


def test_limits_of_control_groups_are_found_in_both_versions(tmp_path):
    (tmp_path / "memory" / "a" / "b").mkdir(parents=True)
    (tmp_path / "memory" / "a" / "memory.limit_in_bytes").write_text("4096\n")
    (tmp_path / "memory" / "a" / "b" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("2048\n")
    assert sorted(fit._group_limits(tmp_path, "4:memory:/a/b\n")) == [4096, 9223372036854771712]
    assert fit._group_limits(tmp_path, "3:cpu:/a\n0::/c\n") == [2048]


def test_the_table_comes_as_json(capsys):
    flags = ["--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "2", "--max-new-tokens", "4"]
    assert main(["plan", "grpo", *flags, "--threads", "1", "--answer-tokens", "3", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {(r["part"], r["what"]): r["estimate"] for r in rows}
    assert found["model", "parameters"] == 84672
    assert 0 < found["step", "sample"] < found["step", "whole step"]
    assert found["memory", "peak"] > 0.1
    assert found["work", "tokens of a prompt, of an answer"].endswith(", 3")


def test_a_mean_length_that_is_none_is_refused(capsys):
    assert main(["plan", "--answer-tokens", "many"]) == 2
    assert "--answer-tokens is 'many'" in capsys.readouterr().err


@pytest.mark.parametrize("where", [[], ["--cluster", "ray"], ["--gpu", "h100"]], ids=["here", "several", "planned"])
def test_a_mean_length_that_no_answer_has_is_refused(where, capsys):
    assert main(["plan", "grpo", *where, "--threads", "1", "--max-new-tokens", "16", "--answer-tokens", "16.5"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "--answer-tokens 16.5 is the mean length of an answer, and none is longer than 16 tokens (--max-new-tokens 16)"
        in said
    )
