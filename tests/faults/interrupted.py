"""Programs that are ended in the middle, at random moments, by what cannot be caught and by what can."""

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from children import HERE, SMALL, Case, Shared, compare, goes_on, quiet, rows, rung
from hooks import Fuse

KINDS = {
    "plain": ["reinforce"], "state of a baseline": ["moving_average"], "leave one out": ["rloo"], "critic": ["a2c"],
    "critic on the policy's trunk": ["ppo", "--recipe.credit.critic.shared", "true", "--recipe.update.minibatches", "2"],
    "TRPO": ["trpo"],
    "PPO": ["ppo", "--recipe.update.minibatches", "2"], "KL adaptive": ["ppo_kl", "--recipe.update.minibatches", "2"],
    "group": ["grpo", "--keep-last", "1"],
    "greedy baseline": ["remax"], "dynamic sampling": ["dapo"], "adapter": ["grpo", "--lora-rank", "2"],
    "bfloat16": ["dr_grpo", "--dtype", "bfloat16"],
    "conversation": ["dr_grpo", "--environment", f"{HERE / 'problems.py'}:Guess", "--max-turns", "3"],
    "curriculum": ["grpo", "--task", str(HERE / "curriculum.toml")],
    "best kept": ["grpo", "--keep-best", "--keep-last", "1", "--eval-every", "1"],
    "no checkpoint": ["grpo", "--save-every", "0"],
}  # fmt: skip
KILLS = 3  # of each kind: 51 in all


def words_of(kind: str) -> list[str]:
    """The small settings, in whose place come the kind's own."""
    own = KINDS[kind]
    small = [x for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True) if flag not in own for x in (flag, value)]
    return [*own[:1], *small, *own[1:]]


def kill(folder: Path, shared: Shared, *, kind: str, where: str, share: float, twice: bool) -> None:
    """SIGKILL at a random event or a random time; then the same command, or what goes on, until the run is done."""
    words, run = words_of(kind), folder / "run"
    wanted = shared.undisturbed(words)
    folder.mkdir()
    for n in range(3 if twice else 2):
        begun = (run / "config.toml").exists()
        command = ["train", "--resume", "run"] if begun else ["train", *words, "--out", "run"]
        last = n == (2 if twice else 1)
        if last:
            ended = rung(command, folder)
        elif where == "time":
            ended = rung(command, folder, during=partial(_kill_after, share * shared.seconds[tuple(words)] / 2))
        else:
            number = max(1, int(share * shared.events[tuple(words)][where == "writing"]))
            ended = rung(command, folder, Fuse(number, where).light)
        quiet(ended)
        assert ended.status == 0 or (ended.status == -signal.SIGKILL and not last), (ended.status, ended.out[-2000:])
        share /= 2
    compare(run, wanted)
    assert not list(run.rglob(".tmp-*")), "what a killed process left is still there"


def _kill_after(seconds: float, pid: int) -> None:
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


def ask(folder: Path, shared: Shared, *, kind: str, number: int, share: float) -> None:
    """A signal that can be caught: the last finished step is saved, and the printed command goes on."""
    words = words_of(kind)
    shared.undisturbed(words)
    folder.mkdir()
    seconds = share * shared.seconds[tuple(words)] / 2

    def signalled(pid: int) -> None:
        end = time.monotonic() + 60
        while not rows(folder / "run") and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(seconds / 4)
        os.kill(pid, number)

    begun = time.monotonic()
    ended = rung(["train", *words, "--out", "run"], folder, during=signalled)
    quiet(ended)
    assert time.monotonic() - begun < 120
    if ended.status == 0:  # it was done before
        compare(folder / "run", shared.undisturbed(words))
        return
    assert ended.status == 128 + number, (ended.status, ended.out[-2000:])
    saved = [int(p.name[5:]) for p in (folder / "run" / "checkpoints").glob("step_*")]
    assert saved and max(saved) == rows(folder / "run")[-1], "the last finished step is not saved"
    goes_on(ended, folder, words, shared)


def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)
    for kind in KINDS:
        for n in range(KILLS):
            where = ("anywhere", "writing", "time")[n % 3]
            share, twice = draw.uniform(0.02, 0.98), draw.random() < 1 / 3
            of = "the time" if where == "time" else f"its events {where}"
            name = f"{kind}: at {share:.0%} of {of}{', and again' * twice}"
            yield Case("kill -9", name, partial(kill, kind=kind, where=where, share=share, twice=twice))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for kind in ("plain", "PPO", "conversation"):
            share = draw.random()
            yield Case("signals", f"{number.name} in {kind}", partial(ask, kind=kind, number=number, share=share))
