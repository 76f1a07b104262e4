"""The worker process of `pyncette dev`: imports the task module, waits for its parent, and runs due tasks."""

from __future__ import annotations

import asyncio
import datetime
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

import pyncette
from pyncette.app.application import Pyncette
from pyncette.app.context import Context, NextFunc, runtime_of
from pyncette.app.handlers import place_of
from pyncette.app.process import choose_loop, run_context
from pyncette.app.tasks import Task, kind_of, schema_of
from pyncette.cli.dev.events import (
    TEXT_CHARACTERS_MAX,
    Declared,
    Event,
    Fault,
    Loaded,
    Logged,
    Printed,
    Ran,
    encode,
)
from pyncette.cli.failures import ExitCode, failure_of
from pyncette.cli.modules import Target, load_checked_app
from pyncette.cli.survey import claimable_since
from pyncette.cli.worker import say_what_is_ignored
from pyncette.clock import SECOND
from pyncette.core.log_messages import sentence_of
from pyncette.core.schedule import Cron, seeded_cron
from pyncette.store.backend import read_backend
from pyncette.telemetry.logs import as_text, extra_of, name_of, run_in_short, traceback_of
from pyncette.worker.occurrence import current

REALM: Final = ""
"""Of the embedded database, which has no other tenants. It stands here too, since a worker does not load manifests."""

PACKAGE: Final = Path(pyncette.__file__).parent

OF_THE_WORKER: Final = "pyncette.worker."
"""The loggers whose lines about a run begin with its task, as those of its handler do."""

OF_A_RUN: Final = frozenset(
    (
        "task",
        "instance",
        "occurrence",
        "run_id",
        "attempt",
        "scheduled_at",
        "realm",
        "partition",
        "fencing_token",
    )
)
"""The fields that identify a run, for programs."""

GO: Final = b"go\n"
"""The line with which the parent process starts the runs, once no other worker runs."""


class Orders(msgspec.Struct, frozen=True):
    """The single argument of a worker process."""

    backend: str
    """The URL of the embedded database."""
    module: str
    name: str
    home: str
    drain_seconds: float
    log_level: str
    events: int
    """The file descriptor that events go to."""


def main() -> int:
    """Run, and return the exit code."""
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    events = Events(orders.events)
    root = logging.getLogger()
    root.addHandler(EventHandler(events))
    root.setLevel(orders.log_level)
    sys.stdout, sys.stderr = Printer(events), Printer(events)
    go = Go()
    try:
        app = load_checked_app(Target(orders.module, orders.name, orders.home))
        events.send(declared_by(app))
        go.wait()
        return run(app, orders, events)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            logging.getLogger(__name__).exception("the worker failed")
            events.send(Fault(f"{type(error).__name__}: {error}", ExitCode.FAILED))
            return ExitCode.FAILED
        events.send(Fault(failure.message, failure.exit_code))
        return failure.exit_code


def declared_by(app: Pyncette) -> Loaded:
    """Return what the manifests of a folder may name of *app*, and the schedules that it has itself."""
    return Loaded(tuple(map(_declared, app.tasks.values())))


def _declared(task: Task) -> Declared:
    file, line = place_of(task.task_func)
    schedule = None
    if task.schedule is not None:
        schedule = seeded_cron(Cron(task.schedule, task.timezone or "UTC"), task.name)
    return Declared(
        task.name, kind_of(task).value, task.partition_count, schedule, file, line, schema_of(task)
    )


def run(app: Pyncette, orders: Orders, events: Events) -> int:
    """Run *app* on the folder's database until it is stopped or its parent ends."""
    backend = read_backend(orders.backend)
    say_what_is_ignored(app, backend)
    app.middlewares.insert(0, partial(report_run, events))
    with asyncio.Runner(loop_factory=choose_loop()) as runner:
        create = partial(app.create, new_store=backend.new_store, realm=REALM)
        return runner.run(run_context(create, datetime.timedelta(seconds=orders.drain_seconds)))


class Go:
    """The parent's commands on stdin. When stdin closes, the parent has ended."""

    def __init__(self) -> None:
        self._said = threading.Event()
        threading.Thread(target=self._listen, name="pyncette-dev-go", daemon=True).start()

    def wait(self) -> None:
        """Return when the parent starts the runs."""
        self._said.wait()

    def _listen(self) -> None:
        # Not through sys.stdin, whose lock a thread that waits would still hold when the interpreter ends.
        while said := os.read(0, 1024):
            if GO in said:
                self._said.set()
        # While the module is being imported, or before it runs, this ends the process; later it drains it.
        os.kill(os.getpid(), signal.SIGTERM)


async def report_run(events: Events, context: Context, call: NextFunc) -> None:
    """Call a handler and report how long it took. The worker logs what it raises."""
    occurrence = current.get()
    assert occurrence is not None
    held = occurrence.held
    record = held.record
    since = claimable_since(record.key, held.policies, held.scheduled_at, record.schedule_since)
    late = max(0, runtime_of(context.app_context).clock.now() - since)
    began = time.monotonic()
    await call()
    events.send(Ran(name_of(occurrence), time.monotonic() - began, late / SECOND, held.attempt))


class EventHandler(logging.Handler):
    """Sends each log record to the parent."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        self._formatter = Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message, fields = sentence_of(record), {**run_in_short(), **extra_of(record)}
            if record.name.startswith(OF_THE_WORKER) and "task" in fields:
                # As the lines that a handler prints; which occurrence it was, the time of the line says.
                message = f"{_name_in(fields)}: {message}"
                fields = {name: value for name, value in fields.items() if name not in OF_A_RUN}
            self._events.send(
                Logged(
                    record.created,
                    record.levelname,
                    record.name,
                    message[:TEXT_CHARACTERS_MAX],
                    as_text(fields)[:TEXT_CHARACTERS_MAX],
                    traceback_of(self._formatter, record)[-TEXT_CHARACTERS_MAX:],
                )
            )
        except Exception:  # noqa: BLE001 - a line that cannot be sent must not break the code that logged it
            self.handleError(record)


def _name_in(fields: Mapping[str, Any]) -> str:
    return "/".join(str(fields[name]) for name in ("task", "instance") if fields.get(name))


class Formatter(logging.Formatter):
    """A formatter whose tracebacks begin with the first frame that is not of this package."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name in the base class
        kind, error, trace = ei
        return super().formatException((kind, error, of_handler(trace)))


def of_handler(trace: TracebackType | None) -> TracebackType | None:
    """Return *trace* without the frames of this package that called the handler; all of it, if it has no other frames."""
    rest = trace
    while rest is not None and Path(rest.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        rest = rest.tb_next
    return rest or trace


class Printer(io.TextIOBase):
    """Sends each printed line to the parent, with the task that printed it, in order with other events."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        self._lock = threading.RLock()
        """Plain functions print in threads of their own."""
        self._begun: dict[str, str] = {}
        """The incomplete line of each task."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        occurrence = current.get()
        task = name_of(occurrence) if occurrence else ""
        with self._lock:
            *lines, rest = (self._begun.pop(task, "") + text).split("\n")
            if rest and len(rest) < TEXT_CHARACTERS_MAX:
                self._begun[task] = rest
            elif rest:
                lines.append(rest)
            for line in lines:
                self._events.send(Printed(line.rstrip("\r")[:TEXT_CHARACTERS_MAX], task))
        return len(text)

    def flush(self) -> None:
        """Send incomplete lines too: a program that flushes part of a line wants it to be shown."""
        with self._lock:
            for task in list(self._begun):
                self._events.send(Printed(self._begun.pop(task), task))


class Events:
    """The pipe to the parent process. Any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Send *event*; it is dropped if the parent has ended."""
        line = encode(event) + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[self._pipe.write(line) or 0 :]
            except OSError:
                pass


if __name__ == "__main__":
    sys.exit(main())
