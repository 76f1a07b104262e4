"""Opens stores, finds records and starts runs, for the commands."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.cli.dev.folder import STATE, Folder
from pyncette.cli.failures import ExitCode, Failure
from pyncette.cli.settings import Settings
from pyncette.cli.survey import find
from pyncette.clock import SystemClock, synchronize
from pyncette.core import edits
from pyncette.core.accounting import run_id
from pyncette.core.record import Change, Key, Outcome, Record, Run, replace
from pyncette.core.spec import Policies
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.store.backend import Backend
from pyncette.store.base import Store

POLL_SECONDS: Final = 0.1
"""Time between polls for the outcome of a run."""

OUTCOME_SECONDS: Final = 5.0
"""Time limit from the end of a run until its outcome is in the history or in the counters."""

QUIET_SECONDS: Final = 5.0
"""Time without a claim after which a hint is printed."""

CLAIMS_MAX: Final = 1000
"""Claims of one run that are searched for in the history: more than any retry policy allows."""

ARGS_BYTES_MAX: Final = 16 * 1024
"""The limit of manifests."""


def backend_of(settings: Settings, path: Path | None) -> Backend:
    """
    Return the backend of *path*, where `pyncette dev` has run, or of the settings, or of the current folder.

    Raises Failure if there is none.
    """
    if path is None and settings.backend is not None:
        return _existing(settings.backend)
    folder = Folder(Path() if path is None else path)
    if folder.has_run:
        return folder.backend
    if path is not None:
        raise Failure(f"pyncette dev has not run in {path}: {path / STATE} not found")
    raise Failure(
        "no backend configured: set PYNCETTE_BACKEND or pass --backend, or pass --path with a folder where pyncette dev has run, "
        "or --namespace with that of a pool, in the operator's pod"
    )


def _existing(backend: Backend) -> Backend:
    """Raise Failure if *backend* does not exist: opening it would create an empty one."""
    if backend.in_memory:
        raise Failure("the memory backend is empty in a new process: use a file or a server")
    if backend.absence:
        raise Failure(backend.absence)
    return backend


def with_store(backend: Backend, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Run *work* with the store of *backend*, and return its result."""

    async def run() -> Any:
        async with backend.new_store(create=False) as store:
            return await work(store)

    return asyncio.run(run())


async def find_record(store: Store, realm: str, name: str, handler: str | None = None) -> Record:
    """Return the record of the task or instance *name*, of *handler* if set. Raises Failure unless there is exactly one."""
    found = [
        record
        for record in await find(store, realm, name)
        if handler is None or record.key.partition.handler == handler
    ]
    if len(found) == 1:
        return found[0]
    where = f" in the realm {realm}" if realm else ""
    if found:
        handlers = ", ".join(sorted({record.key.partition.handler for record in found}))
        raise Failure(f"several handlers have a task {name}{where}: {handlers}; select one with --handler")
    where = f" of the handler {handler}{where}" if handler else where
    raise Failure(f"task {name} not found{where}; `pyncette tasks` lists all tasks")


async def backend_clock(store: Store) -> SystemClock:
    """Return a clock that is synchronized with the backend."""
    clock = SystemClock()
    await synchronize(clock, store.now)
    return clock


# --- Runs on demand --------------------------------------------------------------------------------------------------


class RequestedRun(NamedTuple):
    """A run on demand, and its outcome."""

    key: Key
    outcome: Outcome | None
    """None: it has not ended."""
    run: Run | None = None
    message: str = ""
    begun: bool = True
    """True if a worker has claimed it."""


def read_args(text: str | None) -> msgspec.Raw | None:
    """Parse the arguments in *text* and return them in stored form. Raises Failure."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(
            f'--args is not valid JSON: {error}; pass an object, such as \'{{"name": "value"}}\''
        ) from None
    if not isinstance(value, dict):
        raise Failure(f"--args must be a JSON object, not {text[:60]}")
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise Failure(f"--args is not valid JSON: {error}") from None
    if len(written) > ARGS_BYTES_MAX:
        raise Failure(f"--args has {len(written):,} bytes; the limit is {ARGS_BYTES_MAX:,}")
    return msgspec.Raw(written)


async def fire(
    store: Store,
    realm: str,
    name: str,
    args: msgspec.Raw | None,
    wait_seconds: float | None,
    report: Callable[[str], None],
    handler: str | None = None,
) -> RequestedRun:
    """
    Run the task *name* now, and wait for its outcome; *report* receives messages about the progress.

    Without *args*, the run has the arguments of the task. After *wait_seconds* seconds, return without an outcome; the run
    continues.
    """
    home = await find_record(store, realm, name, handler)
    if home.spec.schedule is None and not home.key.instance:
        raise Failure(f"{name} is a dynamic task: select one of its instances, as in {name}/INSTANCE")
    ledger = Ledger(store, await backend_clock(store))
    fired = await _create(ledger, home, args)
    report(f"requested a run of {name}; waiting for its outcome")
    waiting = _Waiting(store, home.key, fired)
    try:
        return await waiting.outcome(wait_seconds, report)
    except asyncio.CancelledError:
        report("stopped waiting; the requested run still takes place")
        raise


async def _create(ledger: Ledger, home: Record, args: msgspec.Raw | None) -> Record:
    policies = home.spec.policies or Policies()
    extra = edits.on_demand(home, policies, secrets.token_hex(6), ledger.clock.now())
    if args is not None:
        extra = replace(extra, spec=replace(extra.spec, args=args))
    await ledger.apply({extra.key: _created(extra)})
    return extra


def _created(extra: Record) -> Rule:
    def rule(record: Record | None, _: int) -> Ruling:
        return Ruling(None if record is not None else Change(None, extra))

    return rule


class _Waiting:
    """A wait for the outcome of a requested run."""

    def __init__(self, store: Store, home: Key, fired: Record) -> None:
        self._store = store
        self._home = home
        self._fired = fired

    async def outcome(self, wait_seconds: float | None, report: Callable[[str], None]) -> RequestedRun:
        began = time.monotonic()
        reported = False
        claimed = False
        while wait_seconds is None or time.monotonic() - began < wait_seconds:
            (record,) = await self._store.load([self._fired.key])
            if record is None:
                return await self._counted()
            claimed = claimed or record.fence > self._fired.fence
            if not (reported or claimed) and time.monotonic() - began > QUIET_SECONDS:
                reported = True
                handler = self._home.partition.handler
                report(f"no worker has claimed the run yet: is a worker with the handler {handler} running?")
            await asyncio.sleep(POLL_SECONDS)
        return RequestedRun(self._fired.key, None, begun=claimed)

    async def _counted(self) -> RequestedRun:
        """Return the outcome of a run whose record was removed at its end. The outcome is counted a moment later."""
        ids = {run_id(self._fired.key, self._fired.fence + claim) for claim in range(1, CLAIMS_MAX)}
        deadline = time.monotonic() + OUTCOME_SECONDS
        while time.monotonic() < deadline:
            for run in await self._store.history(self._home):
                if run.id in ids:
                    return RequestedRun(self._fired.key, run.outcome, run, run.message)
            (home,) = await self._store.load([self._home])
            summary = home.state.summary if home is not None else None
            if summary is not None and summary.last_scheduled_at == self._fired.due_at:
                return RequestedRun(self._fired.key, summary.last_outcome, None, summary.last_message)
            await asyncio.sleep(POLL_SECONDS)
        raise Failure(
            "the run has ended, but its outcome was not found: its task was removed or keeps no history",
            ExitCode.FAILED,
        )
