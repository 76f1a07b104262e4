"""What manifests wish for stands in the store, and what happened there is never lost by a wish."""

import datetime

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules, wishes
from pyncette.core.record import Change, Key, Outcome, Partition, replace
from pyncette.core.rules import RETURNED, Ended, Ending
from pyncette.core.spec import Policies
from pyncette.ledger import Ledger, Settling
from pyncette.resources.mirror import Step, homes, mirror, wish_of
from pyncette.resources.task import PyncetteTask
from pyncette.store.memory import MemoryStore
from pyncette.testing.clock import VirtualClock, instant_of
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
        wanted = [wish_of(item, REALM, seen_at) for item in tasks]
        return {item.name: item.step for item in await mirror(self.ledger, REALM, wanted, **options)}

    async def record(self, name="report", handler="send", occurrence=""):
        (record,) = await self.store.load([Key(Partition(REALM, handler), name, "", occurrence)])
        return record

    async def claim(self, handler="send"):
        now = self.clock.now()
        claimed = await self.store.claim({Partition(REALM, handler): 10}, f"lease-{now}", "me", now, now)
        return [rules.begin(record, record.spec.policies, now).held for record in claimed.records]

    async def run(self, handler="send", ended=RETURNED):
        for held in await self.claim(handler):
            await self.end(held, ended)

    async def end(self, held, ended=RETURNED):
        settlement = rules.settle(held, ended, self.clock.now())
        return await self.ledger.settle([Settling(held, ended, settlement)])


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


async def test_runs_beside_a_schedule_that_is_gone_are_withdrawn_too_but_dead_letters_wait_for_its_end(
    folder,
):
    await folder.apply(task())
    home = await folder.record()
    extra = wishes.on_demand(home, home.spec.policies, "x", folder.clock.now())
    letter = replace(wishes.beside(home, home.spec.policies, "dead-1", 1, 1), claimable_at=None)
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
    own = wishes.created(Key(Partition(REALM, "own"), "own"), task_spec(), Policies(), folder.clock.now())
    await folder.store.swap([Change(None, own)])

    assert await folder.apply() == {}

    assert await folder.record("own", "own") == own


def task_spec():
    return wish_of(task(), REALM).spec


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

    found = [record async for record in homes(folder.store, REALM)]
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

    async def apply(self, rulings):
        if rulings:
            if not self.left:
                raise CrashError
            self.left -= 1
        return await super().apply(rulings)


async def test_the_instances_of_templates_are_passed_over_in_search_of_tasks(folder):
    now = folder.clock.now()
    partition = Partition(REALM, "send")
    instances = [
        wishes.created(Key(partition, "many", f"{number:04}"), task_spec(), Policies(), now)
        for number in range(900)
    ]
    for at in range(0, 900, 300):
        await folder.store.swap([Change(None, record) for record in instances[at : at + 300]])
    await folder.apply(named("a"), named("zoo"), named("many", intervalSeconds=3))

    assert sorted([record.key.task async for record in homes(folder.store, REALM)]) == ["a", "many", "zoo"]
