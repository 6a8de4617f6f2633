"""The short decoding step says what the model's own code says, and only where it can."""

import dataclasses

import pytest
import torch
from torch import nn

from rung.evaluation.conformance import tiny
from rung.evaluation.model_kinds import CHEAP
from rung.kernels import llama_step as llama
from rung.kernels import packed_weights as matmul
from rung.kernels.llama_step import Product, fits
from rung.network import adapter
from rung.network.streams import takes_short_steps
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler

torch.set_num_threads(1)
PROMPTS = [[1, 5, 6, 7], [1, 9, 8, 7, 6, 5, 4, 10, 11]]
LIKE = ("llama", "mistral", "qwen2", "qwen3")


def answers(model, samples=3, new=20):
    drawn = TorchSampler(model).sample(PROMPTS, SamplingLaw(max_new_tokens=new), Draws.whole(3, samples * len(PROMPTS)))
    return [r.tokens for r in drawn], torch.tensor([x for r in drawn for x in r.logp])


@pytest.mark.parametrize("kind", LIKE)
def test_a_step_says_what_the_models_own_code_says(kind):
    model = tiny(kind)
    assert model.short_steps and takes_short_steps(model)
    noise = torch.Generator().manual_seed(0)
    for weight in model.hf.parameters():
        if weight.dim() == 1:  # norms and biases, which are all alike in a fresh model
            weight.data.add_(0.3 * torch.randn(weight.shape, generator=noise))
    tokens, logp = answers(model)
    own_tokens, own_logp = answers(dataclasses.replace(model, short_steps=False))
    assert tokens == own_tokens and len({len(t) for t in tokens}) > 1, "rows leave on the way"
    torch.testing.assert_close(logp, own_logp, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(set(CHEAP) - set(LIKE)))
def test_other_kinds_decode_by_their_own_code(kind):
    assert not tiny(kind).short_steps


def test_an_adapter_sends_decoding_back_to_the_models_own_code():
    model = tiny("llama")
    adapter.add(model, rank=2)
    assert not takes_short_steps(model)


def test_a_rotary_embedding_that_grows_with_the_row_does_not_fit():
    model = tiny("llama")
    model.hf.get_decoder().rotary_emb.rope_type = "dynamic"
    assert not fits(model.hf)


def test_a_model_whose_step_disagrees_is_found_out(monkeypatch):
    step = llama.LlamaStep.__call__
    monkeypatch.setattr(llama.LlamaStep, "__call__", lambda *a: 1.1 * step(*a))
    model = tiny("llama")
    assert fits(model.hf) and not model.short_steps


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", ["packed", "copied", "apart"])
@torch.no_grad()
def test_every_way_to_multiply_is_the_same_product(way, bias, monkeypatch):
    size = 24 if way == "copied" else 600
    layers = [nn.Linear(size, n, bias=bias) for n in (size, size // 2, size // 3)]
    rows = 8 if way == "packed" else matmul.FEW_ROWS + 1
    monkeypatch.setattr(matmul, "onednn_pays", lambda: False)
    product, x = Product(layers, rows), torch.randn(rows, size)
    assert (product.packed is not None, product.weight is not None) == (way == "packed", way == "copied")
    torch.testing.assert_close(product(x), torch.cat([layer(x) for layer in layers], -1), rtol=1e-4, atol=1e-5)
