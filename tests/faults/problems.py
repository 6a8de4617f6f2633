"""What a run of the harness is given: a reward that goes wrong at one call, a conversation, a curriculum."""

import math
import os
import signal
import sys
import threading
import time

from rung.records import Completion, Group, Step, Task

CALLS = [0]


def reward(completions, **columns):
    """Pays for different letters; at the call that FAULT_AT says it does what FAULT says, in the program that is disturbed."""
    CALLS[0] += 1
    fault = os.environ.get("FAULT", "")
    paid = [float(len(set(text))) for text in completions]
    if fault and CALLS[0] == int(os.environ["FAULT_AT"]):
        other = FAULTS[fault]()
        paid = paid if other is None else other(paid)
    return paid


def right(completions, answer, trainer_state, **columns):
    """As the starter's task pays; raises in the step that FAULT_STEP says, counted from 0."""
    if str(trainer_state.global_step) == os.environ.get("FAULT_STEP"):
        raise ZeroDivisionError("boom")
    return [float(text.partition("#")[2] == gold) for text, gold in zip(completions, answer, strict=True)]


def hang():
    end = time.monotonic() + 3600
    while time.monotonic() < end:
        try:
            time.sleep(1)
        except Exception:  # noqa: BLE001  a handler of its own, as libraries have them
            continue


def fork(leave: bool):
    pid = os.fork()
    if pid == 0 and leave:
        time.sleep(5)  # beyond the program's end, with everything that it had open
        os._exit(0)


def no_text():
    sys.stdout.buffer.write(b"\xff\x00\x1b[2J" * 1000)


def eat():
    held = []
    while True:
        held.append(bytearray(1 << 24))


def forget_paths():
    os.chdir("/")


def be_deaf():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def no_gradients():
    import torch

    torch.set_grad_enabled(False)


def other_floats():
    import torch

    torch.set_default_dtype(torch.float64)


def same_draws():
    import random

    import numpy
    import torch

    random.seed(0), numpy.random.seed(0), torch.manual_seed(0)  # noqa: NPY002  as people do


def raises(kind):
    def does():
        raise kind

    return does


FAULTS = {
    "raises": raises(ZeroDivisionError("boom")), "raises base": raises(BaseException("boom")),
    "raises stop iteration": raises(StopIteration()), "raises an interrupt": raises(KeyboardInterrupt()),
    "recurses": raises(RecursionError("maximum recursion depth exceeded")),
    "exits": lambda: sys.exit(0), "exits at once": lambda: os._exit(7), "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hangs": hang, "forks": lambda: fork(True), "forks and goes on twice": lambda: fork(False), "eats memory": eat,
    "prints": lambda: print("x" * (20 << 20)), "prints no text": no_text,
    "closes the output": lambda: os.close(1), "changes the directory": forget_paths, "is deaf": be_deaf,
    "turns gradients off": no_gradients, "changes the floats": other_floats, "seeds": same_draws,
    "leaves a thread": lambda: threading.Thread(target=time.sleep, args=(3600,)).start(),
    "gives too few": lambda: lambda paid: paid[:-1], "gives text": lambda: lambda paid: ["1"] * len(paid),
    "gives nothing": lambda: lambda paid: None, "gives infinity": lambda: lambda paid: [math.inf] * len(paid),
    "gives NaN": lambda: lambda paid: [math.nan] * len(paid), "gives a word": lambda: lambda paid: "right",
    "gives huge numbers": lambda: lambda paid: [10**400] * len(paid),
}  # fmt: skip


class Game:
    """A digit is hidden; each guess is told + (higher) or - (lower)."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def reset(self):
        return self.task.prompt

    def step(self, completion: Completion) -> Step:
        guess = completion.text.strip()[-1:]
        if guess == self.task.data["secret"]:
            return Step([], done=True, reward=1.0)
        hint = "*" if not guess.isdigit() else "+" if guess < self.task.data["secret"] else "-"
        return Step([{"role": "user", "content": hint}], done=False, reward=-0.1)


class Guess:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Task(f"digit-{index}", f"{index % 4}+{index % 3}=", {"secret": str(index * 7 % 10)})

    def session(self, task: Task) -> Game:
        return Game(task)

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{} for _ in group.completions]
