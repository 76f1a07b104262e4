"""The ledger settles races: whoever comes in between, rules are decided on what is stored, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from pyncette.clock import SECOND, STALE_AFTER, SystemClock
from pyncette.core import rules, wishes
from pyncette.core.record import Change, Key, Partition, Record, replace
from pyncette.core.rules import DRAINED, RETURNED, UNSTARTED, Ended, Ending, Held
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Exhaustion, Mode, Overlap, Policies, Retry, Spec
from pyncette.core.tallies import SHARES, counting_record
from pyncette.errors import HeldElsewhereError, StoreUnavailableError
from pyncette.ledger import (
    ANNOUNCED_AHEAD,
    SWAP_ATTEMPTS_MAX,
    TALLY_ATTEMPTS_MAX,
    Ledger,
    Ruling,
    Settling,
)
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker.poll import SAFETY_LOOK
from tests.core.play import nonzero

HERE = Partition("", "remind")
TEMPLATE = Key(HERE, "remind")
START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = 60 * SECOND
EACH_MINUTE = Interval(MINUTE)

REFUSED = Ended(Ending.REFUSED, "DoNotRetry: never")
RAISED = Ended(Ending.RAISED, "ValueError: no")


class BusyStore(MemoryStore):
    """A store in which somebody else comes first: what is in *before_swaps* happens before the swaps to come, in turn."""

    def __init__(self, backend: MemoryBackend, swap_batch_max: int = 500) -> None:
        super().__init__(backend)
        self.before_swaps: list[Callable[[], Awaitable[object]] | None] = []
        self.batches: list[list[Change]] = []
        self.lose_replies = 0
        self._swap_batch_max = swap_batch_max

    @property
    def capabilities(self):
        return super().capabilities._replace(swap_batch_max=self._swap_batch_max)

    async def swap(self, changes):
        between = self.before_swaps.pop(0) if self.before_swaps else None
        if between is not None:
            await between()
        self.batches.append(list(changes))
        made = await super().swap(changes)
        if self.lose_replies:
            self.lose_replies -= 1
            raise StoreUnavailableError("the reply was lost")
        return made


class Bench:
    """A ledger on a busy store, and what is needed to be the others."""

    def __init__(self, clock: VirtualClock | None = None, **options) -> None:
        self.clock = clock or VirtualClock(START)
        self.backend = MemoryBackend(self.clock.now)
        self.store = BusyStore(self.backend, **options)
        self.others = MemoryStore(self.backend)
        self.woken: list[tuple[Partition, int]] = []
        self.ledger = Ledger(self.store, self.clock, lambda *at: self.woken.append(at))

    @property
    def now(self) -> int:
        return self.clock.now()

    async def declare(self, name: str = "ada", schedule=EACH_MINUTE, **policies) -> Record:
        """Create an instance with policies of its own, without the ledger."""
        policies = Policies(**policies)
        record = wishes.created(
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

    async def claim(self, limit: int = 1000) -> list[Record]:
        claimed = await self.others.claim({HERE: limit}, f"lease-{self.now}", "worker", self.now, self.now)
        return list(claimed.records)

    async def start(self, after: int = MINUTE) -> list[Held]:
        """Claim all that is due after so long, and start it through the ledger."""
        await self.clock.advance(timedelta(microseconds=after))
        return await self.ledger.start(self.begun(await self.claim()))

    def begun(self, claimed: list[Record]):
        return [
            (rules.begin(record, record.spec.policies, self.now), record.spec.policies) for record in claimed
        ]

    def settling(self, held: Held, ended: Ended = RETURNED) -> Settling:
        return Settling(held, ended, rules.settle(held, ended, self.now))

    async def settle(self, held: Held, ended: Ended = RETURNED) -> bool:
        (written,) = await self.ledger.settle([self.settling(held, ended)])
        return written

    def edit(self, key: Key, schedule=None, **fields) -> Callable[[], Awaitable[None]]:
        """An edit by somebody else, for `before_swaps`."""

        async def edit() -> None:
            record = await self.load(key)
            policies = replace(record.spec.policies, **fields)
            spec = Spec(schedule or record.spec.schedule, record.spec.args, policies)
            after = wishes.edited(record, spec, policies, self.now)
            assert await self.others.swap([Change(record, after)]) == [True]

        return edit

    async def listen(self) -> Callable[[], Awaitable[list[int]]]:
        """Begin to listen as another process does; what is returned tells the times that were heard of."""
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
    """A rule: be made anew by force."""

    def rule(record: Record | None, now: int) -> Ruling:
        spec = replace(record.spec, schedule=schedule)
        return Ruling(Change(record, wishes.overwritten(record, spec, spec.policies, now)))

    return rule


def with_a_run_beside(name: str):
    """A rule: be touched, and have a run created beside it, together."""

    def rule(record: Record | None, now: int) -> Ruling:
        after = replace(record, version=record.version + 1)
        extra = wishes.on_demand(record, record.spec.policies, name, now)
        return Ruling(Change(record, after), extra.key, further=(Change(None, extra),))

    return rule


async def test_what_is_ruled_together_is_written_together_and_both_are_told_of(bench):
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


async def test_the_last_race_may_be_the_one_that_is_won(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key)] * (SWAP_ATTEMPTS_MAX - 1)

    assert await bench.ledger.apply({record.key: due_at(7)})


async def test_losing_each_race_is_an_error_that_names_the_record(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key)] * SWAP_ATTEMPTS_MAX

    with pytest.raises(HeldElsewhereError, match="remind/ada"):
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


async def test_what_is_overwritten_while_it_runs_is_announced_since_its_lease_is_gone(bench):
    record = await bench.declare()
    await bench.start()
    heard = await bench.listen()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + SECOND))})

    assert bench.woken == [(HERE, bench.now + SECOND)]
    assert await heard() == [bench.now + SECOND]


async def test_an_edit_of_what_runs_is_not_announced_since_nobody_else_can_claim_it(bench):
    record = await bench.declare()
    await bench.start()

    await bench.ledger.apply({record.key: due_at(record.claimable_at - 1)})

    assert bench.woken == []


async def test_a_lease_that_was_in_the_way_makes_what_is_due_later_than_before_sooner(bench):
    record = await bench.declare(lease=MINUTE)
    await bench.start()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + 2 * MINUTE))})

    assert bench.woken == [(HERE, bench.now + 2 * MINUTE)]


class RealTime(VirtualClock):
    """Pretended time of which one says that it passes as fast as real time does."""

    def reach(self, delay):
        return self.now() + delay


@pytest.mark.parametrize(
    ("clock", "after", "is_notified"),
    [
        (RealTime, ANNOUNCED_AHEAD, True),
        (RealTime, ANNOUNCED_AHEAD + 1, False),
        (VirtualClock, 365 * 24 * 60 * MINUTE, True),
    ],
)
async def test_other_processes_hear_only_of_what_is_claimable_before_they_poll_anyway(
    clock, after, is_notified
):
    bench = Bench(clock=clock(START))
    at = bench.now + after
    heard = await bench.listen()

    await bench.ledger.create([replace(await bench.declare(), key=Key(HERE, "new"), claimable_at=at)])

    assert bench.woken == [(HERE, at)]
    assert await heard() == ([at] if is_notified else [])


def test_what_is_not_announced_is_claimable_after_the_next_polls_of_all_workers():
    assert ANNOUNCED_AHEAD >= 2 * SAFETY_LOOK


async def test_of_many_in_a_partition_the_soonest_is_announced_once(bench):
    records = [await bench.declare(name) for name in "abc"]
    listening = asyncio.create_task(anext(bench.others.notified()))
    await asyncio.sleep(0)

    await bench.ledger.apply({record.key: due_at(100 - at) for at, record in enumerate(records)})

    assert bench.woken == [(HERE, 98)]
    assert (await asyncio.wait_for(listening, 1)).at == 98


async def test_an_ordinary_completion_is_announced_to_nobody(bench):
    await bench.declare()
    (held,) = await bench.start()

    assert await bench.settle(held)

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_an_ordinary_start_is_announced_to_nobody(bench, policies):
    await bench.declare(**policies)

    assert len(await bench.start()) == 1

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_a_claim_that_an_edit_took_back_is_announced_with_the_time_of_that_edit(bench, policies):
    record = await bench.declare(**policies)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    await bench.start()

    assert bench.woken == [(HERE, (await bench.load(record.key)).claimable_at)]


async def test_a_completion_on_top_of_an_edit_is_announced_since_nobody_knew_of_it(bench):
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


async def test_at_most_once_a_start_whose_reply_is_lost_does_not_run(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    bench.store.lose_replies = 1

    with pytest.raises(StoreUnavailableError):
        await bench.start()
    assert (await bench.take_over())[0].state.started is not None
    await bench.ledger.start(bench.begun([await bench.load(record.key)]))

    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"lost": 1}


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


async def test_a_start_beside_a_schedule_that_was_edited_leaves_nothing_there(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    assert await bench.start() == []

    assert list(await bench.all()) == ["remind/ada"]


async def test_a_start_beside_a_schedule_that_was_overtaken_is_that_of_the_others_alone(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    others: list[Held] = []

    async def take_over():
        claimed = await bench.take_over()
        others.extend(await Ledger(bench.others, bench.clock).start(bench.begun(claimed)))

    bench.store.before_swaps = [take_over]

    assert await bench.start() == []

    assert [held.scheduled_at for held in others] == [record.due_at]
    assert len(await bench.all()) == 2


async def test_a_run_beside_its_schedule_is_prepared_in_the_write_that_moves_the_schedule_on(bench):
    await bench.declare(overlap=Overlap.ALLOW)

    assert len(await bench.start()) == 1

    (batch,) = bench.store.batches
    assert len(batch) == 2
    assert batch[0].group == batch[1].group != 0


async def test_a_schedule_that_ends_as_its_last_run_starts_is_counted_at_a_template_that_nobody_declared(
    bench,
):
    await bench.declare(overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    (held,) = await bench.start(after=4 * MINUTE)

    assert set(await bench.all()) == {str(held.record.key), "remind"}
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2}


async def test_schedules_that_end_as_their_last_runs_start_all_start_and_are_all_counted(bench):
    for number in range(TALLY_ATTEMPTS_MAX + 2):
        await bench.declare(str(number), overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    holding = await bench.start(after=4 * MINUTE)

    assert len(holding) == TALLY_ATTEMPTS_MAX + 2
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2 * len(holding)}


async def test_what_runs_beside_its_schedule_already_is_not_run_once_more(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    await bench.clock.advance(timedelta(minutes=1))
    ((beginning, policies),) = bench.begun(await bench.claim())
    await bench.others.swap([beginning.first[0]])

    ready = await bench.ledger.start([(beginning, policies)])

    assert ready == []
    assert (await bench.load(record.key)).due_at == record.due_at + MINUTE


async def test_a_start_is_given_up_if_its_record_changes_each_time(bench, caplog):
    record = await bench.declare(starting_deadline=SECOND)
    await bench.clock.advance(timedelta(seconds=90))
    claimed = await bench.claim()

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])

    bench.store.before_swaps = [touch] * SWAP_ATTEMPTS_MAX

    assert await bench.ledger.start(bench.begun(claimed)) == []
    assert "given up" in caplog.text


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

    assert await bench.ledger.settle([bench.settling(held) for held in holding]) == [True, False, True]


async def test_to_settle_again_after_a_lost_reply_changes_nothing_and_says_that_it_was_written(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    settling = bench.settling(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])
    after = await bench.load(record.key)

    assert await bench.ledger.settle([settling]) == [True]

    assert await bench.load(record.key) == after


async def test_to_remove_again_after_a_lost_reply_says_that_it_was_written(bench):
    await bench.declare(schedule=Once(bench.now + MINUTE))
    (held,) = await bench.start()
    settling = bench.settling(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])

    assert await bench.ledger.settle([settling], again=True) == [True]


async def test_a_run_that_writes_nothing_is_still_ours(bench):
    await bench.declare(retry=Retry(wait_for_lease=True))
    (held,) = await bench.start()

    assert await bench.settle(held, RAISED)
    assert bench.store.batches == []


async def test_a_record_that_is_edited_each_time_is_an_error(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key)] * SWAP_ATTEMPTS_MAX

    with pytest.raises(HeldElsewhereError, match="remind/ada"):
        await bench.settle(held)


async def test_a_dead_letter_stands_before_its_schedule_moves_on(bench):
    await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()

    await bench.settle(held, REFUSED)

    first, second = bench.store.batches
    assert first[0].after.key.occurrence.startswith("dead-")
    assert second[0].after.key == held.record.key


async def test_a_dead_letter_that_an_edit_in_mid_run_asks_for_is_written_too(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, exhausted=Exhaustion.DEAD_LETTER)]

    await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_crash_after_the_dead_letter_repeats_harmlessly(bench):
    await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.settle(held, REFUSED)

    assert await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2


# --- count -----------------------------------------------------------------------------------------------------------


async def test_one_offs_that_end_together_are_counted_in_the_write_that_removes_them(bench):
    await bench.declare_template()
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.settling(held) for held in holding]))

    assert list(await bench.all()) == ["remind"]
    template = await bench.load(TEMPLATE)
    assert template.state.summary.counts.succeeded == 50
    assert len(bench.store.batches) == 1


async def test_more_one_offs_than_fit_into_one_write_are_each_counted_in_that_which_removes_them():
    bench = Bench(swap_batch_max=10)
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.settling(held) for held in holding]))

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


async def test_a_schedule_whose_run_ends_together_with_one_beside_it_is_completed_and_counts_both(bench):
    record = await bench.declare()
    extra = wishes.on_demand(record, record.spec.policies, "now", bench.now)
    await bench.others.swap([Change(None, extra)])
    holding = await bench.start()

    written = await bench.ledger.settle([bench.settling(held) for held in holding])

    assert written == [True, True]
    (left,) = (await bench.all()).values()
    assert left.due_at == record.due_at + MINUTE
    assert left.state.summary.counts.succeeded == 2


async def test_whoever_loses_a_race_to_count_at_a_template_counts_at_another_share_of_it(bench):
    await bench.declare_template()
    for number in range(2):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    mine, yours = await bench.start()
    others = Ledger(bench.others, bench.clock)
    bench.store.before_swaps = [lambda: others.settle([bench.settling(yours)])]

    assert await bench.settle(mine)

    counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
    assert counted == [1, 1]


async def test_writes_of_one_process_do_not_race_each_other_to_count(bench):
    await bench.declare_template()
    for number in range(20):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    settling = [bench.settling(held) for held in await bench.start()]

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
        settling = [bench.settling(held) for held in await bench.start()]

        await asyncio.gather(*(worker.settle(settling[at::5]) for at, worker in enumerate(workers)))

        counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
        assert sum(counted) == 20 * round_
    assert len(counted) <= SHARES


async def test_what_lived_beside_a_schedule_is_counted_there_and_elsewhere_once_that_is_gone(bench):
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


async def test_a_removal_that_never_gets_its_turn_to_be_counted_is_not_made(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    (held,) = await bench.start()

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])

    bench.store.before_swaps = [touch] * TALLY_ATTEMPTS_MAX

    with pytest.raises(HeldElsewhereError, match="counted"):
        await bench.settle(held)

    assert await bench.load(held.record.key) is not None


# --- Whose time counts -----------------------------------------------------------------------------------------------


class Away:
    """A ledger of a process that has not heard of the backend for a while, whose time has gone another way since."""

    def __init__(self) -> None:
        self.uptime = 0
        self.backend_now = 5_000 * SECOND
        self.clock = SystemClock(
            time_ns=lambda: self.backend_now * 1000, monotonic_ns=lambda: self.uptime * 1000
        )
        self.clock.observe(self.backend_now, 0, 0)
        self.store = SlowlyAsked(MemoryBackend(lambda: self.backend_now))
        self.ledger = Ledger(self.store, self.clock)

    def be_away(self, seconds: int, stepped: int = 0) -> None:
        self.uptime += seconds * SECOND
        self.backend_now += (seconds + stepped) * SECOND


class SlowlyAsked(MemoryStore):
    """A store that takes note of who asks for its time, and answers once it is let."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: StoreUnavailableError | None = None

    async def now(self):
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return await super().now()


@pytest.fixture
def away() -> Away:
    return Away()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("stepped", [-900, 900])
async def test_a_process_that_was_idle_decides_by_the_time_that_the_backend_has_now(away, stepped):
    key = Key(HERE, "remind", "ada")
    ruled_at = []

    def rule(record: Record | None, now: int) -> Ruling:
        ruled_at.append(now)
        return Ruling(Change(None, wishes.created(key, Spec(EACH_MINUTE), Policies(), now)))

    away.be_away(3600, stepped)
    await away.ledger.apply({key: rule})

    assert ruled_at == [away.backend_now]
    assert away.store.asked == 1


async def test_a_process_that_hears_of_the_backend_anyway_does_not_ask_it_for_its_time(away):
    away.be_away(STALE_AFTER // SECOND, stepped=1)

    assert await away.ledger.now() == away.backend_now - SECOND
    assert away.store.asked == 0


async def test_a_process_that_never_heard_of_the_backend_asks_it_first(away):
    node = SystemClock(time_ns=lambda: 9_000 * SECOND * 1000, monotonic_ns=lambda: 0)

    assert await Ledger(away.store, node).now() == away.backend_now


async def test_those_that_decide_at_once_ask_the_backend_for_its_time_once(away):
    away.be_away(10)
    away.store.answers.clear()
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(100)]
    await turn()

    away.store.answers.set()

    assert set(await asyncio.gather(*asking)) == {away.backend_now}
    assert away.store.asked == 1


async def test_one_who_asks_for_all_and_is_cancelled_leaves_the_question_to_another(away):
    away.be_away(10)
    away.store.answers.clear()
    first, *others = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    first.cancel()
    await turn()
    away.store.answers.set()

    assert set(await asyncio.gather(*others)) == {away.backend_now}
    assert first.cancelled()
    assert away.store.asked == 2


async def test_one_who_waits_for_the_answer_and_is_cancelled_disturbs_no_other(away):
    away.be_away(10)
    away.store.answers.clear()
    first, second, third = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    second.cancel()
    await turn()
    away.store.answers.set()

    assert await asyncio.gather(first, third) == [away.backend_now] * 2
    assert away.store.asked == 1


async def test_if_the_backend_does_not_tell_its_time_nothing_is_decided_and_the_next_one_asks_again(away):
    away.be_away(10)
    away.store.answers.clear()
    away.store.error = StoreUnavailableError("away")
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()
    away.store.answers.set()

    failed = await asyncio.gather(*asking, return_exceptions=True)
    away.store.error = None

    assert [str(error) for error in failed] == ["away"] * 3
    assert away.store.asked == 1
    assert await away.ledger.now() == away.backend_now
