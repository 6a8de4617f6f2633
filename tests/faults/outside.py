"""What goes wrong around a run: rewards, samplers, the clock, memory."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import hooks
from children import HERE, SMALL, Case, Shared, compare, goes_on, quiet, rows, rung

PAID = ["grpo", *SMALL, "--reward", f"{HERE / 'problems.py'}:reward", "--reward-deadline", "4"]
AT = 5  # two calls for the evaluation before training and two for the problems of step 1


# -- rewards -----------------------------------------------------------------------------------------------------------
def rewarded(folder: Path, shared: Shared, *, fault: str, ends: int | None, says: str) -> None:
    """A reward that goes wrong in step 2. ends: the status that it ends with; None: the run goes on as if nothing were."""
    wanted = shared.undisturbed(PAID)
    folder.mkdir()

    def before() -> None:
        os.environ |= {"FAULT": fault, "FAULT_AT": str(AT)}
        if fault == "eats memory":
            hooks.memory_left(300)

    ended = rung(["train", *PAID, "--out", "run"], folder, before, patience=60)
    quiet(ended)
    if ends is None:
        assert ended.status == 0, (ended.status, ended.out[-2000:])
        compare(folder / "run", wanted)
        return
    assert ended.status == ends, (ended.status, ended.out[-2000:])
    assert says in ended.said, f"it should say {says!r}:\n{ended.out[-2000:]}"
    assert rows(folder / "run") == [1], "step 1 is kept, step 2 is not"
    if ends < 0 or ends == 7:  # nobody could print a command
        ended = replace(ended, out="go on with: rung train --resume run")
    goes_on(ended, folder, PAID, shared)


REWARDS: dict[str, tuple[int | None, str]] = {
    "raises": (2, "raised ZeroDivisionError: boom"), "raises base": (2, "raised BaseException: boom"),
    "raises stop iteration": (2, "raised StopIteration"), "raises an interrupt": (130, ""),
    "recurses": (2, "raised RecursionError"),
    "exits": (2, "raised SystemExit"), "exits at once": (7, ""), "crashes": (-signal.SIGSEGV, ""),
    "hangs": (2, "has not answered within 4 s"), "forks": (None, ""), "forks and goes on twice": (None, ""),
    "eats memory": (2, "raised MemoryError"), "prints": (None, ""), "prints no text": (None, ""), "closes the output": (None, ""),
    "changes the directory": (None, ""), "is deaf": (None, ""), "turns gradients off": (None, ""), "changes the floats": (None, ""),
    "seeds": (None, ""), "leaves a thread": (None, ""), "gives too few": (2, "3"), "gives text": (2, "reward"),
    "gives nothing": (2, "reward"), "gives a word": (2, "reward"), "gives huge numbers": (2, "reward"),
}  # fmt: skip


# -- samplers ----------------------------------------------------------------------------------------------------------
def bent(how: Callable[[list], list], from_call: int) -> None:
    """From a call on, what the sampler returns is bent. As another engine's would be: the run does not know whose fault it is."""
    from rung.rollout import samplers

    made, calls = samplers.SAMPLERS["torch"], [0]

    class Bent:
        def __init__(self, sampler) -> None:
            self.sampler = sampler
            self.load = sampler.load

        @property
        def same_numbers(self) -> bool:
            return self.sampler.same_numbers

        def sample(self, prompts, law, draws):
            calls[0] += 1
            found = self.sampler.sample(prompts, law, draws)
            return how(found) if calls[0] >= from_call else found

    samplers.SAMPLERS["torch"] = replace(made, make=lambda model, at_once: Bent(made.make(model, at_once)))


def first(**fields) -> Callable[[list], list]:
    """Another first answer."""
    return lambda found: [replace(found[0], **{k: f(found[0]) for k, f in fields.items()}), *found[1:]]


SAMPLERS: dict[str, Callable[[list], list]] = {
    "one answer too few": lambda found: found[:-1], "one too many": lambda found: [*found, found[-1]],
    "none at all": lambda found: [], "None": lambda found: None,  # type: ignore[dict-item]
    "log-probabilities too few": first(logp=lambda r: r.logp[:-1]), "NaN": first(logp=lambda r: (float("nan"), *r.logp[1:])),
    "minus infinity": first(logp=lambda r: (-float("inf"), *r.logp[1:])),
    "a probability above 1": first(logp=lambda r: (0.7, *r.logp[1:])),
    "tokens outside of the vocabulary": first(tokens=lambda r: (10**6, *r.tokens[1:])),
    "a negative token": first(tokens=lambda r: (-1, *r.tokens[1:])),
    "an answer that is too long": first(
        tokens=lambda r: r.tokens * 40, logp=lambda r: r.logp * 40, entropy=lambda r: r.entropy * 40
    ),
    "entropies too few": first(entropy=lambda r: r.entropy[:-1]),
    "NaN for entropy": first(entropy=lambda r: (float("nan"),) * len(r.tokens)),
    "an unknown stop": first(stop=lambda r: "eos"), "another prompt": first(prompt=lambda r: (*r.prompt, 5)),
    "answers of other prompts": lambda found: found[::-1],
    "tokens that are text": first(tokens=lambda r: tuple(map(str, r.tokens))),
}  # fmt: skip


def sampled(folder: Path, shared: Shared, *, how: Callable[[list], list]) -> None:
    """It is refused by the sampler's name, in the step where it begins."""
    shared.undisturbed(PAID)
    folder.mkdir()
    ended = rung(["train", *PAID, "--out", "run"], folder, partial(bent, how, 3))
    quiet(ended)
    assert ended.status == 1, (ended.status, ended.out[-2000:])
    assert "the sampler Bent" in ended.said, ended.out[-2000:]
    assert rows(folder / "run") == [1], "step 1 is kept, step 2 is not"
    goes_on(ended, folder, PAID, shared)


# -- the clock and memory ------------------------------------------------------------------------------------------------
CLOCKS: dict[str, Callable[[int], float]] = {
    "ten days forwards": lambda n: 864_000.0 if n > 3 else 0.0, "ten days backwards": lambda n: -864_000.0 if n > 3 else 0.0,
    "forwards and backwards at every call": lambda n: 7200.0 * (-1) ** n, "1970": lambda n: -1.7e9,
    "a century ahead": lambda n: 3.2e9, "at random": lambda n: random.Random(n).uniform(-1e6, 1e6),
}  # fmt: skip


def jumping(folder: Path, shared: Shared, *, jumps: Callable[[int], float], words: list[str]) -> None:
    wanted = shared.undisturbed(words)
    folder.mkdir()
    ended = rung(["train", *words, "--out", "run"], folder, partial(hooks.clock, jumps))
    quiet(ended)
    assert ended.status == 0, ended.out[-2000:]
    compare(folder / "run", wanted)


LARGE = [
    "--prompts-per-step", "64", "--samples-per-prompt", "16", "--eval-problems", "2", "--threads", "1", "--steps", "2",
    "--eval-every", "0", "--max-new-tokens", "24", "--ignore-memory",
]  # fmt: skip


def short(folder: Path, shared: Shared, *, words: list[str], megabytes: int) -> None:
    """The machine refuses memory in the update of step 1: it is computed again in smaller parts, and the run goes on."""
    folder.mkdir()

    def before() -> None:
        from rung.training.learner import LocalLearner

        step = LocalLearner.step

        def less(self, collected):
            hooks.memory_left(megabytes)
            return step(self, collected)

        LocalLearner.step = less

    ended = rung(["train", *words, *LARGE, "--out", "run"], folder, before)
    quiet(ended)
    if words[0] == "trpo":  # the graph of its curvature is not divided
        assert ended.status == 1 and "memory ran out in step 1" in ended.said, ended.out[-2000:]
        assert not (folder / "run").exists(), "nothing was done, so nothing is left"
        return
    assert ended.status == 0, ended.out[-2000:]
    assert "memory ran out in step 1: it was computed again" in ended.said, ended.out[-2000:]
    assert rows(folder / "run") == [1, 2]


def cases(seed: int) -> Iterator[Case]:
    for fault, (ends, says) in REWARDS.items():
        yield Case("reward", fault, partial(rewarded, fault=fault, ends=ends, says=says))
    for name, how in SAMPLERS.items():
        yield Case("sampler", f"returns {name}", partial(sampled, how=how))
    for name, jumps in CLOCKS.items():
        yield Case("clock", name, partial(jumping, jumps=jumps, words=PAID))
    whole = [f"--recipe.{x}" for x in ("update.minibatches", "update.epochs", "credit.critic.minibatches")]
    for words in (["grpo"], ["ppo", *[x for flag in whole for x in (flag, "1")]], ["trpo"]):
        yield Case("memory", f"in the update of {words[0]}", partial(short, words=words, megabytes=4))
