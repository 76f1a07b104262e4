"""Notes on schedules that are easily misread: those of manifests, and those of tasks in the module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pyncette.cli.dev.events import Declared
from pyncette.clock import Instant
from pyncette.core.schedule import Cron
from pyncette.core.schedule_warnings import warnings_of
from pyncette.mirror.conversion import DesiredRecord
from pyncette.resources.manifests import Manifest, Place, Remark
from pyncette.resources.task import PyncetteTask


def notes_on_manifests(
    desired: Iterable[tuple[Manifest[PyncetteTask], DesiredRecord]], now: Instant
) -> Iterator[Remark]:
    """Yield a note for each warning about the schedule of a manifest, as it is due from *now* on."""
    for item, record in desired:
        schedule = record.spec.schedule
        if isinstance(schedule, Cron):
            for warning in warnings_of(schedule, now):
                yield Remark(item.place("spec", "schedule"), f"spec.schedule: {warning.message}")


def notes_on_module(declared: Iterable[Declared], folder: Path, now: Instant) -> Iterator[Remark]:
    """Yield a note for each warning about the schedule of a task in the module, at the handler of the task."""
    for task in declared:
        if task.schedule is not None:
            for warning in warnings_of(task.schedule, now):
                file = _within(Path(task.file), folder) if task.file else folder
                yield Remark(
                    Place(file, max(1, task.line), 1), f"the schedule of {task.name}: {warning.message}"
                )


def _within(file: Path, folder: Path) -> Path:
    """Return *file* as the manifests of *folder* are named: by way of *folder*, if it is in there."""
    home = folder.resolve()
    return folder / file.relative_to(home) if file.is_relative_to(home) else file
