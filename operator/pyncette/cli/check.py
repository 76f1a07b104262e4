"""Looks for what is wrong with a folder, as `pyncette dev` would, without running anything."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from pyncette.cli.dev.child import declared_by
from pyncette.cli.dev.folder import Folder
from pyncette.cli.modules import find_target, load_app
from pyncette.errors import ConfigurationError


class Checked(NamedTuple):
    """What there is to say of a folder."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    summary: str


def problems_of(path: Path, module: str | None) -> Checked:
    """Check the folder at *path*. The task module is imported. Raises ConfigurationError if it cannot be used."""
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder: check needs one with a task module and manifests")
    target = find_target(path, module)
    app = load_app(target)
    declared = declared_by(app)
    read = Folder(path).read(declared, time.time_ns() // 1000)
    count, handlers = len(read.wishes), len(declared.handlers)
    return Checked(
        tuple(map(str, read.problems)),
        tuple(map(str, read.notes)),
        f"{path}: {count} {_of('manifest', count)}, {handlers} {_of('handler', handlers)}, no problems",
    )


def _of(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
