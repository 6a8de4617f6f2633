"""Products through oneDNN: exact, differentiable twice, and the setting never outlives the block."""

import copy

import pytest
import torch
from torch import nn

from rung.maths import logprob, products
from rung.maths.logprob import token_logprob


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def amd(monkeypatch):
    monkeypatch.setattr(products, "cpu", lambda: "vendor_id : AuthenticAMD")
    monkeypatch.setattr(products, "error", lambda: 4e-7)
    products.onednn_pays.cache_clear()
    yield
    products.onednn_pays.cache_clear()


@pytest.fixture
def seen(amd, monkeypatch):
    """The setting at each product that a layer takes."""
    seen = []
    plain = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *a: (seen.append(setting()), plain(*a))[1])
    return seen


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 128, bias=False), nn.Linear(128, 8))


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))


@pytest.mark.parametrize(
    ("maker", "error", "pays"),
    [("GenuineIntel", 4e-7, False), ("AuthenticAMD", 4e-7, True), ("AuthenticAMD", 2e-3, False)],
)
def test_only_where_the_blas_is_slow_and_the_product_exact(monkeypatch, maker, error, pays):
    monkeypatch.setattr(products, "cpu", lambda: maker)
    monkeypatch.setattr(products, "error", lambda: error)
    products.onednn_pays.cache_clear()
    assert products.onednn_pays() is pays
    products.onednn_pays.cache_clear()


def test_the_error_is_measured_and_the_setting_comes_back():
    before = setting()
    assert 0 < products.error() < 1e-2
    assert setting() == before


def test_gradients_are_those_of_the_plain_layer_once_and_twice(amd):
    plain = net()
    ours = copy.deepcopy(plain)
    products.through_onednn(ours)
    assert [type(x) for x in ours if isinstance(x, nn.Linear)] == [products.Linear, products.Linear, nn.Linear]
    x = torch.randn(5, 7, 256, requires_grad=True)
    for a, b in zip(gradients(ours, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def curvature(model: nn.Module) -> torch.Tensor:
        (g,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    torch.testing.assert_close(curvature(ours), curvature(plain), rtol=1e-4, atol=1e-3)


def test_the_setting_holds_for_these_products_and_no_longer(seen, monkeypatch):
    ours, before = net(), setting()
    products.through_onednn(ours)
    ours(torch.randn(3, 256)).sum().backward()
    assert seen == ["bf16", "bf16", before]  # the last layer is small
    monkeypatch.setattr(logprob, "KEPT_ELEMENTS", 0)
    token_logprob(torch.randn(4, 64), torch.randn(1024, 64, requires_grad=True), torch.arange(4))[0].sum().backward()
    assert seen[3:] == ["bf16", "bf16"]  # once more in the backward, which recomputes the logits
    assert setting() == before
    with pytest.raises(RuntimeError):
        ours(torch.randn(3, 257))
    assert setting() == before


def test_a_copy_has_its_own_weights_and_a_state_has_the_same_names(amd):
    ours = net()
    products.through_onednn(ours)
    other = copy.deepcopy(ours)
    other[0].weight.data.zero_()
    assert ours[0].weight.abs().sum() > 0 and list(ours.state_dict()) == list(net().state_dict())


def test_elsewhere_the_layers_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(products, "onednn_pays", lambda: False)
    model = net()
    products.through_onednn(model)
    assert [type(x) for x in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Linear]
