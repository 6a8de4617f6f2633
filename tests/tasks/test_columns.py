"""Rows as data sets really come: their columns are found, and what was found is said; nothing turns into nonsense."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.registry import load


def verl(i: int) -> dict[str, Any]:
    prompt = [{"content": f"What is {i}+2? Let's think step by step.", "role": "user"}]
    more = {"answer": f"{i}+2={i + 2}\n#### {i + 2}", "index": i, "question": f"What is {i}+2?", "split": "train"}
    return {
        "data_source": "openai/gsm8k",
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"ground_truth": str(i + 2), "style": "rule"},
        "extra_info": more,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def right(splits: Any) -> list[float]:
    """What the gold answer of each training problem earns, and a wrong one."""
    env, out = splits.train, []
    for i in range(len(env)):
        golds = [env.gold(env[i]), "0815"]
        out += [s["correct"] for s in env.score(Group(env[i], [Completion(g) for g in golds]))]
    return out


# -- verl ----------------------------------------------------------------------------------------------------------
def test_verls_rows_are_read_as_they_are(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([verl(i) for i in range(9)]), path)
    splits = load(str(path))
    assert right(splits) == [1.0, 0.0] * len(splits.train)
    assert splits.train[0].prompt == splits.train[0].data["prompt"]
    assert splits.notes == ("train.parquet: the answer is 'reward_model.ground_truth'",)


def test_a_dotted_column_is_named_by_the_user(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [verl(i) for i in range(9)])
    splits = load(rows, options={"answer_column": "extra_info.answer", "prompt_column": "extra_info.question"})
    assert splits.train[0].prompt.startswith("What is ") and not splits.notes
    assert right(splits) == [1.0, 0.0] * len(splits.train)
    rows = write(tmp_path / "dot.jsonl", [{"prompt": str(i), "a.b": str(i)} for i in range(9)])
    assert right(load(rows, answer_column="a.b"))[:2] == [1.0, 0.0], "a column may have a dot itself"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("reward_model", "a table of ground_truth, style. Name the one that holds the answer: "
         "answer_column='reward_model.ground_truth'."),
        ("reward_model.ground_trut", "Did you mean 'reward_model.ground_truth'?"),
        ("ground_truth", "Did you mean 'reward_model.ground_truth'?"),
    ],
)  # fmt: skip
def test_a_hint_leads_to_the_answer(tmp_path, column, message):
    with pytest.raises(InputError) as error:
        load(write(tmp_path / "rows.jsonl", [verl(i) for i in range(9)]), answer_column=column)
    assert message in str(error.value)


# -- messages ------------------------------------------------------------------------------------------------------
def solved(i: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": f"{i}+2?"},
        {"role": "assistant", "content": f"I add. \\boxed{{{i + 2}}}"},
    ]


def test_a_solution_in_messages_is_the_answer_and_no_part_of_the_prompt(tmp_path):
    splits = load(write(tmp_path / "rows.jsonl", [{"messages": solved(i)} for i in range(9)]))
    assert [m["role"] for m in splits.train[0].prompt] == ["system", "user"]
    assert right(splits) == [1.0, 0.0] * len(splits.train)
    assert len(splits.notes) == 3 and "left out of the prompt" in splits.notes[1]
    named = load(
        write(tmp_path / "both.jsonl", [{"messages": solved(i), "answer": "17"} for i in range(9)]),
        prompt_column="messages",
    )
    assert named.train.gold(named.train[0]) == "17" and len(named.train[0].prompt) == 2


def test_a_prompt_that_ends_with_an_assistants_message_is_left_whole(tmp_path):
    rows = [{"prompt": [*solved(i)[:2], {"role": "assistant", "content": "It is"}], "answer": "1"} for i in range(9)]
    splits = load(write(tmp_path / "rows.jsonl", rows))
    assert splits.train[0].prompt[-1] == {"role": "assistant", "content": "It is"} and not splits.notes


@pytest.mark.parametrize("text", [json.dumps, repr], ids=["json", "python"])
def test_cells_of_csv_may_hold_messages_and_tables(tmp_path, text):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "reward_model"])
        table.writerows([text(verl(i)["prompt"]), text(verl(i)["reward_model"])] for i in range(9))
    splits = load(str(tmp_path / "rows.csv"))
    assert splits.train[0].prompt[0]["role"] == "user" and right(splits) == [1.0, 0.0] * len(splits.train)


def test_a_text_in_brackets_stays_a_text(tmp_path):
    prompts = [f"[{i}, 2]" for i in range(4)] + [f"[list {i}" for i in range(4)] + [f'{{"a": {i}}}' for i in range(4)]
    splits = load(write(tmp_path / "rows.jsonl", [{"prompt": p, "answer": "1"} for p in prompts]))
    found = {env[i].prompt for env in (splits.train, splits.eval) for i in range(len(env))}
    assert found == set(prompts)


def test_empty_fields_and_lists_of_texts_of_messages(tmp_path):
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rows = [{"prompt": [{"role": "user", "content": content, "name": None}], "answer": str(i), "i": i} for i in (1, 2)]
    rows[1]["prompt"] = [{"role": "user", "content": "c", "tool_calls": None}]
    splits = load(write(tmp_path / "rows.jsonl", rows))
    prompts = [env[0].prompt for env in (splits.train, splits.eval)]
    assert sorted(p[0]["content"] for p in prompts) == ["ab", "c"] and all(
        set(p[0]) == {"role", "content"} for p in prompts
    )


# -- choices -------------------------------------------------------------------------------------------------------
TEXTS = ["three", "four", "five"]
SHOWN = "\nA. three\nB. four\nC. five"


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"choices": TEXTS, "answer": 1}, SHOWN),
        ({"choices": TEXTS, "answer": "B"}, SHOWN),
        ({"options": TEXTS, "answer": "1"}, SHOWN),
        ({"choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "B"}, SHOWN),
        ({"choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": "2"}, SHOWN),
        ({"options": dict(zip("ABC", TEXTS, strict=True)), "answer": "B"}, SHOWN),
        ({"options": ["A)three", "B)four", "C)five"], "answer": "B"}, "\nA)three\nB)four\nC)five"),
        ({"choices": json.dumps(TEXTS), "answer": "B"}, SHOWN),
    ],
)
def test_choices_are_shown_where_the_answer_is_a_letter_or_an_index(tmp_path, row, shown):
    splits = load(write(tmp_path / "rows.jsonl", [{"question": f"{i}+2?", **row} for i in range(9)]))
    env = splits.train
    assert env[0].prompt.endswith("+2?" + shown) and any("choices are shown" in note for note in splits.notes)
    assert env.gold(env[0]) == "B" and env.verifier.name == "choice"
    answers = [Completion(text) for text in ("The answer is (B).", "C")]
    assert [s["correct"] for s in env.score(Group(env[0], answers))] == [1.0, 0.0]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "choices": TEXTS, "answer": "four"},
        {"prompt": "2+2?", "choices": ["1", "2", "4"], "answer": "2"},
        {"prompt": "2+2?\nA) three\nB) four\nC) five", "choices": TEXTS, "answer": "B"},
        {"prompt": "2+2?\n(A) three (B) four (C) five", "choices": TEXTS, "answer": "B"},
        {"prompt": "2+2?", "choices": TEXTS, "answer": 7},
        {"prompt": "2+2?", "choices": 3, "answer": "B"},
    ],
)
def test_choices_are_not_added_where_they_are_shown_already_or_the_answer_is_none_of_them(tmp_path, row):
    rows = [{**row, "prompt": f"{i}: {row['prompt']}"} for i in range(9)]
    splits = load(write(tmp_path / "rows.jsonl", rows))
    assert splits.train[0].prompt in {r["prompt"] for r in rows} and not splits.notes


def test_choices_stand_in_the_users_message_and_before_the_instruction(tmp_path):
    rows = [{"prompt": [*solved(i)[:2], {"role": "assistant", "content": "It is"}], "choices": TEXTS, "answer": "B"}
            for i in range(9)]  # fmt: skip
    splits = load(write(tmp_path / "rows.jsonl", rows), options={"instruction": "Give a letter."})
    assert splits.train[0].prompt[1]["content"].endswith(SHOWN + "\nGive a letter.")
    assert splits.train[0].prompt[2]["content"] == "It is"


def test_a_reward_function_sees_the_columns_as_they_are(tmp_path):
    (tmp_path / "columns_reward.py").write_text(
        "def f(completions, answer, **columns): return [float(a) for a in answer]"
    )
    rows = write(tmp_path / "rows.jsonl", [{"question": f"{i}?", "choices": TEXTS, "answer": 1} for i in range(9)])
    splits = load(rows, reward=f"{tmp_path / 'columns_reward.py'}:f")
    assert splits.train[0].prompt.endswith(SHOWN)
    assert splits.train.score(Group(splits.train[0], [Completion("B")])) == [{"f": 1.0}]


# -- files ---------------------------------------------------------------------------------------------------------
ROWS = [{"prompt": f"{i}+2=", "answer": str(i + 2)} for i in range(9)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "prompt,answer\r\n" + "".join(f"{r['prompt']},{r['answer']}\r\n" for r in ROWS)


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", LINES),
        ("rows.json", LINES),
        ("rows.json", json.dumps(ROWS)),
        ("rows.json", json.dumps({"version": 1, "data": ROWS}, indent=1)),
        ("ROWS.JSONL", LINES),
        ("rows.csv", TABLE),
    ],
)
def test_every_kind_of_file_packed_or_not(tmp_path, name, text, pack):
    path = tmp_path / (name + pack)
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[pack]
    path.write_bytes(packed(text.encode()))
    splits = load(str(path))
    assert len(splits.train) + len(splits.eval) == 9 and splits.name.lower() == "rows"
    assert right(splits) == [1.0, 0.0] * len(splits.train)
    mixed = load(f"{path}:1,chained_arithmetic:1")
    assert "rows" in {mixed.train[i].id.partition("/")[0].lower() for i in range(2)}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.tsv", b"prompt\tanswer\n", "cannot read a file of kind '.tsv'"),
        ("rows", b"", "cannot read a file of kind ''"),
        ("rows.json", b"", "holds no rows"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.json", b'{"train": [{"a": 1}], "test": [{"a": 1}]}', "an object with train, test. Give a list of objects"),
        ("rows.json", b"[1, 2]", "rows.json:1: a JSON int"),
        ("rows.json", b'{"a": 1}\n{oops', "rows.json:2: not a JSON object"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read"),
        ("rows.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-30], "cannot be read"),
        ("rows.jsonl.zst", b"no zstandard", "cannot be read"),
        ("rows.csv.gz", gzip.compress(b"prompt,answer\n", mtime=0), "holds no rows"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_message_about_the_file(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        load(f"{tmp_path}/{name}")
    assert message in str(error.value) and name in str(error.value) and "chain_sum" not in str(error.value)


def test_a_path_that_does_not_exist_is_no_task_name():
    for name in ("gone.json", "gone.jsonl.gz", "data/gone"):
        with pytest.raises(InputError, match=r"gone\S* does not exist"):
            load(name)
