"""A question stands where the training problems' questions stood, and each token's probability is the model's own."""

import math

import pytest

from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.question import Frame, answers
from rung.rollout.torch_sampler import TorchSampler

MODEL = tiny("llama")
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("prompts", "asked"),
    [
        (["1+1=", "2+1="], "4*7="),
        (["1+1\nAnswer:", "2+1\nAnswer:"], "4*7=\nAnswer:"),
        ([[user("1+1\nBox it.\nNow.")], [user("2+1\nBox it.\nNow.")]], [user("4*7=\nBox it.\nNow.")]),
        ([[SYSTEM, user("a")], [SYSTEM, user("b")]], [SYSTEM, user("4*7=")]),
        ([[SYSTEM, user("a")], [user("b")]], [user("4*7=")]),
        (
            [[user("a"), {"role": "assistant", "content": "<think>"}], [user("b"), {"role": "assistant", "content": "<think>"}]],
            [user("4*7="), {"role": "assistant", "content": "<think>"}],
        ),
        ([[user("a"), {"role": "assistant", "content": "b"}, user("c")], [user("d")]], [user("4*7=")]),
        (["same\nsame", "same\nsame"], "4*7="),
        (["text", [user("messages")]], "4*7="),
        ([], "4*7="),
    ],
)  # fmt: skip
def test_the_frame_is_what_the_prompts_share(prompts, asked):
    assert Frame.of(prompts).around("4*7=") == asked


def test_what_the_user_wrote_already_is_not_written_again():
    frame = Frame.of(["1+1\nAnswer:", "2+1\nAnswer:"])
    assert frame.around("4*7=\nAnswer:") == frame.around("4*7=") == frame.around("4*7= ") == "4*7=\nAnswer:"


def test_probabilities_are_the_models_own_at_any_temperature():
    ids, law = MODEL.codec.encode("w5 w6"), SamplingLaw(max_new_tokens=9)
    drawn = TorchSampler(MODEL).sample([ids], law, Draws.whole(7, 3))
    said = answers(MODEL, "w5 w6", law, 3, 7, probabilities=True)
    for rollout, answer in zip(drawn, said, strict=True):
        assert answer.text == MODEL.codec.decode(rollout.tokens) and len(answer.tokens) == len(rollout.tokens)
        for token, logp in zip(answer.tokens, rollout.logp, strict=True):
            assert math.log(token.p) == pytest.approx(logp, abs=1e-4)
    greedy = answers(MODEL, "w5 w6", SamplingLaw(0.0, max_new_tokens=9), probabilities=True)[0]
    assert (
        0 < greedy.tokens[0].p < 1
        and greedy == answers(MODEL, "w5 w6", SamplingLaw(0.0, max_new_tokens=9), seed=3, probabilities=True)[0]
    )
    assert answers(MODEL, "w5 w6", law)[0].tokens == ()


def test_an_answer_takes_the_room_that_there_is():
    long = " ".join(["w5"] * 120)
    (answer,) = answers(MODEL, long, SamplingLaw(max_new_tokens=500), probabilities=True)
    assert 0 < len(answer.tokens) <= 128 - 121
    with pytest.raises(InputError, match="leaves no room"):
        answers(MODEL, long + " w5" * 20, SamplingLaw())
