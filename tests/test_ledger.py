"""The ledger settles races: whoever comes in between, rules are decided on what is stored, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.accounting import COUNTER_SHARDS, RemovedCounts, counting_record
from pyncette.core.record import Change, Counts, Key, Partition, Record, Summary, replace
from pyncette.core.runs import DRAINED, RETURNED, UNSTARTED, Completion, Ended, Ending, HeldRun
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.spec import Exhaustion, Mode, Overlap, Policies, Retry, Spec
from pyncette.errors import ContentionError, StoreRefusedError, StoreUnavailableError
from pyncette.ledger.announcements import ANNOUNCED_AHEAD
from pyncette.ledger.ledger import Ledger, Ruling
from pyncette.ledger.races import RACE_SECONDS
from pyncette.ledger.starts import PendingStart
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker.poller import SAFETY_POLL
from tests.core.play import nonzero

HERE = Partition("", "remind")
TEMPLATE = Key(HERE, "remind")
START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
EACH_MINUTE = Interval(MINUTE)

REFUSED = Ended(Ending.REFUSED, "DoNotRetry: never")
RAISED = Ended(Ending.RAISED, "ValueError: no")
SUCCEEDED_ONCE = RemovedCounts(TEMPLATE._replace(instance="ada"), Summary(counts=Counts(succeeded=1)))


class BusyStore(MemoryStore):
    """A store in which somebody else comes first: what is in *before_swaps* happens before the swaps to come, in turn."""

    def __init__(self, backend: MemoryBackend, swap_batch_max: int = 500) -> None:
        super().__init__(backend)
        self.before_swaps: list[Callable[[], Awaitable[object]] | None] = []
        self.before_each_swap: Callable[[], Awaitable[object]] | None = None
        """Called before each swap that has no action of its own."""
        self.batches: list[list[Change]] = []
        self.lose_replies = 0
        self.before_loads: list[Callable[[], Awaitable[object]] | None] = []
        self.loads = 0
        self.refuses: Callable[[Change], bool] = lambda change: False
        self._swap_batch_max = swap_batch_max

    @property
    def capabilities(self):
        return super().capabilities._replace(swap_batch_max=self._swap_batch_max)

    async def swap(self, changes):
        between = self.before_swaps.pop(0) if self.before_swaps else self.before_each_swap
        if between is not None:
            await between()
        self.batches.append(list(changes))
        if any(self.refuses(change) for change in changes):
            raise StoreRefusedError("a change of this batch cannot be written")
        made = await super().swap(changes)
        if self.lose_replies:
            self.lose_replies -= 1
            raise StoreUnavailableError("the reply was lost")
        return made

    async def load(self, keys):
        self.loads += 1
        between = self.before_loads.pop(0) if self.before_loads else None
        if between is not None:
            await between()
        return await super().load(keys)


class Bench:
    """A ledger on a busy store, and what is needed to be the others."""

    def __init__(
        self, clock: VirtualClock | None = None, race_seconds: float = RACE_SECONDS, **options
    ) -> None:
        self.clock = clock or VirtualClock(START)
        self.backend = MemoryBackend(self.clock.now)
        self.store = BusyStore(self.backend, **options)
        self.others = MemoryStore(self.backend)
        self.woken: list[tuple[Partition, int]] = []
        self.ledger = Ledger(
            self.store, self.clock, lambda *at: self.woken.append(at), race_seconds=race_seconds
        )

    @property
    def now(self) -> int:
        return self.clock.now()

    async def declare(self, name: str = "ada", schedule=EACH_MINUTE, **policies) -> Record:
        """Create an instance with policies of its own, without the ledger."""
        policies = Policies(**policies)
        record = edits.created(
            Key(HERE, "remind", name), Spec(schedule, policies=policies), policies, self.now
        )
        assert await self.others.swap([Change(None, record)]) == [True]
        return record

    async def declare_template(self) -> None:
        await self.others.swap([Change(None, counting_record(TEMPLATE, self.now))])

    async def load(self, key: Key) -> Record | None:
        (record,) = await self.others.load([key])
        return record

    async def all(self) -> dict[str, Record]:
        return {str(record.key): record for record in await self.others.scan(HERE, None, None, 1000)}

    async def keys(self) -> list[Key]:
        return [record.key for record in (await self.all()).values()]

    async def put_dead_letter(self, held: HeldRun) -> Record:
        """Create the dead letter of a run that has not ended, under the name that it will have."""
        dead_letter = rules.settle(held, REFUSED, self.now).created
        assert await self.others.swap([Change(None, dead_letter)]) == [True]
        return await self.load(dead_letter.key)

    @staticmethod
    async def unavailable() -> None:
        """Fail as a request that is lost on its way."""
        raise StoreUnavailableError("the request was lost")

    async def claim(self, limit: int = 1000) -> list[Record]:
        claimed = await self.others.claim({HERE: limit}, f"lease-{self.now}", "worker", self.now, self.now)
        return list(claimed.records)

    async def start(self, after: int = MINUTE) -> list[HeldRun]:
        """Claim all that is due after so long, and start it through the ledger."""
        await self.clock.advance(timedelta(microseconds=after))
        return await self.started(self.begun(await self.claim()))

    def begun(self, claimed: list[Record]) -> list[PendingStart]:
        """Decide how to begin records that were claimed just now."""
        asked_at = self.clock.monotonic()
        return [
            PendingStart(
                rules.begin(record, record.spec.policies, self.now),
                record.spec.policies,
                asked_at + record.lease_length,
            )
            for record in claimed
        ]

    async def started(self, starting: list[PendingStart], ledger: Ledger | None = None) -> list[HeldRun]:
        """Start these through the ledger, and return what may run."""
        return [
            held
            async for decided in (ledger or self.ledger).start(starting)
            for held in decided.values()
            if held is not None
        ]

    def completion(self, held: HeldRun, ended: Ended = RETURNED) -> Completion:
        return rules.settle(held, ended, self.now)

    async def settle(self, held: HeldRun, ended: Ended = RETURNED) -> bool | Completion:
        (written,) = await self.ledger.settle([self.completion(held, ended)])
        return written

    def edit(self, key: Key, schedule=None, **fields) -> Callable[[], Awaitable[None]]:
        """An edit by somebody else, for `before_swaps`."""

        async def edit() -> None:
            record = await self.load(key)
            policies = replace(record.spec.policies, **fields)
            spec = Spec(schedule or record.spec.schedule, record.spec.args, policies)
            after = edits.edited(record, spec, policies, self.now)
            assert await self.others.swap([Change(record, after)]) == [True]

        return edit

    def touch(self, key: Key) -> Callable[[], Awaitable[None]]:
        """A write by somebody else that changes nothing but the version, for `before_swaps`."""

        async def touch() -> None:
            record = await self.load(key)
            after = replace(record, version=record.version + 1)
            assert await self.others.swap([Change(record, after)]) == [True]

        return touch

    def exhaust(self, key: Key) -> Callable[[], Awaitable[None]]:
        """The suspension by exhaustion that a side run causes, for `before_swaps`."""

        async def exhaust() -> None:
            record = await self.load(key)
            state = replace(record.state, exhausted=True)
            after = replace(record, version=record.version + 1, state=state)
            assert await self.others.swap([Change(record, after)]) == [True]

        return exhaust

    async def listen(self) -> Callable[[], Awaitable[list[int]]]:
        """Listen as another process does; return a function that stops, and returns the times of the notifications."""
        notified = self.others.notified()
        heard: list[Notification] = []

        async def listen() -> None:
            async for notification in notified:
                heard.append(notification)  # noqa: PERF401 - it never ends

        async def stop() -> list[int]:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return [notification.at for notification in heard]

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        return stop

    async def take_over(self) -> list[Record]:
        """Let all leases expire, and claim."""
        await self.clock.advance(timedelta(hours=1))
        return await self.claim()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def due_at(at: int):
    """A rule: be due then. It answers with the version that it saw."""

    def rule(record: Record | None, now: int) -> Ruling:
        after = replace(record, version=record.version + 1, due_at=at, claimable_at=at)
        return Ruling(Change(record, after), record.version)

    return rule


def overwritten(schedule):
    """Return a rule that overwrites the record, as with force."""

    def rule(record: Record | None, now: int) -> Ruling:
        spec = replace(record.spec, schedule=schedule)
        return Ruling(Change(record, edits.overwritten(record, spec, spec.policies, now)))

    return rule


def with_a_run_beside(name: str):
    """A rule: be touched, and have a run created beside it, together."""

    def rule(record: Record | None, now: int) -> Ruling:
        after = replace(record, version=record.version + 1)
        extra = edits.on_demand(record, record.spec.policies, name, now)
        return Ruling(Change(record, after), extra.key, further=(Change(None, extra),))

    return rule


async def test_changes_of_one_rule_are_written_together_and_both_are_announced(bench):
    record = await bench.declare()

    answers = await bench.ledger.apply({record.key: with_a_run_beside("x")})

    ((first, second),) = bench.store.batches
    assert first.group == second.group != 0
    assert (await bench.load(answers[record.key])).claimable_at == bench.now
    assert bench.woken == [(HERE, bench.now)]


async def test_what_is_ruled_together_is_not_written_by_half_when_somebody_comes_first(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key, keep_failed=1)]

    answers = await bench.ledger.apply({record.key: with_a_run_beside("x")})

    assert len(bench.store.batches) == 2
    assert (await bench.load(record.key)).spec.policies.keep_failed == 1
    assert (await bench.load(answers[record.key])).spec.policies.keep_failed == 1


async def test_many_rulings_with_something_further_go_in_as_few_swaps_as_fit():
    bench = Bench(swap_batch_max=5)
    records = [await bench.declare(name) for name in ("ada", "bob", "eve")]

    await bench.ledger.apply({record.key: with_a_run_beside("x") for record in records})

    assert [len(batch) for batch in bench.store.batches] == [4, 2]
    assert len(await bench.all()) == 6


# --- apply -----------------------------------------------------------------------------------------------------------


async def test_a_rule_that_lost_a_race_is_decided_again_on_what_is_stored(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key), bench.edit(record.key), None]

    answers = await bench.ledger.apply({record.key: due_at(7)})

    assert answers == {record.key: record.version + 2}
    assert (await bench.load(record.key)).due_at == 7


async def test_who_won_the_race_is_not_ruled_on_again(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")
    bench.store.before_swaps = [bench.edit(ada.key)]

    answers = await bench.ledger.apply({ada.key: due_at(7), bob.key: due_at(8)})

    assert answers == {ada.key: ada.version + 1, bob.key: bob.version}
    assert [len(batch) for batch in bench.store.batches] == [2, 1]


async def test_many_races_may_be_lost_before_one_is_won(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key)] * 9

    assert await bench.ledger.apply({record.key: due_at(7)})


async def test_losing_each_race_is_an_error_that_names_the_record():
    bench = Bench(race_seconds=0.02)
    record = await bench.declare()
    bench.store.before_each_swap = bench.edit(record.key)

    with pytest.raises(ContentionError, match="remind/ada"):
        await bench.ledger.apply({record.key: due_at(7)})


async def test_a_rule_that_changes_nothing_writes_nothing(bench):
    record = await bench.declare()

    answers = await bench.ledger.apply({record.key: lambda record, now: Ruling(None, "as it is")})

    assert answers == {record.key: "as it is"}
    assert bench.store.batches == []


async def test_a_rule_that_raises_leaves_everything_as_it_was(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")

    def refuse(record, now):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await bench.ledger.apply({ada.key: due_at(7), bob.key: refuse})
    assert await bench.load(ada.key) == ada


async def test_more_than_a_store_takes_at_once_goes_in_several_batches():
    bench = Bench(swap_batch_max=3)
    keys = [(await bench.declare(f"{number:02}")).key for number in range(10)]

    answers = await bench.ledger.apply({key: due_at(7) for key in keys})

    assert list(answers) == keys
    assert [len(batch) for batch in bench.store.batches] == [3, 3, 3, 1]
    assert {record.due_at for record in (await bench.all()).values()} == {7}


async def test_creating_many_says_of_each_whether_it_was_new(bench):
    ada = await bench.declare("ada")
    bob = replace(ada, key=ada.key._replace(instance="bob"))

    assert await bench.ledger.create([ada, bob]) == [False, True]


# --- Wake-ups --------------------------------------------------------------------------------------------------------


async def test_only_what_is_claimable_sooner_than_before_is_announced(bench):
    record = await bench.declare()

    await bench.ledger.apply({record.key: due_at(record.claimable_at + 1)})
    await bench.ledger.apply({record.key: due_at(record.claimable_at + 1)})
    assert bench.woken == []
    await bench.ledger.apply({record.key: due_at(record.claimable_at - 1)})

    assert bench.woken == [(HERE, record.claimable_at - 1)]


async def test_an_overwritten_running_record_is_announced_since_its_lease_is_gone(bench):
    record = await bench.declare()
    await bench.start()
    heard = await bench.listen()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + SECOND))})

    assert bench.woken == [(HERE, bench.now + SECOND)]
    assert await heard() == [bench.now + SECOND]


async def test_an_edit_of_a_running_record_is_not_announced_since_no_other_worker_can_claim_it(bench):
    record = await bench.declare()
    await bench.start()

    await bench.ledger.apply({record.key: due_at(record.claimable_at - 1)})

    assert bench.woken == []


async def test_a_record_that_loses_its_lease_is_announced_even_if_it_is_due_later_than_before(bench):
    record = await bench.declare(lease=MINUTE)
    await bench.start()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + 2 * MINUTE))})

    assert bench.woken == [(HERE, bench.now + 2 * MINUTE)]


class RealTime(VirtualClock):
    """Simulated time that claims to pass as fast as real time."""

    def latest_after(self, delay):
        return self.now() + delay


@pytest.mark.parametrize(
    ("clock", "after", "is_notified"),
    [
        (RealTime, ANNOUNCED_AHEAD, True),
        (RealTime, ANNOUNCED_AHEAD + 1, False),
        (VirtualClock, 365 * 24 * 60 * MINUTE, True),
    ],
)
async def test_other_processes_are_notified_only_of_records_claimable_before_they_poll_anyway(
    clock, after, is_notified
):
    bench = Bench(clock=clock(START))
    at = bench.now + after
    heard = await bench.listen()

    await bench.ledger.create([replace(await bench.declare(), key=Key(HERE, "new"), claimable_at=at)])

    assert bench.woken == [(HERE, at)]
    assert await heard() == ([at] if is_notified else [])


def test_records_that_are_not_announced_are_claimable_after_the_next_poll_of_each_worker():
    assert ANNOUNCED_AHEAD >= 2 * SAFETY_POLL


async def test_of_many_in_a_partition_the_soonest_is_announced_once(bench):
    records = [await bench.declare(name) for name in "abc"]
    listening = asyncio.create_task(anext(bench.others.notified()))
    await asyncio.sleep(0)

    await bench.ledger.apply({record.key: due_at(100 - at) for at, record in enumerate(records)})

    assert bench.woken == [(HERE, 98)]
    assert (await asyncio.wait_for(listening, 1)).at == 98


async def test_an_ordinary_completion_is_not_announced(bench):
    await bench.declare()
    (held,) = await bench.start()

    assert await bench.settle(held)

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_an_ordinary_start_is_not_announced(bench, policies):
    await bench.declare(**policies)

    assert len(await bench.start()) == 1

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_a_claim_that_an_edit_took_back_is_announced_with_the_time_of_that_edit(bench, policies):
    record = await bench.declare(**policies)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    await bench.start()

    assert bench.woken == [(HERE, (await bench.load(record.key)).claimable_at)]


async def test_a_completion_on_top_of_an_edit_is_announced(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]
    bench.woken.clear()

    await bench.settle(held)

    assert bench.woken == [(HERE, bench.now + 10 * MINUTE)]


@pytest.mark.parametrize("ended", [DRAINED, UNSTARTED])
async def test_what_a_drain_gives_back_is_announced_at_once(bench, ended):
    await bench.declare()
    (held,) = await bench.start()

    assert await bench.settle(held, ended)

    assert [at for _, at in bench.woken] == [bench.now]


# --- start -----------------------------------------------------------------------------------------------------------


async def test_what_needs_no_write_starts_without_one(bench):
    await bench.declare()

    (held,) = await bench.start()

    assert held.attempt == 1
    assert bench.store.batches == []


async def test_at_most_once_only_what_was_written_may_run(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)

    (held,) = await bench.start()

    assert (await bench.load(record.key)).state.started.scheduled_at == held.scheduled_at


WRITTEN_FIRST = pytest.mark.parametrize(
    "policies",
    [
        {"mode": Mode.AT_MOST_ONCE},
        {"overlap": Overlap.ALLOW},
        {"mode": Mode.AT_MOST_ONCE, "overlap": Overlap.ALLOW},
    ],
    ids=["at most once", "side run", "both"],
)


@WRITTEN_FIRST
async def test_a_start_whose_reply_is_lost_runs_once_it_is_found_written(bench, policies):
    record = await bench.declare(**policies)
    bench.store.lose_replies = 1

    (held,) = await bench.start()

    assert len(bench.store.batches) == 1
    assert held.scheduled_at == record.due_at
    assert await bench.settle(held)
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"succeeded": 1}


@WRITTEN_FIRST
async def test_a_start_that_was_edited_after_its_reply_was_lost_runs_on_top_of_the_edit(bench, policies):
    record = await bench.declare(**policies)
    bench.store.lose_replies = 1
    bench.store.before_loads = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]

    (held,) = await bench.start()

    assert await bench.settle(held)
    stored = await bench.load(record.key)
    assert stored.due_at == bench.now + 10 * MINUTE
    assert nonzero(stored.state.summary.counts) == {"succeeded": 1}


async def test_a_start_is_given_up_once_its_lease_has_expired(bench, caplog):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)

    async def stall():
        await bench.clock.advance(timedelta(seconds=70))

    bench.store.lose_replies = 1
    bench.store.before_swaps = [stall]

    assert await bench.start() == []
    assert "gave up starts" in caplog.text
    await bench.started(bench.begun(await bench.take_over()))
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"lost": 1}


async def test_a_start_is_not_written_once_its_lease_has_expired(bench):
    await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    starting = bench.begun(await bench.claim())
    await bench.clock.advance(timedelta(minutes=1))

    assert await bench.started(starting) == []
    assert bench.store.batches == []


async def test_a_failed_start_does_not_keep_others_from_running(bench):
    mine = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    edited = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(edited.key)]
    bench.store.before_loads = [bench.unavailable]

    (held,) = await bench.start()

    assert held.record.key == mine.key


async def test_a_start_is_yielded_before_the_results_of_others_are_known(bench):
    mine = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    edited = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(edited.key)]
    await bench.clock.advance(timedelta(minutes=1))
    starting = bench.begun(await bench.claim())
    loads = bench.store.loads

    starts = bench.ledger.start(starting)
    (held,) = (await anext(starts)).values()

    assert held.record.key == mine.key
    assert bench.store.loads == loads
    await starts.aclose()


async def test_an_edit_that_cannot_be_decided_here_affects_only_its_own_start(bench, caplog):
    ada = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    bob = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)

    async def edit_into_an_unknown_zone():
        record = await bench.load(bob.key)
        spec = replace(record.spec, schedule=Cron("0 0 * * *", "Mars/Olympus"))
        after = replace(record, spec=spec, version=record.version + 1)
        assert await bench.others.swap([Change(record, after)]) == [True]

    bench.store.before_swaps = [edit_into_an_unknown_zone]

    (held,) = await bench.start()

    assert held.record.key == ada.key
    assert "could not decide" in caplog.text


async def test_a_start_that_the_store_refuses_affects_only_itself(bench, caplog):
    names = [str(number) for number in range(7)]
    for name in names:
        await bench.declare(name, mode=Mode.AT_MOST_ONCE)
    bench.store.refuses = lambda change: change.before.key.instance == "4"

    holding = await bench.start()

    assert sorted(held.record.key.instance for held in holding) == [name for name in names if name != "4"]
    assert "cannot be written" in caplog.text


async def test_starts_written_before_a_later_batch_failed_run_at_once():
    bench = Bench(swap_batch_max=2)
    for name in "abcd":
        await bench.declare(name, mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [None, bench.unavailable]
    await bench.clock.advance(timedelta(minutes=1))

    starts = bench.ledger.start(bench.begun(await bench.claim()))
    first, then = [sorted(decided) async for decided in starts]

    assert (first, then) == ([0, 1], [2, 3])


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_an_edit_between_claim_and_start_gives_the_claim_back(bench, policies):
    record = await bench.declare(**policies)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    assert await bench.start() == []

    (stored,) = (await bench.all()).values()
    assert (stored.lease, stored.attempt) == (None, 0)
    assert stored.claimable_at == bench.now + 2 * MINUTE


async def test_an_edit_that_leaves_the_schedule_alone_delays_a_start_by_one_claim(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(record.key, lease=5 * MINUTE)]

    assert await bench.start() == []
    (held,) = await bench.start(after=0)

    assert held.scheduled_at == record.due_at
    assert held.policies.lease == 5 * MINUTE


async def test_the_start_of_a_side_run_leaves_nothing_if_its_schedule_was_edited(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    assert await bench.start() == []

    assert list(await bench.all()) == ["remind/ada"]


async def test_the_start_of_a_side_run_is_left_to_the_worker_that_took_over_its_schedule(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    others: list[HeldRun] = []

    async def take_over():
        claimed = await bench.take_over()
        ledger = Ledger(bench.others, bench.clock)
        others.extend(await bench.started(bench.begun(claimed), ledger))

    bench.store.before_swaps = [take_over]

    assert await bench.start() == []

    assert [held.scheduled_at for held in others] == [record.due_at]
    assert len(await bench.all()) == 2


async def test_a_side_run_is_created_in_the_write_that_moves_its_schedule_on(bench):
    await bench.declare(overlap=Overlap.ALLOW)

    assert len(await bench.start()) == 1

    (batch,) = bench.store.batches
    assert len(batch) == 2
    assert batch[0].group == batch[1].group != 0


async def test_a_schedule_that_ends_as_its_last_run_starts_is_counted_at_an_undeclared_template(
    bench,
):
    await bench.declare(overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    (held,) = await bench.start(after=4 * MINUTE)

    assert set(await bench.all()) == {str(held.record.key), "remind"}
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2}


async def test_schedules_that_end_as_their_last_runs_start_all_start_and_are_all_counted(bench):
    for number in range(66):
        await bench.declare(str(number), overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    holding = await bench.start(after=4 * MINUTE)

    assert len(holding) == 66
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2 * len(holding)}


async def test_a_side_run_that_exists_already_is_not_run_again(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    theirs = starting.plan.created
    await bench.others.swap([Change(None, replace(theirs, lease=theirs.lease._replace(id="another")))])

    ready = await bench.started([starting])

    assert ready == []
    assert (await bench.load(record.key)).due_at == record.due_at + MINUTE


async def released_side_runs(bench: Bench, number: int = 1) -> Record:
    """Declare a schedule whose runs overlap at most once, start *number* of them, and release them unstarted."""
    record = await bench.declare(mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
    for _ in range(number):
        for held in await bench.start():
            assert await bench.settle(held, UNSTARTED) is True
    return await bench.load(record.key)


async def test_a_released_side_run_is_started_in_the_write_that_finds_its_schedule_unchanged(bench):
    parent = await released_side_runs(bench)

    (held,) = await bench.start(after=0)

    assert held.scheduled_at == parent.due_at - MINUTE
    changes = {change.key: change for change in bench.store.batches[-1]}
    assert set(changes) == {parent.key, held.record.key}
    assert changes[parent.key].after == replace(parent, version=parent.version + 1)
    assert len({change.group for change in changes.values()} - {0}) == 1


@pytest.mark.parametrize("moment", ["before", "at"])
async def test_a_released_side_run_never_starts_once_its_instance_is_removed(bench, moment):
    parent = await released_side_runs(bench)

    async def remove() -> None:
        assert await bench.others.swap([Change(parent, None)]) == [True]

    if moment == "before":
        await remove()
    else:
        bench.store.before_swaps = [remove]

    assert await bench.start(after=0) == []
    assert [key for key in await bench.keys() if key.instance] == []
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"withdrawn": 1}


async def test_a_released_side_run_is_withdrawn_if_its_schedule_is_edited_at_the_moment_of_its_start(bench):
    parent = await released_side_runs(bench)
    bench.store.before_swaps = [bench.edit(parent.key, schedule=Interval(3 * MINUTE))]

    assert await bench.start(after=0) == []

    assert await bench.keys() == [parent.key]
    assert nonzero((await bench.load(parent.key)).state.summary.counts) == {"withdrawn": 1}


async def test_released_side_runs_of_one_schedule_all_start_beside_its_next_occurrence(bench):
    parent = await released_side_runs(bench, 3)

    holding = await bench.start()

    assert sorted((held.scheduled_at - parent.due_at) // MINUTE for held in holding) == [-3, -2, -1, 0]


async def test_a_released_side_run_starts_once_if_the_reply_to_its_start_is_lost(bench):
    await released_side_runs(bench)
    bench.store.lose_replies = 1

    (held,) = await bench.start(after=0)

    assert (await bench.load(held.record.key)).state.started.at_most_once


async def test_a_released_side_run_starts_though_its_schedule_could_not_be_loaded_at_first(bench):
    await released_side_runs(bench)
    bench.store.before_loads = [bench.unavailable]

    assert len(await bench.start(after=0)) == 1


async def test_a_start_is_given_up_if_its_record_keeps_changing_until_its_lease_expires(bench, caplog):
    record = await bench.declare(starting_deadline=SECOND)
    await bench.clock.advance(timedelta(seconds=90))
    claimed = await bench.claim()

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])
        await bench.clock.advance(timedelta(seconds=25))

    bench.store.before_each_swap = touch

    assert await bench.started(bench.begun(claimed)) == []
    assert "gave up starts" in caplog.text
    assert len(bench.store.batches) == 3


async def test_a_deferral_that_loses_a_race_is_written_on_top_of_the_change(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    until = bench.now + 5 * SECOND
    bench.store.before_swaps = [bench.touch(record.key)]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, until)])

    stored = await bench.load(record.key)
    assert (stored.lease, stored.attempt, stored.began_at) == (None, 0, None)
    assert stored.claimable_at == until


async def test_a_deferral_leaves_a_retry_claimable_although_its_schedule_was_suspended_by_exhaustion(bench):
    record = await bench.declare(retry=Retry(max_attempts=0, initial=SECOND, jitter=False))
    (held,) = await bench.start()
    assert await bench.settle(held, RAISED) is True
    await bench.clock.advance(timedelta(seconds=2))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.exhaust(record.key)]
    claimed = starting.plan.run.record

    await bench.ledger.defer([rules.defer(claimed, starting.plan, bench.now)])

    assert (await bench.load(record.key)).claimable_at is not None


async def test_a_deferral_does_not_wake_a_schedule_that_was_suspended_by_exhaustion_meanwhile(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.exhaust(record.key)]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, bench.now)])

    assert (await bench.load(record.key)).claimable_at is None


async def test_a_deferral_leaves_a_record_alone_that_another_worker_has_taken_over(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.take_over]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, bench.now)])

    assert (await bench.load(record.key)).lease.id != starting.plan.move.before.lease.id


# --- settle ----------------------------------------------------------------------------------------------------------


async def test_an_edit_in_mid_run_is_kept_and_the_run_completes_on_top_of_it(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]

    assert await bench.settle(held)

    stored = await bench.load(record.key)
    assert stored.spec.schedule == Interval(10 * MINUTE)
    assert stored.due_at == bench.now + 10 * MINUTE
    assert nonzero(stored.state.summary.counts) == {"succeeded": 1}


async def test_what_was_taken_over_stays_as_its_new_holder_has_it(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    await bench.take_over()
    before = await bench.load(record.key)

    assert not await bench.settle(held)
    assert await bench.load(record.key) == before


async def test_a_takeover_in_the_very_moment_of_the_write_wins(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.take_over]

    assert not await bench.settle(held)
    assert (await bench.load(record.key)).attempt == 2


async def test_an_instance_that_was_removed_in_mid_run_is_lost_to_its_run(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    await bench.others.swap([Change(await bench.load(record.key), None)])

    assert not await bench.settle(held)
    assert await bench.all() == {}


async def test_one_lost_lease_in_a_batch_does_not_stop_the_others(bench):
    for name in "abc":
        await bench.declare(name)
    holding = await bench.start()
    await bench.others.swap([Change(await bench.load(holding[1].record.key), None)])

    assert await bench.ledger.settle([bench.completion(held) for held in holding]) == [True, False, True]


async def test_to_settle_again_after_a_lost_reply_changes_nothing_and_says_that_it_was_written(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    settling = bench.completion(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])
    after = await bench.load(record.key)

    assert await bench.ledger.settle([settling]) == [True]

    assert await bench.load(record.key) == after


async def test_to_remove_again_after_a_lost_reply_says_that_it_was_written(bench):
    await bench.declare(schedule=Once(bench.now + MINUTE))
    (held,) = await bench.start()
    settling = bench.completion(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])

    assert await bench.ledger.settle([settling], again=True) == [True]


async def test_a_run_that_writes_nothing_is_still_ours(bench):
    await bench.declare(retry=Retry(wait_for_lease=True))
    (held,) = await bench.start()

    assert await bench.settle(held, RAISED)
    assert bench.store.batches == []


async def test_a_run_whose_record_is_edited_each_time_holds_up_no_other_and_is_settled_later(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")
    holding = await bench.start()
    bench.store.before_each_swap = bench.edit(ada.key)

    contested, written = await bench.ledger.settle([bench.completion(held) for held in holding])

    assert written is True
    assert (await bench.load(bob.key)).state.summary.counts.succeeded == 1
    assert isinstance(contested, Completion)
    bench.store.before_each_swap = None
    assert await bench.ledger.settle([contested]) == [True]
    assert (await bench.load(ada.key)).state.summary.counts.succeeded == 1


async def test_a_dead_letter_is_written_with_the_change_that_moves_its_schedule_on(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()

    await bench.settle(held, REFUSED)

    ((dead_letter, completion),) = bench.store.batches
    assert dead_letter.after.key.occurrence.startswith("dead-")
    assert dead_letter.after.key in await bench.keys()
    assert completion.after.key == record.key
    assert dead_letter.group == completion.group != 0


async def test_a_dead_letter_that_an_edit_in_mid_run_asks_for_is_written_too(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, exhausted=Exhaustion.DEAD_LETTER)]

    await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_lost_lease_leaves_no_dead_letter(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    (taken,) = await bench.take_over()

    assert not await bench.settle(held, REFUSED)
    await bench.settle(rules.begin(taken, taken.spec.policies, bench.now).run)

    assert list(await bench.all()) == [str(record.key)]
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"succeeded": 1}


async def test_a_dead_letter_whose_reply_was_lost_is_written_once(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.settle(held, REFUSED)

    assert await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_dead_letter_whose_name_is_taken_does_not_keep_its_schedule_from_moving_on(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    there = await bench.put_dead_letter(held)

    assert await bench.settle(held, REFUSED)

    assert await bench.load(there.key) == there
    stored = await bench.load(record.key)
    assert stored.due_at == record.due_at + MINUTE
    assert nonzero(stored.state.summary.counts) == {"dead_lettered": 1}


async def test_dead_letters_of_side_runs_are_written_with_the_counts_of_their_schedule(bench):
    record = await bench.declare(
        schedule=Interval(SECOND), overlap=Overlap.ALLOW, exhausted=Exhaustion.DEAD_LETTER
    )
    holding = [held for _ in range(3) for held in await bench.start(after=SECOND)]
    there = await bench.put_dead_letter(holding[1])
    bench.store.batches.clear()

    written = await bench.ledger.settle([bench.completion(held, REFUSED) for held in holding])

    assert written == [True] * 3
    assert await bench.load(there.key) == there
    assert sorted(key.occurrence[:5] for key in await bench.keys() if key.occurrence) == ["dead-"] * 3
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 3}
    for batch in bench.store.batches:
        for change in batch:
            assert change.before is not None or change.group, "a dead letter is written alone"


async def test_a_dead_letter_instead_of_a_run_is_written_with_the_change_that_moves_its_schedule_on(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    await bench.start()
    starting = bench.begun(await bench.take_over())

    assert await bench.started(starting) == []

    ((dead_letter, completion),) = bench.store.batches
    assert dead_letter.group == completion.group != 0
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_dead_letter_instead_of_a_run_may_find_its_name_taken(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    (held,) = await bench.start()
    starting = bench.begun(await bench.take_over())
    there = await bench.put_dead_letter(held)

    assert await bench.started(starting) == []

    assert await bench.load(there.key) == there
    stored = await bench.load(record.key)
    assert (stored.lease, stored.attempt) == (None, 0)
    assert nonzero(stored.state.summary.counts) == {"dead_lettered": 1}


async def test_a_takeover_at_the_moment_of_a_dead_letter_instead_of_a_run_leaves_none(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    await bench.start()
    starting = bench.begun(await bench.take_over())
    bench.store.before_swaps = [bench.take_over]

    assert await bench.started(starting) == []

    assert list(await bench.all()) == [str(record.key)]


async def released_one_off(bench: Bench) -> Completion:
    """Start a one-off at most once, and return the completion that releases it unstarted."""
    await bench.declare(schedule=Once(bench.now + MINUTE), mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
    (held,) = await bench.start()
    return bench.completion(held, UNSTARTED)


async def test_the_record_of_a_released_one_off_is_restored_in_the_write_that_releases_it(bench):
    completion = await released_one_off(bench)
    bench.woken.clear()

    assert await bench.ledger.settle([completion]) == [True]

    assert set(await bench.all()) == {"remind/ada"}
    assert bench.woken
    (held,) = await bench.start(after=0)
    assert held.scheduled_at == completion.held.scheduled_at


async def test_a_released_one_off_whose_name_is_taken_is_withdrawn_and_counted(bench):
    completion = await released_one_off(bench)
    taken = await bench.declare(schedule=Once(bench.now + HOUR))

    assert await bench.ledger.settle([completion]) == [True]

    (stored,) = (await bench.all()).values()
    assert stored.due_at == taken.due_at
    assert nonzero(stored.state.summary.counts) == {"withdrawn": 1}


async def test_the_release_of_a_one_off_whose_reply_was_lost_is_written_once(bench):
    completion = await released_one_off(bench)
    bench.store.lose_replies = 1

    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([completion])

    assert await bench.ledger.settle([completion], again=True) == [True]
    assert set(await bench.all()) == {"remind/ada"}


# --- count -----------------------------------------------------------------------------------------------------------


async def test_one_offs_that_end_together_are_counted_in_the_write_that_removes_them(bench):
    await bench.declare_template()
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.completion(held) for held in holding]))

    assert list(await bench.all()) == ["remind"]
    template = await bench.load(TEMPLATE)
    assert template.state.summary.counts.succeeded == 50
    assert len(bench.store.batches) == 1


async def test_more_one_offs_than_fit_into_one_write_are_each_counted_in_that_which_removes_them():
    bench = Bench(swap_batch_max=10)
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.completion(held) for held in holding]))

    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 50
    assert max(len(batch) for batch in bench.store.batches) <= 10


async def test_a_lost_reply_does_not_lose_or_double_what_was_counted(bench):
    await bench.declare("once", Once(bench.now + MINUTE))
    (held,) = await bench.start()
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.settle(held)

    await bench.settle(held)

    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 1


async def test_a_schedule_whose_run_ends_together_with_a_side_run_is_completed_and_counts_both(bench):
    record = await bench.declare()
    extra = edits.on_demand(record, record.spec.policies, "now", bench.now)
    await bench.others.swap([Change(None, extra)])
    holding = await bench.start()

    written = await bench.ledger.settle([bench.completion(held) for held in holding])

    assert written == [True, True]
    (left,) = (await bench.all()).values()
    assert left.due_at == record.due_at + MINUTE
    assert left.state.summary.counts.succeeded == 2


async def test_a_process_that_loses_a_race_to_count_at_a_template_counts_at_another_shard(bench):
    await bench.declare_template()
    for number in range(2):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    mine, yours = await bench.start()
    others = Ledger(bench.others, bench.clock)
    bench.store.before_swaps = [lambda: others.settle([bench.completion(yours)])]

    assert await bench.settle(mine)

    counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
    assert counted == [1, 1]


async def test_writes_of_one_process_do_not_race_each_other_to_count(bench):
    await bench.declare_template()
    for number in range(20):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    settling = [bench.completion(held) for held in await bench.start()]

    async def beside():
        assert all(await bench.ledger.settle(settling[10:]))

    bench.store.before_swaps = [beside]

    assert all(await bench.ledger.settle(settling[:10]))

    # One for each, and one to create the second record to count at.
    assert len(bench.store.batches) == 3
    counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
    assert counted == [10, 10]


async def test_counts_of_many_workers_at_one_template_add_up(bench):
    workers = [Ledger(bench.others, bench.clock) for _ in range(5)]
    for round_ in range(1, 4):
        for number in range(20):
            await bench.declare(f"{round_}-{number}", Once(bench.now + MINUTE))
        settling = [bench.completion(held) for held in await bench.start()]

        await asyncio.gather(*(worker.settle(settling[at::5]) for at, worker in enumerate(workers)))

        counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
        assert sum(counted) == 20 * round_
    assert len(counted) <= COUNTER_SHARDS


async def test_a_side_run_is_counted_at_its_schedule_or_else_at_its_template(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    (first,) = await bench.start()
    await bench.settle(first)
    assert (await bench.load(record.key)).state.summary.counts.succeeded == 1

    (second,) = await bench.start()
    await bench.others.swap([Change(await bench.load(record.key), None)])
    await bench.settle(second)

    assert list(await bench.all()) == ["remind"]
    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 1


async def test_a_removal_that_loses_its_race_is_not_counted(bench):
    await bench.declare("once", Once(bench.now + MINUTE))
    (held,) = await bench.start()
    await bench.take_over()

    assert not await bench.settle(held)

    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {}


async def test_a_removal_that_never_gets_its_turn_to_be_counted_is_not_made_and_holds_up_no_other(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    other = await bench.declare("bob")
    holding = {held.record.key.instance: held for held in await bench.start()}
    held = holding["ada"]

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])

    bench.store.before_each_swap = touch

    outcomes = await bench.ledger.settle([bench.completion(held), bench.completion(holding["bob"])])

    assert [type(outcome) for outcome in outcomes] == [Completion, bool]
    assert await bench.load(held.record.key) is not None
    assert (await bench.load(other.key)).state.summary.counts.succeeded == 1


async def test_a_unit_that_loses_the_race_for_one_record_is_ruled_on_again(bench):
    await bench.declare_template()
    ada, bob = await bench.declare("ada"), await bench.declare("bob")

    async def touch():
        stored = await bench.load(ada.key)
        assert await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))]) == [
            True
        ]

    def remove_and_touch_another(record, now):
        further = Change(bob, replace(bob, version=bob.version + 1))
        return Ruling(Change(record, None), removed_counts=SUCCEEDED_ONCE, further=(further,))

    bench.store.before_swaps = [touch]

    await bench.ledger.apply({ada.key: remove_and_touch_another})

    assert len(bench.store.batches) == 2
    assert await bench.load(ada.key) is None
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"succeeded": 1}


async def test_an_existing_last_run_does_not_keep_its_schedule_from_ending(bench):
    record = await bench.declare(overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)
    await bench.clock.advance(timedelta(minutes=4))
    (starting,) = bench.begun(await bench.claim())
    theirs = starting.plan.created
    await bench.others.swap([Change(None, replace(theirs, lease=theirs.lease._replace(id="another")))])

    assert await bench.started([starting]) == []

    assert await bench.load(record.key) is None
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"missed": 2}
