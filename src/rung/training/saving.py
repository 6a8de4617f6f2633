"""When a run is saved: by the clock or by steps, at its end, and on the way out of any other end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.errors import InputError, RunFailed, first_line, memory_ran_out, setting
from rung.io.console import Console
from rung.io.run_dir import RunDir
from rung.io.terminal import counted
from rung.training.checkpoint import Finished, finished, kept, write
from rung.training.drawn import forget
from rung.training.micro import kept_gib
from rung.training.next_steps import resuming
from rung.training.setup import Setup

EVERY = 120.0  # seconds between checkpoints where no number of steps is given,
SHARE = 20  # or so many times as long as one takes
TEMPORARY = re.compile(r"\.tmp-\d+-")  # what stands before a file's name until it is whole
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Saving:
    """done: the last finished step, which is what any end saves."""

    setup: Setup
    run: RunDir
    console: Console
    done: Finished = field(init=False)
    _clock: float = field(default_factory=time.monotonic, init=False)
    _took: float = field(default=0.0, init=False)
    _said: bool = field(default=False, init=False)

    def finish(self, step: int, tokens: int) -> None:
        """The step is done, its row and its answers aside."""
        self.done = finished(self.setup, step, tokens)

    def due(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        every = self.setup.config.save_every
        if every is not None:
            return every > 0 and step % every == 0
        return time.monotonic() - self._clock >= max(EVERY, SHARE * self._took)

    def save(self, best: Path | None = None) -> Path:
        """A checkpoint of the last finished step, and where it lies. best: one that stays whatever its age."""
        config, begun, step = self.setup.config, time.monotonic(), self.done.step
        path = self.run.checkpoint(step, lambda d: write(self.setup, self.done, d), kept(config), best)
        forget(self.setup, self.setup.learner.version)
        self._clock = time.monotonic()
        self._took = self._clock - begun
        if config.save_every is None and step < (config.steps or 0) and not self._said:
            self._said = True
            stay = f"the newest {kept(config)} stay" if kept(config) else "all stay"
            every = max(EVERY, SHARE * self._took) / 60
            self.console.message(
                f"saved: {path}; again every {every:.2g} minutes, {stay} ({setting('save_every')}, {setting('keep_last')})"
            )
        return path

    def leave(self, *, begun: bool) -> None:
        """The run ends before its end: save the last finished step, and say what goes on from there.

        begun: there is something to go on from; a start that failed leaves nothing.
        """
        if not begun or not self.run.here():  # what ended the run says the latter
            return
        self._said = True
        why, step = "", self.done.step
        if self.done.intact(self.setup):
            try:
                self.save()
            except (OSError, RunFailed) as error:  # beside what ended the run, which is raised
                why = f"step {step} could not be saved ({error})"
        else:
            why = f"an update after step {step} had changed weights already, so neither can be saved"
        newest = self.run.latest_checkpoint()
        at = "with no checkpoint yet" if newest is None else f"with a loadable model of step {int(newest.name[5:])}"
        if why:
            self.console.message(why)
        again = resuming(self.run.path, self.setup.config)
        self.console.message(f"the run lies in {self.run.path} {at}; go on with: {again}")

    def tell_memory(self, row: Mapping[str, Any]) -> None:
        """Say so where a step did not fit into memory at once."""
        times = int(row.get("update/halved", 0))
        if times:
            config = self.setup.config
            begins = ""  # a learner elsewhere knows its own GPU
            if config.cluster == "local" or config.activation_gib is not None:
                begins = f"; {setting('activation_gib', float(f'{kept_gib(config) / 2**times:.2g}'))} begins so"
            self.console.message(
                f"memory ran out in step {row['step']}: it was computed again with half as much at a time "
                f"({counted(times, 'halving')}), which changes no result. The rest of this run takes no more{begins}."
            )

    def refuse_full_disk(self) -> None:
        """Refuse what cannot be written, before the work whose result it would be."""
        one, free, stay = self.setup.learner.size(), shutil.disk_usage(self.run.root).free, kept(self.setup.config)
        takes = f"a checkpoint takes about {one / 2**30:.2g} GiB"
        if free < one:
            raise InputError(
                f"{takes}, and {self.run.path} has room for {free / 2**30:.2g} GiB. Make room, or give another place with "
                f"{setting('out')}."
            )
        if stay and free < (stay + 1) * one:  # one more while it is written
            self.console.message(
                f"note: {takes}, {stay} of them stay beside the one that is written, and there is room for {free // one} "
                f"({setting('keep_last', 1)} keeps fewer)."
            )


def explained(error: BaseException, run: RunDir, step: int) -> RunFailed | None:
    """Memory that ran out or a run that cannot be written, in words; None: something else.

    What the step held in memory is given back first.
    """
    if memory_ran_out(error):
        traceback.clear_frames(error.__traceback__)
        return RunFailed(
            f"memory ran out in step {step} ({first_line(error)}). Use less at a time: fewer {setting('prompts_per_step')} or "
            f"{setting('samples_per_prompt')}, a lower {setting('max_new_tokens')}, or an adapter ({setting('lora_rank', 8)})."
        )
    return unwritten(error, run, f"step {step}") if isinstance(error, OSError) else None


@contextmanager
def writing(run: RunDir) -> Iterator[None]:
    """Inside, the run is written: what keeps it from that is one message."""
    try:
        yield
    except OSError as error:
        told = unwritten(error, run, "the run")
        if told is None:
            raise
        raise told from error


def unwritten(error: OSError, run: RunDir, what: str) -> RunFailed | None:
    """Why something of the run could not be written; None: the error is about another file."""
    file = None if error.filename is None else Path(os.fsdecode(error.filename))
    ours = file is not None and file.absolute().is_relative_to(run.root)
    if ours and not run.here():
        return run.gone()
    named = "" if file is None else f" ({TEMPORARY.sub('', str(file))})"
    if error.errno in NO_ROOM:
        return RunFailed(f"the disk is full: {what} could not be written{named}. Make room, then go on.")
    if ours:
        return RunFailed(
            f"{what} could not be written: {error.strerror}{named}. See that the run can be written, then go on."
        )
    return None
