"""Two steps of every recipe on a real GPU, with the numbers of the CPU (docs/devices.md says whether this ever ran)."""

import pytest
import torch
from two_steps import CPU, assert_same, two_steps

from rung.kernels.device import choose
from rung.recipe_io import all_recipes, find

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]


@pytest.fixture(autouse=True)
def _plain_float32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32: what differs is the order of sums
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", all_recipes())
def test_two_steps_are_those_of_the_cpu(name):
    assert_same(*(two_steps(find(name), device) for device in (CPU, choose("cuda"))))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"dtype": torch.bfloat16}),
        ("trpo", {"dtype": torch.bfloat16}),
        ("ppo", {"lora": 2}),
        ("dr_grpo", {"checkpoint": True}),
        ("grpo", {"packs": False}),
    ],
    ids=["bfloat16", "masters", "LoRA", "checkpointing", "the model's own forward"],
)
def test_a_model_of_another_kind_takes_the_steps_of_the_cpu(name, settings):
    both = (two_steps(find(name), device, **settings) for device in (CPU, choose("cuda")))
    assert_same(*both, half="dtype" in settings)
