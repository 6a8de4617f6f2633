"""Attention by plain products in bfloat16: against float64, and a model's gradient against the one in float32."""

import copy

import pytest
import torch
from tests.kernels.test_attention import gradient, sampled, tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from rung.kernels import attention as packed
from rung.kernels import bfloat16
from rung.network.model import Model
from rung.records import SamplingLaw
from rung.training.policy import Policy

B, K, T, L, D = 5, 2, 12, 9, 16


@pytest.fixture(autouse=True)
def _able(monkeypatch):
    """As on a CPU with instructions for it; elsewhere they are emulated, with the same results."""
    monkeypatch.setattr(bfloat16, "multiplies_bfloat16", lambda: True)


def inputs() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(B, K, n, D, generator=g).bfloat16() for n in (T, L, L, T))
    see = torch.rand(B, 1, T, L, generator=g) < 0.6
    see[..., 0] = True
    return [q, k, v, packed.additive(see, torch.bfloat16), grad]


def results(f, q, k, v, mask, grad) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = f(*leaves, mask, 0.3)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def fused(q, k, v, mask, scale):
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def off(some: torch.Tensor, exact: torch.Tensor) -> float:
    return float((some - exact).norm() / exact.norm())


@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "a mask of each row"])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_values_and_gradients_are_float64s_but_for_the_rounding(monkeypatch, rows, shared):
    q, k, v, mask, grad = inputs()
    mask = mask[:1] if shared else mask
    monkeypatch.setattr(bfloat16, "SCORES", rows * K * T * L)
    ours = results(bfloat16.attention, q, k, v, mask, grad)
    for got, want in zip(ours, results(fused, *(x.double() for x in (q, k, v, mask, grad))), strict=True):
        assert got.dtype == torch.bfloat16
        assert off(got, want) < 8e-3, "rounding to bfloat16 is 2e-3, and there are several"


def test_a_row_that_is_too_long_takes_the_fused_kernel(monkeypatch):
    q, k, v, mask, _ = inputs()
    assert type(bfloat16.attention(q.requires_grad_(), k, v, mask, 0.3).grad_fn).__name__ == "_AttentionBackward"
    monkeypatch.setattr(bfloat16, "SCORES", K * T * L - 1)
    assert torch.equal(bfloat16.attention(q, k, v, mask, 0.3), fused(q, k, v, mask, 0.3))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_a_models_gradient_is_as_near_to_float32_as_its_own_forward_is(monkeypatch, kind):
    wide = tiny(kind)
    tokens, *_ = sampled(wide, SamplingLaw(max_new_tokens=11))
    low = Model(copy.deepcopy(wide.hf).bfloat16(), wide.codec, packs=True)
    wide.hf.load_state_dict(low.hf.state_dict())
    own = Model(low.hf, low.codec, packs=False)

    def slope(model: Model) -> torch.Tensor:
        scores = Policy(model).score(tokens)
        return gradient(model, scores.logp_BT, scores.entropy_BT).float()

    exact = slope(wide)
    ran = []
    monkeypatch.setattr(packed, "attention", lambda *args: ran.append(1) or bfloat16.attention(*args))
    ours = off(slope(low), exact)
    assert ran, "the packed way ran"
    assert ours < 1.2 * off(slope(own), exact) < 0.2


def test_where_a_slope_is_differentiated_pytorch_is_asked():
    """As TRPO asks of an adapter in bfloat16: inside `sdpa_kernel(MATH)`."""
    q, k, v, mask, _ = inputs()
    q, k = q.requires_grad_(), k.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        out = bfloat16.attention(q, k, v, mask, 0.3)
    (slope,) = torch.autograd.grad(out.float().square().sum(), q, create_graph=True)
    (curve,) = torch.autograd.grad(slope.float().sum(), k)
    assert curve.isfinite().all()
    assert curve.abs().sum() > 0
