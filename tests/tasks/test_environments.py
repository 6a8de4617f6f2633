"""--environment: TRL's classes, gymnasium, the protocol itself; and what is refused."""

import json
import math

import gymnasium
import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.environments.protocol import Conversational
from rung.tasks.environments.text_gymnasium import Gymnasium
from rung.tasks.problems import load_problems
from rung.tasks.rewards.python_file import load_object

CLASS = '''
class Counter:
    """Counts up to the row's goal."""
    base = 0
    def reset(self, goal, prompt, **row):
        assert "other" in row
        self.goal, self.n = goal, self.base
        return f" Start: {self.n}."
    def up(self, by: int) -> str:
        "Count up."
        self.n += by
        return f"now {self.n}"
    def _hidden(self): ...
    def get_reward(self):
        return None if self.goal < 0 else float(self.n == self.goal)

class Plain:
    def reset(self, **row): ...
    def look(self): return "nothing"
    closed = 0
    def close(self): self.closed += 1

class Broken:
    def reset(self, **row): raise RuntimeError("no server")
    def get_reward(self): return 0.0

class Mute: ...
def judge(completions, **columns): return [0.25] * len(completions)
'''


@pytest.fixture
def files(tmp_path):
    (tmp_path / "env.py").write_text(CLASS)
    chat = [{"role": "user", "content": "Count."}]
    rows = [
        {"prompt": [{**chat[0], "content": f"Count {i}."}], "goal": i, "other": 1, "answer": "7"} for i in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "plain.jsonl").write_text(
        "".join(json.dumps({**r, "prompt": f"Count {r['goal']}."}) + "\n" for r in rows)
    )
    return tmp_path


def load(files, name, rows="rows.jsonl", **more):
    return load_problems(str(files / rows), environment=f"{files / 'env.py'}:{name}", **more)


def said(session, *texts):
    return [session.step(Completion(text)) for text in texts]


def call(name, **arguments) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_a_trl_class_holds_a_conversation_and_rewards_it(files):
    splits = load(files, "Counter")
    env = splits.train
    task = env[0]
    goal = task.data["goal"]
    assert isinstance(env, Conversational) and len(splits.train) + len(splits.eval) == 24
    assert task.prompt[0]["role"] == "system" and '"name": "up"' in task.prompt[0]["content"]
    assert not any(word in task.prompt[0]["content"] for word in ("_hidden", "get_reward", '"reset"'))
    one, two = env.session(task), env.session(task)
    assert one.reset() == two.reset() and one.reset()[-1]["content"].endswith(" Start: 0.")
    assert task.prompt[-1]["content"].startswith("Count"), "the row's own prompt is left alone"
    first, second, last = said(one, call("up", by=goal), call("down"), "done")
    assert first.messages == [{"role": "tool", "name": "up", "content": f"now {goal}"}] and not first.done
    assert "no tool" in second.messages[0]["content"] and last.done and not last.messages
    assert one.counters == {"calls": 2.0, "failures": 1.0}
    said(two, call("up", by=goal + 1))
    scores = env.score(Group(task, [Completion("", session=s) for s in (one, two)]))
    assert scores == [{"Counter": 1.0}, {"Counter": 0.0}]


def test_a_session_closes_its_instance_if_that_can_be_closed(files):
    env = load(files, "Plain").train
    session = env.session(env[0])
    session.close()
    assert session.instance.closed == 1 and '"name": "close"' not in env[0].prompt[0]["content"]
    env = load(files, "Counter").train
    env.session(env[0]).close()


def test_several_calls_in_a_turn_are_run_in_order(files):
    session = load(files, "Counter").train.session(load(files, "Counter").train[0])
    session.reset()
    (step,) = said(session, call("up", by=1) + call("up", by=2))
    assert [m["content"] for m in step.messages] == ["now 1", "now 3"]


def test_get_reward_may_not_know_and_a_reward_function_comes_to_it(files):
    env = load(files, "Counter", reward=f"{files / 'env.py'}:judge").train
    session = env.session(env[0])
    session.reset()
    session.instance.goal = -1
    (score,) = env.score(Group(env[0], [Completion("", session=session)]))
    assert score["judge"] == 0.25 and math.isnan(score["Counter"])


def test_without_get_reward_the_rows_answer_judges_the_last_turn(files):
    env = load(files, "Plain").train
    session = env.session(env[0])
    session.reset()
    scores = env.score(
        Group(env[0], [Completion("The answer is 7", session=session), Completion("8", session=session)])
    )
    assert [s["correct"] for s in scores] == [1.0, 0.0]


TRL = """
SEEN = {}
def reward(environments, **kwargs):
    SEEN.update(kwargs)
    return [float(env.n) for env in environments]
"""


def test_a_reward_function_sees_the_whole_conversation_as_trl_gives_it(files):
    """The prompt with what reset() told and without the tools' description; turns with calls, replies, the last turn."""
    (files / "trl_rewards.py").write_text(TRL)
    env = load(files, "Counter", reward=f"{files / 'trl_rewards.py'}:reward").train
    one, two = env.session(env[0]), env.session(env[0])
    thought = "<think>\nhm\n</think>\n\nI count." + call("up", by=2)
    wrong = '<tool_call>{"name": "up", "arguments": 3}</tool_call>'
    talks_ = [_talk(one, thought, "done"), _talk(two, wrong)]  # the second one was cut before the reply was answered
    env.begin_step(5)
    scores = env.score(Group(env[0], talks_))
    assert [s["reward"] for s in scores] == [2.0, 0.0]
    seen = load_object(f"{files / 'trl_rewards.py'}:SEEN", "reward")
    goal = env[0].data["goal"]
    assert seen["prompts"] == [[{"role": "user", "content": f"Count {goal}. Start: 0."}]] * 2
    up = {"type": "function", "function": {"name": "up", "arguments": {"by": 2}}}
    assert seen["completions"][0] == [
        {"role": "assistant", "content": "I count.", "reasoning_content": "hm", "tool_calls": [up]},
        {"role": "tool", "name": "up", "content": "now 2"},
        {"role": "assistant", "content": "done"},
    ]
    assert seen["completions"][1] == [{"role": "assistant", "content": wrong}]
    assert seen["trainer_state"].global_step == 5 and seen["goal"] == [goal] * 2
    with pytest.raises(AttributeError, match="max_steps is not given by rung"):
        _ = seen["trainer_state"].max_steps


def _talk(session, *texts) -> Completion:
    opening = session.reset()
    messages = list(opening)
    for text in texts:
        messages.append({"role": "assistant", "content": text})
        messages += session.step(Completion(text)).messages
    return Completion(texts[-1], messages=messages, session=session, prompt_messages=len(opening))


def test_a_curriculum_goes_on_below_an_environment(files):
    part = '[[part]]\ntask = "{0}.jsonl"\n'
    stages = "[[stage]]\nweights = {rows = 1}\nuntil_step = 3\n[[stage]]\nweights = {plain = 1}\n"
    (files / "mix.toml").write_text(part.format("rows") + part.format("plain") + stages)
    one, two = (load(files, "Counter", "mix.toml").train for _ in range(2))
    assert one.begin_step(3) == {"task/stage": 1.0} and one[0].id.startswith("plain/")
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two[0].id == one[0].id


def test_problems_that_a_file_holds_ready_made(files):
    (files / "ready.py").write_text(
        "from rung.tasks.registry import load\n"
        "SPLITS = load('chained_arithmetic', options={'train_size': 8, 'eval_size': 4})\nENV = SPLITS.train"
    )
    splits = load_problems(None, environment=f"{files / 'ready.py'}:SPLITS")
    assert (len(splits.train), len(splits.eval)) == (8, 4)
    assert len(load_problems(None, environment=f"{files / 'ready.py'}:ENV").train) == 7


def test_reset_gets_the_rows_own_prompt(files):
    env = load(files, "Counter").train
    session = env.session(env[0])
    session.instance.reset = lambda prompt: seen.append(prompt)
    seen = []
    session.reset()
    assert [m["role"] for m in seen[0]] == ["user"], "as TRL: without the description of the tools"


def test_plain_text_prompts_get_tools_as_text(files):
    env = load(files, "Counter", "plain.jsonl").train
    session = env.session(env[0])
    assert session.reset().startswith("You may call tools") and session.reset().endswith("Start: 0.")
    (step,) = said(session, call("up", by=2))
    assert step.messages[0]["content"] == "\n<tool_response>\nnow 2\n</tool_response>\n"


class Doubler(gymnasium.Env):
    """Say the number doubled; three tries."""

    def __init__(self):
        self.action_space = gymnasium.spaces.Text(8, charset="0123456789")
        self.observation_space = gymnasium.spaces.Text(20)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.tries = int(self.np_random.integers(1000)), 0
        return f"double {self.number}", {}

    def step(self, action):
        self.tries += 1
        right = action == str(2 * self.number)
        return "wrong", float(right), right, self.tries == 3, {}


def test_gymnasium_with_text():
    train, held_out = (Gymnasium("doubler", Doubler, split) for split in ("train", "eval"))
    tasks = [train[i] for i in range(50)]
    assert len({t.data["seed"] for t in tasks}) == 50 and train[3] == tasks[3]
    assert all(t.data["seed"] % 2 == 0 for t in tasks) and all(held_out[i].data["seed"] % 2 == 1 for i in range(50))
    session = train.session(tasks[0])
    assert session.reset() == tasks[0].prompt
    number = int(tasks[0].prompt[0]["content"].split()[-1])
    refused, wrong, right = said(session, "what?", "1", str(2 * number))
    assert "no action" in refused.messages[0]["content"] and not refused.done
    assert (wrong.reward, wrong.done, right.reward, right.done) == (0.0, False, 1.0, True)
    assert session.counters == {"calls": 3.0, "failures": 1.0}
    assert train.score(Group(tasks[0], [Completion("", session=session)])) == [{}]


def test_a_problem_that_cannot_be_made_leaves_no_environment_open():
    opened = []

    class Dead(Doubler):
        def __init__(self):
            super().__init__()
            opened.append(self)

        def reset(self, *, seed=None, options=None):
            raise RuntimeError("no engine")

        def close(self):
            opened.remove(self)

    with pytest.raises(RuntimeError, match="no engine"):
        Gymnasium("dead", Dead, "train")[0]
    assert not opened


def test_gymnasium_by_id_with_numbers():
    splits = load_problems(
        None, environment="gymnasium:FrozenLake-v1", options={"instruction": "0-3.", "is_slippery": False}
    )
    session = splits.train.session(splits.train[0])
    assert session.reset()[0]["content"] == "0-3.\n0"
    for text in ("5", "-1", "1 or 2", "٢"):
        (step,) = said(session, text)
        assert "from 0 to 3" in step.messages[0]["content"]
    assert said(session, " 2 ")[0].messages[0]["content"] == "1"
    session.close()


def test_the_protocol_itself_is_cut_into_training_and_evaluation():
    splits = load_problems(None, environment="examples/guess_number.py:GuessNumber")
    assert len(splits.train) == 36 and len(splits.eval) == 4 and isinstance(splits.train, Conversational)
    ids = [{env[i].id for i in range(len(env))} for env in (splits.train, splits.eval)]
    assert not ids[0] & ids[1] and sum(map(len, ids)) == 40
    with pytest.raises(IndexError):
        splits.eval[4]


@pytest.mark.parametrize(
    ("name", "rows", "more", "message"),
    [
        ("Nothing", "rows.jsonl", {}, "Nothing"),
        ("Counter", None, {}, "needs rows"),
        ("Mute", None, {}, "no environment"),
        ("judge", None, {}, "cannot be made"),
    ],
)
def test_what_is_no_environment_is_refused(files, name, rows, more, message):
    with pytest.raises(InputError, match=message):
        load_problems(rows and str(files / rows), environment=f"{files / 'env.py'}:{name}", **more)


def test_more_refusals(files):
    env = load(files, "Broken").train
    session = env.session(env[0])
    with pytest.raises(InputError, match="no server"):
        session.reset()
    with pytest.raises(InputError, match="has no use"):
        load_problems("rows.jsonl", environment="gymnasium:FrozenLake-v1")
    with pytest.raises(InputError, match="Nowhere"):
        load_problems(None, environment="gymnasium:Nowhere-v0")
    with pytest.raises(InputError, match="Box"):
        load_problems(None, environment="gymnasium:Pendulum-v1")
