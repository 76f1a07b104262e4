"""What annotations ask for is done once, whatever comes in between."""

import datetime

import pytest

from pyncette.cli.dev.mirroring import mirror_all
from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.record import (
    NO_REQUESTS,
    Change,
    Key,
    Outcome,
    Partition,
    Requests,
    is_dead_letter,
    is_on_demand,
    replace,
)
from pyncette.core.runs import RETURNED, Ended, Ending
from pyncette.core.schedule import Interval
from pyncette.core.side_runs import side_run_of
from pyncette.core.spec import Spec
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import desired_record_of, requests_of
from pyncette.mirror.requests import Done, ask
from pyncette.resources.task import PyncetteTask
from pyncette.store.codec import decode_record, encode_spec, encode_state
from pyncette.store.memory import MemoryStore
from pyncette.testing.clock import VirtualClock
from tests.resources import accepted, manifest

REALM = "test"
HERE = Partition(REALM, "send")
MINUTE = datetime.timedelta(minutes=1)
REFUSED = Ended(Ending.REFUSED, "DoNotRetry: never")

RUN, RESUME, REDRIVE = (
    "pyncette.dev/run-requested-at",
    "pyncette.dev/resume-requested-at",
    "pyncette.dev/redrive-requested-at",
)


class CutStore(MemoryStore):
    """A store that does what it is asked, and whose answers to swaps get lost."""

    def __init__(self):
        super().__init__()
        self.lost = 0

    async def swap(self, changes):
        made = await super().swap(changes)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailableError("the reply was lost")
        return made


class Cluster:
    """A resource, and the record that mirrors it."""

    def __init__(self):
        self.clock = VirtualClock(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))
        self.store = CutStore()
        self.woken = []
        self.ledger = Ledger(self.store, self.clock, lambda partition, at: self.woken.append(at))
        self.uid = "uid-1"
        self.generation = 1
        self.handler = "send"

    async def apply(self, annotations=None, **spec):
        given = manifest(**({"handler": self.handler, "intervalSeconds": 60} | spec))
        given["metadata"] |= {
            "uid": self.uid,
            "generation": self.generation,
            "annotations": annotations or {},
        }
        desired = desired_record_of(accepted(PyncetteTask, given), REALM)
        self.key = desired.key
        await mirror_all(self.ledger, REALM, [desired])
        return await self.record()

    async def record(self):
        return (await self.store.load([self.key]))[0]

    async def ask(self, **annotations):
        names = {"run": RUN, "resume": RESUME, "redrive": REDRIVE}
        requests = requests_of({names[name]: value for name, value in annotations.items()})
        return await ask(self.ledger, await self.record(), requests)

    async def beside(self):
        found = await self.store.scan(self.key.partition, self.key.task, None, 100)
        return [record for record in found if record.key.occurrence]

    async def extra_runs(self):
        return [record for record in await self.beside() if is_on_demand(record.key)]

    async def dead_letters(self):
        return [record for record in await self.beside() if is_dead_letter(record.key)]

    async def run(self, ended=RETURNED):
        now = self.clock.now()
        claimed = await self.store.claim({self.key.partition: 10}, f"lease-{now}", "me", now, now)
        for record in claimed.records:
            held = rules.begin(record, record.spec.policies, now).run
            await self.ledger.settle([rules.settle(held, ended, now)])

    async def fail(self):
        await self.clock.advance(MINUTE)
        await self.run(REFUSED)


@pytest.fixture
def cluster():
    return Cluster()


# --- What is asked for -----------------------------------------------------------------------------------------------


def test_annotations_are_read_by_their_names_and_up_to_their_length():
    requests = requests_of({RUN: "x" * 300, REDRIVE: "now", "pyncette.dev/other": "y"})

    assert requests == Requests(run="x" * 256, redrive="now")


def test_a_resource_that_asks_for_nothing_adds_nothing_to_what_is_stored():
    new = edits.created(Key(HERE, "report"), Spec(Interval(SECOND)), edits.Policies(), 1)

    assert "handled" not in encode_state(new.state)


def test_what_was_handled_is_stored_and_read_back():
    new = edits.created(Key(HERE, "report"), Spec(Interval(SECOND)), edits.Policies(), 1)
    state = replace(new.state, handled=Requests(run="1", redrive="2"))

    back = decode_record(
        new.key, encode_spec(new.spec), encode_state(state), 1, 1, None, 1, None, 1, 0, None, None
    )

    assert back.state == state


# --- An extra run ----------------------------------------------------------------------------------------------------


async def test_a_new_value_asks_for_one_run_now_and_the_same_value_for_no_other(cluster):
    await cluster.apply()
    cluster.woken.clear()

    done = await cluster.ask(run="1")

    (extra,) = await cluster.extra_runs()
    assert (done.run, extra.claimable_at) == (extra.key, cluster.clock.now())
    assert cluster.woken == [cluster.clock.now()]
    assert (await cluster.record()).state.handled == Requests(run="1")
    assert await cluster.ask(run="1") == Done()
    assert len(await cluster.extra_runs()) == 1


async def test_an_earlier_value_asks_again_also_while_its_first_run_is_not_over(cluster):
    await cluster.apply()

    for value in ("1", "2", "1"):
        await cluster.ask(run=value)

    assert len(await cluster.extra_runs()) == 3


async def test_a_suspended_task_runs_when_asked_to(cluster):
    await cluster.apply(suspend=True)

    await cluster.ask(run="1")
    await cluster.run()

    assert await cluster.beside() == []
    assert (await cluster.record()).state.summary.counts.succeeded == 1


async def test_the_schedule_goes_on_as_if_nothing_had_been_asked(cluster):
    before = await cluster.apply()

    await cluster.ask(run="1")

    after = await cluster.record()
    assert (after.due_at, after.claimable_at) == (before.due_at, before.claimable_at)


async def test_an_annotation_that_was_taken_away_asks_for_nothing_and_put_back_neither(cluster):
    await cluster.apply()
    await cluster.ask(run="1")

    await cluster.ask()
    await cluster.ask(run="1")

    assert len(await cluster.extra_runs()) == 1


async def test_a_lost_reply_leads_to_no_second_run(cluster):
    await cluster.apply()
    cluster.store.lost = 1

    with pytest.raises(StoreUnavailableError):
        await cluster.ask(run="1")
    await cluster.ask(run="1")

    assert len(await cluster.extra_runs()) == 1


async def test_a_claim_that_comes_in_between_is_asked_on_top_of(cluster):
    record = await cluster.apply()
    await cluster.clock.advance(MINUTE)
    now = cluster.clock.now()
    await cluster.store.claim({HERE: 1}, "lease", "me", now, now)

    await ask(cluster.ledger, record, Requests(run="1"))

    after = await cluster.record()
    assert (after.lease.id, after.state.handled.run) == ("lease", "1")
    assert len(await cluster.extra_runs()) == 1


async def test_a_stopped_resource_is_asked_for_nothing(cluster):
    await cluster.apply()
    await mirror_all(cluster.ledger, REALM, [])

    assert await cluster.ask(run="1") == Done()
    assert (await cluster.record()).state.handled == NO_REQUESTS


async def test_a_template_is_not_run_and_has_handled_it(cluster):
    await cluster.apply(dynamic=True, intervalSeconds=None)

    done = await cluster.ask(run="1")

    assert done.run is None
    assert (await cluster.record()).state.handled.run == "1"


# --- Created with one ------------------------------------------------------------------------------------------------


async def test_a_resource_that_is_created_with_a_request_has_handled_it(cluster):
    await cluster.apply({RUN: "1", RESUME: "2"})

    assert await cluster.ask(run="1", resume="2") == Done()
    assert (await cluster.ask(run="2")).run is not None


async def test_a_resource_with_another_uid_that_takes_a_record_over_has_handled_its_own(cluster):
    await cluster.apply()
    await cluster.ask(run="1", redrive="1")
    cluster.uid, cluster.generation = "uid-2", 1

    record = await cluster.apply({RUN: "2"})

    assert record.state.handled == Requests(run="2")
    assert await cluster.ask(run="2") == Done()
    assert (await cluster.ask(run="1")).run is not None


async def test_an_edit_of_the_same_resource_handles_nothing_by_itself(cluster):
    await cluster.apply()
    await cluster.ask(run="1")
    cluster.generation = 2

    record = await cluster.apply({RUN: "2"}, args={"n": 1})

    assert record.state.handled == Requests(run="1")
    assert (await cluster.ask(run="2")).run is not None


@pytest.mark.parametrize("way", ["edit", "run", "move", "stop and return"])
async def test_what_was_handled_outlives(cluster, way):
    await cluster.apply()
    await cluster.ask(resume="1")
    cluster.generation = 2

    if way == "edit":
        await cluster.apply(args={"n": 1})
    elif way == "run":
        await cluster.clock.advance(MINUTE)
        await cluster.run()
        assert (await cluster.record()).state.summary.counts.succeeded == 1
    elif way == "move":
        cluster.handler = "post"
        await cluster.apply()
        assert cluster.key.partition.handler == "post"
    else:
        await mirror_all(cluster.ledger, REALM, [])
        await cluster.apply()

    assert (await cluster.record()).state.handled == Requests(resume="1")


async def test_a_record_that_no_resource_owns_keeps_it_through_a_run_too(cluster):
    record = await cluster.apply()
    state = replace(record.state, owner=None, handled=Requests(run="1"))
    await cluster.store.swap([Change(record, replace(record, version=record.version + 1, state=state))])

    await cluster.clock.advance(MINUTE)
    await cluster.run()

    assert (await cluster.record()).state.handled == Requests(run="1")


# --- Suspension and dead letters -------------------------------------------------------------------------------------


async def test_a_suspension_by_exhaustion_ends_with_the_mark_in_one_write(cluster):
    await cluster.apply(onExhausted="Suspend")
    await cluster.fail()
    assert (await cluster.record()).state.exhausted

    done = await cluster.ask(resume="1")

    record = await cluster.record()
    assert done.resumed == 1
    assert (record.state.exhausted, record.state.handled) == (False, Requests(resume="1"))
    assert record.due_at == cluster.clock.now() + 60 * SECOND


async def test_a_request_to_resume_what_runs_is_marked_and_does_nothing(cluster):
    before = await cluster.apply()

    done = await cluster.ask(resume="1")

    after = await cluster.record()
    assert (done.resumed, after.due_at, after.state.handled.resume) == (0, before.due_at, "1")


async def test_an_exhaustion_after_the_request_is_another(cluster):
    await cluster.apply(onExhausted="Suspend")
    await cluster.ask(resume="1")
    await cluster.fail()

    assert await cluster.ask(resume="1") == Done()

    assert (await cluster.record()).state.exhausted


async def test_a_schedule_that_can_no_longer_be_read_stays_suspended_and_stops_nothing_else(cluster, caplog):
    record = await cluster.apply(schedule="0 1 * * *", intervalSeconds=None)
    gone = replace(record.spec.schedule, zone="Gone/Zone")
    broken = replace(
        record,
        version=record.version + 1,
        spec=replace(record.spec, schedule=gone),
        state=replace(record.state, exhausted=True),
    )
    await cluster.store.swap([Change(record, broken)])

    done = await cluster.ask(run="1", resume="1")

    assert (done.resumed, len(await cluster.extra_runs())) == (0, 1)
    assert (await cluster.record()).state.exhausted
    assert "could not resume" in caplog.text


async def test_dead_letters_are_tried_again_and_the_mark_comes_last(cluster):
    await cluster.apply(onExhausted="DeadLetter")
    await cluster.fail()
    await cluster.fail()
    cluster.store.lost = 1

    with pytest.raises(StoreUnavailableError):
        await cluster.ask(redrive="1")
    assert (await cluster.record()).state.handled == NO_REQUESTS
    assert (await cluster.ask(redrive="1")).redriven == 0  # they are under way already

    assert (await cluster.record()).state.handled == Requests(redrive="1")
    assert [dead_letter.claimable_at for dead_letter in await cluster.dead_letters()] == [
        cluster.clock.now()
    ] * 2
    assert await cluster.ask(redrive="1") == Done()


async def test_a_dead_letter_that_failed_again_before_the_mark_was_written_is_not_redriven_twice(cluster):
    await cluster.apply(onExhausted="DeadLetter")
    await cluster.fail()
    cluster.store.lost = 1
    with pytest.raises(StoreUnavailableError):
        await cluster.ask(redrive="1")
    await cluster.run(REFUSED)

    assert (await cluster.ask(redrive="1")).redriven == 0

    assert [dead_letter.claimable_at for dead_letter in await cluster.dead_letters()] == [None]
    assert (await cluster.ask(redrive="2")).redriven == 1


async def test_all_that_is_asked_for_at_once_is_done_in_one_go(cluster):
    await cluster.apply(onExhausted="DeadLetter")
    await cluster.fail()

    done = await cluster.ask(run="1", resume="2", redrive="3")

    assert (done.run is not None, done.resumed, done.redriven) == (True, 0, 1)
    assert (await cluster.record()).state.handled == Requests("1", "2", "3")


async def test_of_a_template_the_instances_are_resumed_and_redriven(cluster):
    await cluster.apply(dynamic=True, intervalSeconds=None, partitions=2)
    for number in range(2):
        key = Key(HERE._replace(number=number), "send", f"user-{number}")
        new = edits.created(key, Spec(Interval(SECOND)), edits.Policies(), cluster.clock.now())
        stuck = replace(new, claimable_at=None, state=replace(new.state, exhausted=True))
        await cluster.store.swap([Change(None, stuck)])
        dead_letter = side_run_of(new, edits.Policies(), "dead-1", 1, 1)
        await cluster.store.swap([Change(None, replace(dead_letter, claimable_at=None))])

    done = await cluster.ask(resume="1", redrive="1")

    assert (done.resumed, done.redriven) == (2, 2)
    assert await cluster.ask(resume="1", redrive="1") == Done()


async def test_an_extra_run_is_counted_like_any_other(cluster):
    await cluster.apply(onExhausted="DeadLetter")
    await cluster.ask(run="1")

    await cluster.run(REFUSED)

    record = await cluster.record()
    assert (record.state.summary.last_outcome, record.state.handled.run) == (Outcome.DEAD_LETTERED, "1")
