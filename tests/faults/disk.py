"""Disks that fill up or may not be written, directories that go away, and files of checkpoints that rot."""

import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import hooks
from children import HERE, SMALL, Case, Ended, Shared, compare, goes_on, quiet, rung

PPO = ["ppo", *SMALL, "--recipe.update.minibatches", "2"]
PAID = ["grpo", *SMALL, "--reward", f"{HERE / 'problems.py'}:reward"]
MEGABYTES = 48

# Every file that a run writes: when it is about to be written for the n-th time, which is in the step that the number says.
FILES: dict[str, tuple[str, str, int]] = {
    ".lock": ("open", r"run/\.lock$", 1), "config.toml": ("open", r"config\.toml$", 1),
    "environment.json": ("open", r"environment\.json$", 1), "metrics.jsonl": ("open", r"metrics\.jsonl$", 1),
    "evaluation before": ("open", r"evaluations/.*000000", 1), "evaluation in the middle": ("open", r"evaluations/.*000002", 1),
    "evaluation at the end": ("open", r"evaluations/.*000004", 1), "answers of step 1": ("open", r"rollouts/.*000001", 1),
    "answers of step 3": ("open", r"rollouts/.*000003", 1), "first checkpoint": ("os.mkdir", r"checkpoints$", 1),
    "a checkpoint's directory": ("os.mkdir", r"\.tmp-step_000002", 1), "config.json": ("open", r"000002.*/config\.json$", 1),
    "model.safetensors": ("tensors", r"000002.*/model\.safetensors$", 1), "state.safetensors": ("tensors", r"000002.*state\.", 1),
    "state.json": ("open", r"000002.*state\.json$", 1), "tokenizer.json": ("os.mkdir", r"nowhere", 1),
    "progress.json": ("open", r"000002.*progress\.json$", 1), "COMPLETE": ("open", r"000002.*COMPLETE", 1),
    "last checkpoint": ("tensors", r"000004.*/model\.safetensors$", 1),
}  # fmt: skip
del FILES["tokenizer.json"]  # written by a library in Rust, between state.json and progress.json
LEFT = (0, 5000)  # bytes that are free then: nothing can be begun; something can be, and is cut


def trigger(event: str, pattern: str, nth: int, do: Callable[[], object]) -> None:
    if event == "tensors":
        hooks.at_tensors(pattern, nth, do)
    else:
        hooks.at(event, pattern, nth, do)


def full(folder: Path, shared: Shared, *, when: tuple[str, str, int], leave: int) -> None:
    """No space left on the device, from the moment on at which a file is written; then room is made."""
    shared.undisturbed(PPO)
    folder.mkdir()
    lacking = hooks.own_disk(folder, MEGABYTES)

    def before() -> None:
        trigger(*when, partial(hooks.no_growth, leave) if lacking else partial(hooks.fill, folder, leave))

    ended = rung(["train", *PPO, "--out", "run"], folder, before)
    quiet(ended)
    (folder / "filler").unlink(missing_ok=True)
    if ended.status == 0:  # what was left was enough
        compare(folder / "run", shared.undisturbed(PPO))
        return
    if ended.status == 2:
        assert "has room for" in ended.said, ended.out[-2000:]
    else:
        assert ended.status == 1, f"status {ended.status}:\n{ended.out[-2000:]}"
        assert "disk is full" in ended.said or "No space left" in ended.said or "File too large" in ended.said, (
            ended.out
        )
    _afterwards(ended, folder, PPO, shared)


def _afterwards(ended: Ended, folder: Path, words: list[str], shared: Shared, lost: Collection[str] = ()) -> None:
    """A start that failed has left nothing, so it is made again; else the printed command goes on."""
    if (folder / "run").exists():
        goes_on(ended, folder, words, shared, lost)
        return
    again = rung(["train", *words, "--out", "run"], folder)
    quiet(again)
    assert again.status == 0, again.out[-2000:]
    compare(folder / "run", shared.undisturbed(words))


def read_only(folder: Path, shared: Shared, *, where: str, step: int) -> None:
    """A directory of the run that may not be written, from the start or from a step on."""
    shared.undisturbed(PPO)
    folder.mkdir()
    target = folder / where

    def before() -> None:
        hooks.like_others()
        if step == 0:
            target.chmod(0o555)
        else:
            hooks.at("open", rf"rollouts/.*{step:06d}", 1, partial(target.chmod, 0o555))

    ended = rung(["train", *PPO, "--out", "run"], folder, before)
    quiet(ended)
    target.chmod(0o755)
    if ended.status == 0:  # nothing was to be written there any more
        compare(folder / "run", shared.undisturbed(PPO))
        return
    assert ended.status in (1, 2), f"status {ended.status}:\n{ended.out[-2000:]}"
    assert "ermission denied" in ended.said, ended.out[-2000:]
    lost = f"rollouts/step_{step:06d}.jsonl.zst"  # its step is done and saved, so that it is not made again
    _afterwards(ended, folder, PPO, shared, {lost} if lost in ended.said else set())


def gone(folder: Path, shared: Shared, *, moved: bool, when: tuple[str, str, int]) -> None:
    """The run's directory is moved or deleted while it is written."""
    shared.undisturbed(PPO)
    folder.mkdir()
    run, other = folder / "run", folder / "other"

    def away() -> None:
        if moved:
            run.rename(other)
        else:
            shutil.rmtree(run)

    ended = rung(["train", *PPO, "--out", "run"], folder, lambda: trigger(*when, away))
    quiet(ended)
    assert ended.status in (1, 2), f"status {ended.status}:\n{ended.out[-2000:]}"
    assert "moved or deleted" in ended.said, ended.out[-2000:]
    if not moved:
        shutil.rmtree(run, ignore_errors=True)
        _afterwards(ended, folder, PPO, shared)
        return
    assert not run.exists(), "something was written where the run was"
    again = rung(["train", "--resume", "other"], folder)
    quiet(again)
    assert again.status == 0, again.out[-2000:]
    compare(other, shared.undisturbed(PPO))


# -- rot -------------------------------------------------------------------------------------------------------------
def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(where * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)


ROT: dict[str, Callable[[Path], object]] = {
    "a bit at the beginning": lambda path: flip(path, 0), "a bit in the middle": lambda path: flip(path, 0.5),
    "a bit at the end": lambda path: flip(path, 1), "missing": Path.unlink, "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}  # fmt: skip
PARTS = (
    "COMPLETE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "state.json", "state.safetensors", "progress.json", "progress.safetensors",
)  # fmt: skip


def rotten(folder: Path, shared: Shared, *, part: str) -> None:
    """Each kind of rot in a file of the newest checkpoint: it is named, and the one before it goes on to the same end."""
    wanted, half = shared.undisturbed(PPO), shared.folder / "half"
    if not half.exists():
        half.mkdir()
        ended = rung(["train", *PPO, "--out", "run"], half, partial(hooks.at, "open", r"rollouts/.*000004", 1, _killed))
        assert ended.status == -signal.SIGKILL, ended.out[-2000:]
    names = {p.name for p in (half / "run" / "checkpoints" / "step_000003").iterdir()}
    assert names == set(PARTS), f"a checkpoint holds other files by now: {sorted(names)}"
    folder.mkdir()
    for number, (what, rot) in enumerate(ROT.items()):
        place = folder / str(number)
        shutil.copytree(half, place)
        rot(place / "run" / "checkpoints" / "step_000003" / part)
        again = rung(["train", "--resume", "run"], place)
        quiet(again)
        assert again.status == 0, f"{part}, {what}:\n{again.out[-2000:]}"
        torn = part == "COMPLETE" and what == "missing"  # then it was never complete, which nobody need hear of
        told = all(word in again.said for word in ("step_000003", "damaged", "step_000002"))
        assert torn or told, (what, again.said[:1500])
        compare(place / "run", wanted)
        shutil.rmtree(place)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cases(seed: int) -> Iterator[Case]:
    for name, when in FILES.items():
        for leave in LEFT:
            yield Case("full disk", f"{name}, {leave} bytes left", partial(full, when=when, leave=leave))
    yield Case("read-only", "where the run is to be", partial(read_only, where=".", step=0))
    for where in ("run", "run/rollouts", "run/checkpoints", "run/evaluations"):
        for step in (2, 3):
            yield Case("read-only", f"{where} from step {step} on", partial(read_only, where=where, step=step))
    for moved in (True, False):
        for name in (
            "answers of step 1",
            "answers of step 3",
            "model.safetensors",
            "COMPLETE",
            "evaluation in the middle",
        ):
            how = "moved" if moved else "deleted"
            yield Case("moved or deleted", f"{how} at: {name}", partial(gone, moved=moved, when=FILES[name]))
    for part in PARTS:
        yield Case("rotten checkpoint", f"{part}, in {len(ROT)} ways", partial(rotten, part=part))
