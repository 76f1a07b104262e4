"""Who runs is known to all that look: from the first moment to the drain, or until the lease of one that died has ended."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.app.templates import IDLE_READ_SECONDS
from pyncette.clock import SECOND, SystemClock
from pyncette.coordination.members import (
    MEMBER_LEASE,
    MEMBERS_REALM,
    PAGE,
    RENEWAL_PAUSE,
    TASK,
    Member,
    Membership,
    members,
    members_everywhere,
)
from pyncette.core.log_messages import sentence_of
from pyncette.core.record import RESERVED_REALMS, Change, Key, Lease, Partition, Record, replace
from pyncette.core.spec import Spec
from pyncette.errors import ConfigurationError, StoreRefusedError, StoreUnavailableError
from pyncette.store.base import PARTITION_BYTES_MAX
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker.poller import SAFETY_POLL

START = datetime(2024, 1, 1, tzinfo=UTC)
REALM = "cluster/shop/default"
ALICE = Member("alice", ("bill", "remind"), "1.2.3", reader=7, slots=100, started_at=5 * SECOND)
BOB = Member("bob", ("bill",))


class CountingStore(MemoryStore):
    """A store that counts what it is asked, and can be away."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.loses_replies = False

    async def _asked(self, verb: str) -> None:
        self.calls.append(verb)
        if self.error is not None:
            raise self.error

    async def swap(self, changes):
        await self._asked("swap")
        made = await super().swap(changes)
        if self.loses_replies:
            raise StoreUnavailableError("the reply was lost")
        return made

    async def renew(self, renewals, now):
        await self._asked("renew")
        return await super().renew(renewals, now)

    async def scan(self, partition, task, after, limit):
        await self._asked("scan")
        return await super().scan(partition, task, after, limit)


class Bench:
    """A backend at simulated time, for workers that do nothing but be there."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.backend = MemoryBackend(self.clock.now)
        self.store = CountingStore(self.backend)

    @asynccontextmanager
    async def member(
        self, member: Member = ALICE, realm: str = REALM, store: MemoryStore | None = None
    ) -> AsyncIterator[Membership]:
        membership = Membership(realm, member, self.clock)
        running = asyncio.create_task(membership.run(store or self.store))
        await self.clock.settle()
        try:
            yield membership
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def killed(self, member: Member = ALICE, realm: str = REALM) -> None:
        """Leave behind what a worker does that is killed."""
        store = CountingStore(self.backend)
        async with self.member(member, realm, store):
            store.error = StoreUnavailableError("it is dead")

    async def look(self, realm: str = REALM) -> list[Member]:
        return await members(MemoryStore(self.backend), realm, self.clock.now())

    async def advance(self, microseconds: int) -> None:
        await self.clock.advance(timedelta(microseconds=microseconds))

    def records(self, realm: str = REALM) -> list[Record]:
        return list(self.backend.shelf(Partition(MEMBERS_REALM, realm)).records.values())


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- Being there -----------------------------------------------------------------------------------------------------


async def test_a_running_worker_is_seen_with_all_that_it_says_of_itself(bench: Bench) -> None:
    async with bench.member(ALICE), bench.member(BOB):
        assert await bench.look() == [ALICE, BOB]


async def test_a_worker_stays_a_member_for_as_long_as_it_runs(bench: Bench) -> None:
    async with bench.member():
        for _ in range(10):
            await bench.advance(MEMBER_LEASE)
            assert await bench.look() == [ALICE]


async def test_a_worker_that_drains_is_no_member_any_more(bench: Bench) -> None:
    async with bench.member() as membership:
        membership.leave()
        await bench.clock.settle()

        assert await bench.look() == []
        assert bench.records() == []


async def test_a_worker_that_is_stopped_without_a_drain_withdraws_as_well(bench: Bench) -> None:
    async with bench.member():
        pass

    assert bench.records() == []


async def test_a_worker_that_ends_while_it_withdraws_has_withdrawn(bench: Bench) -> None:
    class SlowStore(CountingStore):
        async def swap(self, changes):
            await asyncio.sleep(0.01)
            return await super().swap(changes)

    async with bench.member(store=SlowStore(bench.backend)) as membership:
        await asyncio.sleep(0.05)
        assert await bench.look() == [ALICE]
        membership.leave()
        await asyncio.sleep(0.001)

    assert bench.records() == []


async def test_a_worker_that_was_to_drain_before_it_began_is_never_a_member(bench: Bench) -> None:
    membership = Membership(REALM, ALICE, bench.clock)
    membership.leave()

    await membership.run(bench.store)

    assert bench.store.calls == []


async def test_a_worker_that_was_killed_disappears_when_its_lease_ends(bench: Bench) -> None:
    await bench.killed()

    await bench.advance(MEMBER_LEASE - 1)
    assert await bench.look() == [ALICE]
    await bench.advance(1)
    assert await bench.look() == []


async def test_what_killed_workers_left_behind_is_removed_by_a_later_reader(bench: Bench) -> None:
    await bench.killed()
    await bench.advance(2 * MEMBER_LEASE)

    await bench.look()

    assert bench.records() == []


async def test_a_worker_that_starts_removes_what_those_left_behind_that_were_killed(bench: Bench) -> None:
    await bench.killed(BOB)
    await bench.advance(2 * MEMBER_LEASE)

    async with bench.member(ALICE):
        assert [record.key.instance for record in bench.records()] == ["alice"]


async def test_one_who_was_taken_for_dead_is_back_at_its_next_sign_of_life(bench: Bench) -> None:
    async with bench.member():
        (record,) = bench.records()
        await bench.store.swap([Change(record, None)])
        assert await bench.look() == []

        await bench.advance(RENEWAL_PAUSE)

        assert await bench.look() == [ALICE]


async def test_one_who_came_back_is_not_removed_by_an_earlier_read(bench: Bench) -> None:
    async with bench.member():
        (before,) = bench.records()
        await bench.store.swap([Change(before, None)])
        await bench.advance(RENEWAL_PAUSE)

        assert await bench.store.swap([Change(before, None)]) == [False]


async def test_a_reader_that_may_not_write_sees_the_members_all_the_same(bench: Bench) -> None:
    async with bench.member(ALICE):
        await bench.killed(BOB)
        await bench.advance(2 * MEMBER_LEASE)

        assert await members(ReadOnlyStore(bench.backend), REALM, bench.clock.now()) == [ALICE]

        assert len(bench.records()) == 2


class ReadOnlyStore(MemoryStore):
    async def swap(self, changes):
        raise StoreRefusedError("this user may only read")


async def test_members_are_found_page_by_page(bench: Bench) -> None:
    now = bench.clock.now()
    lease = Lease("lease", "holder", now + MEMBER_LEASE)
    told = msgspec.json.encode({"handlers": [], "version": "1", "reader": 1, "slots": 1, "startedAt": 0})
    template = Record(
        key=Key(Partition(MEMBERS_REALM, REALM), TASK),
        spec=Spec(args=msgspec.Raw(told)),
        version=1,
        fence=1,
        due_at=None,
        schedule_since=0,
        claimable_at=None,
        lease_length=MEMBER_LEASE,
        lease=lease,
    )
    many = [
        replace(template, key=template.key._replace(instance=f"{number:04}")) for number in range(PAGE + 1)
    ]
    await bench.store.swap([Change(None, record) for record in many])

    assert [member.holder for member in await bench.look()] == [record.key.instance for record in many]


# --- Who else --------------------------------------------------------------------------------------------------------


async def test_members_of_other_realms_are_not_seen(bench: Bench) -> None:
    async with bench.member(ALICE, "one"), bench.member(BOB, "other"):
        assert await bench.look("one") == [ALICE]
        assert await bench.look("elsewhere") == []


async def test_members_of_all_realms_are_found_together(bench: Bench) -> None:
    await bench.killed(BOB, "empty since")
    await bench.advance(MEMBER_LEASE)

    async with bench.member(ALICE, "one"), bench.member(BOB, ""):
        found = await members_everywhere(bench.store, bench.clock.now())

    assert found == {"": [BOB], "one": [ALICE]}


@pytest.mark.parametrize("args", [b'{"handlers": 3}', b'{"version": "\xff"}', b"[" * 20_000 + b"]" * 20_000])
async def test_what_cannot_be_read_is_left_out_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture, args: bytes
) -> None:
    async with bench.member(ALICE), bench.member(BOB):
        (record,) = await bench.store.load([Key(Partition(MEMBERS_REALM, REALM), TASK, "bob")])
        assert record is not None
        spec = Spec(args=msgspec.Raw(args))
        await bench.store.swap([Change(record, replace(record, spec=spec, version=record.version + 1))])

        assert await bench.look() == [ALICE]

    assert [(sentence_of(entry), entry.worker) for entry in caplog.records] == [
        ("could not read the registration of a worker", "bob")
    ]


async def test_a_worker_is_read_as_release_0_1_0_writes_it(bench: Bench) -> None:
    """Neither the place nor what stands there may change: the workers of a release are read by the next one's operator."""
    now = bench.clock.now()
    key = Key(Partition("pyncette:members", REALM), "worker", "alice")
    told = b'{"handlers":["bill","remind"],"version":"1.2.3","reader":7,"slots":100,"startedAt":5000000}'

    async with bench.member(ALICE):
        (record,) = bench.records()
        assert (record.key, bytes(record.spec.args)) == (key, told)
        assert record.lease is not None
        assert (record.due_at, record.claimable_at, record.lease.expires_at) == (
            None,
            None,
            now + 60 * SECOND,
        )
        assert await bench.look() == [ALICE]


async def test_what_a_later_release_says_besides_is_passed_over(bench: Bench) -> None:
    async with bench.member(ALICE):
        (record,) = await bench.store.load([Key(Partition(MEMBERS_REALM, REALM), TASK, "alice")])
        assert record is not None
        told = msgspec.json.decode(record.spec.args) | {"mood": "fine"}
        spec = Spec(args=msgspec.Raw(msgspec.json.encode(told)))
        await bench.store.swap([Change(record, replace(record, spec=spec, version=record.version + 1))])

        assert await bench.look() == [ALICE]


async def test_a_member_says_over_how_many_partitions_its_templates_spread_and_what_it_refuses(
    bench: Bench,
) -> None:
    carol = Member("carol", ("bill", "remind"), partitions=(("remind", 8),), refused=("remind",))

    async with bench.member(carol):
        assert await bench.look() == [carol]

    assert carol.registers_other_count("remind", 1)
    assert not carol.registers_other_count("remind", 8)
    assert not carol.registers_other_count("unknown", 1)
    assert ALICE.registers_other_count("remind", 8)  # an older release does not say, so nobody relies on it


async def test_what_a_member_refuses_from_now_on_is_seen_at_once(bench: Bench) -> None:
    membership = Membership(REALM, ALICE, bench.clock)
    running = asyncio.create_task(membership.run(bench.store))
    await bench.clock.settle()

    membership.refuse(["remind", "bill"])
    await bench.clock.settle()
    (member,) = await bench.look()
    assert member == replace(ALICE, refused=("bill", "remind"))

    bench.store.error = StoreUnavailableError("nobody answers")
    membership.refuse([])
    await bench.clock.settle()
    bench.store.error = None
    await bench.advance(RENEWAL_PAUSE)
    assert await bench.look() == [ALICE]
    membership.leave()
    await running
    assert await bench.look() == []


# --- What it must not do ---------------------------------------------------------------------------------------------


async def test_a_backend_that_is_unavailable_is_retried_and_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.store.error = StoreUnavailableError("it is away")
    async with bench.member():
        await bench.advance(5 * RENEWAL_PAUSE)
        bench.store.error = None
        await bench.advance(RENEWAL_PAUSE)

        assert await bench.look() == [ALICE]

    assert [entry.message for entry in caplog.records] == [
        'could not register this worker; others may not see it error="it is away"'
    ]


async def test_an_answer_that_is_lost_makes_no_second_member(bench: Bench) -> None:
    bench.store.loses_replies = True
    async with bench.member():
        bench.store.loses_replies = False
        await bench.advance(MEMBER_LEASE)
        assert await bench.look() == [ALICE]

    assert bench.records() == []


async def test_a_realm_whose_name_is_too_long_keeps_no_worker_from_running(bench: Bench) -> None:
    async with bench.member(realm="x" * PARTITION_BYTES_MAX):
        await bench.advance(3 * RENEWAL_PAUSE)  # would raise what ended it


async def test_a_stop_waits_no_longer_than_bearable_for_a_backend_that_is_unavailable(bench: Bench) -> None:
    class SilentStore(CountingStore):
        async def swap(self, changes):
            if self.error is not None:
                await asyncio.sleep(3600)
            return await super().swap(changes)

    store = SilentStore(bench.backend)
    async with asyncio.timeout(10), bench.member(store=store):
        store.error = StoreUnavailableError("it is away")


async def test_no_caller_claims_members(bench: Bench) -> None:
    await bench.killed()
    await bench.advance(MEMBER_LEASE)
    now = bench.clock.now()

    claimed = await bench.store.claim({Partition(MEMBERS_REALM, REALM): 10}, "lease", "w", now, now)

    assert (list(claimed.records), claimed.next_claimable_at) == ([], None)


async def test_a_realm_shows_no_partition_of_its_members(bench: Bench) -> None:
    async with bench.member():
        assert await bench.store.partitions(REALM) == []


def test_no_task_can_be_stored_among_the_members() -> None:
    with pytest.raises(
        ConfigurationError,
        match=f"realms that begin with {RESERVED_REALMS} are reserved, and cannot have tasks",
    ):
        Pyncette(realm=MEMBERS_REALM)


async def test_an_idle_worker_asks_its_backend_no_more_often_than_docs_performance_says(bench: Bench) -> None:
    async with bench.member():
        bench.store.calls.clear()
        await bench.advance(100 * RENEWAL_PAUSE)
        asked = len(bench.store.calls)

    membership = asked / (100 * RENEWAL_PAUSE / SECOND)
    looks = SECOND / SAFETY_POLL
    templates = 1 / IDLE_READ_SECONDS
    assert membership + looks + templates <= 0.2 + 1e-9


# --- On a real backend -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def app(request, tmp_path) -> Pyncette:
    if request.param == "sqlite":
        return Pyncette(sqlite_database=f"{tmp_path}/tasks.db", realm=REALM)
    if request.param == "redis":
        from pyncette.redis import redis_repository

        return Pyncette(redis_repository, redis_url=request.getfixturevalue("redis_url"), realm=REALM)
    from pyncette.postgres import postgres_repository

    return Pyncette(postgres_repository, postgres_url=request.getfixturevalue("postgres_url"), realm=REALM)


async def test_an_app_is_a_member_from_its_start_to_its_drain(app: Pyncette) -> None:
    ran = asyncio.Event()

    @app.task(interval=timedelta(seconds=1))
    async def beat(context):
        ran.set()

    @app.handler()
    async def added(context): ...

    async with app.create(clock=SystemClock()) as context, app.new_store() as store:
        assert await members(store, REALM, await store.now()) == []
        running = asyncio.create_task(context.run())
        await ran.wait()

        (member,) = await members(store, REALM, await store.now())
        assert (member.handlers, member.slots) == (("added", "beat"), 100)
        assert abs(member.started_at - await store.now()) < 60 * SECOND
        assert {partition.handler for partition in await store.partitions(REALM)} == {"beat"}

        context.shutdown()
        await running
        assert await members(store, REALM, await store.now()) == []


async def test_pretended_time_needs_no_members(tmp_path) -> None:
    from pyncette.testing import running

    app = Pyncette(sqlite_database=f"{tmp_path}/tasks.db")

    @app.task(interval=timedelta(hours=1))
    async def beat(context): ...

    async with running(app, backend="app") as world:
        await world.advance(days=1)
        assert await members_everywhere(runtime_of(world.context).ledger.store, world.clock.now()) == {}
