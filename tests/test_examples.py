"""Each example runs as it stands, with a tiny model in place of a real one."""

import importlib.util
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rung
import rung.network.model
from rung.cli import main
from rung.evaluation.conformance import tiny
from rung.io.run_dir import RunDir
from rung.models import starter
from rung.records import Batch, Completion, Group, Task

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {"steps": 1, "samples_per_prompt": 2, "eval_problems": 2, "max_new_tokens": 12, "threads": 1}


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    ready = tiny("llama")
    ready.hf.config.max_position_embeddings = 2048  # the tools' description is long
    ready.hf.save_pretrained(path)
    ready.codec.tokenizer.save_pretrained(path)
    return str(path)


def metrics(run) -> dict:
    return next(m for m in run.metrics if "reward" in m)


def test_own_reward(model, tmp_path):
    row = metrics(load("own_reward").main(model, tmp_path, prompts_per_step=2, **FEW))
    assert "rewards/short_and_right/mean" in row and row["reward"] <= 1


def test_llm_judge(model, tmp_path, monkeypatch):
    """Beside a stand-in for the server, which likes long answers."""

    class Likes(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            answer = asked.partition("Answer: ")[2].partition("\n\nWhat a good")[0]
            self.send_response(200)
            self.end_headers()
            reply = {"choices": [{"message": {"content": f"I say {min(len(answer) // 4, 10)}"}}]}
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Likes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("HOME", str(tmp_path))  # where replies are kept
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        row = metrics(load("llm_judge").main(model, tmp_path, prompts_per_step=2, **FEW))
        server.shutdown()
    assert "rewards/helpful/mean" in row and 0 <= row["reward"] <= 1 and row["rewards/unscored"] == 0
    assert list((tmp_path / ".cache" / "rung" / "judge").rglob("*.json"))


def test_own_dataset(model, tmp_path, capsys):
    row = metrics(load("own_dataset").main(model, tmp_path, **FEW))
    assert "rewards/correct/mean" in row
    assert "the prompts are plain text" in capsys.readouterr().out, "the model of the fixture has a chat template"


def test_curriculum(model, tmp_path, capsys):
    settings = {**FEW, "steps": 2, "eval_problems": 8, "prompts_per_step": 4}
    run = load("curriculum").main(model, tmp_path / "out", first=1, **settings)
    assert "plain text" not in capsys.readouterr().out
    first, second = (m for m in run.metrics if "reward" in m)
    assert (first["task/stage"], second["task/stage"]) == (0, 1)
    later = {f"rewards/{part}.correct/mean" for part in ("three_terms", "products", "words")}
    assert later & set(second) and not later & set(first)
    assert {f"eval/rewards/{part}.correct" for part in ("two_terms", "three_terms", "products", "words")} <= set(
        run.metrics[0]
    )


def test_word_problems(model, tmp_path, capsys):
    """Before and after are asked the same problems, of known stories and of new ones."""
    settings = {**FEW, "prompts_per_step": 2, "overrides": {}}
    run, found = load("word_problems").main(model, tmp_path / "out", held_out=6, samples=2, **settings)
    said = capsys.readouterr().out
    assert metrics(run)["rewards/correct/mean"] >= 0 and "plain text" not in said
    for name, measured in found.items():
        assert measured.difference.n == 6 and measured.samples == 2 and f"{name} stories" in said
        now, before = ([answer["prompt"] for answer in one.answers()] for one in (measured, measured.other))
        assert now == before and measured.model != measured.other.model


def test_word_problems_hold_back_numbers_and_stories():
    """No training row of a story has the two numbers of a held-out one, in either order; new stories have no training row."""

    def shape(row: dict) -> tuple[str, tuple[str, ...]]:
        text = re.sub("|".join(example.NAMES + example.THINGS), "_", row["prompt"][0]["content"])
        numbers = re.findall(r"\d+", text)
        return re.sub(r"\d+", "#", text), tuple(numbers if len(numbers) > 2 else sorted(numbers))

    example = load("word_problems")
    rows, held_out = example.problems(held_out=80)
    train, known, new = ({shape(row) for row in some} for some in (rows, held_out["known"], held_out["new"]))
    stories, others, fresh = ({story for story, _ in some} for some in (train, known, new))
    assert (len(stories), len(fresh)) == (20, 6) and others <= stories
    assert not train & known and not stories & fresh
    assert all(int(row["answer"]) > 0 for row in (*rows, *held_out["known"], *held_out["new"]))


def test_two_digits(model, tmp_path, capsys):
    run = load("two_digits").main(model, tmp_path / "out", **{**FEW, "prompts_per_step": 2})
    assert 0 <= metrics(run)["rewards/correct/mean"] <= 1 and "plain text" not in capsys.readouterr().out
    assert run.config["recipe"] == "part_mean" and run.metrics[0]["eval/accuracy"] >= 0


RIGHT = [1] * 15
TRACES = [  # answers to "28 - 63 =" and what their parts earn: operand, sign, operand, the result's sign, the result
    ("2 - 6 = -4\n8 - 3 = 5\n-40 + 5 = -35", RIGHT, "the worked answer"),
    ("2 - 6 = -4\n8 - 3 = 5\n-40 + 5 = -35\n1 + 1 = 2", [*RIGHT, -1], "a fourth line"),
    ("2 - 6 = -4\n8 - 3 = 5\n-40 + 5 = -45", [*RIGHT[:14], 0], "the last result is wrong"),
    (
        "2 - 6 = 4\n8 - 3 = -5\n40 - 5 = 35",
        [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, *RIGHT[:5]],
        "signs; the last line follows from them",
    ),
    ("2 - 63 = -4\n8 - 3 = 5", [1, 1, 0, 0, 0, *RIGHT[:5]], "an operand of two digits, and a line is missing"),
    ("6 - 2 = 4\n8 + 3 = 11", [0, 1, 0, 0, 0, 1, 0, 1, 0, 0], "other numbers, another sign"),
    ("2 - 6 = -4\nand 8 - 3 = 5", RIGHT[:5], "words"),
    ("-35", [], "no working"),
]


@pytest.mark.parametrize(("answer", "parts"), [row[:2] for row in TRACES], ids=[row[2] for row in TRACES])
def test_what_the_parts_of_two_digits_earn(answer, parts):
    example = load("two_digits")
    task = Task("", [], {"question": "State the final answer to the following arithmetic problem: 28 - 63 ="})
    found = list(example.InSteps(()).steps(task, Completion(answer)))
    assert [reward for _, reward in found] == parts
    ends = [answer[:at] for at, _ in found]
    assert all(a < b for a, b in pairwise(map(len, ends)))
    if parts[:15] == RIGHT:
        assert [e.split()[-1] for e in ends[4:15:5]] == ["-4", "5", "-35"]
        assert [e[-2:] for e in ends[3:15:5]] == [" -", "= ", " -"], (
            "a result's sign is known with the token before its digits"
        )


def test_the_parts_of_two_digits_are_compared_with_the_same_parts():
    """Groups of two, two and three answers; by hand. Parts end at the tokens marked 1, the outcome is on the last token."""
    end = [
        [0, 1, 0, 1, 1],
        [0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    reward = [[0, 1, 0, 1, 1], [0] * 5, [1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [1, -1, 0, 0, 0], [0] * 5, [0] * 5]
    mask = [[1, 1, 1, 1, 1], *[[1, 1, 1, 0, 0]] * 6]
    right = [  # part 1: 1, 0; part 2: 1, missing; outcome: 1, 0  |  part 1: 1, missing; outcome: 0, 1  |  part 2: -1, missing twice
        [1, 1, 1, 1, 1], [-1, -1, -2, 0, 0], [1, -1, -1, 0, 0], [0, 0, 0, 0, 0],
        [2, -2 / 3, 0, 0, 0], [-1, 1 / 3, 1 / 3, 0, 0], [-1, 1 / 3, 1 / 3, 0, 0],
    ]  # fmt: skip
    yes_B, none_BT = torch.ones(7, dtype=torch.bool), torch.zeros(7, 5)
    batch = Batch(
        reward_BT=torch.tensor(reward, dtype=torch.double), mask_BT=torch.tensor(mask).bool(),
        group_B=torch.tensor([0, 0, 1, 1, 2, 2, 2]), valid_B=yes_B, keep_B=yes_B, truncated_B=~yes_B,
        behavior_logp_BT=none_BT, old_logp_BT=none_BT, step_end_BT=torch.tensor(end).bool(),
    )  # fmt: skip
    torch.testing.assert_close(load("two_digits").PartMean()(batch), torch.tensor(right, dtype=torch.double))


def test_two_digits_shows_no_problem_that_is_held_out():
    """And its worked answers are right."""
    example = load("two_digits")
    problems = example.splits()
    train, held_out = ({e[i].prompt[-1]["content"] for i in range(200)} for e in (problems.train, problems.eval))
    assert len(problems.eval) == len(held_out) == 200 and not held_out & (train | {f"{x} =" for x in example.SHOWN})
    for task in (problems.eval[i] for i in range(200)):
        answer = Completion(example.worked(example.problem(task)))
        assert problems.eval.score(Group(task, [answer])) == [{"correct": 1.0}]
        assert [reward for _, reward in problems.eval.steps(task, answer)] == RIGHT


def test_plain_text_in_a_later_stage_is_noticed(model, tmp_path, monkeypatch, capsys):
    example = load("curriculum")
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(40)]
    monkeypatch.setattr(example, "word_problems", lambda: rows)
    example.main(model, tmp_path / "out", first=1, **{**FEW, "eval_problems": 8, "prompts_per_step": 2})
    assert "the prompts are plain text" in capsys.readouterr().out


def test_tool_environment(model, tmp_path):
    run = load("tool_environment").main(model, tmp_path, **{**FEW, "max_new_tokens": 24, "samples_per_prompt": 4})
    row = metrics(run)
    assert "rewards/Shop/mean" in row and row["turns/mean"] >= 1 and "tools/call_frequency" in row
    stored = RunDir.open(run.path).read_rollouts(1)
    assert (
        len(stored) == 16
        and stored[0]["messages"][0]["role"] == "system"
        and "price" in stored[0]["messages"][0]["content"]
    )


def test_the_shop_pays_for_the_exact_price_only():
    Shop = load("tool_environment").Shop
    for amount, reward in ((12, 1.0), (11, 0.0)):
        shop = Shop()
        shop.reset(item="book", prompt="...")
        assert shop.get_reward() == 0.0 and shop.price("book") == 12
        shop.pay(amount)
        assert shop.get_reward() == reward


def test_lora(tmp_path):
    small = {**FEW, "task": "chained_arithmetic", "prompts_per_step": 2, "lora_rank": 2}
    run = load("lora").main(str(starter.path()), tmp_path, **small)
    stored = load_file(RunDir.open(run.path).model_path() / "adapter_model.safetensors")
    assert stored and all(v.dtype == torch.float32 for v in stored.values())


def test_own_recipe(tmp_path):
    run = load("own_recipe").main("starter", tmp_path, prompts_per_step=2, **FEW)
    stored = RunDir.open(run.path).config()["expanded_recipe"]
    assert (stored["name"], stored["surrogate"]["high"], stored["entropy"]) == ("mine", 0.28, 0.001)


def test_own_recipe_with_own_rows_in_the_faster_precision(model, tmp_path):
    """Settings are filled in before the run has the recipe: no name finds it then."""
    rows = [{"prompt": [{"role": "user", "content": f"{i} + 1?"}], "answer": str(i + 1)} for i in range(40)]
    settings = {**FEW, "prompts_per_step": 2, "dtype": "auto"}
    run = rung.train(load("own_recipe").MINE, model=model, task=rows, out=tmp_path / "run", **settings)
    assert run.config["recipe"] == "mine" and run.config["dtype"] in ("float32", "bfloat16")


def test_guess_number_in_several_turns(model, tmp_path, capsys):
    environment = f"{EXAMPLES / 'guess_number.py'}:GuessNumber"
    settings = {**FEW, "prompts_per_step": 2, "max_turns": 3, "max_new_tokens": 30, "samples_per_prompt": 8}
    run = rung.train(model=model, environment=environment, out=tmp_path / "run", **settings)
    row = metrics(run)
    assert row["turns/mean"] > 1 and row["turns/observation_tokens"] > 0 and row["reward"] < 1
    assert row["sampling/logp_gap_max"] < 1e-4
    assert "turns/out_of_turns" in row
    assert main(["eval", str(run.path), "--problems", "2", "--json", "-"]) == 0, "a run knows its environment"
    assert '"reward"' in capsys.readouterr().out, "its rewards are not right or wrong"


def test_a_script_for_trl(model, tmp_path):
    arguments = {"max_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 8, "num_generations": 4}
    trainer = load("from_trl").main(model, str(tmp_path / "run"), **arguments)
    assert "rewards/reward_num_unique_letters/mean" in metrics(trainer.run)
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file() and not (tmp_path / "saved" / "COMPLETE").exists()


def test_second_try_in_plain_text(tmp_path):
    environment = f"{EXAMPLES / 'second_try.py'}:splits"
    settings = {**FEW, "prompts_per_step": 4, "max_turns": 2, "max_new_tokens": 48, "samples_per_prompt": 4}
    run = rung.train(recipe="reward_to_go", environment=environment, out=tmp_path / "run", **settings)
    rows = RunDir.open(run.path).read_rollouts(1)
    assert {len(r["turn_stops"]) for r in rows} == {1, 2} and {r["reward"] for r in rows} <= {0.0, 0.5, 1.0}
    for row in rows:
        assert (row["reward"] == 1.0) <= (len(row["turn_stops"]) == 1), "a right first answer ends it"
        told = row["actions"].count(0)
        assert told == (len(row["prompt"]) if len(row["turn_stops"]) == 2 else 0), (
            "the problem once more, a token a character"
        )


def test_shuffled_rewards_are_dealt_out_and_not_changed(model, tmp_path):
    shuffled = load("shuffled_rewards").shuffled
    answers = [f"7 + 2 = {n}" for n in (9, 9, 9, 8, 7, 6)]
    prompt = [[{"role": "user", "content": "7 + 2 ="}]] * 6
    dealt = shuffled(prompt, answers, ["9"] * 6)
    assert sorted(dealt) == [0, 0, 0, 1, 1, 1] and dealt == shuffled(prompt, answers, ["9"] * 6)
    others = [shuffled(prompt, [f"{a}{'.' * n}" for a in answers], ["9"] * 6) for n in range(50)]
    earned = torch.tensor([dealt, *others]).mean(0)
    assert (earned - 0.5).abs().max() < 0.25, "what an answer earns does not depend on what it says"
    reward = f"{EXAMPLES / 'shuffled_rewards.py'}:shuffled"
    run = rung.train(model=model, task="chain_sum", reward=reward, prompts_per_step=1, out=tmp_path / "run", **FEW)
    assert "rewards/shuffled/mean" in metrics(run)


def test_the_loop_is_rung_train_to_the_bit(tmp_path):
    """With samples enough that some answers are without credit, and steps enough that Adam's state and the walk matter."""
    mine = load("loop").main(steps=3, prompts=8, samples=4, seed=5)
    run = rung.train(
        "dr_grpo", model="starter", steps=3, prompts_per_step=8, samples_per_prompt=4, seed=5, eval_problems=2,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    theirs, _ = run.load()
    assert all(torch.equal(w, theirs.state_dict()[name]) for name, w in mine.hf.state_dict().items())
    before = rung.network.model.load(str(starter.path())).hf.state_dict()
    assert not any(torch.equal(w, before[name]) for name, w in mine.hf.named_parameters()), "every weight was trained"
