"""A task moves to another handler with its record, whatever comes in between."""

import datetime

import pytest

from pyncette.cli.dev.mirroring import mirror_all
from pyncette.core import edits
from pyncette.core.record import Change, Counts, Outcome, Partition
from pyncette.core.runs import Ended, Ending
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.records import MisplacedRecord, mirror_one, stop, task_records
from pyncette.mirror.rules import Step, moved, stopped_between_runs
from pyncette.resources.task import PyncetteTask
from tests.mirror.folder import HOUR, REALM
from tests.resources import accepted as read_as
from tests.resources import manifest, task


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
    (_, dead_letter) = await folder.store.scan(Partition(REALM, "send"), None, None, 10)
    await folder.store.swap([Change(dead_letter, edits.redriven(dead_letter, folder.clock.now()))])

    assert await folder.apply(task(handler="post", **fields)) == {"report": Step.WAITING}
    await folder.run()
    assert await folder.apply(task(handler="post", **fields)) == {"report": Step.MOVED}

    (record,) = await folder.store.scan(Partition(REALM, "post"), None, None, 10)
    counts = record.state.summary.counts
    assert (counts.succeeded, counts.dead_lettered, counts.withdrawn) == (1, 0, 0)


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


def owned(handler, generation, uid="u", **spec):
    given = manifest(**({"handler": handler, "intervalSeconds": 60, "missedRunPolicy": "All"} | spec))
    given["metadata"] |= {"uid": uid, "generation": generation}
    return desired_record_of(read_as(PyncetteTask, given), REALM)


# --- Moves that meet deletions, crashes and older generations --------------------------------------------------------


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
