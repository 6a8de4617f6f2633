"""`rung data`: what is shown is what a run would read, without torch unless a model is named."""

import json
import subprocess
import sys

import pytest

from rung.cli import main
from rung.evaluation.conformance import tiny
from rung.evaluation.rows import inspect
from rung.network import model as models
from rung.settings.flags import Data
from rung.settings.shared import Problems
from rung.statistics import change
from rung.tasks.problems import problems_of
from rung.training.config import TrainConfig
from rung.training.defaults import by_task


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rows(tmp_path):
    asked = [{"prompt": f"w5 w{i}", "answer": str(i)} for i in range(4, 40)]
    return write(tmp_path / "rows.jsonl", asked)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path, ready = tmp_path_factory.mktemp("model"), tiny("llama")
    ready.hf.save_pretrained(path)
    ready.codec.tokenizer.save_pretrained(path)
    return str(path)


def test_it_begins_with_a_verdict_and_shows_problems(rows, capsys):
    assert main(["data", rows, "--problems", "1", "--system", "w9"]) == 0
    out = capsys.readouterr().out
    splits = problems_of(Problems(task=rows, system="w9"))
    first = splits.train[0]
    sizes = f"{len(splits.train)} problems to train on, {len(splits.eval)} held out"
    head = " ".join(out.split())
    assert head.startswith(f"rows: {sizes}; answers are judged by the verifier numeric. Nothing is in the way.")
    assert f"--- {first.id}\n[system] w9\n[user] {first.prompt[1]['content']}\n--- gold: {first.data['answer']}" in out
    assert out.count("--- gold") == 1


def test_no_torch_without_a_model(rows):
    code = (
        "import sys\nfrom rung.cli import main\n"
        f"assert main(['data', {rows!r}, '--json', '-']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch is loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["unit"] == "characters"


def test_lengths_are_the_model_s_and_what_leaves_no_room_is_counted(tmp_path, model):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "w5 " * n, "answer": "1"} for n in (1, 2, 3, 150, 200)])
    found = inspect(Data(task=path, model=model, chat=True, task_options={"eval_share": 1.0}))
    assert "3 prompts leave the model no room" not in found.words
    held_out, loaded = found.sides[1], models.load(model)
    assert held_out.lengths == sorted(
        len(loaded.codec.encode([{"role": "user", "content": "w5 " * n}])) for n in (1, 2, 3, 150, 200)
    )
    assert held_out.too_long == sum(n > loaded.codec.context - 256 for n in held_out.lengths) == 5
    assert (
        "the training side is empty, and 5 prompts leave the model no room for an answer of 256 tokens" in found.words
    )


def test_the_template_is_seen(rows, model, capsys):
    assert main(["data", rows, "--model", model, "--chat", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unit"] == "tokens" and found["first"][0]["prompt"].startswith("<s> <t> user w5 w")
    assert found["first"][0]["prompt"].endswith("<t> assistant")


def test_what_does_not_fit_is_said_and_not_refused(tmp_path):
    good = [{"prompt": f"{i}?", "answer": str(i)} for i in range(20)]
    path = write(
        tmp_path / "rows.jsonl", [*good, {"prompt": "blank?", "answer": " "}, {"prompt": "bare?", "answer": "x" * 900}]
    )
    found = inspect(Data(task=path))
    assert "some gold answers can be equalled by no answer" in found.words
    assert any("2 of 22 gold answers" in note for note in found.splits.notes)
    repeated = write(tmp_path / "again.jsonl", good + good)
    found = inspect(Data(task=repeated))
    assert found.sides[0].repeated == found.sides[0].problems // 2 and "repeat another one's prompt" in found.words


def test_reward_functions_are_named(rows, tmp_path):
    (tmp_path / "pay.py").write_text("def a(completions): return []\ndef b(completions): return []\n")
    file = tmp_path / "pay.py"
    assert "paid by a." in inspect(Data(task=rows, reward=f"{file}:a")).words
    assert "paid by a, b." in inspect(Data(task=rows, reward=f"{file}:a,{file}:b*0.5", system="s")).words


def test_conversations_and_missing_files_are_refused(tmp_path, capsys):
    assert main(["data", str(tmp_path / "gone.jsonl")]) == 2
    assert main(["data", "x.jsonl", "--environment", "gymnasium:CartPole-v1"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("held_out", [1, 5, 6])
def test_so_few_held_out_problems_that_no_change_can_be_shown_are_named(held_out, tmp_path, capsys):
    (tmp_path / "rows").mkdir()
    for name, n in (("train", 20), ("test", held_out)):
        write(tmp_path / "rows" / f"{name}.jsonl", [{"prompt": f"{name} {i}?", "answer": str(i)} for i in range(n)])
    said = f"only {held_out} held-out problem{'s' * (held_out > 1)}: a change cannot be shown; add rows or give train/test files"
    task = str(tmp_path / "rows")
    assert (said in inspect(Data(task=task)).words) == (held_out < 6)
    splits = by_task(TrainConfig(task=task, prompts_per_step=2), problems_of(Problems(task=task)))[1]
    assert (said in splits.notes) == (held_out < 6)
    low, high = change({str(i): 0.0 for i in range(held_out)}, {str(i): 1.0 + i for i in range(held_out)}, False), 6
    assert low.low > 0 if held_out == high else not low.low > 0, "the fewest that can show one"


def test_answers_are_limited_as_a_run_would_limit_them(tmp_path, model):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "w5 " * (110 + i % 2), "answer": "1"} for i in range(20)])
    found = inspect(Data(task=path, model=model, chat=True))
    assert found.splits.max_new_tokens < 256 and any("tokens and not 256" in note for note in found.splits.notes)
    assert "leave the model no room" not in found.words and found.room == max(found.sides[0].lengths)
    assert "not looked at" in inspect(Data(task=path)).words and "not looked at" not in found.words
