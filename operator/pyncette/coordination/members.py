"""Registers the running workers of a realm with their handlers, as leased records that expire with a dead worker."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from pyncette._version import __version__
from pyncette.clock import SECOND, Clock, Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import RESERVED_REALMS, Change, Key, Lease, Partition, Record, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.errors import SchemaError, StoreError
from pyncette.store.backend import Backend
from pyncette.store.base import MIN_READER, SCHEMA_VERSION, Renewal, Store, Versioned
from pyncette.store.codec import UNREADABLE
from pyncette.store.schema import Migrated

logger = naming_logger(__name__)

MEMBERS_REALM: Final = f"{RESERVED_REALMS}members"
"""
The members of a realm are the partition of this realm with the realm's name as its handler. So scans of a realm do not
meet them, no worker claims them, and those of all realms are found together.
"""

TASK: Final = "worker"
"""The task of each member's record: metrics of the backend have it as a label, which must not grow with the workers."""

MEMBER_LEASE: Final[Duration] = 60 * SECOND
"""How long a killed worker still counts as a member."""

RENEWAL_PAUSE: Final[Duration] = 20 * SECOND
"""A third of the lease, so two renewals may fail. An idle worker must send its backend almost no requests."""

WITHDRAWAL_SECONDS: Final = 2.0
"""How long a worker that stops waits for an unavailable backend: its lease expires by itself."""

PAGE: Final = 200
"""Members in one page of a scan."""


MEMBERS_MAX: Final = 2000
"""Rows of the members of a realm that are read; a pool has at most 1000 workers. A database may hold any number."""

MEMBERS_BYTES_MAX: Final = 4 * 1024 * 1024
"""The length of all that is read of the members of a realm."""

TOLD_MAX: Final = 5
"""Workers that are named in a sentence."""


class Member(msgspec.Struct, frozen=True):
    """A running worker, as others see it."""

    holder: str
    """Its name in leases and histories."""
    handlers: tuple[str, ...] = ()
    """The handlers that its task module declares, sorted."""
    version: str = __version__
    """The version of this library."""
    reader: int = SCHEMA_VERSION
    """The newest version of the schema that it can work on."""
    slots: int = 0
    started_at: Instant = 0
    partitions: tuple[tuple[str, int], ...] | None = None
    """The partition count of each of its templates; None for an older release, which does not publish them."""
    refused: tuple[str, ...] = ()
    """Those of its handlers that it cannot serve, since their stored partition counts differ from its own."""

    def count_of(self, handler: str) -> int | None:
        """Return its partition count for the template *handler*; None if it published none."""
        return dict(self.partitions or ()).get(handler)

    def registers_other_count(self, handler: str, count: int) -> bool:
        """Return whether its partition count for *handler* is not, or may not be, *count*."""
        return handler in self.handlers and (
            self.partitions is None or dict(self.partitions).get(handler, count) != count
        )


class _Told(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The arguments of a member's record. Fields of later releases are ignored."""

    handlers: tuple[str, ...]
    version: str
    reader: int
    slots: int
    started_at: Instant
    # Releases before these fields neither write nor read them.
    partitions: tuple[tuple[str, int], ...] | None = None
    refused: tuple[str, ...] = ()


# --- Looking ---------------------------------------------------------------------------------------------------------


async def members(store: Store, realm: str, now: Instant) -> list[Member]:
    """
    Return the members of *realm* whose leases live at *now*, by their names. Raises StoreError.

    Unreadable records are left out and logged. Records of workers that died a while ago are removed: each belongs to one
    process, which registers again if it is alive after all. At most `MEMBERS_MAX` members are read, and
    `MEMBERS_BYTES_MAX` of them.
    """
    found: list[Member] = []
    rows = size = 0
    after: Key | None = None
    while page := await store.scan(Partition(MEMBERS_REALM, realm), TASK, after, PAGE):
        for record in page:
            rows, size = rows + 1, size + len(record.spec.args)
            if rows > MEMBERS_MAX or size > MEMBERS_BYTES_MAX:
                logger.warning(
                    "a realm has more members than are read", extra={"realm": realm, "read": rows - 1}
                )
                return found
            if record.is_leased(now) and (member := _read(record)) is not None:
                found.append(member)
        await _remove(store, [record for record in page if not record.is_leased(now - MEMBER_LEASE)])
        after = page[-1].key
    return found


async def members_everywhere(store: Store, now: Instant) -> dict[str, list[Member]]:
    """Return the members of each realm that has any, with one scan for each realm that ever had one. Raises StoreError."""
    realms = sorted({partition.handler for partition in await store.partitions(MEMBERS_REALM)})
    found = {realm: await members(store, realm, now) for realm in realms}
    return {realm: there for realm, there in found.items() if there}


def _read(record: Record) -> Member | None:
    try:
        told = msgspec.json.decode(record.spec.args, type=_Told)
    except UNREADABLE as error:
        logger.warning(
            "could not read the registration of a worker",
            extra={"worker": record.key.instance, "error": str(error)},
        )
        return None
    return Member(record.key.instance, *msgspec.structs.astuple(told))


async def _remove(store: Store, dead: Sequence[Record]) -> None:
    if not dead:
        return
    try:
        await store.swap([Change(record, None) for record in dead])
    except StoreError as error:  # this reader may lack the right to write; another one removes them
        logger.debug("could not remove expired worker registrations", extra={"error": str(error)})


# --- Versions live together ------------------------------------------------------------------------------------------


class OlderWorkersError(SchemaError):
    """Running workers would be shut out, so nothing was. Try again once they have been replaced."""


async def migrate(backend: Backend) -> Migrated:
    """
    Migrate *backend* to the schema of this release, and shut out programs that cannot read what it writes.

    A migration only adds, so older workers do not prevent it. Raises OlderWorkersError if only the second part has to wait,
    and StoreError.
    """
    migrated = await backend.migrate()
    async with backend.new_store(create=False) as store:
        await raise_min_reader(store, MIN_READER)
    return migrated


async def raise_min_reader(store: Store, version: int) -> None:
    """
    Refuse programs that know no schema from *version* on, at their next connect.

    Raises OlderWorkersError, and changes nothing, while one of them is a member of any realm; StoreError.
    """
    if not isinstance(store, Versioned) or await store.min_reader() >= version:
        return
    found = await members_everywhere(store, await store.now())
    older = [
        f"{member.holder} ({member.version})"
        for realm in found.values()
        for member in realm
        if member.reader < version
    ]
    if older:
        more = f" and {len(older) - TOLD_MAX} more" if len(older) > TOLD_MAX else ""
        raise OlderWorkersError(
            f"workers run that know no schema from {version} on: {', '.join(older[:TOLD_MAX])}{more}. The tables are"
            " migrated, and such workers are still let in; run `pyncette migrate` again once they have been replaced"
        )
    await store.raise_min_reader(version)


# --- Being one -------------------------------------------------------------------------------------------------------


class Membership:
    """
    Makes this worker a member of *realm*, for as long as it claims.

    Failures here stop no run: a failed write is logged and retried.
    """

    def __init__(self, realm: str, member: Member, clock: Clock) -> None:
        self._member = member
        self._clock = clock
        self._key = Key(Partition(MEMBERS_REALM, realm), TASK, member.holder)
        self._lease_id = secrets.token_hex(8)
        self._record: Record | None = None
        """The record as created, possibly without a response: a renewal changes nothing that a swap compares."""
        self._announced = False
        self._changed = False
        """True if the stored record is out of date."""
        self._trouble = False
        self._leaving = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def leave(self) -> None:
        """Stop being a member: this worker claims nothing more. Safe to call from any thread."""
        self._leaving = True
        self._wake()

    def refuse(self, handlers: Sequence[str]) -> None:
        """Publish that *handlers*, and no others, are refused. Safe to call from any thread."""
        refused = tuple(sorted(handlers))
        if refused != self._member.refused:
            self._member = msgspec.structs.replace(self._member, refused=refused)
            self._changed = True
            self._wake()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self, store: Store) -> None:
        """Stay a member until `leave`, or until cancelled; then deregister."""
        self._loop = asyncio.get_running_loop()
        if self._leaving:
            return
        try:
            while not self._leaving:
                self._woken.clear()
                await self._say(store)
                if not self._leaving:
                    await self._clock.wait_for(self._woken, RENEWAL_PAUSE)
        finally:
            withdrawing = asyncio.create_task(self._withdraw(store))
            try:
                await asyncio.shield(withdrawing)
            except (
                asyncio.CancelledError
            ):  # nothing was left to run, so the process ends before this is written
                await withdrawing
                raise

    async def _say(self, store: Store) -> None:
        try:
            if not (self._announced and await self._renew(store)):
                await self._announce(store)
            elif self._changed:
                await self._rewrite(store)
        except (StoreError, ValueError) as error:
            # ValueError: a name that no store can hold. A worker that others do not see runs what is due all the same.
            log = logger.debug if self._trouble else logger.warning
            log("could not register this worker; others may not see it", extra={"error": str(error)})
            self._trouble = True
        else:
            self._trouble = False

    async def _renew(self, store: Store) -> bool:
        """Renew the lease, and return whether it was still held: a reader may have removed this worker as dead."""
        asked_at = self._clock.monotonic()
        renewed = await store.renew([Renewal(self._key, self._lease_id, MEMBER_LEASE)], self._clock.now())
        self._clock.observe(renewed.backend_now, asked_at, self._clock.monotonic())
        (self._announced,) = renewed.held
        if not self._announced:
            self._record = None
        return self._announced

    async def _announce(self, store: Store) -> None:
        now = self._clock.now()
        if self._record is None:
            self._changed = False
            # No worker is there to remove what those left behind that were killed, unless it is the next one.
            await members(store, self._key.partition.handler, now)
            self._record = self._new_record(now)
        # If it is there already, only the answer to the first try was lost; the next renewal tells.
        await store.swap([Change(None, self._record)])
        self._announced = True

    async def _rewrite(self, store: Store) -> None:
        """Publish the member as it is now. If the write is not confirmed, the next renewal repeats it."""
        self._changed = False
        written = False
        try:
            (stored,) = await store.load([self._key])
            if stored is not None:
                after = replace(stored, version=stored.version + 1, spec=self._spec())
                (written,) = await store.swap([Change(stored, after)])
                self._record = after if written else self._record
        finally:
            self._changed = self._changed or not written

    def _spec(self) -> Spec:
        member = self._member
        published = _Told(
            member.handlers,
            member.version,
            member.reader,
            member.slots,
            member.started_at,
            member.partitions,
            member.refused,
        )
        return Spec(args=msgspec.Raw(msgspec.json.encode(published)))

    def _new_record(self, now: Instant) -> Record:
        member = self._member
        # No worker may claim it, even if one polls this partition; the lease is our own.
        return replace(
            inert_record(self._key, self._spec(), now),
            lease_length=MEMBER_LEASE,
            lease=Lease(self._lease_id, member.holder, now + MEMBER_LEASE),
        )

    async def _withdraw(self, store: Store) -> None:
        if self._record is None:
            return
        try:
            async with asyncio.timeout(WITHDRAWAL_SECONDS):
                await store.swap([Change(self._record, None)])
        except (StoreError, ValueError, TimeoutError) as error:
            logger.debug(
                "could not deregister this worker; its registration will expire", extra={"error": str(error)}
            )
        self._record = None
        self._announced = False
