"""Runs that are compared, and processes of actors that are killed."""

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

from safetensors.torch import load_file

import rung
from rung.io.run_dir import RunDir

TIMES = re.compile(r"time/|memory/|step_time|cluster/")
NODE = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False}
TINY = {
    "steps": 4, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 4, "eval_every": 2, "save_every": 2,
    "max_new_tokens": 8, "threads": 1, "learning_rate": 1e-3, "quiet": True,
}  # fmt: skip


def metrics(path):
    """The rows of a run, without its times; none where there is no run yet."""
    if not (Path(path) / "metrics.jsonl").is_file():
        return []
    return [{k: v for k, v in row.items() if not TIMES.match(k)} for row in RunDir.open(path).metrics()]


def state(path):
    """The bytes of every checkpoint; of parts that several processes wrote, whose order is chance, those of their tensors."""
    found = {}
    for file in sorted((Path(path) / "checkpoints").rglob("*")):
        if file.is_dir() or file.name == "COMPLETE":
            continue
        if file.parent.name == "state":
            for name, part in load_file(file).items():
                found.setdefault((str(file.parent.relative_to(path)), name), []).append(part.numpy().tobytes())
        else:
            found[str(file.relative_to(path))] = file.read_bytes()
    return {name: sorted(part) if isinstance(part, list) else part for name, part in found.items()}


def answers(path):
    """Tokens and rewards of every step's answers."""
    run = RunDir.open(path)
    return [[(r["task"], r["tokens"], r["reward"]) for r in run.read_rollouts(k)] for k in run.rollout_steps()]


def train(path, recipe="grpo", **settings):
    """A tiny run in `path`."""
    return rung.train(recipe, out=path, **{**TINY, **settings})


# -- processes of actors ----------------------------------------------------------------------------------------------
def processes(title):
    """Process ids of this test's actors whose title begins so, such as "ray::SamplerActor.generate"."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                said = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if said.startswith(title) and "Agent" not in said and above(int(entry.name), os.getpid()):
                found.append(int(entry.name))
    return found


def above(pid, ours):
    """Whether the process `ours` started this one, or one that did."""
    while pid > 1:
        if pid == ours:
            return True
        try:
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def listening(pid):
    """The addresses at which this process, and all that it started, wait for connections."""
    sockets, found = set(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and above(int(entry.name), pid):
            for link in (entry / "fd").glob("*"):
                with contextlib.suppress(OSError):  # it has just been closed
                    sockets.add(os.readlink(link).removeprefix("socket:[").rstrip("]"))
    for family in ("tcp", "tcp6"):
        for line in Path("/proc/net", family).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                last = bytes.fromhex(words[1].partition(":")[0])[-4:]  # of ::ffff:127.0.0.1 too
                found.add(".".join(map(str, reversed(last))))
    return found


class Killer(threading.Thread):
    """Kills (SIGKILL) the first process with this title that `when` allows, and says whether it did."""

    def __init__(self, title, when=lambda: True):
        super().__init__(daemon=True)
        self.title, self.when, self.killed, self.over = title, when, None, False

    def run(self):
        while not self.over and self.killed is None:
            for pid in processes(self.title) if self.when() else ():
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
                break
            time.sleep(0.002)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.over = True
        self.join()
