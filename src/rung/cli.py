"""The command line. Exit status: 0 done, 1 the run failed, 2 the user's input was refused, 128 + n ended by signal n
(130 Ctrl-C, 143 SIGTERM, 129 SIGHUP); docs/reliability.md has the table."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress

from rung import __version__
from rung.errors import InputError, RunFailed, typed, unknown
from rung.io.stopping import Stopped, Stopping, lingering, to_nothing
from rung.io.waiting import load, waiting
from rung.shell.arguments import record, refuse_repeated
from rung.shell.commands import COMMANDS
from rung.training.config import TrainConfig

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _usage() -> str:
    lines = [f"  {name:12}{command.text}" for name, command in COMMANDS.items()]
    return "usage: rung COMMAND ...\n\n" + "\n".join(lines) + "\n\n`rung COMMAND --help` lists a command's flags."


def _help(name: str) -> int:
    """The flags of a command."""
    from rung.shell.help import show, show_training

    if COMMANDS[name].flags is TrainConfig:
        show_training(name)
    else:
        show(name, COMMANDS[name].flags)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a refused input is one message on standard error, no traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with Stopping(anywhere=True) as stop:
        try:
            with typed():
                status = _run(words)
            sys.stdout.flush()
            if argv is None and (
                status > 128 or lingering()
            ):  # a signal ended a run that is saved, or a thread would go on
                stop.leave(status)
            return status
        except InputError as error:
            return _ended(f"rung: {error}", 2)
        except RunFailed as error:
            return _ended(f"rung: {error}", 1)
        except SystemExit as error:  # of code that is not ours: nothing of rung's raises it
            from rung.tasks.rewards.python_file import line_of

            what = f"code that rung has called wanted to end the program (SystemExit: {error})"
            return _ended(f"rung: {what}. {line_of(error, None)} Let it raise an error that says what is wrong.", 2)
        except KeyboardInterrupt as error:
            status = error.status if isinstance(error, Stopped) else 130
            if argv is None:  # the program, and not a call from Python
                stop.leave(status)
            return _ended("interrupted", status)
        except BrokenPipeError:
            to_nothing(sys.stdout)
            return 0
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                said = f"{error.filename or 'the name'!s:.60}"
                return _ended(f"rung: no file or folder can have so long a name: {said}... Use a shorter one.", 2)
            if error.errno not in FULL:
                raise
            to_nothing(sys.stdout)
            where = f": {error.filename}" if error.filename else ", where the result should go"
            return _ended(f"rung: {error.strerror}{where}. Make room and do it again.", 1)
        finally:
            waiting.end()


def _ended(text: str, status: int) -> int:
    waiting.end()
    with suppress(OSError):  # standard error may be gone with the terminal
        print(_wrapped(text), file=sys.stderr, flush=True)
    return status


def _wrapped(text: str) -> str:
    """The message in the lines of a terminal, broken between words."""
    if not sys.stderr.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 20)
    lines = [
        textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""] for line in text.split("\n")
    ]
    return "\n".join(piece for pieces in lines for piece in pieces)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"rung {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    if "-h" in words or "--help" in words:
        return _help(words[0])
    refuse_repeated(words[1:])
    command = COMMANDS[words[0]]
    if command.own:
        return command.run(words[1:])
    args = record(command.flags, words[0], words[1:])
    load(command.module)
    waiting.end()
    return command.run(args)


if __name__ == "__main__":
    sys.exit(main())
