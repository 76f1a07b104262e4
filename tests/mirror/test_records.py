"""The store holds the records that manifests describe, and an edit loses nothing of what happened."""

import contextlib
import datetime

import msgspec
import pytest

from pyncette.app.modes import A_MICROSECOND
from pyncette.cli.dev.mirroring import mirror_all
from pyncette.clock import SECOND
from pyncette.coordination.permit_records import new_permit, number_of, permit_partition
from pyncette.core import edits, rules
from pyncette.core.accounting import counting_record, shard_of
from pyncette.core.record import Change, Counts, Key, Outcome, Partition, replace
from pyncette.core.runs import RETURNED, Ended, Ending
from pyncette.core.schedule import Cron
from pyncette.core.side_runs import side_run_of
from pyncette.core.spec import Policies, Spec
from pyncette.core.times import instant_of
from pyncette.errors import ContentionError, StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.instances import Removal, instances_of, remove_instances
from pyncette.mirror.records import MirrorReport, MisplacedRecord, mirror_one, stop, task_records
from pyncette.mirror.rules import Step, moved, stopped_between_runs
from pyncette.resources.task import PyncetteTask
from pyncette.store.memory import MemoryStore
from pyncette.testing.clock import VirtualClock
from tests.resources import accepted as read_as
from tests.resources import manifest, task

REALM = "test"
HOUR = datetime.timedelta(hours=1)


class Folder:
    """A store, and the manifests that are mirrored into it."""

    def __init__(self):
        self.clock = VirtualClock(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, self.clock)

    async def apply(self, *tasks, **options):
        """Mirror *tasks*; return what was done, by name."""
        seen_at = options.pop("seen_at", self.clock.now())
        wanted = [desired_record_of(item, REALM, seen_at) for item in tasks]
        return {item.name: item.step for item in await mirror_all(self.ledger, REALM, wanted, **options)}

    async def record(self, name="report", handler="send", occurrence=""):
        (record,) = await self.store.load([Key(Partition(REALM, handler), name, "", occurrence)])
        return record

    async def claim(self, handler="send"):
        now = self.clock.now()
        claimed = await self.store.claim({Partition(REALM, handler): 10}, f"lease-{now}", "me", now, now)
        return [rules.begin(record, record.spec.policies, now).run for record in claimed.records]

    async def start(self, handler="send"):
        """Claim what is due, and write what has to stand before it runs."""
        now = self.clock.now()
        claimed = await self.store.claim({Partition(REALM, handler): 10}, f"lease-{now}", "me", now, now)
        lease_until = self.clock.monotonic() + 60 * SECOND
        starting = [
            PendingStart(rules.begin(record, record.spec.policies, now), record.spec.policies, lease_until)
            for record in claimed.records
        ]
        return [held async for decided in self.ledger.start(starting) for held in decided.values() if held]

    async def run(self, handler="send", ended=RETURNED):
        for held in await self.claim(handler):
            await self.end(held, ended)

    async def end(self, held, ended=RETURNED):
        return await self.ledger.settle([rules.settle(held, ended, self.clock.now())])


@pytest.fixture
def folder():
    return Folder()


def named(name, **spec):
    return read_as(PyncetteTask, manifest(name=name, **({"handler": "send", "intervalSeconds": 60} | spec)))


async def test_a_new_resource_becomes_a_record_that_counts_from_now(folder):
    assert await folder.apply(task(intervalSeconds=60)) == {"report": Step.CREATED}

    record = await folder.record()
    assert record.due_at == folder.clock.now() + 60 * SECOND


async def test_what_is_mirrored_already_is_not_written_again(folder):
    await folder.apply(task())
    before = await folder.record()

    assert await folder.apply(task()) == {"report": Step.UNCHANGED}

    assert await folder.record() == before


async def test_an_edit_keeps_what_has_happened(folder):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    await folder.run()

    assert await folder.apply(task(intervalSeconds=7)) == {"report": Step.EDITED}

    record = await folder.record()
    assert record.due_at == folder.clock.now() + 7 * SECOND
    assert record.state.summary.counts.succeeded == 1


async def test_an_older_generation_never_undoes_a_newer_one(folder):
    def generation(number, seconds):
        given = manifest(handler="send", intervalSeconds=seconds)
        given["metadata"] |= {"uid": "u", "generation": number}
        return read_as(PyncetteTask, given)

    await folder.apply(generation(2, 20))

    assert await folder.apply(generation(1, 10)) == {"report": Step.OUTDATED}
    assert await folder.apply(generation(3, 20)) == {"report": Step.EDITED}


async def test_an_older_generation_counts_where_the_newer_one_is_known_to_be_of_a_past_that_was_undone(
    folder,
):
    def generation(number, seconds):
        given = manifest(handler="send", intervalSeconds=seconds)
        given["metadata"] |= {"uid": "u", "generation": number}
        return desired_record_of(read_as(PyncetteTask, given), REALM)

    await mirror_all(folder.ledger, REALM, [generation(5, 50)])
    restored = generation(2, 20)._replace(outlives=(await folder.record()).state.owner)
    (later,) = await mirror_all(folder.ledger, REALM, [generation(6, 60)])

    (taken,) = await mirror_all(folder.ledger, REALM, [restored])
    assert (later.step, taken.step) == (Step.EDITED, Step.OUTDATED)
    confirmed = restored._replace(outlives=(await folder.record()).state.owner)
    (taken,) = await mirror_all(folder.ledger, REALM, [confirmed])
    assert taken.step is Step.EDITED


async def test_a_removed_resource_never_undoes_a_newer_one_of_the_same_name(folder):
    def resource(uid, created, seconds):
        given = manifest(handler="send", intervalSeconds=seconds)
        given["metadata"] |= {"uid": uid, "generation": 1, "creationTimestamp": created}
        return read_as(PyncetteTask, given)

    deleted = resource("old", "2024-01-01T00:00:00Z", 10)
    recreated = resource("new", "2024-01-01T00:05:00Z", 20)
    await folder.apply(deleted)

    assert await folder.apply(recreated) == {"report": Step.EDITED}
    assert await folder.apply(deleted) == {"report": Step.OUTDATED}

    record = await folder.record()
    assert (record.state.owner.uid, record.spec.schedule.length) == ("new", 20 * SECOND)

    restored = desired_record_of(deleted, REALM)._replace(outlives=record.state.owner)
    (taken,) = await mirror_all(folder.ledger, REALM, [restored])
    assert taken.step is Step.EDITED


async def test_a_one_off_that_was_overdue_when_it_was_written_is_missed(folder):
    await folder.apply(task(executeAt="2023-12-31T23:00:00Z"))

    record = await folder.record()
    assert (record.due_at, record.state.summary.counts.missed) == (None, 1)
    (run,) = await folder.ledger.store.history(record.key)
    assert (run.outcome, run.count, run.started_at) == (Outcome.MISSED, 1, None)


async def test_a_one_off_that_is_edited_into_the_past_says_so_in_its_history(folder):
    await folder.apply(task(executeAt="2024-01-01T08:00:00Z"))
    await folder.clock.advance(HOUR)

    await folder.apply(task(executeAt="2024-01-01T00:30:00Z"))

    (run,) = await folder.ledger.store.history((await folder.record()).key)
    assert run.outcome is Outcome.MISSED


async def test_a_one_off_that_was_written_before_its_time_runs_however_late_it_is_mirrored(folder):
    written = instant_of(datetime.datetime(2023, 12, 31, tzinfo=datetime.UTC))

    await folder.apply(task(executeAt="2023-12-31T23:00:00Z"), seen_at=written)
    await folder.run()

    assert (await folder.record()).state.summary.counts.succeeded == 1


async def test_a_finished_one_off_never_runs_again(folder):
    once = task(executeAt="2024-01-01T00:30:00Z")
    await folder.apply(once)
    await folder.clock.advance(HOUR)
    await folder.run()

    assert await folder.apply(once) == {"report": Step.UNCHANGED}
    assert await folder.apply(task(executeAt="2024-01-01T00:30:00Z", args={"n": 1})) == {
        "report": Step.EDITED
    }
    assert await folder.apply() == {"report": Step.STOPPED}
    assert await folder.apply(once) == {"report": Step.EDITED}
    await folder.clock.advance(HOUR)

    assert await folder.claim() == []


async def test_what_is_gone_is_stopped_at_once_and_removed_after_the_grace(folder):
    await folder.apply(task())

    assert await folder.apply() == {"report": Step.STOPPED}
    assert await folder.apply() == {}
    await folder.clock.advance(HOUR)
    assert await folder.claim() == []

    await folder.clock.advance(datetime.timedelta(days=1))
    assert await folder.apply() == {"report": Step.REMOVED}
    assert await folder.record() is None


async def test_what_returns_within_the_grace_goes_on_with_its_counts(folder):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    await folder.run()
    await folder.apply()

    await folder.apply(task())

    record = await folder.record()
    assert record.state.summary.counts.succeeded == 1
    assert record.claimable_at > folder.clock.now()


async def test_a_run_of_what_is_gone_loses_its_lease_and_is_counted_as_withdrawn(folder):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    (held,) = await folder.claim()

    await folder.apply()

    assert await folder.end(held) == [False]
    assert (await folder.record()).state.summary.counts.withdrawn == 1


async def test_side_runs_of_a_deleted_task_are_withdrawn_but_its_dead_letters_stay_until_removal(
    folder,
):
    await folder.apply(task())
    home = await folder.record()
    extra = edits.on_demand(home, home.spec.policies, "x", folder.clock.now())
    letter = replace(side_run_of(home, home.spec.policies, "dead-1", 1, 1), claimable_at=None)
    await folder.store.swap([Change(None, extra), Change(None, letter)])

    await folder.apply()

    assert await folder.record(occurrence="run-x") is None
    assert await folder.record(occurrence="dead-1") is not None

    await folder.clock.advance(datetime.timedelta(days=2))
    await folder.apply()
    assert await folder.record(occurrence="dead-1") is None


async def test_names_that_are_to_be_kept_are_left_alone(folder):
    await folder.apply(task())
    before = await folder.record()

    assert await folder.apply(keep={"report"}) == {}

    assert await folder.record() == before


async def test_records_that_no_resource_owns_are_left_alone(folder):
    own = edits.created(Key(Partition(REALM, "own"), "own"), task_spec(), Policies(), folder.clock.now())
    await folder.store.swap([Change(None, own)])

    assert await folder.apply() == {}

    assert await folder.record("own", "own") == own


def task_spec():
    return desired_record_of(task(), REALM).spec


async def test_another_handler_takes_over_due_time_fence_and_counts(folder):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    await folder.run()
    before = await folder.record()

    assert await folder.apply(task(handler="post")) == {"report": Step.MOVED}

    after = await folder.record(handler="post")
    assert await folder.record() is None
    assert after.due_at == before.due_at == after.claimable_at
    assert after.fence >= before.fence
    assert after.state.summary == before.state.summary


async def test_a_finished_one_off_does_not_run_again_under_another_handler(folder):
    await folder.apply(task(executeAt="2024-01-01T00:30:00Z"))
    await folder.clock.advance(HOUR)
    await folder.run()

    await folder.apply(task(executeAt="2024-01-01T00:30:00Z", handler="post"))

    assert await folder.claim("post") == []


async def test_a_run_in_progress_ends_before_its_task_moves_to_another_handler(folder):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    (held,) = await folder.claim()

    assert await folder.apply(task(handler="post")) == {"report": Step.WAITING}
    assert await folder.end(held) == [True]
    assert await folder.apply(task(handler="post")) == {"report": Step.MOVED}

    assert (await folder.record(handler="post")).state.summary.counts.succeeded == 1


async def test_side_runs_end_and_are_counted_before_their_task_moves(folder):
    fields = {"concurrencyPolicy": "Allow", "leaseDurationSeconds": 600}
    await folder.apply(task(**fields))
    await folder.clock.advance(datetime.timedelta(minutes=1))
    (first,) = await folder.start()
    await folder.clock.advance(datetime.timedelta(minutes=1))
    (second,) = await folder.start()
    due = (await folder.record()).due_at
    there = task(handler="post", **fields)

    assert await folder.apply(there) == {"report": Step.WAITING}
    assert await folder.end(first) == [True]
    assert await folder.apply(there) == {"report": Step.WAITING}
    assert (await folder.record()).claimable_at is None
    assert await folder.end(second) == [True]
    assert await folder.apply(there) == {"report": Step.MOVED}

    after = await folder.record(handler="post")
    assert after.state.summary.counts == Counts(succeeded=2)
    assert after.due_at == due


async def test_a_dead_letter_that_is_tried_again_ends_before_its_task_moves(folder):
    fields = {"onExhausted": "DeadLetter", "retryPolicy": {"maxAttempts": 1}}
    await folder.apply(task(**fields))
    await folder.clock.advance(HOUR)
    await folder.run(ended=Ended(Ending.RAISED, "no"))
    (_, letter) = await folder.store.scan(Partition(REALM, "send"), None, None, 10)
    await folder.store.swap([Change(letter, edits.redriven(letter, folder.clock.now()))])

    assert await folder.apply(task(handler="post", **fields)) == {"report": Step.WAITING}
    await folder.run()
    assert await folder.apply(task(handler="post", **fields)) == {"report": Step.MOVED}

    (record,) = await folder.store.scan(Partition(REALM, "post"), None, None, 10)
    counts = record.state.summary.counts
    assert (counts.succeeded, counts.dead_lettered, counts.withdrawn) == (1, 0, 0)


async def test_an_overlapping_run_is_tried_again_with_the_arguments_and_policies_of_an_edit(folder):
    fields = {"concurrencyPolicy": "Allow", "leaseDurationSeconds": 600}
    await folder.apply(task(args={"n": 1}, **fields))
    home = await folder.record()
    extra = edits.on_demand(home, home.spec.policies, "x", folder.clock.now() + HOUR // A_MICROSECOND)
    await folder.store.swap([Change(None, extra)])
    await folder.clock.advance(datetime.timedelta(minutes=1))
    (held,) = await folder.start()

    await folder.apply(task(args={"n": 2}, retryPolicy={"maxAttempts": 2}, **fields))
    assert await folder.end(held, Ended(Ending.RAISED, "no"))
    await folder.clock.advance(datetime.timedelta(seconds=5))
    (again,) = await folder.claim()

    assert (again.scheduled_at, again.attempt) == (held.scheduled_at, 2)
    assert (bytes(again.record.spec.args), again.policies.retry.max_attempts) == (b'{"n":2}', 2)
    assert bytes((await folder.record(occurrence="run-x")).spec.args) == b'{"n":1}'


async def test_dead_letters_move_along(folder):
    await folder.apply(task(onExhausted="DeadLetter", retryPolicy={"maxAttempts": 1}))
    await folder.clock.advance(HOUR)
    await folder.run(ended=Ended(Ending.RAISED, "no"))

    await folder.apply(task(handler="post", onExhausted="DeadLetter", retryPolicy={"maxAttempts": 1}))

    kept = await folder.store.scan(Partition(REALM, "post"), None, None, 10)
    assert [record.key.occurrence[:5] for record in kept] == ["", "dead-"]
    assert kept[0].state.summary.last_outcome is Outcome.DEAD_LETTERED
    assert await folder.store.scan(Partition(REALM, "send"), None, None, 10) == []


@pytest.mark.parametrize("crash_after", [1, 2, 3])
async def test_a_move_that_was_broken_off_goes_on_and_leaves_one_record(folder, crash_after):
    await folder.apply(task())
    await folder.clock.advance(HOUR)
    await folder.run()
    ledger, folder.ledger = folder.ledger, Crashing(folder.store, folder.clock, crash_after)

    with pytest.raises(CrashError):
        await folder.apply(task(handler="post"))
    folder.ledger = ledger
    await folder.apply(task(handler="post"))

    found = [record async for record in task_records(folder.store, REALM)]
    assert [record.key.partition.handler for record in found] == ["post"]
    assert found[0].state.summary.counts.succeeded == 1
    assert found[0].claimable_at > folder.clock.now()


class CrashError(Exception):
    pass


class Crashing(Ledger):
    """Fails at the write after so many."""

    def __init__(self, store, clock, writes):
        super().__init__(store, clock)
        self.left = writes

    async def apply(self, rulings, answers=None):
        if rulings:
            if not self.left:
                raise CrashError
            self.left -= 1
        return await super().apply(rulings, answers)


async def test_the_instances_of_templates_are_passed_over_in_search_of_tasks(folder):
    now = folder.clock.now()
    partition = Partition(REALM, "send")
    instances = [
        edits.created(Key(partition, "many", f"{number:04}"), task_spec(), Policies(), now)
        for number in range(900)
    ]
    for at in range(0, 900, 300):
        await folder.store.swap([Change(None, record) for record in instances[at : at + 300]])
    await folder.apply(named("a"), named("zoo"), named("many", intervalSeconds=3))

    assert sorted([record.key.task async for record in task_records(folder.store, REALM)]) == [
        "a",
        "many",
        "zoo",
    ]


async def test_a_stored_schedule_that_can_no_longer_be_read_hurts_itself_only_and_an_edit_fixes_it(folder):
    both = [task(schedule="* * * * *"), named("other")]
    await folder.apply(*both)
    await folder.clock.advance(HOUR)
    await folder.claim()
    record = await folder.record()
    unreadable = replace(record.spec, schedule=Cron("* * * * *", "Gone/Nowhere"))
    await folder.store.swap([Change(record, replace(record, spec=unreadable, version=record.version + 1))])

    steps = await folder.apply(task(schedule="*/5 * * * *"), named("other", intervalSeconds=7))

    assert steps == {"report": Step.EDITED, "other": Step.EDITED}
    assert (await folder.record()).state.started.scheduled_at == record.due_at
    assert await folder.apply() == {"report": Step.STOPPED, "other": Step.STOPPED}


# --- Many ------------------------------------------------------------------------------------------------------------


class HostileStore(MemoryStore):
    """Counts swaps, and does not write the tasks that it is hostile to."""

    def __init__(self):
        super().__init__()
        self.swaps = 0
        self.refused = set()
        """These have each swap refused that they are in."""
        self.lost = set()
        """These lose each race."""
        self.away_after = None
        """The store is unavailable after so many swaps."""

    @property
    def capabilities(self):
        return super().capabilities._replace(swap_batch_max=100)

    async def swap(self, changes):
        if self.swaps == self.away_after:
            raise StoreUnavailableError("no answer")
        self.swaps += 1
        if any(change.key.task in self.refused for change in changes):
            raise StoreRefusedError("refused")
        made = iter(await super().swap([change for change in changes if change.key.task not in self.lost]))
        return [change.key.task not in self.lost and next(made) for change in changes]


@pytest.fixture
def hostile():
    folder = Folder()
    folder.store = HostileStore()
    folder.ledger = Ledger(folder.store, folder.clock, race_seconds=0)
    return folder


def desired_of(*tasks):
    return [desired_record_of(item, REALM, 0) for item in tasks]


def numbered(count, **spec):
    return [named(f"task{number}", **spec) for number in range(count)]


async def test_many_manifests_are_written_in_batches(hostile):
    async def swaps_of(*tasks, **options):
        before = hostile.store.swaps
        steps = await hostile.apply(*tasks, **options)
        return set(steps.values()), hostile.store.swaps - before

    assert await swaps_of(*numbered(300)) == ({Step.CREATED}, 3)
    assert await swaps_of(*numbered(300, intervalSeconds=7)) == ({Step.EDITED}, 3)
    assert await swaps_of(*numbered(300, intervalSeconds=7)) == ({Step.UNCHANGED}, 0)
    assert await swaps_of() == ({Step.STOPPED}, 3)
    await hostile.clock.advance(HOUR)
    assert await swaps_of(grace=60 * SECOND) == ({Step.REMOVED}, 3)


@pytest.mark.parametrize(("kind", "error"), [("refused", StoreRefusedError), ("lost", ContentionError)])
@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        ((), numbered(3), Step.CREATED),
        (numbered(3), numbered(3, intervalSeconds=7), Step.EDITED),
        (numbered(3), numbered(3, handler="post"), Step.MOVED),
        (numbered(3), (), Step.STOPPED),
    ],
)
async def test_a_record_that_cannot_be_written_hurts_itself_only(hostile, kind, error, before, after, step):
    await hostile.apply(*before)
    getattr(hostile.store, kind).add("task1")
    report = MirrorReport()

    with pytest.raises(error):
        await mirror_all(hostile.ledger, REALM, desired_of(*after), report)

    assert {result.name: result.step for result in report.results} == {"task0": step, "task2": step}
    getattr(hostile.store, kind).clear()
    assert (await hostile.apply(*after))["task1"] is step


async def test_the_side_runs_of_the_others_follow_an_edit(hostile):
    overlapping = {"concurrencyPolicy": "Allow", "intervalSeconds": 60}
    await hostile.apply(*numbered(3, **overlapping))
    await hostile.clock.advance(HOUR)
    await hostile.start()
    hostile.store.lost.add("task1")

    with pytest.raises(ContentionError):
        await hostile.apply(*numbered(3, **overlapping, args={"n": 2}))

    page = await hostile.store.scan(Partition(REALM, "send"), None, None, 10)
    args = {str(record.key): bytes(record.spec.args) for record in page if record.key.occurrence}
    assert list(args.values()) == [b'{"n":2}', b"{}", b'{"n":2}']


async def test_all_errors_are_counted_in_one(hostile):
    hostile.store.refused |= {"task0", "task2"}

    with pytest.raises(StoreError, match=r"^refused \(and 1 more\)$"):
        await hostile.apply(*numbered(3))

    assert await hostile.record("task1") is not None


async def test_what_was_written_before_an_outage_is_reported_and_nothing_more_is_tried(hostile):
    hostile.store.away_after = 1
    report = MirrorReport()

    with pytest.raises(StoreUnavailableError):
        await mirror_all(hostile.ledger, REALM, desired_of(*numbered(300)), report)

    assert len(report.results) == 100


# --- Templates -------------------------------------------------------------------------------------------------------


async def test_a_dynamic_task_is_the_template_of_its_handler_whatever_its_name(folder):
    assert await folder.apply(named("reminders", dynamic=True, intervalSeconds=None, suspend=True)) == {
        "send": Step.CREATED
    }

    record = await folder.record("send")
    assert record.spec.policies.suspend
    assert (record.spec.partitions, record.due_at) == (1, None)


async def test_a_template_that_the_module_declared_keeps_its_partitions(folder):
    declared = edits.created(
        Key(Partition(REALM, "send"), "send"), Spec(partitions=4), Policies(), folder.clock.now()
    )
    await folder.store.swap([Change(None, declared)])

    assert await folder.apply(task(dynamic=True, partitions=1)) == {"send": Step.EDITED}

    assert (await folder.record("send")).spec.partitions == 4


async def test_a_template_and_a_task_with_the_name_of_its_handler_stand_beside_each_other(folder):
    both = [task(dynamic=True), named("send", handler="post")]
    await folder.apply(*both)

    assert await folder.apply(*both) == {"send": Step.UNCHANGED}

    assert (await folder.record("send")).spec.schedule is None
    assert (await folder.record("send", "post")).spec.schedule is not None


async def test_a_template_that_is_gone_stays_stopped_as_its_instances_do_until_it_is_back(folder):
    await folder.apply(task(dynamic=True))

    assert await folder.apply() == {"send": Step.STOPPED}
    await folder.clock.advance(datetime.timedelta(days=2))
    assert await folder.apply() == {}
    assert (await folder.record("send")).state.withdrawn_at is not None

    assert await folder.apply(task(dynamic=True)) == {"send": Step.EDITED}
    assert (await folder.record("send")).state.withdrawn_at is None


# --- The instances of a template that is gone ------------------------------------------------------------------------


def numbered_user(folder, number, **fields):
    """An instance in the partition of its number."""
    key = Key(Partition(REALM, "send", number % 3), "send", f"user-{number:03}")
    new = edits.created(key, Spec(Cron("0 12 * * *")), Policies(), folder.clock.now())
    return replace(new, **fields)


async def with_instances(folder, count, **spec):
    """A template of three partitions with instances in all of them; it is gone again."""
    await folder.apply(task(dynamic=True, partitions=3, **spec))
    for number in range(count):
        await folder.store.swap([Change(None, numbered_user(folder, number))])
    await folder.apply()
    return await folder.record("send")


async def left(folder):
    pages = [
        await folder.store.scan(Partition(REALM, "send", number), None, None, 1000) for number in range(3)
    ]
    return [record for page in pages for record in page]


async def test_a_template_remembers_after_its_end_that_its_instances_are_to_go_with_it(folder):
    template = await with_instances(folder, 0, deletionPolicy="Delete")
    assert template.state.owner.takes_instances

    await folder.apply(task(dynamic=True, partitions=3))

    assert not (await folder.record("send")).state.owner.takes_instances


def test_how_instances_end_changes_no_hash_and_what_was_stored_before_is_read():
    kept, removed = (
        desired_record_of(task(dynamic=True, deletionPolicy=policy), REALM) for policy in ("Retain", "Delete")
    )

    assert kept.owner.spec_hash == removed.owner.spec_hash
    assert b"takes_instances" not in msgspec.json.encode(kept.owner)
    assert kept.owner != removed.owner  # so that it is written


@pytest.mark.parametrize("at_most", [1, 4, 10, 11, 1000])
async def test_instances_are_removed_in_batches_and_the_template_with_the_last(folder, at_most):
    template = await with_instances(folder, 10)

    removals = []
    while not removals or not removals[-1].done:
        removals.append(await remove_instances(folder.ledger, template, at_most))

    assert [removal.removed for removal in removals[:-1]] == [at_most] * (len(removals) - 1)
    assert sum(removal.removed for removal in removals) == 10
    assert await left(folder) == []


async def test_a_removal_that_was_broken_off_goes_on_where_it_was(folder):
    template = await with_instances(folder, 10)

    assert await remove_instances(folder.ledger, template, 7) == Removal(7, done=False)
    again = Ledger(folder.store, folder.clock)
    assert await remove_instances(again, template, 7) == Removal(3, done=True)
    assert await remove_instances(again, template, 7) == Removal(0, done=True)


async def test_a_template_that_is_wanted_keeps_its_instances(folder):
    template = await with_instances(folder, 10)
    await remove_instances(folder.ledger, template, 4)
    await folder.apply(task(dynamic=True, partitions=3))

    assert await remove_instances(folder.ledger, template, 100) == Removal(0, done=True)

    pages = [page async for page in instances_of(folder.store, template)]
    assert sum(map(len, pages)) == 6


async def test_runs_of_instances_that_are_removed_are_withdrawn_and_counted_at_the_template(folder):
    template = await with_instances(folder, 3)
    await folder.clock.advance(datetime.timedelta(hours=13))
    now = folder.clock.now()
    await folder.store.claim({Partition(REALM, "send"): 10}, "lease", "me", now, now)

    await remove_instances(folder.ledger, template, 1)

    assert (await folder.record("send")).state.summary.counts == Counts(withdrawn=1)


async def test_a_run_of_an_instance_that_is_removed_has_lost_its_lease(folder):
    template = await with_instances(folder, 3)
    await folder.clock.advance(datetime.timedelta(hours=13))
    now = folder.clock.now()
    claimed = await folder.store.claim({Partition(REALM, "send"): 10}, "lease", "me", now, now)
    held = rules.begin(claimed.records[0], template.spec.policies, now).run

    await remove_instances(folder.ledger, template, 1000)

    assert await folder.end(held) == [False]


async def test_side_runs_of_instances_and_counters_of_the_template_are_removed_too(folder):
    template = await with_instances(folder, 3)
    (instance,) = await folder.store.load([numbered_user(folder, 1).key])
    await folder.store.swap(
        [
            Change(None, edits.on_demand(instance, Policies(), "x", folder.clock.now())),
            Change(None, counting_record(shard_of(template.key, 5), folder.clock.now())),
        ]
    )

    assert (await remove_instances(folder.ledger, template, 1000)).done

    assert await left(folder) == []


async def test_other_tasks_of_the_handler_are_left_alone(folder):
    await folder.apply(task(dynamic=True, partitions=3), named("daily"))
    await folder.apply(named("daily"))

    await remove_instances(folder.ledger, await folder.record("send"), 1000)

    assert [record.key.task for record in await left(folder)] == ["daily"]


# --- Moves that meet deletions, crashes and older generations ----------------------------------------------------------


def owned(handler, generation, uid="u", **spec):
    given = manifest(**({"handler": handler, "intervalSeconds": 60, "missedRunPolicy": "All"} | spec))
    given["metadata"] |= {"uid": uid, "generation": generation}
    return desired_record_of(read_as(PyncetteTask, given), REALM)


@pytest.mark.parametrize("mode", ["AtLeastOnce", "AtMostOnce"])
async def test_a_resource_that_returns_with_another_handler_runs_nothing_of_the_time_it_was_gone(
    folder, mode
):
    await mirror_one(folder.ledger, owned("send", 1, "old", executionMode=mode))
    await folder.clock.advance(datetime.timedelta(seconds=60))
    (held,) = await folder.start()
    await stop(folder.ledger, await folder.record())
    await folder.clock.advance(datetime.timedelta(minutes=30))
    gone = await folder.record()

    returned = owned("post", 1, "new", executionMode=mode)
    await mirror_one(folder.ledger, returned, [MisplacedRecord(folder.ledger, gone)])

    record = await folder.record(handler="post")
    assert record.due_at > folder.clock.now()
    assert record.state.floor == held.scheduled_at
    assert record.state.summary.counts == Counts(withdrawn=1)


async def test_a_move_that_broke_off_makes_up_for_what_passed_meanwhile(folder):
    await mirror_one(folder.ledger, owned("send", 1))
    due_at = (await folder.record()).due_at
    await folder.ledger.apply({(await folder.record()).key: stopped_between_runs(owned("post", 2))})
    await folder.clock.advance(datetime.timedelta(minutes=2))

    left = MisplacedRecord(folder.ledger, await folder.record())
    await mirror_one(folder.ledger, owned("post", 2), [left])

    assert (await folder.record(handler="post")).due_at == due_at


async def broken_off_move(folder):
    """Move a record from one handler to another, and break off before it is removed from where it was."""
    await mirror_one(folder.ledger, owned("send", 1))
    away = owned("post", 2)
    await folder.ledger.apply({(await folder.record()).key: stopped_between_runs(away)})
    await folder.ledger.apply({away.key: moved(away, await folder.record())})
    await folder.clock.advance(datetime.timedelta(minutes=1))
    await folder.run("post")


async def test_a_record_that_moves_back_after_a_move_that_broke_off_keeps_what_has_happened(folder):
    await broken_off_move(folder)
    floor = (await folder.record(handler="post")).state.floor

    lived_on = MisplacedRecord(folder.ledger, await folder.record(handler="post"))
    await mirror_one(folder.ledger, owned("send", 3), [lived_on])

    record = await folder.record()
    assert (record.state.floor, record.state.summary.counts) == (floor, Counts(succeeded=1))
    assert record.state.withdrawn_at is None
    assert await folder.record(handler="post") is None


async def test_so_does_one_whose_manifests_are_mirrored_all_at_once(folder):
    await broken_off_move(folder)

    await mirror_all(folder.ledger, REALM, [owned("send", 3)])

    assert (await folder.record()).state.summary.counts == Counts(succeeded=1)
    assert await folder.record(handler="post") is None


async def test_an_older_generation_does_not_move_the_record_of_a_newer_one(folder):
    await mirror_one(folder.ledger, owned("post", 2))
    newer = MisplacedRecord(folder.ledger, await folder.record(handler="post"))

    taken = await mirror_one(folder.ledger, owned("send", 1), [newer])

    assert taken.step is Step.OUTDATED
    assert await folder.record() is None
    assert (await folder.record(handler="post")).state.withdrawn_at is None


# --- Permits ---------------------------------------------------------------------------------------------------------


async def make_permits(folder, number, name="report", handler="send"):
    """As workers make them for the runs of a limited task."""
    partition = permit_partition(REALM, handler, name)
    new = [new_permit(partition, name, one, 60 * SECOND, folder.clock.now()) for one in range(number)]
    await folder.store.swap([Change(None, record) for record in new])


async def permits(folder, name="report", handler="send"):
    partition = permit_partition(REALM, handler, name)
    return [number_of(record) for record in await folder.store.scan(partition, name, None, 100)]


async def test_the_permits_of_a_limit_are_removed_with_their_task_after_the_grace(folder):
    await folder.apply(named("report", maxConcurrentRuns=10_000))
    await make_permits(folder, 9)

    await folder.apply()
    assert len(await permits(folder)) == 9
    await folder.clock.advance(25 * HOUR)
    await folder.apply()

    assert await permits(folder) == []
    assert await folder.record() is None


@pytest.mark.parametrize("crash_after", [0, 1, 2])
async def test_a_removal_that_was_broken_off_leaves_no_permits_either(folder, monkeypatch, crash_after):
    await folder.apply(named("report", maxConcurrentRuns=9))
    await make_permits(folder, 9)
    await folder.apply()
    await folder.clock.advance(25 * HOUR)
    left = crash_after

    def failing(method):
        async def call(*args, **options):
            nonlocal left
            left -= 1
            if left == -1:
                raise StoreUnavailableError("nothing came in time")
            return await method(*args, **options)

        return call

    monkeypatch.setattr(folder.store, "swap", failing(folder.store.swap))
    with contextlib.suppress(StoreUnavailableError):
        await folder.apply()
    await folder.apply()

    assert await permits(folder) == []
    assert await folder.record() is None


@pytest.mark.parametrize(("limit", "left"), [({"maxConcurrentRuns": 2}, [0, 1]), ({}, [])])
async def test_permits_are_removed_with_a_limit_that_is_lowered_or_removed(folder, limit, left):
    await folder.apply(named("report", maxConcurrentRuns=9, concurrencyPolicy="Allow"))
    await make_permits(folder, 9)

    await folder.apply(named("report", concurrencyPolicy="Allow", **limit))

    assert await permits(folder) == left


async def test_a_permit_that_is_held_stays_until_its_run_is_over(folder):
    """Else another would be made beside it, and there would be more runs than the limit lets."""
    await folder.apply(named("report", maxConcurrentRuns=9, concurrencyPolicy="Allow"))
    await make_permits(folder, 9)
    now = folder.clock.now()
    await folder.store.claim({permit_partition(REALM, "send", "report"): 4}, "lease", "w", now, now)

    await folder.apply(named("report", maxConcurrentRuns=2, concurrencyPolicy="Allow"))

    assert await permits(folder) == [0, 1, 2, 3]


async def test_permits_do_not_stay_where_a_task_has_moved_away(folder):
    await folder.apply(named("report", maxConcurrentRuns=9))
    await make_permits(folder, 9)

    await folder.apply(named("report", handler="send_later", maxConcurrentRuns=9))

    assert await permits(folder) == []


async def test_permits_of_a_template_are_removed_with_it(folder):
    template = named("users", intervalSeconds=None, dynamic=True, maxConcurrentRuns=9)
    await folder.apply(template)
    await make_permits(folder, 9, "send")
    await folder.apply()
    record = await folder.record("send")

    assert (await remove_instances(folder.ledger, record, 100)).done

    assert await permits(folder, "send") == []


async def test_instances_that_an_earlier_partition_count_has_left_behind_are_removed_with_the_others(folder):
    await folder.apply(named("users", intervalSeconds=None, dynamic=True, partitions=2))
    stray = Key(Partition(REALM, "send", 5), "send", "ada")
    await folder.ledger.create([edits.created(stray, Spec(), Policies(), folder.clock.now())])
    await folder.apply()

    removal = await remove_instances(folder.ledger, await folder.record("send"), 100)

    assert removal == Removal(1, done=True)
    assert await folder.store.load([stray]) == [None]
