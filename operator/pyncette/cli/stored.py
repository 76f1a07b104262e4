"""Reads and writes what is stored, for the commands that look at tasks and fire them."""

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

LOOK_SECONDS: Final = 0.1
"""Between two looks for the outcome of a run: not noticed by people, and nothing to a database."""

TALLY_SECONDS: Final = 5.0
"""How long after its end an outcome may take to be counted where it is looked for; then it cannot be told."""

QUIET_SECONDS: Final = 5.0
"""After this time without a worker that takes a run, people want to know why nothing happens."""

CLAIMS_MAX: Final = 1000
"""Claims of one run whose ids are looked for in the history: more than any retry policy of a manifest allows."""

ARGS_BYTES_MAX: Final = 16 * 1024
"""As in manifests."""


def backend_of(settings: Settings, path: Path | None) -> Backend:
    """
    Return the backend that is meant: that of *path*, where `pyncette dev` ran, or the one of the settings, or that of
    the current folder.

    Raises Failure.
    """
    if path is None and settings.backend is not None:
        return _existing(settings.backend)
    folder = Folder(Path() if path is None else path)
    if folder.has_run:
        return folder.backend
    if path is not None:
        raise Failure(f"pyncette dev has not run in {path}: there is no {path / STATE}")
    raise Failure(
        "no backend is said: set PYNCETTE_BACKEND or --backend, or name a folder where pyncette dev has run with --path, "
        "or, in the operator's pod, a pool with --namespace"
    )


def _existing(backend: Backend) -> Backend:
    """Refuse what nobody can have written to: opening it would create it, and show nothing."""
    if backend.in_memory:
        raise Failure("there is nothing in the memory of this process: name a file or a server")
    if backend.absence:
        raise Failure(backend.absence)
    return backend


def with_store(backend: Backend, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Open *backend*, do *work* with it, and return its result."""

    async def run() -> Any:
        async with backend.new_store(create=False) as store:
            return await work(store)

    return asyncio.run(run())


async def the_record(store: Store, realm: str, name: str, handler: str | None = None) -> Record:
    """Return the record of the one task or instance that is called *name*, and is of *handler*. Raises Failure."""
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
        raise Failure(
            f"there are several tasks {name}{where}, of the handlers {handlers}: say which by --handler"
        )
    where = f" of the handler {handler}{where}" if handler else where
    raise Failure(f"there is no task {name}{where}; `pyncette tasks` lists those that there are")


async def backend_clock(store: Store) -> SystemClock:
    """Return a clock that goes like the backend's."""
    clock = SystemClock()
    await synchronize(clock, store.now)
    return clock


# --- Firing ----------------------------------------------------------------------------------------------------------


class Fired(NamedTuple):
    """A run that was asked for, and how it ended."""

    key: Key
    outcome: Outcome | None
    """None: it is not over."""
    run: Run | None = None
    message: str = ""
    begun: bool = True
    """Whether a worker has taken it."""


def read_args(text: str | None) -> msgspec.Raw | None:
    """Return the arguments that *text* holds, as they are stored. Raises Failure."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(
            f'--args is not JSON: {error}; write an object, for example \'{{"name": "value"}}\''
        ) from None
    if not isinstance(value, dict):
        raise Failure(f"--args must be a JSON object of names and values, not {text[:60]}")
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise Failure(f"--args is not JSON: {error}") from None
    if len(written) > ARGS_BYTES_MAX:
        raise Failure(f"--args takes {len(written):,} bytes, {ARGS_BYTES_MAX:,} are allowed")
    return msgspec.Raw(written)


async def fire(
    store: Store,
    realm: str,
    name: str,
    args: msgspec.Raw | None,
    patience: float | None,
    say: Callable[[str], None],
    handler: str | None = None,
) -> Fired:
    """
    Have the task *name* run once more, now, and wait for its outcome; *say* is told what is waited for.

    Without *args* with its own arguments. After *patience* seconds the answer is that it is not over; it goes on.
    """
    home = await the_record(store, realm, name, handler)
    if home.spec.schedule is None and not home.key.instance:
        raise Failure(f"{name} is a dynamic task: name one of its instances, as in {name}/INSTANCE")
    ledger = Ledger(store, await backend_clock(store))
    fired = await _create(ledger, home, args)
    say(f"asked for a run of {name}; waiting for its outcome")
    waiting = _Waiting(store, home.key, fired)
    try:
        return await waiting.outcome(patience, say)
    except asyncio.CancelledError:
        say("no longer waited for; the run that was asked for still takes place")
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
    """A run that was asked for, until its outcome is known."""

    def __init__(self, store: Store, home: Key, fired: Record) -> None:
        self._store = store
        self._home = home
        self._fired = fired

    async def outcome(self, patience: float | None, say: Callable[[str], None]) -> Fired:
        began = time.monotonic()
        said = False
        taken = False
        while patience is None or time.monotonic() - began < patience:
            (record,) = await self._store.load([self._fired.key])
            if record is None:
                return await self._counted()
            taken = taken or record.fence > self._fired.fence
            if not (said or taken) and time.monotonic() - began > QUIET_SECONDS:
                said = True
                handler = self._home.partition.handler
                say(f"no worker has taken it yet: does one run that has the handler {handler}?")
            await asyncio.sleep(LOOK_SECONDS)
        return Fired(self._fired.key, None, begun=taken)

    async def _counted(self) -> Fired:
        """The record is gone: it is over. Its outcome is counted a moment later, at its schedule."""
        ids = {run_id(self._fired.key, self._fired.fence + claim) for claim in range(1, CLAIMS_MAX)}
        deadline = time.monotonic() + TALLY_SECONDS
        while time.monotonic() < deadline:
            for run in await self._store.history(self._home):
                if run.id in ids:
                    return Fired(self._fired.key, run.outcome, run, run.message)
            (home,) = await self._store.load([self._home])
            summary = home.state.summary if home is not None else None
            if summary is not None and summary.last_scheduled_at == self._fired.due_at:
                return Fired(self._fired.key, summary.last_outcome, None, summary.last_message)
            await asyncio.sleep(LOOK_SECONDS)
        raise Failure(
            "the run is over, but its outcome was not found: its task was removed, or keeps no history",
            ExitCode.FAILED,
        )
