"""A ledger on a busy store, for the tests of the ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.accounting import counting_record
from pyncette.core.record import Change, Key, Partition, Record, replace
from pyncette.core.runs import RETURNED, Completion, Ended, Ending, HeldRun
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Ruling
from pyncette.ledger.races import RACE_SECONDS
from pyncette.ledger.starts import PendingStart
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock

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


def due_at(at: int):
    """A rule: be due then. It answers with the version that it saw."""

    def rule(record: Record | None, now: int) -> Ruling:
        after = replace(record, version=record.version + 1, due_at=at, claimable_at=at)
        return Ruling(Change(record, after), record.version)

    return rule
