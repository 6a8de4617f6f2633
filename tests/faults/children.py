"""Programs that are to be disturbed: forked from this process, which has imported everything, and looked at from outside."""

import hashlib
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from rung import cli
from rung.models import starter
from rung.network.model import load

HERE = Path(__file__).parent
SMALL = [
    "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-problems", "2", "--max-new-tokens", "8", "--threads", "1",
    "--steps", "4", "--save-every", "1", "--eval-every", "2", "--learning-rate", "1e-3",
]  # fmt: skip
WARM = ("rung.training.loop", "rung.recipes_contrib", "rung.evaluation.models", "torch._dynamo", "peft")
TIMES = re.compile(r'"(time/\w+|memory/\w+|step_time)": [^,}]+,? ?')
PATIENCE = 180.0  # seconds for one program on a busy machine; quiet ones take one or two


class Skipped(Exception):
    """What this machine cannot be made to do, and why."""


def warm() -> None:
    """Bring into this process what every program would take seconds to import; nothing is computed, so no thread is started."""
    torch.set_num_threads(1)
    for name in WARM:
        import_module(name)
    load(str(starter.path()))


@dataclass(frozen=True)
class Case:
    """run: called with a folder of its own and with what the cases of a group share; an AssertionError says what went wrong."""

    kind: str
    name: str
    run: Callable[[Path, "Shared"], None]


@dataclass(frozen=True)
class Ended:
    """How a program ended. status: negative: the signal that ended it; None: it did not end in time and was killed."""

    status: int | None
    out: str
    seconds: float

    @property
    def said(self) -> str:
        return " ".join(self.out.split())

    def go_on(self) -> list[str]:
        """The command that the program printed to go on with."""
        found = re.search(r"[Gg]o on with: (.*?train --resume \S+)", self.said)
        assert found, f"no command that goes on was printed:\n{self.out[-2000:]}"
        words = shlex.split(found[1])
        return words[words.index("train") :]


def fork(work: Callable[[], int], log: Path) -> int:
    """Run `work` in a child whose words go to `log`, and which ends like a program; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(to, number)
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
    finally:
        sys.setprofile(None)
        threading._shutdown()  # a thread of the user's is waited for, as the interpreter does
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                status = status or 120  # as the interpreter does
        os._exit(status)


def wait(pid: int, log: Path, begun: float, patience: float = PATIENCE) -> Ended:
    status: int | None = None
    while time.monotonic() - begun < patience:
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(0.004)
    else:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return Ended(status, log.read_text(errors="replace") if log.exists() else "", time.monotonic() - begun)


def rung(
    words: Iterable[object],
    folder: Path,
    before: Callable[[], object] = lambda: None,
    during: Callable[[int], object] = lambda pid: None,
    patience: float = PATIENCE,
) -> Ended:
    """`rung WORDS` in `folder`. before: called in the program first.  during: called here with its number while it runs."""
    log = folder.parent / f"{folder.name}.{time.monotonic_ns()}.log"

    def work() -> int:
        os.chdir(folder)
        sys.argv = ["rung", *map(str, words)]
        before()
        return cli.main()

    begun = time.monotonic()
    pid = fork(work, log)
    during(pid)
    return wait(pid, log, begun, patience)


def whole(run: Path) -> dict[str, str]:
    """All files of a run that do not depend on time, place and machine, each by its hash; of checkpoints the newest."""
    found = {}
    newest = max((run / "checkpoints").glob("step_*"), default=None)
    for path in sorted(run.rglob("*")):
        name, at = path.name, path.relative_to(run)
        if not path.is_file() or name in ("config.toml", "environment.json", ".lock") or ".bak-" in name:
            continue
        if at.parts[0] == "checkpoints" and path.parent != newest:
            continue
        data = path.read_bytes()
        if name == "metrics.jsonl":
            data = TIMES.sub("", data.decode()).encode()
        found[str(at)] = hashlib.sha256(data).hexdigest()
    return found


def compare(run: Path, wanted: dict[str, str], lost: Collection[str] = ()) -> None:
    """The run is byte for byte what it would have been undisturbed, but for files whose loss was said."""
    found = whole(run)
    apart = [name for name in sorted((wanted.keys() | found.keys()) - {*lost}) if wanted.get(name) != found.get(name)]
    assert not apart, f"other than undisturbed: {', '.join(apart)}"


def rows(run: Path) -> list[int]:
    """The steps whose rows are written; a torn last line is none."""
    path, found = run / "metrics.jsonl", []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "step_time" in row:
            found.append(row["step"])
    return found


def quiet(ended: Ended) -> None:
    """No traceback, and it ended by itself."""
    assert ended.status is not None, f"it did not end within {ended.seconds:.0f} s:\n{ended.out[-1500:]}"
    assert "Traceback" not in ended.out, f"a traceback (status {ended.status}):\n{ended.out[-3000:]}"


@dataclass
class Shared:
    """What the cases of a group have in common: undisturbed runs, each made once.

    events: how many there are in an undisturbed run, anywhere and in what writes files (hooks.Fuse).
    """

    folder: Path
    runs: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    seconds: dict[tuple[str, ...], float] = field(default_factory=dict)
    events: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)

    def undisturbed(self, words: list[str]) -> dict[str, str]:
        """The files of a run of these words that nothing disturbs."""
        from hooks import Fuse

        key = tuple(words)
        if key not in self.runs:
            folder = Path(tempfile.mkdtemp(prefix="undisturbed-", dir=self.folder))
            counted, fuse = folder.parent / f"{folder.name}.events", Fuse()

            def before() -> None:
                fuse.count(lambda seen: counted.write_text(json.dumps(seen)))

            ended = rung(["train", *words, "--out", "run"], folder, before)
            quiet(ended)
            assert ended.status == 0, ended.out[-2000:]
            self.runs[key], self.seconds[key] = whole(folder / "run"), ended.seconds
            self.events[key] = tuple(json.loads(counted.read_text()))
        return self.runs[key]


def goes_on(ended: Ended, folder: Path, words: list[str], shared: Shared, lost: Collection[str] = ()) -> None:
    """The command that was printed is run, and what it writes is what nothing would have disturbed."""
    again = rung(ended.go_on(), folder)
    quiet(again)
    assert again.status == 0, f"going on ended with {again.status}:\n{again.out[-2000:]}"
    compare(folder / "run", shared.undisturbed(words), lost)
