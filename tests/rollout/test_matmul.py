"""oneDNN products: used only where exact, and the setting never stays on."""

import pytest
import torch

from rung.rollout import matmul


def test_products_inside_the_block_are_float32_products():
    a, b = torch.randn(32, 300), torch.randn(200, 300)
    with matmul.large_matmuls():
        inside = torch.nn.functional.linear(a, b)
    exact = (a.double() @ b.double().T).float()
    torch.testing.assert_close(inside, exact, atol=1e-4, rtol=1e-5)


def test_the_setting_comes_back_even_after_an_error():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), matmul.large_matmuls():
        1 / 0  # noqa: B018
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_cpu_that_rounds_is_left_alone(monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with matmul.large_matmuls():
        assert torch.backends.mkldnn.matmul.fp32_precision == before
