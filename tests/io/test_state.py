import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.errors import InputError
from rung.io.state import load_state, save_state


def there_and_back(tmp_path, state):
    save_state(tmp_path, state)
    return load_state(tmp_path)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    tensor = (torch.rand(shape) * 5).to(dtype)
    assert same(there_and_back(tmp_path, tensor), tensor)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]))
keys = st.integers() | st.text() | st.sampled_from(["$tensor", "$dict", "__metadata__", "a/b", ""])
trees = st.recursive(
    scalars | st.sampled_from([torch.tensor(1.5), torch.arange(3), torch.ones(2, 2, dtype=torch.bfloat16)]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_structure_comes_back(tmp_path, tree):
    assert same(there_and_back(tmp_path, tree), tree)


def test_keys_that_look_alike_stay_apart(tmp_path):
    state = {0: torch.zeros(1), "0": torch.ones(1), "a": {"b": torch.tensor(2)}, "a/b": torch.tensor(3), True: 1}
    assert same(there_and_back(tmp_path, state), state)


def test_keys_that_look_like_ours_are_data(tmp_path):
    state = [{"$tensor": "x"}, {"$tuple": [1]}, {"$float": "nan"}, {"$dict": {"$dict": []}}, {"$numpy": torch.ones(1)}]
    assert same(there_and_back(tmp_path, state), state)


def test_an_optimizer_continues_exactly(tmp_path):
    def made():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).pow(2).sum().backward()
        optimizer.step()

    net, optimizer = made()
    step(net, optimizer)
    loaded = there_and_back(tmp_path, {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "empty": {}})
    assert list(loaded["optimizer"]["state"]) == [0, 1] and loaded["empty"] == {}
    other, its = made()
    other.load_state_dict(loaded["net"])
    its.load_state_dict(loaded["optimizer"])
    step(net, optimizer)
    step(other, its)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_random_generators_continue_exactly(tmp_path):
    mine, numpy_new, numpy_old = random.Random(3), np.random.default_rng(3), np.random.RandomState(3)
    generator = torch.Generator().manual_seed(3)
    state = [mine.getstate(), numpy_new.bit_generator.state, numpy_old.get_state(), generator.get_state()]
    expected = [mine.random(), numpy_new.random(), numpy_old.rand(), torch.rand(1, generator=generator)]
    a, b, c, d = there_and_back(tmp_path, state)
    mine.setstate(a)
    numpy_new.bit_generator.state = b
    numpy_old.set_state(c)
    generator.set_state(d)
    assert [mine.random(), numpy_new.random(), numpy_old.rand(), torch.rand(1, generator=generator)] == expected


def test_a_shared_tensor_is_stored_once_and_shared_again(tmp_path):
    tied = torch.nn.Parameter(torch.rand(1000, 10))
    loaded = there_and_back(tmp_path, {"embed": tied, "head": tied, "row": tied[3], "turned": tied.T})
    assert loaded["embed"] is loaded["head"]
    assert torch.equal(loaded["row"], tied[3]) and torch.equal(loaded["turned"], tied.T)
    assert not loaded["embed"].requires_grad
    save_state(tmp_path, {"embed": tied, "head": tied})
    assert (tmp_path / "state.safetensors").stat().st_size < 41_000


def test_numpy_scalars_and_not_numbers(tmp_path):
    loaded = there_and_back(tmp_path, {"a": np.float32(0.5), "b": np.int64(7), "nan": math.nan, "inf": -math.inf})
    assert (loaded["a"], loaded["b"], loaded["inf"]) == (0.5, 7, -math.inf) and math.isnan(loaded["nan"])
    json.loads((tmp_path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    "bad", [object(), {1, 2}, b"x", {(1, 2): 3}, torch.zeros(2, dtype=torch.complex128), np.array(["a"])]
)
def test_what_only_pickle_could_save_is_refused_with_its_place(tmp_path, bad):
    with pytest.raises(TypeError, match=r"state\[here/0\]|complex128"):
        save_state(tmp_path, {"here": [bad]})


def test_missing_and_damaged_files_are_explained(tmp_path):
    with pytest.raises(InputError, match="holds no training state"):
        load_state(tmp_path)
    save_state(tmp_path, {"a": torch.ones(4)})
    whole = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(whole[:-3])
    with pytest.raises(InputError, match="damaged"):
        load_state(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(InputError, match=r"state\.safetensors is missing"):
        load_state(tmp_path)
    (tmp_path / "state.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="format"):
        load_state(tmp_path)
