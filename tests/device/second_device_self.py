"""What the stand-in device refuses and allows, which is what CUDA refuses and allows."""

import copy

import pytest
import torch
from second_device import DEVICE, FakeTensor, waits

HOST = torch.arange(4.0)
HERE = HOST.to(DEVICE)
INDEX, MASK = torch.tensor([2, 0]), torch.tensor([True, False, True, False])

REFUSED = {
    "elementwise": lambda: HERE + HOST,
    "in place on the host": lambda: HOST.clone().add_(HERE[0]),
    "two scalars of the host": lambda: torch.clamp(HERE, torch.tensor(0.0), torch.tensor(1.0)),
    "matrix product": lambda: torch.eye(4, device=DEVICE) @ HOST,
    "cat": lambda: torch.cat([HERE, HOST]),
    "stack of scalars": lambda: torch.stack([HERE[0], torch.tensor(1.0)]),
    "index of the device into the host's": lambda: HOST[INDEX.to(DEVICE)],
    "mask of the device on the host's": lambda: HOST[MASK.to(DEVICE)],
    "values of the host by index": lambda: HERE.clone().__setitem__(INDEX, HOST[:2]),
    "index_select": lambda: HERE.index_select(0, INDEX),
    "gather": lambda: HERE.gather(0, INDEX),
    "index_copy": lambda: HERE.clone().index_copy_(0, INDEX, HERE[:2]),
    "index_add": lambda: HERE.clone().index_add_(0, INDEX.to(DEVICE), HOST[:2]),
    "masked_scatter": lambda: HERE.masked_scatter(MASK, HERE),
    "masked_fill": lambda: HERE.masked_fill(MASK, 0.0),
    "isin": lambda: torch.isin(HERE, HOST),
    "searchsorted": lambda: torch.searchsorted(HERE, HOST),
    "bincount": lambda: torch.bincount(INDEX.to(DEVICE), weights=HOST[:2]),
    "embedding": lambda: torch.nn.functional.embedding(INDEX, torch.eye(4, device=DEVICE)),
    "quantile": lambda: HERE.quantile(torch.tensor([0.5])),
    "where": lambda: torch.where(MASK.to(DEVICE), HERE, HOST),
    "where with a mask of the host": lambda: torch.where(MASK, HERE, HERE),
    "repeat_interleave": lambda: HERE.repeat_interleave(torch.ones(4, dtype=torch.long)),
    "generator of the host": lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "permutation, generator of the host": lambda: torch.randperm(3, device=DEVICE, generator=torch.Generator()),
    "numpy": lambda: HERE.numpy(),
}
ALLOWED = {
    "scalar of the host": (lambda: HERE * torch.tensor(2.0), HOST * 2),
    "scalar of the host first": (lambda: torch.tensor(2.0) * HERE, HOST * 2),
    "comparison with a scalar": (lambda: torch.tensor(2.0) > HERE, HOST < 2),
    "where of two scalars": (lambda: torch.where(HERE > 1, torch.tensor(1.0), torch.tensor(0.0)), (HOST > 1).float()),
    "index of the host": (lambda: HERE[INDEX], HOST[INDEX]),
    "mask of the host": (lambda: HERE[MASK], HOST[MASK]),
    "number by mask": (
        lambda: HERE.clone().masked_fill_(MASK.to(DEVICE), torch.tensor(7.0)),
        HOST.masked_fill(MASK, 7.0),
    ),
    "slice from the host": (lambda: _assigned(HERE.clone()), torch.tensor([8.0, 9.0, 2.0, 3.0])),
    "copy to the host": (lambda: torch.empty(4).copy_(HERE), HOST),
    "tensor": (lambda: torch.tensor([1, 2], device=DEVICE), torch.tensor([1, 2])),
    "as_tensor": (lambda: torch.as_tensor([1, 2], device="fake"), torch.tensor([1, 2])),
    "new_tensor": (lambda: HERE.new_zeros(2) + HERE.new_ones(2), torch.ones(2)),
    "a number": (lambda: torch.tensor(float(HERE.sum()) + HERE[1].item() + int(HERE[2])), torch.tensor(9.0)),
    "arange": (lambda: torch.arange(4, device=DEVICE).float().unsqueeze_(0), HOST[None]),
    "permutation": (lambda: torch.randperm(3, device=DEVICE).sort().values, torch.arange(3)),
    "empty_like on the host": (lambda: torch.zeros_like(HERE, device="cpu") + HOST, HOST),
}


def _assigned(x):
    x[:2] = torch.tensor([8.0, 9.0])
    return x


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[case]()


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed(case):
    make, expected = ALLOWED[case]
    assert make().tolist() == expected.tolist()


def test_results_stay_on_the_device():
    a, b = torch.split(HERE.view(2, 2), 1)
    assert all(
        x.device == DEVICE for x in (HERE + 1, HERE.sum(), a, b, torch.zeros(2, device=DEVICE), *HERE.view(2, 2).max(1))
    )
    assert HERE.cpu().device.type == "cpu" and not isinstance(HERE.cpu(), FakeTensor)


def test_other_device_contexts_hold():
    with torch.device("meta"):
        assert torch.tensor([1]).device.type == torch.as_tensor([1]).device.type == torch.zeros(1).device.type == "meta"


def tied():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def test_module_moves_in_place_and_stays_tied():
    model = tied()
    weight = model[0].weight
    model.to(DEVICE)
    assert (
        model[0].weight is weight is model[2].weight and weight.device == DEVICE and len(list(model.parameters())) == 3
    )
    twin = copy.deepcopy(model)
    assert twin[0].weight is twin[2].weight is not weight and twin[0].weight.tolist() == weight.tolist()
    twin.load_state_dict({k: v.cpu() + 1 for k, v in model.state_dict().items()})
    assert (twin[0].weight - weight).mean().item() == pytest.approx(1)
    weight.data = weight.data * 2
    assert model[2].weight.tolist() == weight.raw.tolist()


def test_training_is_that_of_the_host():
    out = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = tied().to(device)
        adam = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True)
        x = torch.ones(2, 3, device=device)
        for _ in range(3):
            loss = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).square().mean()
            slope = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            (loss + sum(g.square().sum() for g in slope)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
        adam.load_state_dict(copy.deepcopy(adam.state_dict()))
        out.append([p.tolist() for p in model.parameters()])
    assert out[0] == out[1]


def test_saved_and_loaded(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    model = tied().to(DEVICE)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    back = torch.load(tmp_path / "a.pt", weights_only=False)
    assert back["0.weight"].device == DEVICE and back["0.weight"].tolist() == model[0].weight.tolist()
    st.save_model(model, str(tmp_path / "a.safetensors"))
    assert st.load_file(tmp_path / "a.safetensors")["0.weight"].tolist() == model[0].weight.tolist()


def test_waits_are_counted_by_line():
    with waits("torch") as counts:
        HERE.sum().item()
        HERE[HERE > 1]
        HERE + 1
    assert sorted(name for name, _ in counts) == ["_local_scalar_dense", "index"]
