"""Runs a folder: mirrors its manifests, keeps a worker process running, starts a new one when code changes, shows it all."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import random
import signal
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import watchfiles

from pyncette._version import __version__
from pyncette.app.process import Signals
from pyncette.cli import formatting as words
from pyncette.cli.dev.child import Orders
from pyncette.cli.dev.events import Event, Fault, Loaded, Logged, Printed, Ran
from pyncette.cli.dev.folder import REALM, STATE, DesiredState, Folder
from pyncette.cli.dev.mirroring import mirror_all
from pyncette.cli.dev.process import WorkerProcess
from pyncette.cli.dev.screens import Screen
from pyncette.cli.dev.state import Line, Picture
from pyncette.cli.failures import ExitCode, Failure
from pyncette.cli.modules import LONG_SECONDS, Target
from pyncette.cli.stored import backend_clock
from pyncette.cli.survey import View, describe, survey
from pyncette.clock import SECOND
from pyncette.core.backoff import Backoff
from pyncette.core.log_messages import sentence_of
from pyncette.errors import StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.records import MirrorReport
from pyncette.mirror.rules import MirrorResult, Step
from pyncette.resources.manifests import SUFFIXES, Remark
from pyncette.store.base import Store
from pyncette.telemetry.logs import as_text, extra_of

REFRESH_SECONDS: Final = 0.5
"""Between two reads for the screen: often enough for a countdown, at little cost."""

REFRESH_SHARE: Final = 10
"""Reads take at most one part in this many of the time, however much there is to read."""

MIRROR_SECONDS: Final = 60.0
"""How often manifests are mirrored although none changed: what was stopped is removed after its grace."""

WAITING_SECONDS: Final = 1.0
"""How soon a task is mirrored again that moves to another handler once its run has ended."""

DEBOUNCE_MILLISECONDS: Final = 400
"""Changes of files within this time are one: editors write in several steps, and git changes many files."""

RESTARTS: Final = Backoff(first=1.0, maximum=30.0, jitter=0)
"""Before a worker that ended by itself is started again, since most such causes do not pass by themselves."""

RUN_LINES_MAX: Final = 20
"""Runs that have a line each within a second; more are counted, or they would hide the output of handlers."""

RUNNING: Final = "running; press Ctrl-C to stop"

OURS: Final = "pyncette."
"""Loggers whose ordinary lines are not for people who watch their handlers."""

ENDINGS: Final = "pyncette.worker.endings"
"""The one of them that says what follows a failed attempt."""


class Supervisor:
    """Runs the *folder* with the task module *target*, and shows it on *screen*."""

    def __init__(
        self, folder: Folder, target: Target, screen: Screen, drain_seconds: float, log_level: str
    ) -> None:
        self._folder = folder
        self._screen = screen
        self._drain_seconds = drain_seconds
        self._says_all = log_level == "DEBUG"
        self._orders = Orders(
            folder.backend.url, target.module, target.name, target.home, drain_seconds, log_level, events=-1
        )
        zone = f"{datetime.datetime.now().astimezone():%Z}"
        self._title = (
            f"pyncette {__version__}: {folder.path}, handlers of {Path(target.module).name}, times in {zone}"
        )
        self._status = "starting"
        self._fault = ""
        """The problem of the current module; an earlier one may be running."""
        self._declared = Loaded(())
        self._desired = DesiredState((), (), (), ())
        self._worker: WorkerProcess | None = None
        self._module_changed = asyncio.Event()
        self._manifests_changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._signals_seen = Signals()
        self._mirroring = asyncio.Lock()
        self._runs_shown = 0
        self._runs_counted = 0

    async def run(self) -> int:
        """
        Run until a signal: the first drains, the second ends at once. Return the exit code.

        Raises Failure if the module cannot be imported at the start, and StoreError if the database cannot be used.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._signals())
            stack.enter_context(_logs_shown_on(self._screen))
            stack.push_async_callback(self._end_worker)
            store = await stack.enter_async_context(self._folder.backend.new_store())
            self._ledger = Ledger(store, await backend_clock(store))
            async with asyncio.TaskGroup() as endless:
                watching = endless.create_task(self._watch())
                await asyncio.sleep(0)  # from here on no change goes unnoticed, and so nothing is read before
                if await self._first_worker():
                    await self._mirror()
                    stack.enter_context(self._screen)
                    await self._work()
                watching.cancel()
        return ExitCode.DONE

    async def _work(self) -> None:
        """Let the worker run until a signal."""
        assert self._worker is not None
        self._status = RUNNING
        await self._draw()
        self._worker.go()
        async with asyncio.TaskGroup() as endless:
            refreshing = endless.create_task(self._refresh())
            async with asyncio.TaskGroup() as until_stopped:
                keeping = until_stopped.create_task(self._keep_worker())
                mirroring = until_stopped.create_task(self._keep_mirrored())
                await self._stop.wait()
                keeping.cancel()
                mirroring.cancel()
            await self._drain()
            await self._draw()
            refreshing.cancel()

    async def _drain(self) -> None:
        assert self._worker is not None
        self._say("stopping: waiting for current runs; press Ctrl-C again to stop at once")
        draining = asyncio.ensure_future(self._worker.drain(self._drain_seconds))
        at_once = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait([draining, at_once], return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if not draining.done():
            draining.cancel()
            await self._worker.end()
        self._say("ended")

    async def _end_worker(self) -> None:
        if self._worker is not None and not self._worker.ended.done():
            await self._worker.end()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if self._signals_seen.is_repeated(number):
            return
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    # --- The worker --------------------------------------------------------------------------------------------------

    async def _first_worker(self) -> bool:
        """Start a worker on a module that can be imported; False if it was interrupted."""
        loaded = None
        while loaded is None:
            await self._end_worker()
            self._module_changed.clear()
            self._worker = await self._start_worker()
            loaded = await _unless(self._stop, self._loaded(self._worker))
            if self._stop.is_set():
                return False
        if isinstance(loaded, Fault):
            raise Failure(loaded.message, ExitCode(loaded.code))
        self._declared = loaded
        return True

    async def _keep_worker(self) -> None:
        """Replace the worker when code changes, and start it again when it ends by itself."""
        delays = RESTARTS.delays(random.random)
        while True:
            assert self._worker is not None
            changed = asyncio.ensure_future(self._module_changed.wait())
            waited: list[asyncio.Future[Any]] = [changed, self._worker.ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not changed.done():
                pause = next(delays)
                self._show_end(self._worker, pause)
                await asyncio.wait([changed], timeout=pause)
            else:
                delays = RESTARTS.delays(random.random)
            changed.cancel()
            self._module_changed.clear()
            await self._replace_worker()

    async def _replace_worker(self) -> None:
        """
        Start a worker on the code as it is now. The one before runs until the new code is imported, and is drained then.

        If the new code cannot be imported, or has changed again before that, the one before goes on.
        """
        old = self._worker
        assert old is not None
        new = await self._start_worker()
        try:
            loaded = await self._loaded(new)
            if loaded is None:
                return
            if isinstance(loaded, Fault):
                self._fault = loaded.message
                self._line(f"not reloaded, still running the previous code: {loaded.message}", "ERROR")
                return
            self._fault = ""
            if not old.ended.done():
                self._say("reloading: waiting for current runs")
                await old.drain(self._drain_seconds)
            self._declared = loaded
            await self._mirror()
            self._worker = new
            new.go()
            self._status = RUNNING
            self._line("reloaded")
        finally:
            if self._worker is not new:
                await new.end()

    async def _loaded(self, worker: WorkerProcess) -> Loaded | Fault | None:
        """Return what *worker* has imported. None: that takes long, and the code is another one by now."""
        loading = asyncio.ensure_future(worker.loaded())
        changed = asyncio.ensure_future(self._module_changed.wait())
        try:
            await asyncio.wait([loading], timeout=LONG_SECONDS)
            if not loading.done():
                self._fault = "the import is slow; it restarts when code changes"
                await asyncio.wait([loading, changed], return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else None
        finally:
            loading.cancel()
            changed.cancel()

    async def _start_worker(self) -> WorkerProcess:
        return await WorkerProcess.start(self._orders, self._handle_event, self._line)

    def _show_end(self, worker: WorkerProcess, pause: float) -> None:
        code = worker.ended.result()
        why = (
            worker.fault.message
            if worker.fault
            else f"by signal {-code}"
            if code < 0
            else f"with code {code}"
        )
        self._fault = f"the worker ended: {why}"
        self._line(f"the worker ended: {why}; restarting in {pause:g} s, or when code changes", "ERROR")

    # --- Manifests ---------------------------------------------------------------------------------------------------

    async def _keep_mirrored(self) -> None:
        waiting = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAITING_SECONDS if waiting else MIRROR_SECONDS):
                    await self._manifests_changed.wait()
            self._manifests_changed.clear()
            waiting = await self._mirror()

    async def _mirror(self) -> bool:
        """Mirror the manifests as they are now; say whether something waits to be mirrored."""
        report = MirrorReport()
        failure: StoreError | None = None
        async with self._mirroring:
            try:
                now = await self._ledger.now()
                self._desired = await asyncio.to_thread(self._folder.read, self._declared, now)
                wanted = self._desired
                await mirror_all(self._ledger, REALM, wanted.records, report, keep=wanted.keep)
            except StoreError as error:
                failure = error
        for result in report.results:
            self._show_result(result)
        if failure is not None:
            self._line(f"could not mirror all manifests; retrying: {failure}", "ERROR")
        return failure is not None or any(result.step is Step.WAITING for result in report.results)

    def _show_result(self, result: MirrorResult) -> None:
        name = result.name
        if result.step is Step.STOPPED:
            is_template = result.record is not None and result.record.spec.partitions is not None
            what = (
                "so are its instances, until it returns" if is_template else "its record is removed in a day"
            )
            self._line(f"{name}: stopped, since its manifest is gone; {what}")
        elif result.step is Step.WAITING:
            self._line(f"{name}: moves to its new handler once its run has ended")
        elif result.step in {Step.EDITED, Step.MOVED, Step.REMOVED}:
            self._line(f"{name}: {result.step.value}")

    # --- Watching ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Notice changes of code, in folders below too, and of manifests."""
        ignored = (*watchfiles.DefaultFilter.ignore_dirs, STATE)
        changes = watchfiles.awatch(
            self._folder.path,
            watch_filter=watchfiles.DefaultFilter(ignore_dirs=ignored),
            debounce=DEBOUNCE_MILLISECONDS,
            stop_event=self._stop,
        )
        try:
            async for batch in changes:
                paths = [Path(path) for _, path in batch]
                if any(path.suffix == ".py" for path in paths):
                    self._module_changed.set()
                if any(path.suffix in SUFFIXES for path in paths):
                    self._manifests_changed.set()
        except (OSError, RuntimeError) as error:  # too many are watched on this machine already, for example
            self._line(f"can no longer watch files for changes: {error}", "ERROR")

    # --- Showing -----------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        while True:
            began = time.monotonic()
            await self._draw()
            took = time.monotonic() - began
            await asyncio.sleep(max(REFRESH_SECONDS, REFRESH_SHARE * took))
            self._show_more_runs()

    async def _draw(self) -> None:
        now = self._ledger.clock.now()
        status = self._status
        views: tuple[View, ...] = ()
        try:
            views = tuple(await self._views(self._ledger.store, now))
        except StoreError as error:
            status = f"the database does not answer: {error}"
        problems = ([self._fault] if self._fault else []) + [
            self._placed(remark) for remark in self._desired.problems
        ]
        notes = [self._placed(remark) for remark in self._desired.notes]
        self._screen.draw(Picture(now, self._title, status, views, tuple(problems), tuple(notes)))

    async def _views(self, store: Store, now: int) -> Sequence[View]:
        """Return what is in the manifests and in the module, or was until a moment ago."""
        declared = {task.name for task in self._declared.tasks}
        found = await survey(store, REALM, now)
        return [
            describe(item, now)
            for item in found
            if (item.name in declared and item.name == item.handler)
            or any(home.state.owner is not None for home in item.homes)
        ]

    def _placed(self, remark: Remark) -> str:
        """Return *remark* with its file as seen from the folder."""
        file = remark.place.file
        if file.is_relative_to(self._folder.path):
            remark = remark._replace(place=remark.place._replace(file=file.relative_to(self._folder.path)))
        return str(remark)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Logged):
            ordinary = event.logger.startswith(OURS) and event.level in {"DEBUG", "INFO"}
            if ordinary and event.logger != ENDINGS and not self._says_all:
                return
            at = datetime.datetime.fromtimestamp(event.created).astimezone()
            self._screen.line(Line(at, f"{event.message}{event.fields}", event.level))
            for line in event.traceback.splitlines():
                self._screen.line(Line(at, f"  {line}", event.level))
        elif isinstance(event, Printed):
            self._line(f"{event.task}: {event.text}" if event.task else event.text)
        elif isinstance(event, Ran):
            self._show_run(event)

    def _show_run(self, ran: Ran) -> None:
        if self._runs_shown >= RUN_LINES_MAX * REFRESH_SECONDS:
            self._runs_counted += 1
            return
        self._runs_shown += 1
        again = f", attempt {ran.attempt}" if ran.attempt > 1 else ""
        took, late = (words.duration(int(seconds * SECOND)) for seconds in (ran.seconds, ran.late))
        self._line(f"{ran.name}: succeeded in {took}, {late} late{again}")

    def _show_more_runs(self) -> None:
        if self._runs_counted:
            self._line(f"and {self._runs_counted} more runs succeeded")
        self._runs_shown = self._runs_counted = 0

    def _say(self, status: str) -> None:
        self._status = status
        self._line(status)

    def _line(self, text: str, level: str = "INFO") -> None:
        self._screen.line(Line(datetime.datetime.now().astimezone(), text, level))


class _Shown(logging.Handler):
    """Shows what this process itself logs, which would go through the middle of a screen otherwise."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.datetime.fromtimestamp(record.created).astimezone()
        self._screen.line(Line(at, f"{sentence_of(record)}{as_text(extra_of(record))}", record.levelname))


@contextlib.contextmanager
def _logs_shown_on(screen: Screen) -> Iterator[None]:
    handler = _Shown(screen)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


async def _unless(event: asyncio.Event, work: Awaitable[Loaded | Fault | None]) -> Loaded | Fault | None:
    """Return the result of *work*, or None as soon as *event* is set."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        waiting.cancel()
