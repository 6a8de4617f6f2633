"""push_to_hub speaks to a stand-in of the hub on this machine: what arrives there is the model, and nothing else."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import rung
from rung import InputError
from rung.io.hub import card

PUSH = """
import sys, rung

run = rung.load(sys.argv[1])
try:
    run.push_to_hub("me/mine", token="bad")
except rung.InputError as error:
    print(error)
print(run.push_to_hub("me/mine", token="good", private=True))
"""


class Hub(BaseHTTPRequestHandler):
    """The calls of a commit; `server.arrived` holds the files, `server.asked` the requests."""

    def log_message(self, *words):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.headers.get("Authorization") != "Bearer good":
            return self.say({"error": "Invalid username or password."}, 401)
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            return self.say({"url": f"{here}/me/{json.loads(body)['name']}"})
        if self.path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            mode = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in files}
            return self.say({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in mode.items()]})
        if self.path.endswith("/objects/batch"):
            wanted = json.loads(body)["objects"]
            put = [{**o, "actions": {"upload": {"href": f"{here}/put/{o['oid']}"}}} for o in wanted]
            return self.say({"transfer": "basic", "objects": put})
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                self.server.arrived[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                self.server.arrived[row["value"]["path"]] = self.server.blobs[row["value"]["oid"]]
        self.say({"commitUrl": f"{here}/me/mine/commit/1", "commitOid": "1", "hookOutput": "", "success": True})

    def do_PUT(self):
        self.server.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.say({})

    def say(self, what, status=200):
        data = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.arrived, server.blobs, server.asked = {}, {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 5) for b in range(1, 5)]
    small = {
        "steps": 1,
        "prompts_per_step": 2,
        "samples_per_prompt": 2,
        "eval_problems": 2,
        "threads": 1,
        "quiet": True,
    }
    return rung.train("grpo", task=rows, out=tmp_path_factory.mktemp("hub") / "run", **small)


def test_the_model_arrives_with_a_card_and_without_the_trainings_state(run, server):
    """In a process of its own: the hub's address is read when its library is imported."""
    env = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", PUSH, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    refused, address = done.stdout.strip().splitlines()
    assert refused.startswith("push_to_hub('me/mine')") and "hf auth login" in refused
    assert address.endswith("/me/mine")
    own = {"COMPLETE", *(f"{name}.{kind}" for name in ("state", "progress") for kind in ("json", "safetensors"))}
    here = {p.name: p.read_bytes() for p in run.model_path.iterdir() if p.name not in own}
    arrived = dict(server.arrived)
    page = arrived.pop("README.md").decode()
    assert arrived == here and "model.safetensors" in arrived
    assert "library_name: transformers" in page and "- grpo" in page and "| recipe | grpo |" in page
    assert str(run.path.parent) not in page, "no path of this machine"
    assert b"private" in next(body for _, who, body in server.asked if who == "Bearer good")


def test_a_name_that_is_none_and_a_machine_that_is_offline(run):
    with pytest.raises(InputError, match="OWNER/NAME"):
        run.push_to_hub("a/b/c")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        run.push_to_hub("me/mine", token="good")


def test_the_card_names_a_base_of_the_hub_only(tmp_path):
    assert "base_model: Qwen/Qwen3-0.6B" in card("t", [], "Qwen/Qwen3-0.6B", [], {})
    for base in ("python:LlamaForCausalLM", "starter", "/a/b", str(tmp_path)):
        assert "base_model" not in card("t", [], base, [], {})
