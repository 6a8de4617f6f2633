"""Words around problems: what the model reads, what judges, and what would change nothing."""

import json

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.settings.shared import Problems
from rung.tasks.environments.protocol import Stepwise
from rung.tasks.problems import problems_of
from rung.tasks.sources.wording import Wording

USER = {"role": "user", "content": "1+1="}


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"What is {i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(12))
    )
    return str(path)


@pytest.fixture
def chat(tmp_path):
    path, own = tmp_path / "chat.jsonl", {"role": "system", "content": "mine"}
    rows = [{"prompt": [own, {"role": "user", "content": f"{i} + 1?"}], "answer": str(i + 1)} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("wording", "prompt"),
    [
        (Wording(), "1+1="),
        (Wording(template="Q: {prompt} {x}\nA:"), "Q: 1+1= {x}\nA:"),
        (Wording(chat=True), [USER]),
        (Wording(system="Be brief."), [{"role": "system", "content": "Be brief."}, USER]),
        (Wording("s", True, "<{prompt}>"), [{"role": "system", "content": "s"}, {"role": "user", "content": "<1+1=>"}]),
    ],
)
def test_a_plain_problem_in_other_words(wording, prompt):
    assert wording.of("1+1=") == prompt


def test_a_system_message_stands_in_place_of_the_rows_own(chat):
    splits = problems_of(Problems(task=chat, system="ours"))
    task = splits.train[0]
    assert [m["role"] for m in task.prompt] == ["system", "user"] and task.prompt[0]["content"] == "ours"
    assert splits.notes[-1] == "the system message of system=... stands in place of the rows' own"


def test_the_same_problems_are_held_out_and_judged_alike(plain):
    bare, asked = (problems_of(Problems(task=plain, chat=c)) for c in (False, True))
    assert [t.id for t in bare.eval.tasks] == [asked.eval[i].id for i in range(len(asked.eval))]
    task = asked.train[0]
    assert task.prompt == [{"role": "user", "content": bare.train[0].prompt}]
    said = [Completion(task.data["answer"], "stop"), Completion("100", "stop")]
    assert asked.train.score(Group(task, said)) == [{"correct": 1.0}, {"correct": 0.0}]
    assert asked.train.right_answers(task)[0] == task.data["answer"]


def test_steps_and_right_answers_are_computed_from_the_problem_itself():
    asked = problems_of(Problems(task="chained_arithmetic", prompt_template="Compute {prompt}"))
    bare = problems_of(Problems(task="chained_arithmetic"))
    task, own = asked.train[0], bare.train[0]
    assert task.prompt == f"Compute {own.prompt}" and isinstance(asked.train, Stepwise)
    gold, forms = asked.train.right_answers(task)
    assert (gold, forms) == bare.train.right_answers(own)
    trace = Completion(forms[1], "stop")
    assert asked.train.steps(task, trace) == bare.train.steps(own, trace) != []


def test_a_reward_function_reads_what_the_model_read(plain, tmp_path):
    file = tmp_path / "pay.py"
    file.write_text("def seen(prompts, completions): return [len(p) + (p[0]['role'] == 'system') for p in prompts]\n")
    splits = problems_of(Problems(task=plain, system="s", reward=f"{file}:seen"))
    assert splits.train.score(Group(splits.train[0], [Completion("", "stop")])) == [{"seen": 3.0}]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt_template": "Question:"}, "has no place for the problem"),
        ({"task": "chat", "chat": True}, "chat=True has no use"),
        ({"task": "chat", "prompt_template": "Q: {prompt}"}, "plain.jsonl:1|chat.jsonl:"),
        (
            {"environment": "gymnasium:CartPole-v1", "system": "s", "task": None},
            "system=... has no use for the environment",
        ),
        ({"answer_column": "a", "task_options": {"answer_column": "b"}}, "contradict each other"),
    ],
)
def test_words_that_would_change_nothing_are_refused(settings, said, plain, chat):
    task = chat if settings.get("task") == "chat" else settings.get("task", plain)
    with pytest.raises(InputError, match=said):
        problems_of(Problems(**{**settings, "task": task}))


def test_columns_are_settings_of_their_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"q": f"{i}?", "r": {"a": i}}) + "\n" for i in range(9)))
    splits = problems_of(Problems(task=str(path), prompt_column="q", answer_column="r.a", verifier="exact"))
    assert splits.train.verifier.name == "exact" and splits.train[0].prompt.endswith("?")
