"""Tests a backend step by step: does all that a worker does, and reports the step that fails."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant
from pyncette.coordination.members import MEMBERS_REALM
from pyncette.core import edits
from pyncette.core.record import Change, HistoryRow, Key, Outcome, Partition, Record, Run, replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreError, StoreRefusedError
from pyncette.store.backend import Backend
from pyncette.store.base import Notification, Renewal, Store

HANDLER: Final = "pyncette check"
"""The handler of the test record. No worker polls it."""

NOTICE_SECONDS: Final = 5.0
"""Time limit for a notification to arrive."""

REPEAT_SECONDS: Final = 0.2
"""Time between notifications: the first may be sent before the listener is ready."""

REALMS_NAMED_MAX: Final = 5
"""Maximum number of other realms that the report names."""

POLICIES: Final = Policies(keep_finished=True, keep_successful=1)


class Step(NamedTuple):
    """One operation of a worker, and its result."""

    name: str
    works: bool
    note: str
    """A detail, or the error."""
    seconds: float


class _Refused(Exception):  # noqa: N818 - a result of the test, and no error of ours
    """The backend did not keep a promise."""


async def try_out(backend: Backend, realm: str) -> list[Step]:
    """Do all that a worker does, with a test record, and stop at the first step that fails."""
    steps: list[Step] = []

    async def step(name: str, work: Callable[[], Awaitable[str]]) -> bool:
        began_at = time.monotonic()
        try:
            note, works = await work(), True
        except (StoreError, _Refused) as error:
            note, works = " ".join(str(error).split()), False
        steps.append(Step(name, works, note, time.monotonic() - began_at))
        return works

    store = backend.new_store(create=backend.in_memory)

    async def connect() -> str:
        if backend.absence:
            raise _Refused(f"{backend.absence}: run `pyncette migrate`")
        await store.__aenter__()
        return str(backend)

    if not await step("connect", connect):
        return steps
    with suppress(StoreError):  # the next step reports it
        if servers := ", ".join(await backend.servers()):
            steps[-1] = steps[-1]._replace(note=f"{backend}, which is {servers}")
        steps += [Step("keep", True, f"warning: {concern}", 0.0) for concern in await backend.concerns()]
    trial = _Trial(store, realm)
    try:
        for name, work in trial.steps():
            if not await step(name, work):
                break
        else:
            if realm:
                await step("stay in its realm", lambda: _reach(backend, store, realm))
    finally:
        with suppress(StoreError):
            await trial.clean_up()
        await store.__aexit__(None, None, None)
    return steps


async def _reach(backend: Backend, store: Store, realm: str) -> str:
    """
    Return a report on data outside of *realm* that the credential can reach; a warning if there is any. Raises StoreError.

    Write to an unused realm only, since records in other realms belong to other teams.
    """
    found = [*await backend.beyond()]
    reaches_all = False
    elsewhere = _Trial(store, f"{realm}/{HANDLER}")
    try:
        await elsewhere.read_the_clock()
        await elsewhere.create()
        await elsewhere.clean_up()
    except StoreRefusedError:
        pass
    else:
        reaches_all = True
        found += await _other_realms(store, realm)
    if not found:
        return (
            "the credential reaches all realms of these records, and no other has had workers"
            if reaches_all
            else "the credential reaches no other realm"
        )
    return (
        f"warning: the credential also reaches {', '.join(found)}: give teams that must not reach each other's tasks a "
        "credential each, see docs/how-to/security.md"
    )


async def _other_realms(store: Store, realm: str) -> list[str]:
    """Return the other realms that have had workers, as parts of a sentence. Raises StoreError."""
    others = sorted({found.handler for found in await store.partitions(MEMBERS_REALM)} - {realm, ""})
    named = [f"the realm {name}" for name in others[:REALMS_NAMED_MAX]]
    more = len(others) - len(named)
    return [*named, f"{more} more realms"] if more else named


class _Trial:
    """A test record and the operations on it."""

    def __init__(self, store: Store, realm: str) -> None:
        self._store = store
        self._key = Key(Partition(realm, HANDLER), HANDLER, secrets.token_hex(8))
        self._record: Record | None = None
        self._now: Instant = 0

    def steps(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        """Return the operations of a worker, in order: each needs those before it."""
        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("read the clock", self.read_the_clock),
            ("read", self.read),
            ("create", self.create),
            ("claim", self.claim),
            ("renew", self.renew),
            ("complete", self.complete),
            ("keep history", self.keep_history),
            ("remove", self.remove),
        ]
        if self._store.capabilities.notifies:
            steps.append(("notify", self.notify))
        return steps

    async def read_the_clock(self) -> str:
        asked_at = time.time()
        self._now = await self._store.now()
        ahead = self._now / SECOND - (asked_at + time.time()) / 2
        return (
            f"its clock is {abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}, which workers compensate"
        )

    async def read(self) -> str:
        await self._store.load([self._key])
        await self._store.count(self._key.partition, HANDLER, self._now, SECOND, 1)
        partitions = await self._store.partitions(self._key.partition.realm)
        handlers = {partition.handler for partition in partitions} - {HANDLER}
        return f"{len(handlers)} {'handler has' if len(handlers) == 1 else 'handlers have'} tasks here"

    async def create(self) -> str:
        record = edits.created(self._key, Spec(Once(self._now), policies=POLICIES), POLICIES, self._now)
        await self._swap(Change(None, record))
        return ""

    async def claim(self) -> str:
        partition = self._key.partition
        claimed = await self._store.claim(
            {partition: 100}, secrets.token_hex(8), HANDLER, self._now, self._now
        )
        ours = [record for record in claimed.records if record.key == self._key]
        if not ours:
            raise _Refused("the record that was just created was not claimed: is another check running?")
        (self._record,) = ours
        return ""

    async def renew(self) -> str:
        assert self._record is not None
        assert self._record.lease is not None
        renewal = Renewal(self._key, self._record.lease.id, self._record.lease_length)
        renewed = await self._store.renew([renewal], self._now)
        if not all(renewed.held):
            raise _Refused("the lease that was just claimed is lost")
        return ""

    async def complete(self) -> str:
        assert self._record is not None
        record = self._record
        run = Run("trial", self._now, self._now, Outcome.SUCCEEDED)
        after = replace(
            record,
            version=record.version + 1,
            claimable_at=None,
            due_at=None,
            attempt=0,
            began_at=None,
            lease=None,
        )
        await self._swap(Change(record, after, (HistoryRow(0, run),)))
        return ""

    async def keep_history(self) -> str:
        runs = await self._store.history(self._key)
        if [run.id for run in runs] != ["trial"]:
            raise _Refused("the run that was just written was not found")
        return ""

    async def remove(self) -> str:
        assert self._record is not None
        await self._swap(Change(self._record, None))
        return ""

    async def notify(self) -> str:
        async def hear() -> None:
            async for heard in self._store.notified():
                if heard.partition == self._key.partition:
                    return

        listening = asyncio.create_task(hear())
        end = time.monotonic() + NOTICE_SECONDS
        try:
            while not listening.done() and time.monotonic() < end:
                await self._store.notify([Notification(self._key.partition, self._now)])
                await asyncio.wait([listening], timeout=REPEAT_SECONDS)
            if not listening.done():
                raise _Refused(
                    f"no notification within {NOTICE_SECONDS:g} s: workers will poll every ten seconds instead"
                )
            await listening
        finally:
            listening.cancel()
        return ""

    async def clean_up(self) -> None:
        """Remove the record after a failed step."""
        (record,) = await self._store.load([self._key])
        if record is not None:
            await self._store.swap([Change(record, None)])

    async def _swap(self, change: Change) -> None:
        (made,) = await self._store.swap([change])
        if not made:
            raise _Refused("a change was rejected, although no other process writes this record")
        self._record = change.after
