"""Schedules instances from a file with one instance per line, and continues an interrupted load."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pyncette.app.application import Pyncette
from pyncette.app.context import PyncetteContext, runtime_of
from pyncette.app.options import OF_THE_TASK_ALONE
from pyncette.app.policy_options import OLD_POLICIES
from pyncette.app.process import choose_loop
from pyncette.app.tasks import Task
from pyncette.cli.failures import Failure
from pyncette.cli.modules import Target, load_app
from pyncette.cli.settings import Settings
from pyncette.core.schedule import resolve_zone
from pyncette.core.suggestions import did_you_mean
from pyncette.errors import ContentionError, StoreError
from pyncette.resources.task import no_such_zone

FIELDS: Final = "name, and schedule with timezone, interval_seconds, or execute_at; and args"

FORMS: Final = {
    "name": 'text, as in "ada"',
    "schedule": 'a cron expression, as in "0 8 * * *"',
    "timezone": 'the name of a time zone, as in "Europe/Dublin"',
    "interval_seconds": "a number, as in 3600",
    "execute_at": 'a time with its offset from UTC, as in "2030-01-31T08:00:00Z"',
    "args": 'an object of names and values, as in {"id": 1}',
}
"""The expected value of each field."""

EXAMPLE: Final = '{"name": "ada", "interval_seconds": 3600}'

SAVE_SECONDS: Final = 1.0
"""Time between saves of the progress. Instances after the last save are scheduled again, which changes nothing."""

LINE_BYTES_MAX: Final = 1 << 20
"""The longest line. A longer one is no instance: the file probably has no line breaks."""

HEAD_BYTES: Final = 1 << 16
"""Bytes at the start of the file that, with its length and target, identify an interrupted load."""

NOT_ARGUMENTS: Final = OLD_POLICIES | OF_THE_TASK_ALONE | {"schedule", "interval", "execute_at", "timezone"}
"""Names of options in the API, which arguments of an instance cannot have."""


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the file: an instance."""

    name: str
    schedule: str | None = None
    timezone: str | None = None
    interval_seconds: float | None = None
    execute_at: datetime.datetime | None = None
    args: dict[str, Any] = {}

    def options(self, *, loose_keywords: bool) -> dict[str, Any]:
        """Return the options and arguments for `schedule_many`, by the defaults of the app. Raises ValueError."""
        taken = NOT_ARGUMENTS & self.args.keys()
        if taken and loose_keywords:
            raise ValueError(f"an argument cannot have the name of a task option: {min(taken)}")
        if self.timezone is not None and not _is_zone(self.timezone):
            raise ValueError(f"timezone: {no_such_zone(self.timezone)}")
        if self.execute_at is not None and self.execute_at.tzinfo is None:
            raise ValueError("execute_at needs a UTC offset, as in 2030-01-31T08:00:00Z")
        options = {"schedule": self.schedule, "timezone": self.timezone, "execute_at": self.execute_at}
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if self.interval_seconds is not None:
            try:
                given["interval"] = datetime.timedelta(seconds=self.interval_seconds)
            except OverflowError:
                raise ValueError("interval_seconds is too large") from None
        return given | (self.args if loose_keywords else {"args": self.args})


class Loaded(NamedTuple):
    """The progress of a load."""

    offset: int = 0
    """Processed bytes of the file."""
    lines: int = 0
    scheduled: int = 0
    refused: int = 0


class Place(NamedTuple):
    """The position of a line in the file."""

    number: int
    end: int
    """The offset of the next line."""
    refused: int
    """Refused lines between the previous instance and this one."""


class Notebook:
    """A file beside the loaded one that keeps the progress and the target of the load."""

    def __init__(self, file: Path, into: str) -> None:
        self._path = file.with_name(f".{file.name}.pyncette-load")
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
        self._mark = hashlib.sha256(f"{file.stat().st_size} {into} ".encode() + head).hexdigest()

    @property
    def can_be_kept(self) -> bool:
        return os.access(self._path.parent, os.W_OK)

    def read(self) -> Loaded:
        """Return the progress of an earlier load of the same file into the same task."""
        try:
            mark, loaded = msgspec.json.decode(self._path.read_bytes(), type=tuple[str, Loaded])
        except (OSError, msgspec.MsgspecError):
            return Loaded()
        return loaded if mark == self._mark else Loaded()

    def write(self, loaded: Loaded) -> None:
        """Save the progress atomically."""
        if self.can_be_kept:
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode((self._mark, loaded)))
            fresh.replace(self._path)

    def close(self) -> None:
        """Delete the saved progress."""
        self._path.unlink(missing_ok=True)


class Load:
    """A load of one file into one task."""

    def __init__(
        self,
        file: Path,
        notebook: Notebook,
        loaded: Loaded,
        refuse: Callable[[str], None],
        progress: Callable[[Loaded], None],
    ) -> None:
        self.loaded = loaded
        self._file = file
        self._notebook = notebook
        self._refuse = refuse
        self._progress = progress
        self._under_way: deque[Place] = deque()
        self._refused = 0
        self._saved_at = time.monotonic()

    async def run(self, context: PyncetteContext, task: Task, *, force: bool) -> None:
        """Schedule the remaining instances. Save the progress and raise StoreError if the backend fails."""
        loose = runtime_of(context).app.defaults.loose_keywords
        try:
            with self._file.open("rb") as opened:
                opened.seek(self.loaded.offset)
                async for result in context.schedule_many(task, self._items(opened, loose), force=force):
                    self._over(self._under_way.popleft(), result.error)
        except BaseException:
            self._notebook.write(self.loaded)
            raise
        self.loaded = self.loaded._replace(refused=self.loaded.refused + self._refused)
        self._progress(self.loaded)
        self._notebook.close()

    def _items(self, opened: BinaryIO, loose_keywords: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the instances. Refuse and skip invalid lines."""
        number, end = self.loaded.lines, self.loaded.offset
        while line := opened.readline(LINE_BYTES_MAX):
            number, end = number + 1, end + len(line)
            if len(line) == LINE_BYTES_MAX:
                raise Failure(
                    f"{self._file}:{number}: the line has {LINE_BYTES_MAX:,} bytes or more: write one instance per line"
                )
            if not line.strip():
                continue
            try:
                item = msgspec.json.decode(line, type=Line)
                pair = item.name, item.options(loose_keywords=loose_keywords)
            except ValueError as error:  # which includes the errors of msgspec
                self._refused += 1
                reason = _reason(error) if isinstance(error, msgspec.MsgspecError) else error
                self._refuse(f"{self._file}:{number}: {reason}")
                continue
            self._under_way.append(Place(number, end, self._refused))
            self._refused = 0
            yield pair

    def _over(self, place: Place, error: Exception | None) -> None:
        """Record the result of the instance at *place*."""
        _, _, scheduled, refused = self.loaded
        if error is None:
            scheduled += 1
        elif isinstance(error, StoreError) and not isinstance(error, ContentionError):
            raise error
        else:
            refused += 1
            self._refuse(f"{self._file}:{place.number}: {error}")
        self.loaded = Loaded(place.end, place.number, scheduled, refused + place.refused)
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self._notebook.write(self.loaded)
            self._progress(self.loaded)
            self._saved_at = time.monotonic()


def load_file(
    target: Target,
    name: str,
    file: Path,
    settings: Settings,
    *,
    force: bool,
    restart: bool,
    report: Callable[[str], None],
) -> Loaded:
    """
    Schedule the lines of *file* as instances of the dynamic task *name*.

    *report* receives a message for each refused line, and about interruptions. Raises Failure, ConfigurationError or
    StoreError.
    """
    backend = settings.backend
    if backend is None:
        raise Failure("no backend configured: set PYNCETTE_BACKEND or pass --backend")
    if backend.in_memory:
        raise Failure("the memory backend is lost when this process ends: use a file or a server")
    app = load_app(target)
    task = _template(app, name)
    notebook = Notebook(file, f"{backend} {settings.realm or app.realm} {name} {force}")
    if restart:
        notebook.close()
    begun = notebook.read()
    if begun.lines:
        report(
            f"continuing after line {begun.lines:,}, where the last load was interrupted; --restart starts over"
        )
    if not notebook.can_be_kept:
        report(f"{file.parent} is not writable: an interrupted load will start over")

    async def run(progress: Callable[[Loaded], None]) -> Loaded:
        load = Load(file, notebook, begun, report, progress)
        async with app.create(new_store=backend.new_store, realm=settings.realm) as context:
            try:
                await load.run(context, task, force=force)
            except asyncio.CancelledError:
                if notebook.can_be_kept:
                    done = f"interrupted after line {load.loaded.lines:,}"
                    report(f"{done}; run the same command to continue")
                raise
        return load.loaded

    with _bar(file, begun) as progress, asyncio.Runner(loop_factory=choose_loop()) as runner:
        return runner.run(run(progress))


def _reason(error: msgspec.MsgspecError) -> str:
    """Convert an error of msgspec to one in terms of the file."""
    text = str(error)
    wrong = re.search(r"`\$\.(\w+)", text)
    if wrong is not None and wrong[1] in FORMS:
        return f"{wrong[1]} must be {FORMS[wrong[1]]}"
    if unknown := re.search(r"unknown field `(.*)`", text):
        return f"unknown field {unknown[1]}; {did_you_mean(unknown[1], FORMS, f'the fields are {FIELDS}')}"
    if missing := re.search(r"missing required field `(.*)`", text):
        return f"{missing[1]} is missing; the fields are {FIELDS}"
    return f"write an object, as in {EXAMPLE}" if text.startswith("Expected") else f"{text}; write {EXAMPLE}"


def _is_zone(name: str) -> bool:
    try:
        resolve_zone(name)
    except ValueError:
        return False
    return True


def _template(app: Pyncette, name: str) -> Task:
    task = app.tasks.get(name)
    templates = [other.name for other in app.tasks.values() if other.dynamic]
    if task is not None and task.dynamic:
        return task
    problem = "is not a dynamic task" if task is not None else "not found in the module"
    known = (
        f"dynamic tasks: {', '.join(sorted(templates))}" if templates else "the module has no dynamic task"
    )
    raise Failure(f"task {name} {problem}; {known}")


@contextlib.contextmanager
def _bar(file: Path, begun: Loaded) -> Iterator[Callable[[Loaded], None]]:
    """Show a progress bar if stderr is a terminal."""
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        bar = shown.add_task("", total=file.stat().st_size, completed=begun.offset, rate="")
        began_at = time.monotonic()

        def progress(loaded: Loaded) -> None:
            per_second = (loaded.scheduled - begun.scheduled) / max(time.monotonic() - began_at, 0.001)
            rate = f"{loaded.scheduled:,} scheduled, {per_second:,.0f}/s"
            shown.update(bar, completed=loaded.offset, rate=rate)

        yield progress
