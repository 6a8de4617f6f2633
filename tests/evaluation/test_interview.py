"""A run is asked as it was trained, beside the model that it began with; what cannot be loaded any more is said."""

import shutil

import pytest
import torch

import rung
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.evaluation.interview import Interview
from rung.network import adapter
from rung.network.model import load

ROWS = "".join(f'{{"prompt": [{{"role": "user", "content": "w{i} w5"}}], "answer": "w7"}}\n' for i in range(6, 14))
SMALL = {
    "steps": 1,
    "prompts_per_step": 2,
    "samples_per_prompt": 4,
    "eval_problems": 2,
    "max_new_tokens": 6,
    "threads": 1,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run from a model that moves far in its one step, so that before and now differ."""
    home = tmp_path_factory.mktemp("interview")
    model = tiny("llama")
    model.hf.save_pretrained(home / "base")
    model.codec.tokenizer.save_pretrained(home / "base")
    (home / "rows.jsonl").write_text(ROWS)
    task = {"task": str(home / "rows.jsonl"), "task_options": {"instruction": "w9 w9"}}
    more = {"recipe": "reinforce", "learning_rate": 0.5, "task_options": {**task["task_options"]}, "reward": None}
    (home / "long.py").write_text("def long(completions, **_):\n    return [float(len(str(c))) for c in completions]\n")
    more["reward"] = f"{home / 'long.py'}:long"
    rung.train(model=str(home / "base"), task=task["task"], out=home / "run", **more, **SMALL)
    return home


def test_both_models_are_asked_in_the_frame_of_the_problems(home):
    room = Interview.of(home / "run")
    assert room.frame.around("w5") == [{"role": "user", "content": "w5\nw9 w9"}]
    assert room.law.max_new_tokens == 6 and not room.missing
    for model, path in ((room.before, "base"), (room.now, "run/checkpoints/step_000001")):
        assert torch.equal(model.head[0], load(str(home / path)).head[0])
    reply = room.ask("w5 w6")
    assert reply.before[0].text != reply.now[0].text, "the step was large"
    lines = repr(reply).splitlines()
    assert lines[0] == "w5 w6" and lines[1].startswith("before  ") and lines[2].startswith("now     ")
    several = room.ask("w5 w6", 3, probabilities=True)
    assert len(several.now) == len(several.before) == 3 and several == room.ask("w5 w6", 3, probabilities=True)
    assert several != room.ask("w5 w6", 3, probabilities=True, seed=1)


def test_a_model_that_is_no_run_has_no_before(home):
    room = Interview.of(home / "base")
    assert room.before is None and not room.missing and room.frame.chat
    assert room.ask("w5").before == [] and "before" not in repr(room.ask("w5"))


def test_a_base_that_is_gone_is_said_and_what_was_trained_is_asked(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    text = (tmp_path / "run" / "config.toml").read_text().replace(str(home / "base"), str(home / "gone"))
    (tmp_path / "run" / "config.toml").write_text(text)
    room = Interview.of(tmp_path / "run")
    assert room.before is None and "there is no such directory" in room.missing and room.ask("w5").now
    assert not Interview.of(tmp_path / "run", before=False).missing


def test_a_run_with_an_adapter_is_asked_with_it(tmp_path):
    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "base")
    model.codec.tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(ROWS)
    more = {"learning_rate": 1e-2, "lora_rank": 2, "recipe": "reinforce"}
    rung.train(model=str(tmp_path / "base"), task=str(tmp_path / "rows.jsonl"), out=tmp_path / "run", **more, **SMALL)
    room = Interview.of(tmp_path / "run")
    assert adapter.has_adapter(room.now.hf) and not adapter.has_adapter(room.before.hf)


@pytest.mark.parametrize("question", ["", "  ", None, 3, ["1+1="]])
def test_a_question_that_is_none_is_one_message(question):
    with pytest.raises(InputError, match="must be a text that is not blank"):
        Interview.of("starter").ask(question)


@pytest.mark.parametrize(
    "how",
    [
        {"samples": 0},
        {"samples": 1.5},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"seed": -1},
    ],
)
def test_how_it_is_asked_is_checked(how):
    with pytest.raises(InputError, match=next(iter(how))):
        Interview.of("starter").ask("1+1=", **how)
