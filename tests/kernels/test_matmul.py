"""Packed weights: the same products, only inside the block, only where they pay."""

import pytest
import torch
from torch import nn

from rung.kernels import device
from rung.kernels import packed_weights as matmul
from rung.kernels.packed_weights import FEW_ROWS, packed_weights


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 900), nn.ReLU(), nn.Linear(900, 300, bias=False))


@pytest.mark.parametrize("rows", [1, 7, 32])
@torch.no_grad()
def test_products_inside_the_block_are_float32_products(rows):
    net, x = model(), torch.randn(rows, 300)
    with packed_weights(net, rows):
        inside = net(x)
    exact = net.double()(x.double())
    assert ((inside - exact).norm() / exact.norm()).item() < 1e-6


def plain(net: nn.Module) -> bool:
    return not any("forward" in vars(layer) for layer in net)


def test_the_layers_come_back_even_after_an_error():
    net = model()
    with packed_weights(net, 8):
        assert not plain(net)
    assert plain(net)
    with pytest.raises(RuntimeError), packed_weights(net, 8):
        net(torch.zeros(1, 7))
    assert plain(net)


@torch.no_grad()
def test_each_block_packs_the_weights_of_now():
    net, x = model(), torch.randn(4, 300)
    with packed_weights(net, 4):
        before = net(x)
    net[2].weight.mul_(2)
    with packed_weights(net, 4):
        torch.testing.assert_close(net(x), 2 * before)


def test_many_rows_small_weights_and_other_precisions_use_the_plain_product(monkeypatch):
    monkeypatch.setattr(matmul, "onednn_pays", lambda: False)
    with packed_weights(net := nn.Sequential(nn.Linear(64, 64)), 8):
        assert plain(net)
    with packed_weights(net := model(), FEW_ROWS + 1):
        assert plain(net)
    with packed_weights(net := model().double(), 8):
        assert plain(net)


def test_where_the_plain_product_is_slow_many_rows_are_packed_too(monkeypatch):
    monkeypatch.setattr(matmul, "onednn_pays", lambda: True)
    with packed_weights(net := model(), FEW_ROWS + 1):
        assert not plain(net)


@pytest.mark.parametrize("rows", [1, 7, 32])
@torch.no_grad()
def test_bfloat16_is_packed_where_the_cpu_multiplies_it_and_rounds_as_its_plain_product(rows, monkeypatch):
    monkeypatch.setattr(device, "cpu", lambda: "flags: avx512_bf16")
    device.multiplies_bfloat16.cache_clear()
    net, x = model().bfloat16(), torch.randn(rows, 300).bfloat16()
    plainly = net(x).double()
    with packed_weights(net, rows):
        assert not plain(net)
        inside = net(x).double()
    exact = net.double()(x.double())
    error = lambda y: float((y - exact).norm() / exact.norm())  # noqa: E731
    assert error(inside) < 1.2 * error(plainly) < 0.01
    monkeypatch.setattr(device, "cpu", lambda: "flags: avx2")
    device.multiplies_bfloat16.cache_clear()
    with packed_weights(net := model().bfloat16(), rows):
        assert plain(net)
    device.multiplies_bfloat16.cache_clear()
