"""Two steps of every recipe on a real GPU, with the numbers of the CPU (docs/devices.md says whether this ever ran)."""

import pytest
import torch
from two_steps import CPU, assert_same, two_steps

from rung.kernels import decode
from rung.kernels.attention import Packed
from rung.kernels.device import choose
from rung.kernels.varlen import takes
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import all_recipes, find
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry

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
        ("trpo", {"dtype": torch.bfloat16, "lora": 2}),
        ("dr_grpo", {"checkpoint": True}),
        ("grpo", {"packs": False}),
    ],
    ids=["bfloat16", "masters", "LoRA", "differentiated twice", "checkpointing", "the model's own forward"],
)
def test_a_model_of_another_kind_takes_the_steps_of_the_cpu(name, settings):
    both = (two_steps(find(name), device, **settings) for device in (CPU, choose("cuda")))
    assert_same(*both, half="dtype" in settings)


@pytest.mark.parametrize("short", [True, False], ids=["short steps", "the model's own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_steps_that_a_graph_repeats_are_the_plain_ones(dtype, short, monkeypatch):
    """Rows leave the batch in between, and the slots that are looked at double twice."""
    monkeypatch.setattr(decode, "LEAST", 4)
    model = models.load(str(starter.path()), dtype=dtype, device=choose("cuda"))
    assert model.short_steps
    assert model.replays, "the graph agrees where the model is loaded"
    model.short_steps = short
    env = registry.load("chained_arithmetic").train
    prompts = [model.codec.encode(env[i].prompt) for i in range(8)]

    def drawn(replays):
        model.replays = replays
        return TorchSampler(model).sample(prompts, SamplingLaw(max_new_tokens=16), Draws.whole(3, 64))

    both = list(zip(drawn(True), drawn(False), strict=True))
    same = [(a, b) for a, b in both if a.tokens == b.tokens]
    assert len(same) >= (64 if dtype == torch.float32 else 48)
    gap = max(abs(p - q) for a, b in same for p, q in zip(a.logp, b.logp, strict=True))
    assert gap < (1e-4 if dtype == torch.float32 else 0.3)


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("head", [0, 2])
def test_one_kernel_for_all_texts_gives_what_padded_blocks_give(window, head):
    """Four query heads of 64 to two key heads, an answer without a token among them, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.tensor([7, 8, 1, 2]), torch.tensor([7, 8, 3])]
    packed = Packed(prompts, [torch.arange(n) for n in (3, 0, 5, 1)], [0, 0, 1, 1], head=head)
    packed.place(choose("cuda"))
    N = packed.ids.shape[1]
    new = lambda *shape: torch.randn(*shape, generator=generator).to(choose("cuda"), torch.bfloat16)  # noqa: E731
    q, k, v = (new(n, N, 64).requires_grad_() for n in (4, 2, 2))
    weight = new(N, 4, 64)
    assert takes(q, k, v)
    found = []
    for rows in (packed.rows, None):
        packed.rows = rows
        out = packed.attend(0, q, k, v, 0.5, window)
        found.append([out.detach(), *torch.autograd.grad((out * weight).sum(), [q, k, v])])
    for one, two in zip(*found, strict=True):
        assert float((one - two).float().norm()) < 0.02 * float(two.float().norm()) + 1e-3  # one key alone has no slope
