"""A folder that `pyncette dev` runs: its manifests, its task module, and its database."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyncette.cli.dev.events import Loaded
from pyncette.cli.dev.schedule_notes import notes_on_manifests, notes_on_module
from pyncette.clock import Instant
from pyncette.core.schedule import check_ahead
from pyncette.errors import ConfigurationError
from pyncette.mirror.conversion import DesiredRecord, desired_record_of, to_key
from pyncette.resources.argument_problems import argument_problems
from pyncette.resources.manifests import Manifest, Manifests, Remark, load, unknown_handlers
from pyncette.resources.reading import not_dynamic, other_partitions
from pyncette.resources.task import PyncetteTask
from pyncette.store.sqlite.backend import SqliteBackend, backend_in

STATE: Final = ".pyncette"
"""The subfolder of the database. Deleting it starts afresh."""

DATABASE: Final = "tasks.db"

REALM: Final = ""
"""The embedded database has no other tenants."""


class DesiredState(NamedTuple):
    """The desired records of a folder's manifests, and the problems in them."""

    records: tuple[DesiredRecord, ...]
    problems: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    keep: Container[str]
    """Names of tasks whose manifests cannot be read at the moment. Their records stay."""


@dataclass(frozen=True, slots=True)
class _Unclear:
    """Names of tasks that may or may not be gone, since their manifests cannot be read."""

    files: Mapping[str, Path]
    wrong: frozenset[Path]

    def __contains__(self, name: object) -> bool:
        # A task that was never seen since the start may be in any of the files that have problems.
        file = self.files.get(str(name))
        return bool(self.wrong) if file is None else file in self.wrong


class Folder:
    """The folder at *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, Path] = {}
        """Where the manifest of each task was, when it was last seen."""

    @property
    def backend(self) -> SqliteBackend:
        """The embedded database."""
        return backend_in(self.path / STATE / DATABASE)

    @property
    def has_run(self) -> bool:
        """True if a database exists from an earlier start."""
        return Path(self.backend.path).is_file()

    def prepare(self) -> None:
        """Create the folder of the database, ignored by git. Raises ConfigurationError."""
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise ConfigurationError(
                f"{self.path} {what}: dev needs a folder with a task module and manifests"
            )
        try:
            (self.path / STATE).mkdir(exist_ok=True)
            (self.path / STATE / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{self.path / STATE} cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder against another `pyncette dev`: two would each restart what the other runs."""
        with (self.path / STATE / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip()
                by = f" (process {holder})" if holder else ""
                raise ConfigurationError(f"pyncette dev runs in {self.path} already{by}") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def read(self, declared: Loaded | None, now: Instant) -> DesiredState:
        """
        Read the manifests again, for the tasks that the module has *declared*; None if those are unknown.

        A manifest with a problem is not applied; the record that an earlier version of it created stays.
        """
        loaded = load(self.path)
        others = frozenset[str]() if declared is None else declared.others
        unknown = () if declared is None else _unknown_handlers(loaded.tasks, declared.handlers, others)
        misfits = {remark.place for remark in unknown}
        fit = [item for item in loaded.tasks if item.place("spec", "handler") not in misfits]
        fit, other = (fit, []) if declared is None else _of_their_templates(fit, declared.templates)
        fit, invalid = (fit, []) if declared is None else _with_valid_arguments(fit, declared.schemas)
        fit, twins = _one_of_each_name(fit)
        desired_records = [
            (item, desired_record_of(item.resource, REALM, _written_at(item.source.file, now)))
            for item in fit
        ]
        over = _over_before_they_were_written(desired_records)
        problems = (*loaded.problems, *unknown, *other, *invalid, *twins, *over)
        keep = self._keep(loaded, problems)
        late = {remark.place for remark in over}
        records = tuple(
            desired for item, desired in desired_records if item.place("spec", "schedule") not in late
        )
        notes = (
            *loaded.notes,
            *_notes(loaded, others),
            *notes_on_manifests(desired_records, now),
            *notes_on_module(() if declared is None else declared.tasks, self.path, now),
        )
        return DesiredState(records, tuple(sorted(problems)), notes, keep)

    def _keep(self, loaded: Manifests, problems: Sequence[Remark]) -> Container[str]:
        """Return the tasks that are not gone: while a file has a problem, no task that was in it is gone."""
        for item in loaded.tasks:
            self._files[to_key(item.resource, REALM).task] = item.source.file
        return _Unclear(dict(self._files), frozenset(problem.place.file for problem in problems))

    def knows(self, name: str) -> bool:
        """Return whether a task of this name was in a manifest since the start."""
        return name in self._files


def _unknown_handlers(
    tasks: Sequence[Manifest[PyncetteTask]], handlers: Collection[str], others: Collection[str]
) -> tuple[Remark, ...]:
    found = unknown_handlers(tasks, handlers)
    by_place = {item.place("spec", "handler"): item.resource.spec.handler for item in tasks}
    return tuple(
        remark._replace(
            message=f'spec.handler: "{name}" is a task with a schedule of its own: declare it by @app.handler()'
        )
        if (name := by_place[remark.place]) in others
        else remark
        for remark in found
    )


def _of_their_templates(
    tasks: Sequence[Manifest[PyncetteTask]], templates: Mapping[str, int]
) -> tuple[list[Manifest[PyncetteTask]], list[Remark]]:
    """Refuse a dynamic task whose handler has no instances, or has them spread over other partitions."""
    fit, misfits = [], []
    for item in tasks:
        spec = item.resource.spec
        if spec.dynamic and spec.handler not in templates:
            message = f"spec.handler: {not_dynamic(spec.handler)}"
            misfits.append(Remark(item.place("spec", "handler"), message))
        elif spec.dynamic and spec.partitions != templates[spec.handler]:
            message = f"spec.partitions: {other_partitions(spec.partitions, [templates[spec.handler]])}"
            misfits.append(Remark(item.place("spec", "partitions"), message))
        else:
            fit.append(item)
    return fit, misfits


def _with_valid_arguments(
    tasks: Sequence[Manifest[PyncetteTask]], schemas: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Manifest[PyncetteTask]], list[Remark]]:
    """Refuse a task whose arguments do not fit its handler. Those of a dynamic task are defaults, and may be incomplete."""
    fit, problems = [], []
    for item in tasks:
        spec = item.resource.spec
        schema = schemas.get(spec.handler)
        found = (
            [] if schema is None else argument_problems(schema, spec.args or {}, complete=not spec.dynamic)
        )
        problems += [Remark(item.place("spec", "args", *each.path), str(each)) for each in found]
        if not found:
            fit.append(item)
    return fit, problems


def _one_of_each_name(
    tasks: Sequence[Manifest[PyncetteTask]],
) -> tuple[list[Manifest[PyncetteTask]], list[Remark]]:
    """Refuse a second task of a name in another namespace, for here all are in one; and a second template of a handler."""
    first: dict[str, Manifest[PyncetteTask]] = {}
    twins = []
    for item in tasks:
        name = to_key(item.resource, REALM).task
        if name not in first:
            first[name] = item
            continue
        other = first[name].place("metadata", "name")
        if item.resource.metadata.name == first[name].resource.metadata.name:
            message = (
                f"metadata.name: {name} is at {other} already, in another namespace: dev has only one, so rename "
                "one of them, or keep namespaces in folders of their own"
            )
        else:
            message = (
                f"metadata.name: {name} is the task at {other} already: a dynamic task takes the name of its handler, "
                "and a handler has only one"
            )
        twins.append(Remark(item.place("metadata", "name"), message))
    return list(first.values()), twins


def _over_before_they_were_written(
    desired_records: Sequence[tuple[Manifest[PyncetteTask], DesiredRecord]],
) -> list[Remark]:
    """Refuse a schedule whose years were over when it was written; one that has run its course since is fine."""
    over = []
    for item, desired in desired_records:
        try:
            check_ahead(desired.spec.schedule, desired.created_at or 0)
        except ValueError as error:
            over.append(Remark(item.place("spec", "schedule"), f"spec.schedule: {error}"))
    return over


def _notes(loaded: Manifests, others: Collection[str]) -> Iterator[Remark]:
    for item in loaded.tasks:
        if item.resource.metadata.name in others:
            yield Remark(
                item.place("metadata", "name"),
                f"metadata.name: the module has a task {item.resource.metadata.name}, too: commands tell them apart by --handler",
            )


def _written_at(file: Path, now: Instant) -> Instant:
    """Return when *file* was written, which counts as the creation time of its resources."""
    try:
        return min(file.stat().st_mtime_ns // 1000, now)
    except OSError:
        return now
