"""How a model is run is found out when it is loaded: what does not give its own forward's numbers is not taken."""

import copy

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import BertConfig, LlamaConfig
from transformers.cache_utils import DynamicLayer

import rung
from rung.errors import InputError
from rung.evaluation.conformance import draw, tiny, tokenizer
from rung.evaluation.model_kinds import CHEAP, settings
from rung.kernels import attention, decode
from rung.kernels import llama_step as llama
from rung.network import ways
from rung.network.float32 import exact
from rung.network.model import wrap

torch.set_num_threads(1)


def ways_of(model):
    return model.packs, model.decodes, model.compacts, model.short_steps


def settled(kind, change=lambda hf: None, dtype=torch.float32, sharp=5.0):
    torch.manual_seed(0)
    name, arguments = settings(kind)
    hf = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **arguments)).to(dtype)
    for weight in hf.parameters():
        if weight.dim() > 1:
            weight.data.mul_(sharp)
    change(hf)
    return wrap(hf, tokenizer())


# -- planted faults: each is seen, and the next way is taken ------------------------------------------------------------
def test_a_plain_model_takes_the_fastest_ways():
    assert ways_of(settled("llama")) == (True, "packed", True, True)
    assert ways_of(settled("gpt2")) == (True, "packed", True, False)


def test_logits_that_are_not_the_heads_own_are_never_packed():
    def scale(hf):  # far too little to be seen among log-probabilities
        plain = hf.forward

        def forward(*args, **more):
            out = plain(*args, **more)
            out.logits = torch.tanh(out.logits / 300) * 300
            return out

        hf.forward = forward

    assert ways_of(settled("llama", scale))[:2] == (False, "cache")


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"), reason="Doge's mask is left out there, and the model refused"
)
def test_a_mask_of_the_models_own_keeps_our_attention_out():
    model = settled("doge")
    assert ways_of(model)[:2] == (False, "cache"), "its mask is learned, and zero in the beginning"


def test_a_window_that_is_not_named_is_seen_however_wide():
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    config.sliding_window, config.layer_types = 4096, ["sliding_attention"] * 2
    config.eos_token_id = 2
    model = wrap(transformers.AutoModelForCausalLM.from_config(config), tokenizer())
    assert ways_of(model)[:2] == (False, "cache"), "Llama's layers name none"


@pytest.mark.parametrize("kind", ["falcon_h1", "lfm2", "rwkv"])
def test_a_state_that_says_little_yet_is_seen_as_well(kind):
    sharp, fresh = settled(kind), settled(kind, sharp=1.0)
    assert ways_of(sharp) == ways_of(fresh) and not fresh.packs


def test_a_memory_that_mixes_up_rows_keeps_them_all(monkeypatch):
    monkeypatch.setattr(
        DynamicLayer, "reorder_cache", lambda self, rows: DynamicLayer.batch_select_indices(self, rows - 1)
    )
    assert ways_of(settled("stablelm")) == (False, "cache", False, False)
    monkeypatch.setattr(DynamicLayer, "reorder_cache", lambda self, rows: None)
    assert ways_of(settled("stablelm")) == (False, "cache", False, False)


def test_our_own_memory_is_tried_with_the_model(monkeypatch):
    plain = decode.Decode.keep
    monkeypatch.setattr(decode.Decode, "keep", lambda self, rows: plain(self, rows - 1))
    assert ways_of(settled("llama")) == (True, "cache", True, False)


def test_a_wrong_step_is_not_taken(monkeypatch):
    monkeypatch.setattr(llama, "_norm", lambda norm: (norm.weight.detach() * 1.01, norm.variance_epsilon))
    assert ways_of(settled("llama")) == (True, "packed", True, False)


def test_a_gradient_that_is_lost_is_seen(monkeypatch):
    plain = attention.Packed.attend
    cut = lambda self, layer, q, k, *more: plain(self, layer, q, k.detach(), *more)  # noqa: E731
    monkeypatch.setattr(attention.Packed, "attend", cut)
    assert ways_of(settled("llama")) == (False, "packed", True, True), "sampling needs no gradient"


def test_what_is_slow_is_said_and_still_right():
    for kind, way in (("rwkv", "whole"), ("minimax", "even")):
        model = settled(kind)
        assert model.decodes == way and kind in model.slow.lower() and "slow" in model.slow
        tokens, logp = draw(model)
        assert len(set(tokens.length_B.tolist())) > 1 and logp.isfinite().all()


def test_a_run_says_once_that_it_is_slow(tmp_path, capsys):
    model = tiny("rwkv")
    model.hf.save_pretrained(tmp_path / "model")
    model.codec.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "w5 w{i}", "answer": "w6"}}\n' for i in range(6, 14)))
    rung.train(
        model=str(tmp_path / "model"), task=str(tmp_path / "rows.jsonl"), recipe="a2c", out=tmp_path / "run", steps=2,
        prompts_per_step=2, samples_per_prompt=2, max_new_tokens=4, eval_problems=2, threads=1,
    )  # fmt: skip
    assert capsys.readouterr().out.count("which is slow") == 1


@pytest.mark.parametrize("change", ["both ways", "position"])
def test_a_model_that_does_not_read_from_left_to_right_is_refused(change):
    size = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    if change == "both ways":
        hf = transformers.AutoModelForCausalLM.from_config(BertConfig(**size, is_decoder=False, eos_token_id=2))
        for weight in hf.parameters():
            weight.data.mul_(5 if weight.dim() > 1 else 1)
    else:
        hf = transformers.AutoModelForCausalLM.from_config(LlamaConfig(**size, eos_token_id=2))
        plain = hf.model.forward
        hf.model.forward = lambda input_ids=None, **more: plain(input_ids=input_ids.flip(1), **more)
    with pytest.raises(InputError, match=r"cannot be trained.* off.*from left to right"):
        wrap(hf, tokenizer())


# -- precision, cost ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", CHEAP)
def test_lower_precision_chooses_the_same_ways(kind):
    assert ways_of(settled(kind, dtype=torch.bfloat16)) == ways_of(settled(kind))


def test_float32_copies_leave_every_weight_as_it_was():
    model = settled("mamba2", dtype=torch.bfloat16)
    before = copy.deepcopy(model.hf.state_dict())
    kinds = {name: (p.dtype, p.data_ptr()) for name, p in model.hf.named_parameters()}
    ids = torch.arange(6)[None]
    with torch.no_grad(), exact(model.hf):
        wide = model.hf(input_ids=ids).logits
        assert wide.dtype == torch.float32
    assert kinds == {name: (p.dtype, p.data_ptr()) for name, p in model.hf.named_parameters()}
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items())
    twin = copy.deepcopy(model.hf).float()
    torch.testing.assert_close(wide, twin(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    model.hf.backbone.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="cannot"), exact(model.hf):
        model.hf(input_ids=ids)
    assert kinds == {name: (p.dtype, p.data_ptr()) for name, p in model.hf.named_parameters()}, "after an error too"


def fail(*args):
    raise RuntimeError("cannot")


def test_a_model_that_is_plain_costs_few_and_short_passes():
    model = settled("llama")
    seen = []
    handle = model.hf.model.layers[0].mlp.register_forward_hook(
        lambda m, args, out: seen.append(out.shape[:-1].numel())
    )
    ways.settle(model)
    handle.remove()
    assert len(seen) == 6 and sum(seen) <= 60, (
        "the definition, known tokens, prompts, a token, prompts and what goes on; `LlamaStep` has its own way"
    )
