"""Objects from Python files of the user: FILE.py:NAME, read as `python FILE.py` would read it.

- While the file runs, what lies beside it comes before anything installed. Afterwards its directory stays at the END of
  sys.path, so that imports inside functions and in worker processes find their neighbours, and nothing of ours is shadowed.
- The module is in sys.modules under its own name (dataclasses and pickle look there), or, where that name belongs to an
  installed module or to a file of another directory, under one that holds a hash of its path.
- A file is run once, until it is changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from rung.errors import InputError, setting, unknown
from rung.settings.paths import path_of

_loaded: dict[Path, tuple[bytes, ModuleType]] = {}  # of each file: what it held when it was run, and what came of it


def load_object(spec: str, name_of: str) -> Any:
    """What FILE.py:NAME names."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise InputError(
            f"{setting(name_of, spec)} names nothing in a file. Write FILE.py:NAME, as in rewards.py:length."
        )
    path = path_of(file)
    if not path.is_file():
        raise InputError(
            f"{setting(name_of, spec)}: the file {path} does not exist. Check the path (read from {Path.cwd()})."
        )
    module = load_module(path)
    if not hasattr(module, name):
        own = [k for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        raise unknown(f"name in {path}:", name, own)
    return getattr(module, name)


def load_module(path: Path) -> ModuleType:
    """The module that the file makes.

    Raises:
        InputError: it raised something; the message names the line of the user's that did.
    """
    path = path.resolve()
    content = path.read_bytes()
    before, module = _loaded.get(path, (b"", None))
    if module is not None and before == content and sys.modules.get(module.__name__) is module:
        return module
    name = _free_name(path)
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    old = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _beside(path):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if old is not None:
            sys.modules[name] = old
        if isinstance(error, Exception | SystemExit):
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{path} cannot be imported: {what}. {line_of(error, path.parent)}") from error
        raise
    _loaded[path] = content, module
    return module


def line_of(error: BaseException, folder: Path | None) -> str:
    """'See FILE:LINE.', the innermost line of the user's own, that is, below `folder`; else the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"See {error.filename}:{error.lineno}."
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if folder is not None and _below(frame[0], folder)]
    found = (own or frames)[-1:]
    return f"See {found[0][0]}:{found[0][1]}." if found else ""


def folder_of(function: Any) -> Path | None:
    """Where the source of a function, or of an object's class, lies; None if it has none."""
    try:
        return Path(inspect.getfile(function if inspect.isroutine(function) else type(function))).resolve().parent
    except TypeError:  # written in C
        return None


class _Source(SourceFileLoader):
    """Reads the source whenever it is asked: a bytecode cache goes by the second and would miss a quick edit."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(path)


class _Neighbours(MetaPathFinder):
    """Finds modules beside a file. Python's own stay Python's, and the file's name is not its own neighbour's."""

    def __init__(self, path: Path) -> None:
        self.folder, self.not_here = path.parent, {path.stem, "rung", *sys.stdlib_module_names}
        self.found: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = self.look(name) if path is None else None
        if spec is not None:
            self.found.add(name)
        return spec

    def look(self, name: str) -> ModuleSpec | None:
        spec = None if name in self.not_here else PathFinder.find_spec(name, [str(self.folder)])
        return None if spec is None or spec.origin is None else spec


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Imports as a file at `path` makes them. Modules of the same names that others have imported come back at the end."""
    neighbours, folder = _Neighbours(path), str(path.parent)
    hidden = {top for top in {name.partition(".")[0] for name in sys.modules} if _other(top, neighbours)}
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in hidden}
    for name in others:
        del sys.modules[name]
    sys.meta_path.insert(0, neighbours)
    new = folder not in sys.path
    if new:
        sys.path.append(folder)
    try:
        yield
    except BaseException:
        if new:
            sys.path.remove(folder)
        raise
    finally:
        sys.meta_path.remove(neighbours)
        taken = {name for name in neighbours.found if name in hidden or _installed(name, path.parent)}
        for name in [name for name in sys.modules if name.partition(".")[0] in taken]:
            del sys.modules[name]
        sys.modules.update(others)


def _other(name: str, neighbours: _Neighbours) -> bool:
    """Whether sys.modules[name] is somebody else's, and a neighbour has the same name."""
    known = sys.modules.get(name)
    return known is not None and neighbours.look(name) is not None and not _below(_file(known), neighbours.folder)


def _free_name(path: Path) -> str:
    name = path.stem
    known = sys.modules.get(name)
    mine = known is not None and _file(known) == str(path)
    taken = name in sys.stdlib_module_names or (known is not None and not mine) or _installed(name, path.parent)
    if not taken and "." not in name:
        return name
    return f"{re.sub(r'[.]', '_', name)}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _installed(name: str, folder: Path) -> bool:
    """Whether a module of this name can be imported from somewhere else than `folder`."""
    elsewhere = [place for place in sys.path if Path(place).resolve() != folder]
    for finder in sys.meta_path:
        if not isinstance(finder, _Neighbours):
            find = getattr(finder, "find_spec", lambda *_: None)
            spec = PathFinder.find_spec(name, elsewhere) if finder is PathFinder else find(name, None)
            if spec is not None and spec.origin is not None and not _below(spec.origin, folder):
                return True
    return False


def _file(module: ModuleType) -> str:
    return str(Path(file).resolve()) if (file := getattr(module, "__file__", None)) else ""


def _below(file: str, folder: Path) -> bool:
    """Whether a file is the user's: in the folder or under it, but not in an environment that lies there."""
    return (
        bool(file) and folder in Path(file).parents and not {"site-packages", "dist-packages"} & set(Path(file).parts)
    )
