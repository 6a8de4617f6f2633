"""The chained-arithmetic task and the starter: disjoint problems, a strict verifier, a checkpoint that loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import rung.models.starter
from rung.errors import InputError
from rung.models.starter.make import SYMBOLS, WarmUp, accuracy_of, make, trace
from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import Environment
from rung.tasks.sources.arithmetic import MAX_NEW_TOKENS, ChainedArithmetic, side, splits, values

PROMPT = "4*7*2-4*2+2="
TINY = WarmUp(clean_steps=2, messy_steps=2, check_every=2, batch_size=8, eval_size=10)


def score(text: str, stop: str = "stop") -> float:
    task = Task(id="0", prompt=PROMPT, data={"answer": "6"})
    return ChainedArithmetic("eval", 0, 1).score(Group(task, [Completion(text, stop)]))[0]["correct"]


def test_the_documented_problem() -> None:
    assert values(PROMPT) == [8, 6, 2, 4, 6]
    assert trace(PROMPT) == "8>6>2>4>6#6"
    assert values("0-1*9=") == [9, 1]


@pytest.mark.parametrize("prompt", ["", "4*7", "4=", "44*7=", "4/7=", "4*7=\n", "٤*7="])
def test_what_is_no_problem_is_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="no chained-arithmetic problem"):
        values(prompt)


def test_splits_are_disjoint_whatever_the_seed_and_evaluation_is_unique() -> None:
    train = {ChainedArithmetic("train", seed, 2000)[i].prompt for seed in (0, 1) for i in range(2000)}
    held_out = [task.prompt for seed in (0, 1) for task in ChainedArithmetic("eval", seed, 1000)]
    assert not train & set(held_out)
    assert all(side(p) == "train" for p in train) and all(side(p) == "eval" for p in held_out)
    assert len(set(held_out[:1000])) == 1000


def test_items_are_a_function_of_split_seed_and_index() -> None:
    a, b = splits(), splits()
    assert isinstance(a.train, Environment) and isinstance(a.eval, Environment)
    assert (a.name, a.max_new_tokens) == ("chained_arithmetic", MAX_NEW_TOKENS)
    assert [a.train[i] for i in range(50)] == [b.train[i] for i in range(50)]
    assert a.eval[3] == ChainedArithmetic("eval", 0, 10)[3]  # a smaller split is a prefix of a larger one
    assert a.train[3].prompt != ChainedArithmetic("train", 1)[3].prompt
    assert len({task.id for task in a.eval}) == len(a.eval) == 500
    assert [task.data["operations"] for task in a.eval] == [2, 3, 4, 5, 6] * 100
    longest = max((trace(str(task.prompt)) for task in a.eval), key=len)
    assert len(longest) + 1 <= MAX_NEW_TOKENS


def test_bad_splits_are_refused() -> None:
    with pytest.raises(InputError, match="Did you mean 'train'"):
        ChainedArithmetic("trian")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one problem"):
        ChainedArithmetic("train", size=0)
    with pytest.raises(InputError, match="at most 4000"):
        ChainedArithmetic("eval", size=4001)
    with pytest.raises(IndexError):
        ChainedArithmetic("train", size=5)[5]


@pytest.mark.parametrize("text", ["8>6>2>4>6#6", "#6", "1>2#6", "nonsense#6", "6>6>6#6"])
def test_right_answers(text: str) -> None:
    assert score(text) == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8>6>2>4>6#7", "the wrong digit"),
        ("8>6>2>4>6", "no answer mark"),
        ("", "nothing"),
        ("#", "no digit"),
        ("#6#6", "two marks"),
        ("#5#6", "two marks, the last one right"),
        ("##6", "two marks"),
        ("#66", "two digits"),
        ("#6>6", "something after the answer"),
        ("#6 ", "a space after it"),
        ("#6\n", "a line end after it"),
        ("# 6", "a space before it"),
        ("#+6", "a sign"),
        ("#٦", "a six that is not in our alphabet"),
        ("0#1" * 5 + "#6", "all digits in turn"),
    ],
)
def test_wrong_answers(text: str, why: str) -> None:
    assert score(text) == 0.0, why


@pytest.mark.parametrize("stop", ["length", "abort"])
def test_an_answer_without_its_end_is_wrong(stop: str) -> None:
    assert score("8>6>2>4>6#6", stop) == 0.0


def test_group_is_scored_in_order_and_extract_says_what_was_read() -> None:
    env = ChainedArithmetic("eval", 0, 5)
    task = env[0]
    good, cut = Completion(trace(str(task.prompt))), Completion(trace(str(task.prompt)), "length")
    assert [r["correct"] for r in env.score(Group(task, [cut, good]))] == [0.0, 1.0]
    assert env.extract(task, good) == task.data["answer"] and env.extract(task, cut) is None


def test_the_stored_checkpoint_is_a_normal_hugging_face_model() -> None:
    path = rung.models.starter.path()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.num_parameters() == 84_672
    assert {w.dtype for w in load_file(path / "model.safetensors").values()} == {torch.float32}
    assert tokenizer.get_vocab() == {s: i for i, s in enumerate(SYMBOLS)} and len(SYMBOLS) == 19
    ids = (model.config.pad_token_id, model.config.eos_token_id)
    assert ids == (tokenizer.pad_token_id, tokenizer.eos_token_id) and ids[0] != ids[1]
    assert sum(f.stat().st_size for f in path.iterdir()) < 500_000
    law = GenerationConfig.from_pretrained(path)
    assert law.eos_token_id == tokenizer.eos_token_id
    assert not {"temperature", "top_k", "top_p", "do_sample"} & law.to_diff_dict().keys()
    assert "rung starter --seed 0" in (path / "README.md").read_text()


def test_the_tokenizer_is_exact() -> None:
    tokenizer = AutoTokenizer.from_pretrained(rung.models.starter.path())
    text = PROMPT + trace(PROMPT)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.decode(ids) == text
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id]) == text + "<eos>"
    with pytest.raises(Exception, match="Missing"):
        tokenizer.encode("4 * 7=")  # a character outside the alphabet is an error, not silently another token


def test_the_stored_starter_is_a_base_that_can_be_improved() -> None:
    model = AutoModelForCausalLM.from_pretrained(rung.models.starter.path())
    problems = ChainedArithmetic("eval", 0, 500)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        measured = accuracy_of(model, problems)
    assert 0.15 <= measured.sampled <= 0.35 and measured.greedy <= 0.35
    assert measured.full >= 0.45 and measured.direct <= 0.25  # thinking pays
    assert 0.1 <= measured.share_full <= 0.4 and measured.share_direct >= 0.5  # and it does not know that yet


def test_two_steps_of_each_phase_make_a_loadable_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    state = torch.get_rng_state()
    make(tmp_path / "new" / "a", seed=3, report=lines.append, plan=TINY)
    assert torch.equal(torch.get_rng_state(), state)
    (tmp_path / "b").mkdir()  # an empty directory is welcome
    make(tmp_path / "b", seed=3, report=lines.append, plan=TINY)
    a, b = (load_file(d / "model.safetensors") for d in (tmp_path / "new" / "a", tmp_path / "b"))
    assert all(torch.equal(a[k], b[k]) for k in a)  # the seed decides
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b").num_parameters() == 84_672
    assert "rung starter --seed 3 --out DIR" in (tmp_path / "b" / "README.md").read_text()
    assert any("clean traces" in line for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "new"]  # no scratch directory is left


def test_an_existing_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        make(tmp_path, plan=TINY)
    with pytest.raises(InputError, match="is a file"):
        make(tmp_path / "kept.txt", plan=TINY)
    with pytest.raises(InputError, match="cannot write"):
        make(tmp_path / "kept.txt" / "below", plan=TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
