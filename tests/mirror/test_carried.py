"""A move from another database carries over records that the operator and workers wrote there, and nothing else."""

import asyncio
import contextlib
import datetime

import msgspec
import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Change, Counts, Key, Partition, Requests, Started, State, Summary, replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreRefusedError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror import records
from pyncette.mirror.carried import CLOCK_MARGIN, Bounds
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.records import MisplacedRecord, mirror_one
from pyncette.mirror.rules import Step
from pyncette.resources.arguments import ARGS_BYTES_MAX
from pyncette.resources.task import PyncetteTask
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing.clock import VirtualClock
from tests.resources import accepted as read_as
from tests.resources import manifest

DAY = 86_400 * SECOND

NOON = "0 12 24 12 *"

DEAD_LETTERS = "dead-1", "dead-run-x"


class Source(MemoryStore):
    """The database that a task moves from. Its owner decides the result of each read."""

    def __init__(self, backend):
        super().__init__(backend)
        self.scans = 0
        self.shown = lambda scan, page: page
        """Maps the number of a scan and its page to the page that is returned."""
        self.loaded = lambda record: record
        """Maps each loaded record to the one that is returned."""
        self.keeps = False
        """Whether it refuses all removals."""

    async def scan(self, partition, task, after, limit):
        self.scans += 1
        await asyncio.sleep(0)
        return self.shown(self.scans, await super().scan(partition, task, after, limit))

    async def load(self, keys):
        return [record and self.loaded(record) for record in await super().load(keys)]

    async def swap(self, changes):
        if self.keeps and any(change.after is None for change in changes):
            raise StoreRefusedError("permission denied")
        return await super().swap(changes)


class Move:
    """A task that is about to move from one database to another."""

    def __init__(self, **spec):
        self.clock = VirtualClock(datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC))
        self.source = Source(MemoryBackend(self.clock.now))
        self.target = MemoryStore(MemoryBackend(self.clock.now))
        self.away, self.here = Ledger(self.source, self.clock), Ledger(self.target, self.clock)
        self.spec = {"schedule": NOON, "handler": "send", "onExhausted": "DeadLetter"} | spec

    def desired(self, realm, generation):
        given = manifest(**self.spec)
        given["metadata"] |= {"uid": "u", "generation": generation}
        return desired_record_of(read_as(PyncetteTask, given), realm)

    async def begin(self, *dead_letters, state=None, **fields):
        """Have the task run on the first database, where its owner then changes *fields*, and its *state*."""
        await mirror_one(self.away, self.desired("old", 1))
        stored = await self.record(self.source, "old")
        after = replace(
            stored,
            **{"version": stored.version + 1} | fields,
            state=replace(stored.state, **(state or {})),
        )
        self.source.backend.shelf(stored.key.partition).put(after)
        for dead_letter in dead_letters:
            await self.source.swap([Change(None, dead_letter)])
        return after

    async def go(self, reported=None):
        """Move the task, and return the result; *reported* is the next time in its status."""
        old = await self.record(self.source, "old")
        moving = [] if old is None else [MisplacedRecord(self.away, old, Bounds(reported))]
        return await mirror_one(self.here, self.desired("new", 2), moving)

    async def record(self, store, realm, occurrence=""):
        (record,) = await store.load([Key(Partition(realm, "send"), "report", "", occurrence)])
        return record

    async def arrived(self):
        return await self.record(self.target, "new")

    async def dead_letters(self):
        page = await self.target.scan(Partition("new", "send"), None, None, 1000)
        return [record for record in page if record.key.occurrence]

    def dead_letter(self, occurrence=DEAD_LETTERS[0], args=b'{"n":1}', **fields):
        now = self.clock.now()
        spec = Spec(Once(now, "UTC"), msgspec.Raw(args), Policies())
        dead_letter = self.source_record(Key(Partition("old", "send"), "report", "", occurrence), spec, now)
        return replace(dead_letter, **fields)

    def source_record(self, key, spec, now):
        return records.Record(
            key=key,
            spec=spec,
            version=now,
            fence=now,
            due_at=now,
            schedule_since=now - 1,
            claimable_at=None,
            lease_length=60 * SECOND,
            state=State(created_version=now),
        )


@pytest.fixture
def move():
    return Move()


async def test_a_record_that_moves_to_another_database_keeps_its_due_time_its_fence_and_its_counts(move):
    counts = Summary(counts=Counts(succeeded=3, failed=1))
    before = await move.begin(fence=move.clock.now() + 7, state={"summary": counts})

    result = await move.go()

    after = await move.arrived()
    assert (result.step, result.refused) == (Step.MOVED, ())
    assert (after.due_at, after.fence, after.state.summary) == (before.due_at, before.fence, counts)
    assert after.state.created_version == before.state.created_version
    assert await move.record(move.source, "old") is None


async def test_version_and_fence_are_bounded_by_the_clock(move):
    await move.begin(version=2**63 - 2, fence=2**63 - 1)

    await move.go()

    after = await move.arrived()
    assert after.fence == move.clock.now() + CLOCK_MARGIN
    assert after.version <= move.clock.now() + CLOCK_MARGIN + 1


FORGED = {
    "due at once": lambda now: {"due_at": now},
    "due at a time that the status does not report": lambda now: {"due_at": now - 160 * DAY + DAY // 2},
    "due later than its next time": lambda now: {"due_at": now + 100 * 365 * DAY},
    "never due": lambda now: {"due_at": None},
    "with a schedule from the future": lambda now: {"schedule_since": now + DAY},
    "started in the future": lambda now: {"state": {"floor": now + DAY}},
    "created in the future": lambda now: {"state": {"created_version": 2**63 - 1}},
    "with a negative count": lambda now: {"state": {"summary": Summary(counts=Counts(succeeded=-1))}},
    "with too high a count": lambda now: {"state": {"summary": Summary(consecutive_failures=2**53)}},
    "with too many rows": lambda now: {"state": {"summary": Summary(successes_without_history=1)}},
    "run in the future": lambda now: {"state": {"summary": Summary(last_ended_at=now + DAY)}},
    "with a request of a kilobyte": lambda now: {"state": {"handled": Requests(run="x" * 1000)}},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_an_implausible_record_is_not_carried_over(move, forged):
    await move.begin(**forged(move.clock.now()))

    result = await move.go()

    after = await move.arrived()
    assert result.refused != ()
    assert move.clock.now() + DAY < after.due_at < move.clock.now() + 365 * DAY
    assert after.state.summary == Summary()
    assert after.version <= move.clock.now()
    assert await move.record(move.source, "old") is None


async def test_a_run_that_a_second_read_shows_in_progress_does_not_arrive_in_progress(move):
    await move.begin()
    started = Started(move.clock.now(), move.clock.now(), at_most_once=True)

    def changed(record):
        is_stopped = record.state.withdrawn_at is not None
        return replace(record, state=replace(record.state, started=started)) if is_stopped else record

    move.source.loaded = changed
    result = await move.go()

    assert (result.step, result.refused) == (Step.MOVED, ())
    assert (await move.arrived()).state.started is None


async def test_an_occurrence_that_is_late_moves_if_the_status_reports_it(move):
    before = await move.begin()
    await move.clock.advance(datetime.timedelta(days=210))

    result = await move.go(reported=before.due_at)

    assert result.refused == ()
    assert (await move.arrived()).due_at == before.due_at < move.clock.now()


@pytest.mark.parametrize(("seconds", "moves"), [(1, True), (3600, False)])
async def test_a_schedule_that_is_due_often_may_be_due_before_the_time_that_the_status_reports(
    seconds, moves
):
    move = Move(schedule=None, intervalSeconds=seconds)
    before = await move.begin()
    await move.clock.advance(datetime.timedelta(seconds=seconds + 1))

    result = await move.go(reported=before.due_at + 60 * SECOND)

    assert (result.refused == ()) is moves


async def test_long_messages_are_cut(move):
    await move.begin(state={"summary": Summary(last_message="x" * 100_000, last_worker="w" * 100_000)})

    await move.go()

    summary = (await move.arrived()).state.summary
    assert (len(summary.last_message), len(summary.last_worker)) == (1024, 253)


async def test_dead_letters_move_with_their_arguments(move):
    await move.begin(*map(move.dead_letter, DEAD_LETTERS))

    result = await move.go()

    dead_letters = await move.dead_letters()
    assert result.refused == ()
    assert [dead_letter.key.occurrence for dead_letter in dead_letters] == list(DEAD_LETTERS)
    assert {bytes(dead_letter.spec.args) for dead_letter in dead_letters} == {b'{"n":1}'}
    assert [dead_letter.claimable_at for dead_letter in dead_letters] == [None, None]


async def test_a_dead_letter_gets_the_policies_of_the_task_and_bounded_numbers(move):
    forged = Policies(lease=2**60, keep_successful=2**40)
    dead_letter = move.dead_letter(version=2**63 - 1, fence=2**63 - 1, lease_length=2**60, attempt=-5)
    await move.begin(replace(dead_letter, spec=replace(dead_letter.spec, policies=forged)))

    await move.go()

    (dead_letter,) = await move.dead_letters()
    assert dead_letter.spec.policies.lease == dead_letter.lease_length == 60 * SECOND
    assert dead_letter.spec.policies.keep_successful == 3
    assert max(dead_letter.version, dead_letter.fence) == move.clock.now() + CLOCK_MARGIN
    assert (dead_letter.attempt, dead_letter.lease) == (0, None)


BAD_DEAD_LETTERS = {
    "too large": {"args": b'{"n":"%s"}' % (b"x" * ARGS_BYTES_MAX)},
    "no object": {"args": b"[1]"},
    "too deep": {"args": b'{"n":' + b"[" * 5000 + b"]" * 5000 + b"}"},
    "a name with a line break": {"occurrence": "dead-\n"},
    "a long name": {"occurrence": "dead-" + "1" * 500},
    "without a time": {"due_at": None},
    "of the future": {"due_at": 2**62},
    "created in the future": {"state": State(created_version=2**62)},
}


@pytest.mark.parametrize("bad", BAD_DEAD_LETTERS.values(), ids=BAD_DEAD_LETTERS)
async def test_an_implausible_dead_letter_is_not_carried_over_and_the_others_are(move, bad):
    await move.begin(move.dead_letter(**{"occurrence": "dead-0"} | bad), move.dead_letter(DEAD_LETTERS[1]))

    result = await move.go()

    assert [dead_letter.key.occurrence for dead_letter in await move.dead_letters()] == [DEAD_LETTERS[1]]
    assert len(result.refused) == 1
    assert (await move.arrived()) is not None


async def test_a_dead_letter_that_a_second_read_shows_as_claimable_does_not_arrive_claimable(move):
    await move.begin(move.dead_letter())

    def changed(scan, page):
        return [replace(record, claimable_at=1) for record in page] if scan > 1 else page

    move.source.shown = changed
    result = await move.go()

    assert result.step is Step.WAITING
    assert await move.dead_letters() == []
    move.source.shown = lambda _, page: page
    await move.go()
    assert [dead_letter.claimable_at for dead_letter in await move.dead_letters()] == [None]


async def test_a_database_with_endless_records_does_not_block_a_move(move, monkeypatch):
    monkeypatch.setattr(records, "SIDE_RECORDS_MAX", 10)
    monkeypatch.setattr(records, "REMOVAL_SECONDS", 0.1)
    await move.begin()
    move.source.shown = lambda *_: [move.dead_letter()]

    result = await move.go()

    assert (await move.arrived()) is not None
    assert "more than 10 dead letters" in "; ".join(result.refused)


async def test_a_resource_waits_once_for_all_records_that_it_has_left_behind(move, monkeypatch):
    monkeypatch.setattr(records, "REMOVAL_SECONDS", 0.2)
    old = await move.begin()
    await move.go()
    left_behind = [
        MisplacedRecord(move.away, replace(old, key=old.key._replace(partition=Partition("old", f"h{n}"))))
        for n in range(20)
    ]
    move.source.shown = lambda *_: [move.letter()]

    began_at = asyncio.get_running_loop().time()
    result = await mirror_one(move.here, move.desired("new", 2), left_behind)

    assert asyncio.get_running_loop().time() - began_at < 2
    assert len(result.unremoved) == 20


async def test_a_database_that_keeps_its_record_does_not_fail_the_move(move):
    await move.begin()
    move.source.keeps = True

    result = await move.go()
    again = await move.go()

    assert (result.step, again.step) == (Step.MOVED, Step.UNCHANGED)
    assert [str(each.error) for each in (*result.unremoved, *again.unremoved)] == ["permission denied"] * 2
    assert (await move.arrived()) is not None


class CrashError(Exception):
    pass


@pytest.mark.parametrize("writes", range(1, 4))
async def test_a_move_that_breaks_off_loses_no_dead_letter(move, writes):
    await move.begin(*map(move.dead_letter, DEAD_LETTERS))
    swap, left = move.target.swap, [writes]

    async def crash_after(changes):
        made = await swap(changes)
        left[0] -= 1
        if left[0] == 0:
            raise CrashError
        return made

    move.target.swap = crash_after
    for _ in range(2):
        with contextlib.suppress(CrashError):
            await move.go()

    assert [dead_letter.key.occurrence for dead_letter in await move.dead_letters()] == list(DEAD_LETTERS)
    assert await move.record(move.source, "old") is None
