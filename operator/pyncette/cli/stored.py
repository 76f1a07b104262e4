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
from pyncette.clock import SECOND, SystemClock, synchronize
from pyncette.coordination.members import members
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

CLAIM_SECONDS: Final = 30.0
"""Time without a claim after which the wait ends, unless it has a limit of its own. That of `kubectl wait`."""

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
    unfinished: str = ""
    """Why the wait ended before the run, as a sentence."""


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
    continues. None: wait until it ends, unless no worker claims it within `CLAIM_SECONDS` after it may be claimed.
    """
    home = await find_record(store, realm, name, handler)
    if home.spec.schedule is None and not home.key.instance:
        raise Failure(f"{name} is a dynamic task: select one of its instances, as in {name}/INSTANCE")
    ledger = Ledger(store, await backend_clock(store))
    fired = await _create(ledger, home, args)
    report(f"requested a run of {name}; waiting for its outcome")
    waiting = _Waiting(ledger, home.key, fired)
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

    def __init__(self, ledger: Ledger, home: Key, fired: Record) -> None:
        self._store = ledger.store
        self._clock = ledger.clock
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
            unclaimed = self._unclaimed_seconds(record)
            if unclaimed > QUIET_SECONDS and not (reported or claimed):
                reported = True
                report(f"no worker has claimed the run yet: {await self._why_unclaimed()}")
            if wait_seconds is None and unclaimed > CLAIM_SECONDS:
                return self._unfinished(
                    CLAIM_SECONDS, f"no worker has claimed it: {await self._why_unclaimed()}"
                )
            await asyncio.sleep(POLL_SECONDS)
        assert wait_seconds is not None
        state = "it continues" if claimed else "no worker has claimed it yet; the next free worker will"
        return self._unfinished(wait_seconds, state)

    def _unclaimed_seconds(self, record: Record) -> float:
        """Return for how long a worker could have claimed *record*; negative while it is leased, or a retry has to wait."""
        if record.claimable_at is None:
            return 0.0
        at = (
            record.claimable_at if record.lease is None else max(record.claimable_at, record.lease.expires_at)
        )
        return (self._clock.now() - at) / SECOND

    async def _why_unclaimed(self) -> str:
        realm, handler, _ = self._home.partition
        running = await members(self._store, realm, self._clock.now())
        able = sum(handler in member.handlers for member in running)
        if not able:
            return f"no running worker has the handler {handler}"
        return f"all workers with the handler {handler} ({able}) are busy, or a limit on its runs is reached"

    def _unfinished(self, seconds: float, state: str) -> RequestedRun:
        return RequestedRun(self._fired.key, None, unfinished=f"has not ended after {seconds:g} s; {state}")

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
