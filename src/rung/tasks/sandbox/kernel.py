"""What Linux lets a process give up for good: other files (Landlock), system calls (seccomp), namespaces, resources.

Landlock: linux/Documentation/userspace-api/landlock.rst; seccomp: seccomp(2); namespaces: user_namespaces(7). Called
through ctypes with the kernel's own numbers, because the interfaces are a few calls and never change. Each step is
irrevocable for the process and its children. Nothing here trusts itself: zygote.py tries afterwards what is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .calls import ALLOWED, BY_ARGUMENT, COLUMN

_libc = ctypes.CDLL(None, use_errno=True)
SET_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES, SET_SECCOMP, DROP_FROM_BOUNDS = 1, 38, 22, 24


def _call(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def die_with_parent(parent: int | None = None) -> None:
    """The kernel kills us when the thread that started us ends, whatever ended it. parent: its process id, if known."""
    _call(_libc.prctl(SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0), "prctl")
    if parent is not None and os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def limit(**most: int) -> None:
    """Resource limits by their names in lower case: cpu (s), address space as `as_` (bytes), fsize, nofile, nproc, core."""
    for name, value in most.items():
        with suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.strip('_').upper()}"), (value, value))


# -- namespaces --------------------------------------------------------------------------------------------------------
NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USER, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000


def leave_namespaces(scratch: str, size: int) -> None:
    """Own network, IPC and mounts; `scratch` becomes a file system of `size` bytes. An error where the system refuses."""
    user, group = os.getuid(), os.getgid()
    others = NEW_MOUNTS | NEW_NET | NEW_IPC | NEW_NAMES
    if _libc.unshare(NEW_USER | others) == 0:
        for name, line in (("uid_map", f"0 {user} 1"), ("setgroups", "deny"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    else:
        _call(_libc.unshare(others), "unshare")  # root without user namespaces
    private, recursive = 1 << 18, 1 << 14
    _call(_libc.mount(None, b"/", None, private | recursive, None), "mount")
    options = f"size={size},nr_inodes=1024,mode=0700".encode()
    no_suid, no_devices = 2, 4
    _call(_libc.mount(b"tmpfs", scratch.encode(), b"tmpfs", no_suid | no_devices, options), "mount")


def drop_capabilities() -> None:
    """No capability is left, nor can one be had again."""
    for number in range(64):
        if _libc.prctl(DROP_FROM_BOUNDS, number, 0, 0, 0) != 0 and ctypes.get_errno() == errno.EINVAL:
            break
    header = struct.pack("Ii", 0x20080522, 0)
    _call(_libc.capset(header, bytes(24)), "capset")
    _call(_libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")


# -- files -------------------------------------------------------------------------------------------------------------
CREATE_RULES, ADD_RULE, RESTRICT = 444, 445, 446  # the same on every architecture
EXECUTE, WRITE, READ, LIST, REMOVE_DIRECTORY, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIRECTORY, MAKE_FILE, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
RIGHTS = (0, 13, 14, 15, 15, 16)  # how many rights each version knows; the later ones know as many as the last


def confine_files(readable: Sequence[str], scratch: str) -> None:
    """Landlock: reading below `readable`, reading and writing below `scratch`, nothing else. An error if it is not there."""
    version = _call(_libc.syscall(CREATE_RULES, None, 0, 1), "landlock")
    every = (1 << RIGHTS[min(version, len(RIGHTS) - 1)]) - 1
    scopes = 3 if version >= 6 else 0  # no abstract sockets, no signals outside
    ports = 3 if version >= 4 else 0
    attributes = struct.pack("QQQ", every, ports, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = _call(_libc.syscall(CREATE_RULES, attributes, len(attributes), 0), "landlock")
    writing = WRITE | REMOVE_DIRECTORY | REMOVE_FILE | MAKE_DIRECTORY | MAKE_FILE | TRUNCATE
    for path in readable:
        _allow(rules, path, READ | LIST, every)
    _allow(rules, "/dev/null", READ | WRITE, every)
    if scratch:
        _allow(rules, scratch, READ | LIST | writing, every)
    _call(_libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _call(_libc.syscall(RESTRICT, rules, 0), "landlock")
    os.close(rules)


def _allow(rules: int, path: str, rights: int, known: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    of_files = EXECUTE | WRITE | READ | TRUNCATE
    rights &= known if os.path.isdir(path) else known & of_files
    _call(_libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0), "landlock")
    os.close(place)


# -- system calls ------------------------------------------------------------------------------------------------------
LOAD, EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16


def _line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _argument(index: int, accepted: Sequence[int], mask: int = 0xFFFFFFFF) -> list[bytes]:
    """Goes on if the argument is one of `accepted` (its upper half is not looked at: the kernel takes int here)."""
    lines = [_line(LOAD, FIRST_ARGUMENT + 8 * index), _line(AND, mask)]
    for at, value in enumerate(accepted):
        lines.append(_line(EQUAL, value, yes=len(accepted) - at, no=0))
    return [*lines, _line(RETURN, REFUSE)]


def _rule(number: int, lines: Sequence[bytes]) -> list[bytes]:
    """If this is the call, `lines`, then it is allowed."""
    return [_line(EQUAL, number, no=len(lines) + 1), *lines, _line(RETURN, ALLOW)]


def filter_of(machine: str, own: int) -> bytes:
    """The seccomp program: the calls of calls.py, signals to the process `own` alone; any other call is refused (EPERM)."""
    column, identity = COLUMN[machine]
    lines = [
        _line(LOAD, ARCHITECTURE), _line(EQUAL, identity, yes=1), _line(RETURN, KILL), _line(LOAD, NUMBER),
    ]  # fmt: skip
    for numbers in ALLOWED.values():
        if numbers[column] >= 0:
            lines += _rule(numbers[column], [])
    checks = {
        "fcntl": _argument(1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),  # no owner and no signal of a descriptor
        "ioctl": _argument(1, (0x5401, 0x5421, 0x5450, 0x5451)),  # is it a terminal, not to wait, to close on exec
        "socketpair": [*_argument(0, (1,)), *_argument(1, (1,), mask=15)],  # a stream to itself, for asyncio
        "sendto": [*_argument(4, (0,)), *_upper_half_zero(4)],
        "prlimit64": [*_argument(0, (0, own))],
        "kill": _argument(0, (own,)),
        "tgkill": _argument(0, (own,)),
    }
    assert checks.keys() == BY_ARGUMENT.keys()
    for name, check in checks.items():
        lines += _rule(BY_ARGUMENT[name][column], check)
    return b"".join([*lines, _line(RETURN, REFUSE)])


def _upper_half_zero(index: int) -> list[bytes]:
    return [_line(LOAD, FIRST_ARGUMENT + 8 * index + 4), _line(EQUAL, 0, yes=1), _line(RETURN, REFUSE)]


def confine_calls() -> None:
    """No further process, thread, socket, program, device, or signal to anyone else. An error on unknown machines."""
    machine = os.uname().machine
    if machine not in COLUMN:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    code = filter_of(machine, os.getpid())
    program = ctypes.create_string_buffer(code, len(code))
    request = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    _call(_libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _call(_libc.prctl(SET_SECCOMP, 2, request, 0, 0), "seccomp")
