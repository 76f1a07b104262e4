"""Finds a task module, imports it, and reports errors with their file and line."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from pyncette.app.application import Pyncette
from pyncette.app.handlers import MIDDLEWARE, UnawaitableWarning, unawaitable
from pyncette.app.process import being_loaded
from pyncette.core.suggestions import nearest
from pyncette.errors import ConfigurationError

DEFAULT_NAME: Final = "app"
"""The usual name of the app in a module."""

DEFAULT_FILE: Final = "tasks.py"
"""The task module of a folder, if the folder has a file of this name."""

MAYBE_AN_APP: Final = re.compile(r"\bPyncette\s*\(")


LONG_SECONDS: Final = 5.0
"""A slower import is logged: it may wait for something that never happens."""

LONG: Final = "the import of %s is slow: it has not finished after %g s"

logger = logging.getLogger(__name__)


class ModuleError(ConfigurationError):
    """A task module cannot be used. *file* and *line* are empty if the place is unknown."""

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{place}{message}")
        self.message = message
        self.file = file
        self.line = line


class Target(NamedTuple):
    """The place of an app: MODULE[:NAME], where MODULE is an import path or a file."""

    module: str
    name: str
    """The app in the module; empty: `app`, or else the only one."""
    home: str = ""
    """The folder that an import path is relative to; empty: the current folder."""

    @property
    def file(self) -> Path | None:
        """The file, if *module* names one."""
        is_path = self.module.endswith(".py") or "/" in self.module
        return Path(self.module) if is_path else None


def read_target(text: str) -> Target:
    """Parse MODULE[:NAME]. Raises ConfigurationError."""
    module, _, name = text.partition(":")
    if not module or (name and not name.isidentifier()):
        raise ConfigurationError(
            f'"{text}" does not name an app: write tasks, tasks:app, or path/to/tasks.py'
        )
    return Target(module, name)


# --- Finding ---------------------------------------------------------------------------------------------------------


def find_target(folder: Path, named: str | None = None) -> Target:
    """
    Return the task module of *folder*: the one *named*, else `tasks.py`, else the only file that creates an app.

    Does not import anything. Raises ConfigurationError.
    """
    if named is not None:
        target = read_target(named)
        file = folder / (target.module if target.file else f"{target.module.replace('.', '/')}.py")
        package = folder / target.module.replace(".", "/") / "__init__.py"
        if file.is_file():
            if target.file or "." not in target.module:
                return target._replace(module=str(file))
            return target._replace(home=str(folder))
        if target.file is None and package.is_file():
            return target._replace(home=str(folder))
        raise ConfigurationError(f"module {named} not found in {folder}{_nearest(named, _names_in(folder))}")
    if (folder / DEFAULT_FILE).is_file():
        return Target(str(folder / DEFAULT_FILE), "")
    found = [file for file in sorted(folder.glob("*.py")) if _makes_an_app(file)]
    if len(found) == 1:
        return Target(str(found[0]), "")
    if found:
        names = ", ".join(file.name for file in found)
        raise ConfigurationError(
            f"several modules in {folder} create an app: {names}; select one with --module"
        )
    raise ConfigurationError(
        f"no task module found in {folder}: neither {DEFAULT_FILE} nor another .py file that creates an app, "
        "as in `app = Pyncette()`"
    )


def _makes_an_app(file: Path) -> bool:
    """Return True if *file* calls Pyncette() at module level. A file with a syntax error may, so that its error is reported."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if "Pyncette" not in text:
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return MAYBE_AN_APP.search(text) is not None
    names = {"Pyncette"} | {
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyncette"
        for alias in node.names
        if alias.name == "Pyncette" and alias.asname
    }
    return any(_calls(value, names) for node in tree.body for value in _values(node))


def _values(node: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        yield node.value


def _calls(value: ast.expr, names: set[str]) -> bool:
    if not isinstance(value, ast.Call):
        return False
    called = value.func
    name = (
        called.id
        if isinstance(called, ast.Name)
        else called.attr
        if isinstance(called, ast.Attribute)
        else ""
    )
    return name in names


def _names_in(folder: Path) -> list[str]:
    return [file.stem for file in folder.glob("*.py")]


# --- Loading ---------------------------------------------------------------------------------------------------------


def load_app(target: Target) -> Pyncette:
    """
    Import the module of *target* and return its app. The module can import others in its folder.

    Raises ModuleError with the file and line of the error.
    """
    module = (
        _import_file(target.file, target) if target.file else _import_name(target.module, Path(target.home))
    )
    if target.name:
        found = getattr(module, target.name, None)
        if isinstance(found, Pyncette):
            return found
        problem = (
            f"is a {type(found).__name__}, not a Pyncette" if hasattr(module, target.name) else "not found"
        )
        raise ModuleError(f"{target.name} {problem}{_hint(module)}", _file_of(module))
    found = getattr(module, DEFAULT_NAME, None)
    if isinstance(found, Pyncette):
        return found
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        raise ModuleError(
            f"the module has several apps, {', '.join(apps)}: select one, as in {target.module}:{min(apps)}",
            _file_of(module),
        )
    raise ModuleError("the module has no app: write `app = Pyncette()`", _file_of(module))


def load_checked_app(target: Target) -> Pyncette:
    """Load the app of *target*. Raises ModuleError as well if the result of a handler or middleware cannot be awaited."""
    app = load_app_to_check(target)
    for fault in unawaitable_handlers(app):
        raise fault
    return app


def load_app_to_check(target: Target) -> Pyncette:
    """Load the app of *target* without warnings about its handlers, for a caller that checks `unawaitable_handlers`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnawaitableWarning)
        return load_app(target)


def unawaitable_handlers(app: Pyncette) -> list[ModuleError]:
    """Return an error for each middleware and handler of *app* whose result cannot be awaited, middlewares first."""
    declared = [unawaitable(middleware, MIDDLEWARE) for middleware in app.middlewares]
    declared += [unawaitable(task.task_func) for task in app.tasks.values()]
    found = {wrong: ModuleError(wrong.message, _shown(wrong.file), wrong.line) for wrong in declared if wrong}
    return list(found.values())


def _import_file(file: Path, target: Target) -> ModuleType:
    if not file.is_file():
        near = _nearest(file.stem, _names_in(file.parent), ".py") if file.parent.is_dir() else ""
        raise ModuleError(f"file {target.module} not found{near}")
    _put_first(str(file.parent.resolve()))
    packaged = _in_package(file.resolve())
    if packaged is not None:
        return _import_name(packaged.module, Path(packaged.home))
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # For pickle, and for modules in the same folder. A module that is loaded already is never replaced.
    sys.modules.setdefault(file.stem, module)
    with _module_errors(file.resolve().parent), _loading(file.name):
        spec.loader.exec_module(module)
    return module


def _in_package(file: Path) -> Target | None:
    """
    Return the import path of *file* and the folder above its outermost package; None if it is in no package.

    The module can then import its package, also relatively, and is not loaded a second time. A file counts as in no
    package if its import path is already taken, such as by a package of the standard library.
    """
    packages = list(takewhile(lambda folder: (folder / "__init__.py").is_file(), file.parents))
    names = [folder.name for folder in reversed(packages)]
    if file.stem != "__init__":
        names.append(file.stem)
    if not packages or not all(map(str.isidentifier, names)):
        return None
    loaded = sys.modules.get(names[0])
    homes = [Path(folder).resolve() for folder in getattr(loaded, "__path__", ())]
    if loaded is not None and packages[-1] not in homes:
        return None
    return Target(".".join(names), "", str(packages[-1].parent))


def _import_name(name: str, home: Path) -> ModuleType:
    home = home.resolve()
    _put_first(str(home))
    with _module_errors(home, name), _loading(name):
        return importlib.import_module(name)


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    # On a thread, since an import that hangs blocks this one.
    warning = threading.Timer(LONG_SECONDS, logger.warning, [LONG, name, LONG_SECONDS])
    warning.daemon = True
    warning.start()
    token = being_loaded.set(True)
    try:
        yield
    finally:
        being_loaded.reset(token)
        warning.cancel()


@contextlib.contextmanager
def _module_errors(home: Path, name: str = "") -> Iterator[None]:
    """Convert any exception of an import to a ModuleError at the innermost line of the user's code."""
    try:
        yield
    except SyntaxError as error:
        raise ModuleError(
            f"SyntaxError: {error.msg}", _shown(error.filename or ""), error.lineno or 0
        ) from error
    except ModuleNotFoundError as error:
        if name and error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModuleError(
                f"module {name} not found, neither in {home} nor installed{_nearest(name, _names_in(home))}"
            ) from None
        raise _fault(error, home) from error
    except SystemExit as error:
        raise ModuleError(
            *_last_line(error, home, "the module ended the program during its import")
        ) from error
    except Exception as error:
        raise _fault(error, home) from error


def _fault(error: Exception, home: Path) -> ModuleError:
    text = " ".join(str(error).split())
    return ModuleError(
        *_last_line(error, home, f"{type(error).__name__}: {text}" if text else type(error).__name__)
    )


def _last_line(error: BaseException, home: Path, message: str) -> tuple[str, str, int]:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_within(frame.filename, home)]
    if not ours:
        return message, "", 0
    return message, _shown(ours[-1].filename), ours[-1].lineno or 0


def _is_within(filename: str, home: Path) -> bool:
    path = Path(filename)
    return path.is_relative_to(home) and "site-packages" not in path.relative_to(home).parts


def _shown(filename: str) -> str:
    """Return the path, relative if it is below the current folder."""
    path = Path(filename)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename


def _file_of(module: ModuleType) -> str:
    return _shown(getattr(module, "__file__", None) or module.__name__)


def _apps(module: ModuleType) -> dict[str, Pyncette]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Pyncette)}


def _hint(module: ModuleType) -> str:
    apps = sorted(_apps(module))
    return f"; the module has {', '.join(apps)}" if apps else ""


def _nearest(name: str, known: list[str], suffix: str = "") -> str:
    close = nearest(name.removesuffix(".py"), known)
    return f"; did you mean {close}{suffix}?" if close else ""


def _put_first(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
