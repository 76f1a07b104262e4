"""A process that only schedules (a web server) uses the backend's time, however long it was idle or suspended."""

import time

import pytest

from pyncette import Pyncette
from pyncette.app.modes import datetime_of
from pyncette.clock import SECOND, SystemClock
from pyncette.core.times import instant_of
from pyncette.errors import StoreUnavailableError
from pyncette.model import Lease
from pyncette.sqlite import sqlite_repository
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.app.harness import NOON, seconds

HOUR = 3600


class Web:
    """Such a process, the time that its machine has counted since the start, and the backend's time."""

    def __init__(self):
        self.uptime = 0
        self.backend_now = instant_of(NOON)
        self.away = False
        self.readings = 0
        self.backend = MemoryBackend(lambda: self.backend_now)
        self.app = Pyncette(lambda: Asked(self))

        @self.app.dynamic_task()
        async def remind(context):
            pass

        self.task = remind

    def create(self):
        return self.app.create(clock=SystemClock(monotonic_ns=lambda: self.uptime * 1000))

    def be_idle(self, seconds, uncounted=0):
        """Let time pass, of which this machine does not count *uncounted* seconds."""
        self.uptime += seconds * SECOND
        self.backend_now += (seconds + uncounted) * SECOND

    @property
    def now(self):
        return datetime_of(self.backend_now)

    @property
    def versions(self):
        return [
            record.version
            for shelf in self.backend.shelves.values()
            for record in shelf.records.values()
            if record.key.instance
        ]


class Asked(MemoryStore):
    """A connection to its backend, which may be away."""

    def __init__(self, web):
        super().__init__(web.backend)
        self.web = web

    async def now(self):
        self.web.readings += 1
        if self.web.away:
            raise StoreUnavailableError("the backend is away")
        return await super().now()


@pytest.fixture
def web():
    return Web()


async def scheduled(app_context, task, **options):
    """Schedule an instance, and return when it is due."""
    await app_context.schedule_task(task, "ada", **options)
    return (await app_context.get_task(task, "ada")).scheduled_at


@pytest.mark.parametrize("uncounted", [HOUR, -HOUR], ids=["behind", "ahead"])
async def test_an_instance_created_after_a_while_counts_from_the_backends_time(web, uncounted):
    async with web.create() as app_context:
        web.be_idle(2 * HOUR, uncounted)

        assert await scheduled(app_context, web.task, schedule="* * * * * *") == web.now + seconds(1)
        assert web.versions == [web.backend_now]


@pytest.mark.parametrize("uncounted", [HOUR, -HOUR], ids=["behind", "ahead"])
async def test_many_instances_created_after_a_while_count_from_the_backends_time(web, uncounted):
    async with web.create() as app_context:
        readings = web.readings
        web.be_idle(2 * HOUR, uncounted)

        items = [(str(number), {"interval": seconds(60)}) for number in range(2_000)]
        results = [result async for result in app_context.schedule_many(web.task, items)]

        assert {result.error for result in results} == {None}
        page = await app_context.list_tasks(web.task, limit=2_000)
        assert {state.scheduled_at for state in page.tasks} == {web.now + seconds(60)}
        assert web.readings == readings + 1


async def test_an_edit_after_a_while_takes_effect_from_the_backends_time(web):
    async with web.create() as app_context:
        await app_context.schedule_task(web.task, "ada", schedule="0 0 1 1 *")
        web.be_idle(10, HOUR)

        due = await scheduled(app_context, web.task, schedule="* * * * * *", force=True)

        assert due == web.now + seconds(1)


async def test_a_process_that_schedules_constantly_reads_the_time_once_every_five_seconds(web):
    async with web.create() as app_context:
        readings = web.readings
        for number in range(60):
            web.be_idle(1)
            await app_context.schedule_task(web.task, str(number), interval=seconds(60))

        assert web.readings - readings == 10


async def test_scheduling_fails_and_writes_nothing_while_the_backends_time_is_unavailable(
    web,
):
    async with web.create() as app_context:
        web.be_idle(HOUR)
        web.away = True

        with pytest.raises(StoreUnavailableError):
            await app_context.schedule_task(web.task, "ada", interval=seconds(60))
        items = [("bob", {"interval": seconds(60)})]
        (result,) = [result async for result in app_context.schedule_many(web.task, items)]

        assert isinstance(result.error, StoreUnavailableError)
        assert web.versions == []


async def test_the_state_of_an_instance_shows_by_the_backends_time_whether_it_runs(web):
    async with web.create() as app_context:
        await app_context.schedule_task(web.task, "ada", execute_at=NOON)
        async with MemoryStore(web.backend) as others:
            partition = next(iter(web.backend.shelves))
            claimed = await others.claim({partition: 1}, "x", "w1", web.backend_now, web.backend_now)
        lease = claimed.records[0].lease_length // SECOND
        assert (await app_context.get_task(web.task, "ada")).locked_by == Lease("w1")

        web.be_idle(10, uncounted=lease)

        assert (await app_context.get_task(web.task, "ada")).locked_by is None


async def test_on_a_real_database_a_machine_that_was_ahead_creates_nothing_in_the_future(tmp_path):
    app = Pyncette(sqlite_repository, sqlite_database=str(tmp_path / "tasks.sqlite"))

    @app.dynamic_task()
    async def remind(context):
        pass

    ahead = 0
    clock = SystemClock(monotonic_ns=lambda: time.monotonic_ns() + ahead * SECOND * 1000)
    async with app.create(clock=clock) as app_context, app.new_store() as store:
        ahead = HOUR

        due = await scheduled(app_context, remind, schedule="* * * * * *")

        assert due <= datetime_of(await store.now()) + seconds(1)
