"""oneDNN products: used only where exact, off within attention, and the setting never stays on."""

import pytest
import torch

from rung.rollout import matmul


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


def test_products_inside_the_block_are_float32_products():
    a, b = torch.randn(32, 300), torch.randn(200, 300)
    with matmul.onednn_products():
        inside = torch.nn.functional.linear(a, b)
    exact = (a.double() @ b.double().T).float()
    torch.testing.assert_close(inside, exact, atol=1e-4, rtol=1e-5)


def test_the_setting_comes_back_even_after_an_error():
    before = setting()
    with pytest.raises(ZeroDivisionError), matmul.onednn_products():
        1 / 0  # noqa: B018
    assert setting() == before


def test_it_can_be_off_within_a_block(monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: True)
    with matmul.onednn_products():
        assert setting() == "bf16"
        with matmul.onednn_products(on=False):
            assert setting() == "ieee"
        assert setting() == "bf16"


def test_a_cpu_that_rounds_is_left_alone(monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    before = setting()
    with matmul.onednn_products():
        assert setting() == before
