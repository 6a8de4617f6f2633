"""Models and tokenizers by the hundred, with anything in their files and broken: a model that can be asked, or one message."""

import json
import shutil

import pytest
from fuzzing import DEEP, cases, dumps, ended, mutated, plain, replaced, texts, values
from hypothesis import given
from hypothesis import strategies as st

from rung.evaluation.conformance import tiny
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.samplers import make_sampler

CONFIGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
LAW = SamplingLaw(max_new_tokens=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A Llama of a few thousand weights with a chat template, as transformers saves it."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    model = tiny("llama")
    model.hf.save_pretrained(path)
    model.codec.save(path)
    return path, {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def loaded(whole):
    return models.load(str(whole[0]))


def asked(path):
    """Loaded, asked a question in text and one in messages, and its answer read."""
    model = models.load(str(path))
    sampler = make_sampler(model)
    for prompt in ("w5 w6", [{"role": "user", "content": "w5 w6"}] if model.codec.chats else "w7"):
        rollouts = sampler.sample([model.codec.encode(prompt)], LAW, Draws.whole(0, 1))
        assert isinstance(model.codec.decode(rollouts[0].tokens), str)


def broken(place, whole, file, data):
    path = place / "model"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in {**whole[1], file: data}.items():
        (path / name).write_bytes(content)
    _, said = ended(lambda: asked(path), 10)
    assert said is None or "model" in said or "tokenizer" in said, said


def trees(file, content):
    return st.one_of(
        replaced(json.loads(content), plain).map(lambda tree: dumps(tree).encode()),
        mutated(content),
        st.sampled_from(
            [
                b"",
                b"{}",
                b"[]",
                b"3",
                b"null",
                b"[" * DEEP,
                b'{"a": ' + b"9" * 6000 + b"}",
                b"\xff\xfe{}",
                b"\xef\xbb\xbf{}",
            ]
        ),
    ).map(lambda data: (file, data))


@cases("models: configurations", 40)
@given(data=st.data(), file=st.sampled_from(CONFIGS))
def test_configurations_and_tokenizers_with_anything_in_them(place, whole, data, file):
    broken(place, whole, *data.draw(trees(file, whole[1][file])))


def headers(content):
    """A safetensors file with another header."""
    size = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + size])

    def written(new):
        head = dumps(new).encode()
        return len(head).to_bytes(8, "little") + head + content[8 + size :]

    return replaced(tree, plain).map(written)


@cases("models: weights", 30)
@given(data=st.data())
def test_broken_weights(place, whole, data):
    content = whole[1]["model.safetensors"]
    lengths = st.sampled_from([0, 1, 2**63, 2**64 - 1, 10**6]).map(lambda n: n.to_bytes(8, "little") + content[8:])
    broken(place, whole, "model.safetensors", data.draw(headers(content) | mutated(content) | lengths))


# -- what is said to a sound one ---------------------------------------------------------------------------------------
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": texts | st.sampled_from(["user", "system", "assistant", "tool"]), "content": texts},
        optional={"name": plain, "tool_calls": values},
    ),
    min_size=1,
    max_size=3,
)


@cases("messages", 30)
@given(
    prompt=texts | MESSAGES | st.sampled_from(["(" * DEEP, "w5 " * 100_000, "\ud800", "a" * 1_000_000]),
    cut=st.integers(0, 3),
)
def test_whatever_is_said_becomes_tokens_and_text(loaded, prompt, cut):
    codec = loaded.codec

    def through():
        ids = codec.encode(prompt)
        assert all(0 <= i < codec.vocabulary for i in ids)
        codec.unread(prompt)
        return codec.decode(ids[cut:]) + codec.whole(ids)

    text, _ = ended(through)
    assert text is None or text.encode()


@cases("tokens", 10)
@given(ids=st.lists(st.integers(0, 63) | st.sampled_from([0, 1, 2, 3]), max_size=50))
def test_whatever_is_sampled_becomes_text(loaded, ids):
    assert ended(lambda: loaded.codec.decode([i % loaded.codec.vocabulary for i in ids]))[0].encode() is not None
