"""A judge behind a server of OpenAI's form: a stand-in on this machine that is slow, busy, broken or wrong on demand."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

import rung.tasks.rewards.judge as module
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.records import Completion, Group, SamplingLaw, Task
from rung.rollout.ask import ask
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.shared import Problems
from rung.tasks.problems import problems_of
from rung.tasks.rewards.functions import Rewarded
from rung.tasks.rewards.judge import Judge, last_number, out_of


class Server(ThreadingHTTPServer):
    """Replies with the number of letters of what it is asked; `plan`: what it does instead, one entry a call."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.plan, self.lock, self.now, self.most, self.delay = [], [], threading.Lock(), 0, 0, 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((self.path, body, self.headers.get("Authorization")))
            server.now += 1
            server.most = max(server.most, server.now)
            act = server.plan.pop(0) if server.plan else None
        time.sleep(server.delay)
        with server.lock:
            server.now -= 1
        if act == "garbage":
            self.wfile.write(b"what is HTTP?\r\n")
            return
        if act == "drip":
            self.send_response(200)
            self.flush_headers()
            for _ in range(40):
                time.sleep(0.05)
                self.wfile.write(b"X-Wait: 1\r\n")
            return
        said = act if isinstance(act, str) else f"<think>10</think>I count {len(body['messages'][-1]['content'])}"
        reply = {"choices": [{"message": {"content": said}}]} if act != {} else {}
        data = json.dumps({"error": "told so"} if isinstance(act, int) else reply).encode()
        self.send_response(act if isinstance(act, int) else 200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def judge(server, tmp_path, **settings):
    given = {"cache": tmp_path / "cache", "deadline": 5.0, **settings}
    return Judge(server.url, "m", "{prompt}|{completion}", **given)


def test_a_reply_becomes_a_reward_and_is_asked_for_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    mine = judge(server, tmp_path, system="s", body={"seed": 3})
    assert mine(["ab"] * 3, ["c", "cd", "c"]) == [4.0, 5.0, 4.0]
    assert len(server.seen) == 2, "equal answers are one question"
    path, body, key = server.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["messages"][0] == {"role": "system", "content": "s"} and (body["temperature"], body["seed"]) == (0.0, 3)
    again = judge(server, tmp_path, system="s", body={"seed": 3})
    assert again(["ab"] * 3, ["c", "cd", "c"]) == [4.0, 5.0, 4.0] and len(server.seen) == 2
    assert (mine.counts["asked"], again.counts["cached"], again.counts["asked"]) == (2, 2, 0)
    judge(server, tmp_path, system="other")(["ab"], ["c"])
    assert len(server.seen) == 3, "another system message is another question"
    assert "secret" not in "".join(p.read_text() for p in (tmp_path / "cache").rglob("*.json"))


def test_messages_and_columns_stand_in_the_template(server, tmp_path):
    mine = Judge(server.url, "m", '{prompt}/{completion}/{gold} {"score": 1}', cache=None)
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    mine([prompt], [[{"role": "assistant", "content": "A {gold}"}]], gold=[7])
    assert server.seen[0][1]["messages"][-1]["content"] == 'system: S\nuser: U/A {gold}/7 {"score": 1}'
    with pytest.raises(InputError, match="column in the judge's template: 'gold'"):
        mine(["p"], ["a"])


def test_what_passes_is_tried_again_and_what_does_not_is_not_scored(server, tmp_path):
    mine = judge(server, tmp_path, retries=1)
    server.plan = [503, None, "garbage", None, "no number", {}, {}]
    assert mine(["a"], ["b"]) == [3.0] and mine.counts["retried"] == 1
    assert mine(["a"], ["bb"]) == [4.0] and mine.counts["retried"] == 2
    assert mine(["a"], ["x"]) == [None] and mine.counts["unread"] == 1
    with pytest.warns(UserWarning, match="gave no reply: no choices"):
        assert mine(["a"], ["y"]) == [None]
    assert mine.counts["failed"] == 1 and mine(["a"], ["y"]) == [3.0], "a failure is not kept"


@pytest.mark.parametrize("slow", ["late", "drip"])
def test_a_deadline_holds_whatever_the_server_does(server, tmp_path, slow):
    mine = judge(server, tmp_path, retries=0, deadline=0.3)
    mine(["a"], ["b"])
    server.delay = 2.0 if slow == "late" else 0.0
    server.plan = ["drip"] if slow == "drip" else []
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"no reply within 0.3 s"):
        assert mine(["a"], ["c"]) == [None]
    assert time.monotonic() - begun < 1.5


def test_no_more_calls_at_a_time_than_allowed_and_no_fewer(server, tmp_path):
    mine = judge(server, tmp_path, concurrency=3)
    server.delay = 0.1
    groups = [
        [str(10 * g + i) for i in range(1, 6)] for g in range(1, 4)
    ]  # groups of a step are judged at the same time
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda said: mine(["a"] * 5, said), groups))
    assert server.most == 3


def test_thoughts_are_no_verdict(server, tmp_path):
    server.plan = ["<think>perhaps 7</think>I cannot say"]
    assert judge(server, tmp_path)(["a"], ["b"]) == [None]


def test_all_groups_of_a_step_are_judged_at_once(server, tmp_path):
    mine, tasks = judge(server, tmp_path), [Task(str(i), f"w{i} w5") for i in range(4, 8)]
    server.delay = 0.2
    env = Rewarded(SimpleNamespace(name="x"), mine)
    model = tiny("llama")
    found = ask(env, model.codec, TorchSampler(model), SamplingLaw(max_new_tokens=3), tasks, Draws.whole(0, 4))
    assert server.most >= 3 and [group[0].task.id for group in found] == ["4", "5", "6", "7"]
    assert all(
        group[0].rewards["judge"] == len(f"{t.prompt}|{group[0].text}") for t, group in zip(tasks, found, strict=True)
    )


@pytest.mark.parametrize(("status", "said"), [(401, "key in OPENAI_API_KEY"), (404, "refuses the request")])
def test_what_is_wrong_with_the_request_ends_the_run(server, tmp_path, status, said):
    server.plan = [status]
    with pytest.raises(InputError, match=said):
        judge(server, tmp_path)(["a"], ["b"])
    assert len(server.seen) == 1, "asking again would change nothing"


def test_a_server_that_was_never_there_is_the_user_s_mistake(server, tmp_path):
    gone = Judge("http://127.0.0.1:9/v1", "m", "{completion}", cache=None, retries=0)
    with pytest.raises(InputError, match="gave no reply at all"):
        gone(["a"], ["b"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "127.0.0.1"}, "up to /v1"),
        ({"template": "{prompt}"}, "no {completion}"),
        ({"retries": -1}, "at least 0"),
    ],
)
def test_a_judge_that_cannot_work_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Judge(**{"url": "http://x/v1", "model": "m", "template": "{completion}", **settings})


def test_numbers_in_replies():
    assert [last_number(x) for x in ("Score: 7.", "none", "3 of -2.5")] == [7.0, None, -2.5]
    assert [out_of(10)(x) for x in ("so 7/10", "8", "11", "")] == [0.7, 0.8, None, None]


def test_as_the_reward_of_a_task(server, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(9)))
    (tmp_path / "mine.py").write_text(
        "from rung.tasks.rewards.judge import Judge\n"
        f"good = Judge({server.url!r}, 'm', '{{prompt}} {{completion}}', name='good', cache=None)\n"
    )
    splits = problems_of(Problems(task=str(rows), reward=f"{tmp_path / 'mine.py'}:good*0.5"))
    assert splits.train.waits
    found = splits.train.score(Group(splits.train[0], [Completion("abc", "stop"), Completion("", "stop")]))
    assert found == [{"good": 3.0}, {"good": 1.5}]
