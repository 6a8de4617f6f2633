"""Tasks from files: splits without a common prompt, GSM8K, and messages that name the file, the line and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.registry import load, names
from rung.tasks.sources.dataset import _hash, _held_out

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} + 1?", "answer": i + 1} for i in range(start, start + count)]


def test_one_file_is_divided_by_the_prompt(write: Write) -> None:
    splits = load(str(write(*rows(200), *rows(200))))
    train, held_out = ([split[i].prompt for i in range(len(split))] for split in (splits.train, splits.eval))
    assert set(train).isdisjoint(held_out)
    assert len(held_out) == len(set(held_out))
    assert len(set(train) | set(held_out)) == 200
    assert 10 < len(held_out) < 50
    more = load(str(write(*rows(300), name="more.jsonl"))).eval
    assert set(held_out) <= {more[i].prompt for i in range(len(more))}  # new rows move none of the old ones


@settings(max_examples=50, deadline=None)
@given(st.sets(st.text(min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_both_sides_always_have_a_prompt(prompts: set[str], share: float) -> None:
    hashes = {_hash(prompt) for prompt in prompts}
    if len(hashes) > 1:
        assert 0 < len(_held_out(hashes, share, Path("f"))) < len(hashes)


def test_a_directory_keeps_its_division_without_leaks(write: Write) -> None:
    write(*rows(5), name="data/train.jsonl")
    directory = write(*rows(3, start=4), name="data/test.jsonl").parent
    splits = load(str(directory))
    assert (len(splits.train), len(splits.eval)) == (4, 3)  # the common prompt is left out of training
    assert splits.eval[0].id == "test.jsonl:1"


def test_everything_can_be_held_back(write: Write) -> None:
    splits = load(str(write(*rows(9))), options={"eval_share": 1.0})
    assert (len(splits.train), len(splits.eval)) == (0, 9)


def test_csv_parquet_and_messages(write: Write, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = write("question,gold", *(f"What is {i}?,{i}" for i in range(4)), name="rows.csv")
    splits = load(str(table), prompt_column="question", answer_column="gold")
    assert len(splits.train) + len(splits.eval) == 4
    assert splits.train[0].id.startswith("rows.csv:")
    messages = [[{"role": "user", "content": f"What is {i}?"}] for i in range(4)]
    parquet = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": messages, "answer": ["A", "B", "C", "D"]}), parquet)
    task = load(str(parquet)).train[0]
    assert task.prompt[0]["role"] == "user"


def test_gsm8k(write: Write) -> None:
    path = write(
        *(
            {"question": f"Ann has {i} pens and buys 1,000 more. How many?", "answer": f"{i}+1000\n#### 1,00{i}"}
            for i in range(9)
        ),
        name="gsm8k.jsonl",
    )
    environment = load("gsm8k", path=path).train
    task = environment[0]
    gold = task.data["answer"]
    assert "####" in task.prompt[0]["content"]
    texts = [f"I add.\n#### {gold}", f"She has {gold} pens.", "#### 7", task.prompt[0]["content"], ""]
    assert environment.score(Group(task, [Completion(text) for text in texts])) == [
        {"correct": 1.0}, {"correct": 1.0}, {"correct": 0.0}, {"correct": 0.0}, {"correct": 0.0},
    ]  # fmt: skip
    assert environment.extract(task, Completion("I do not know.")) is None
    assert environment.extract(task, Completion("#### 10", stop="length")) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no rows"),
        (['{"prompt": "a", "answer": 1}', "{oops"], "rows.jsonl:2: not a JSON object"),
        (["[1]"], "rows.jsonl:1: a JSON list"),
        (
            ['{"prompt": "a", "answer": 1}', '{"promt": "b", "answer": 1}'],
            "unknown column 'prompt'. Did you mean 'promt'?",
        ),
        (['{"promt": "b"}'], "It is in rows.jsonl:1; name the right one with prompt_column="),
        (['{"prompt": "a", "gold": 1}'], "name the right one with answer_column="),
        (['{"prompt": "a", "answer": ""}'], "rows.jsonl:1: the column 'answer' is empty"),
        (['{"prompt": 5, "answer": 1}'], "neither a text nor a list of messages"),
        (['{"prompt": [{"text": "a"}], "answer": 1}'], "neither a text nor a list of messages"),
        (['{"prompt": "a", "answer": 1}'], "one prompt only"),
    ],
)
def test_bad_rows(write: Write, lines: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load(str(write(*lines)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gone.jsonl"}, "gone.jsonl does not exist"),
        ({"name": "gsm8k"}, "Give its JSONL file or directory with task_path="),
        ({"name": "gsm8k", "path": Path("gone.jsonl")}, "gone.jsonl does not exist"),
        ({"name": "gsm8k", "path": Path("rows.txt")}, "cannot read a file of kind '.txt'"),
        ({"name": "chained_arithmetik"}, "unknown task 'chained_arithmetik'. Did you mean 'chained_arithmetic'?"),
        ({"name": "chained_arithmetic", "path": Path("f")}, "has no use for the task chained_arithmetic"),
        ({"name": "chained_arithmetic", "verifier": "math"}, "judges its answers itself"),
        ({"name": "chained_arithmetic", "options": {"sed": 1}}, "Did you mean 'seed'?"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        load(**arguments)
    assert message in str(error.value)


def test_bad_files(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"prompt,answer\n\xe4\xff,1\n")
    broken = write("no parquet", name="broken.parquet")
    ragged = write("prompt,answer", "a,1,2", name="ragged.csv")
    solution = write({"question": "q", "answer": "no hashes"}, name="gsm.jsonl")
    for arguments, message in [
        ({"name": str(tmp_path / "empty")}, "has no train file"),
        ({"name": str(latin)}, "UTF-8"),
        ({"name": str(broken)}, "not a readable Parquet file"),
        ({"name": str(ragged)}, "ragged.csv:2: not the 2 fields"),
        ({"name": "gsm8k", "path": solution}, "gsm.jsonl:1: the answer has no '#### NUMBER'"),
        ({"name": str(write(*rows(4))), "verifier": "maths"}, "Did you mean 'math'?"),
        ({"name": str(write(*rows(4))), "options": {"eval_share": 2}}, "eval_share=2"),
        ({"name": str(write(*rows(4))), "options": {"share": 2}}, "Did you mean 'eval_share'?"),
    ]:
        with pytest.raises(InputError) as error:
            load(**arguments)
        assert message in str(error.value)


def test_names() -> None:
    assert {"chained_arithmetic", "gsm8k"} <= set(names())


def test_math_style_answers_and_columns_as_task_options(write: Write) -> None:
    path = write(
        *(
            {"problem": f"What is half of {i}?", "solution": f"We divide {i} by 2: \\boxed{{\\frac{{{i}}}{{2}}}}."}
            for i in range(1, 12, 2)
        )
    )
    options = {
        "prompt_column": "problem",
        "answer_column": "solution",
        "instruction": "Put it in \\boxed{}.",
        "eval_share": 1.0,
    }
    held_out = load(str(path), options=options).eval
    task = held_out[0]
    assert task.prompt == "What is half of 1?\nPut it in \\boxed{}."
    assert held_out.gold(task) == "\\frac{1}{2}"  # type: ignore[attr-defined]
    answers = [Completion(text) for text in ("\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{2}", "We divide 1 by 2")]
    assert [parts["correct"] for parts in held_out.score(Group(task, answers))] == [1.0, 1.0, 0.0, 0.0]


def test_programs_with_lists_of_tests(write: Write) -> None:
    path = write(*({"prompt": f"Write f(x) = {i} x.", "answer": [f"assert f(2) == {2 * i}"]} for i in range(3)))
    task = load(str(path), verifier="code").train
    right = Completion(f"```python\ndef f(x): return {task[0].prompt.split()[-2]} * x\n```")
    wrong = Completion("```python\ndef f(x): return 17\n```")
    assert [parts["correct"] for parts in task.score(Group(task[0], [right, wrong]))] == [1.0, 0.0]


def saved(path: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    datasets = pytest.importorskip("datasets")
    tables = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    datasets.DatasetDict(tables).save_to_disk(str(path))
    return path


def test_saved_datasets(tmp_path: Path) -> None:
    path = saved(tmp_path / "sums", {"train": rows(8), "test": rows(3, start=7), "extra": rows(2, start=90)})
    splits = load(str(path))
    assert (len(splits.train), len(splits.eval)) == (7, 3)  # the common prompt is left out of training
    assert splits.eval[0].id == "sums[test]:1" and splits.name == "sums"
    splits = load(str(path), options={"eval_split": "extra"})
    assert (len(splits.train), len(splits.eval)) == (8, 2)
    with pytest.raises(InputError, match=r"Did you mean 'extra'.*task_options=\{'eval_split'"):
        load(str(path), options={"eval_split": "extr"})
    only = load(str(saved(tmp_path / "math500", {"test": rows(40)})), options={"eval_share": 1.0})
    assert (len(only.train), len(only.eval)) == (0, 40)


def test_a_dataset_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no-such-owner/no-such-data cannot be loaded"):
        load("hf:no-such-owner/no-such-data")
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer\na,1\nb,2\n")
    with pytest.raises(InputError, match="for Hugging Face datasets"):
        load(str(path), options={"config": "main"})
