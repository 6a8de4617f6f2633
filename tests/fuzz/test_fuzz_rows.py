"""Files of problems by the hundred, whole and broken: a task whose every problem can be asked and judged, or one message."""

import csv
import gzip
import io
import json

import pytest
from fuzzing import BIG, DEEP, cases, dumps, ended, mutated, plain, texts, values
from hypothesis import given
from hypothesis import strategies as st

from rung.records import Completion, Group
from rung.tasks.problems import load_problems

NAMES = [
    "prompt",
    "answer",
    "question",
    "messages",
    "choices",
    "options",
    "solution",
    "answerKey",
    "reward_model",
    "problem",
    "x.y",
    "",
    "\ud800",
]
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": texts | st.sampled_from(["user", "system", "assistant", "tool"]),
            "content": plain | texts,
            "name": plain,
        },
    ),
    max_size=3,
)
CELLS = st.one_of(texts, plain, values, MESSAGES, MESSAGES.map(dumps))
ROW = st.dictionaries(st.sampled_from(NAMES), CELLS, max_size=4) | st.fixed_dictionaries(
    {"prompt": texts | MESSAGES, "answer": plain}, optional={"choices": st.lists(texts, max_size=4), "extra": values}
)
RIGHT = (
    b'{"prompt": "1+1=", "answer": "2"}\n{"prompt": "2+2=", "answer": "4"}\n'
    b'{"prompt": [{"role": "user", "content": "5?"}], "answer": 7}\n'
)
HUGE = {
    "digits": '{"prompt": "x", "answer": ' + "9" * 6000 + "}\n",
    "text of digits": '{"prompt": "x", "answer": "' + "9" * 6000 + '"}\n' + '{"prompt": "y", "answer": "1"}\n',
    "deep": '{"prompt": "x", "answer": ' + "[" * DEEP + "]" * DEEP + "}\n",
    "deep text": '{"prompt": "' + "[" * DEEP + '", "answer": "1"}\n' + '{"prompt": "y", "answer": "1"}\n',
    "deep answer": '{"prompt": "x", "answer": "' + "(" * DEEP + '"}\n' + '{"prompt": "y", "answer": "1"}\n',
    "deep choices": '{"prompt": "x", "choices": "'
    + "[" * DEEP
    + '", "answer": "A"}\n'
    + '{"prompt": "y", "answer": "B"}\n',
    "long": '{"prompt": "' + "1" * BIG + '", "answer": "1"}\n{"prompt": "y", "answer": "1"}\n',
    "long answer": '{"prompt": "x", "answer": "' + "a" * (BIG // 5) + '"}\n{"prompt": "y", "answer": "1"}\n',
    "long name": '{"' + "a" * BIG + '": "x", "answer": "1"}\n',
    "many names": "{" + ", ".join(f'"c{i}": 1' for i in range(20_000)) + "}\n",
    "twice": '{"prompt": "x", "answer": "1", "prompt": "y"}\n{"prompt": "x", "answer": "1"}\n',
}


def judged(path, **options):
    """Everything that a run does with problems, but for the model: each is asked, and answers to it are judged."""
    splits = load_problems(str(path), options=options)
    for side in (splits.train, splits.eval):
        for i in range(min(len(side), 3)):
            task = side[i]
            said = [Completion(text, (1, 2), "stop") for text in ("2", "\\boxed{7}", "")]
            assert len(side.score(Group(task, said))) == 3
            json.dumps({"id": task.id})
    return splits


def case(place, name, data, **options):
    path = place / name
    path.write_bytes(data)
    splits, said = ended(lambda: judged(path, **options))
    assert splits is None or (len(splits.train) + len(splits.eval) > 0)
    assert said is None or name in said or "verifier" in said or "eval_share" in said or "task_options" in said, said
    return splits


@cases("rows: json", 40)
@given(
    rows=st.lists(ROW, max_size=4),
    name=st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz"]),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)
def test_rows_of_anything(place, rows, name, bom, end):
    lines = [dumps(row) for row in rows]
    text = (f"[{','.join(lines)}]" if name == "a.json" else end.join(lines)) + end
    data = b"\xef\xbb\xbf" * bom + text.encode()
    case(place, name, gzip.compress(data) if name.endswith("gz") else data)


@cases("rows: broken", 40)
@given(
    data=mutated(RIGHT), name=st.sampled_from(["b.jsonl", "b.json", "b.csv", "b.parquet", "b.jsonl.gz", "b.jsonl.zst"])
)
def test_rows_with_broken_bytes(place, data, name):
    case(place, name, data)


@cases("rows: csv", 20)
@given(
    rows=st.lists(st.lists(texts, min_size=1, max_size=4), max_size=4),
    head=st.lists(st.sampled_from(NAMES), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quote=st.sampled_from(['"', "'"]),
    bom=st.booleans(),
)
def test_csv_of_anything(place, rows, head, end, quote, bom):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, quotechar=quote)
    writer.writerow(head)
    writer.writerows(rows)
    case(place, "c.csv", b"\xef\xbb\xbf" * bom + out.getvalue().encode("utf-8", "surrogatepass"))


@cases("rows: parquet", 20)
@given(rows=st.lists(ROW, min_size=1, max_size=3), broken=st.none() | st.integers(0, 2**20))
def test_parquet_of_anything(place, rows, broken):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    try:
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, place / "make.parquet")
    except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        return  # nobody can have such a file
    data = (place / "make.parquet").read_bytes()
    if broken is not None:
        at = broken % len(data)
        data = data[:at] + bytes([data[at] ^ 1 << broken % 8]) + data[at + 1 :]
    case(place, "d.parquet", data)


@pytest.mark.parametrize("name", HUGE)
def test_huge_rows(place, name):
    case(place, "e.jsonl", HUGE[name].encode())
    case(place, "e.csv", b"prompt,answer\n" + HUGE[name].replace("\n", "").encode() + b",1\nx,1\n")


@cases("rows: options", 10)
@given(
    options=st.dictionaries(
        st.sampled_from(["eval_share", "instruction", "drop_unverifiable", "nope", "split", "config", "unsafe_code"]),
        plain,
        max_size=2,
    )
)
def test_options_of_anything(place, options):
    case(place, "f.jsonl", RIGHT, **options)
