"""The store holds the records that manifests describe, and an edit loses nothing of what happened."""

import datetime

from pyncette.app.modes import A_MICROSECOND
from pyncette.cli.dev.mirroring import mirror_all
from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.record import Change, Key, Outcome, Partition, replace
from pyncette.core.runs import Ended, Ending
from pyncette.core.schedule import Cron
from pyncette.core.side_runs import side_run_of
from pyncette.core.spec import Policies
from pyncette.core.times import instant_of
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.records import task_records
from pyncette.mirror.rules import Step
from pyncette.resources.task import PyncetteTask
from tests.mirror.folder import HOUR, REALM, named
from tests.resources import accepted as read_as
from tests.resources import manifest, task


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
    dead_letter = replace(side_run_of(home, home.spec.policies, "dead-1", 1, 1), claimable_at=None)
    await folder.store.swap([Change(None, extra), Change(None, dead_letter)])

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
