"""Checks a folder as `pyncette dev` does, without running its handlers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pyncette.cli.dev.child import declared_by
from pyncette.cli.dev.events import Loaded
from pyncette.cli.dev.folder import Folder
from pyncette.cli.modules import ModuleError, Target, find_target, load_app_to_check, unawaitable_handlers
from pyncette.errors import ConfigurationError
from pyncette.resources.manifests import SUFFIXES, Remark

OF_OTHERS: Final = frozenset({"node_modules", "site-packages", "venv"})
"""Folders of third-party code, which are not searched for manifests. Hidden folders are not searched either."""


class Finding(NamedTuple):
    """A problem or a note, and its place."""

    file: str
    """Empty: no particular file."""
    line: int | None
    column: int | None
    message: str

    def __str__(self) -> str:
        return ":".join(str(part) for part in self[:3] if part) + (": " if self.file else "") + self.message


class Checked(NamedTuple):
    """The result of the check of a folder."""

    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    summary: str


def problems_of(path: Path, module: str | None) -> Checked:
    """
    Check the folder at *path*, and import its task module.

    If the import fails, only the manifests are checked. Raises ConfigurationError if there is no such folder or no task
    module.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder: pass a folder with a task module and manifests")
    declared, faults = _declared(find_target(path, module))
    read = Folder(path).read(declared, time.time_ns() // 1000)
    counted = [("manifest", len(read.records))]
    if declared is not None:
        counted += [("handler", len(declared.handlers))]
        counted += [("task", len(declared.others))] if declared.others else []
    summary = ", ".join(f"{count} {noun if count == 1 else f'{noun}s'}" for noun, count in counted)
    return Checked(
        (*faults, *map(_finding, read.problems)),
        (*map(_finding, read.notes), *_ignored_folders(path)),
        f"{path}: {summary}, no problems",
    )


def _declared(target: Target) -> tuple[Loaded | None, list[Finding]]:
    try:
        app = load_app_to_check(target)
    except ModuleError as error:
        return None, [_fault(error)]
    return declared_by(app), [_fault(error) for error in unawaitable_handlers(app)]


def _fault(error: ModuleError) -> Finding:
    return Finding(error.file, error.line or None, None, error.message)


def _finding(remark: Remark) -> Finding:
    return Finding(str(remark.place.file), remark.place.line, remark.place.column, remark.message)


def _ignored_folders(path: Path) -> Iterator[Finding]:
    """Yield a note for each subfolder of *path* with manifests, which are ignored."""
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in OF_OTHERS)
        found = [Path(folder, name) for name in files if Path(name).suffix in SUFFIXES]
        if Path(folder) != path and any(_is_of_a_task(file) for file in found):
            yield Finding(folder, None, None, "manifests in subfolders are ignored, as by kubectl apply -f")


def _is_of_a_task(file: Path) -> bool:
    try:
        return b"kind: PyncetteTask" in file.read_bytes()
    except OSError:
        return False
