"""Templates are mirrored as well, and when they are gone their instances are removed."""

import datetime

import msgspec
import pytest

from pyncette.core import edits, rules
from pyncette.core.accounting import counting_record, shard_of
from pyncette.core.record import Change, Counts, Key, Partition, replace
from pyncette.core.schedule import Cron
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.instances import Removal, instances_of, remove_instances
from pyncette.mirror.rules import Step
from tests.mirror.folder import REALM, left, named
from tests.resources import task

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


# --- The instances of a template that is gone ------------------------------------------------------------------------


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


# --- Permits ---------------------------------------------------------------------------------------------------------


async def test_instances_that_an_earlier_partition_count_has_left_behind_are_removed_with_the_others(folder):
    await folder.apply(named("users", intervalSeconds=None, dynamic=True, partitions=2))
    stray = Key(Partition(REALM, "send", 5), "send", "ada")
    await folder.ledger.create([edits.created(stray, Spec(), Policies(), folder.clock.now())])
    await folder.apply()

    removal = await remove_instances(folder.ledger, await folder.record("send"), 100)

    assert removal == Removal(1, done=True)
    assert await folder.store.load([stray]) == [None]
