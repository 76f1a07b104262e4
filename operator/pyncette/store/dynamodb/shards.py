"""Reads the shards of a partition as one: by key, or by due time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.record import Partition
from pyncette.store.base import Counted
from pyncette.store.dynamodb.connection import Requests, together
from pyncette.store.dynamodb.items import CLAIMABLE, UNTIL, Item, number, sure_integer, without_long_texts
from pyncette.store.dynamodb.schema import HASH_KEY, INDEX, NEXT, SORT_KEY

PAGE_SLACK: Final = 4
"""Names are spread over shards by a hash, so some more than its share are read of each shard."""

WIDE: Final = 2
"""If leases have expired, this many times the limit is read, to find what was due first."""

CROWD_MAX: Final = 8
"""The largest number of concurrent claimers that scans make room for."""

PAGE_MAX: Final = 1000
"""Items of one request. DynamoDB returns at most a megabyte."""

LONG_AGO: Final[Instant] = -(2**63)


class Shard:
    """The items that were read so far of one shard, in its order."""

    def __init__(self, requests: Requests, pk: bytes, query: dict[str, Any]) -> None:
        self.pk = pk
        self.items: list[Item] = []
        self.is_read = False
        """All items were read."""
        self._requests = requests
        self._query = query

    async def read(self, count: int) -> None:
        """Read about *count* more items."""
        answer = await self._requests.query(**self._query, Limit=min(count, PAGE_MAX))
        self.items += without_long_texts(answer["Items"])
        self._query["ExclusiveStartKey"] = answer.get("LastEvaluatedKey")
        self.is_read = "LastEvaluatedKey" not in answer


# --- In the order of keys --------------------------------------------------------------------------------------------


async def first_by_key(
    requests: Requests, pks: Sequence[bytes], bounds: tuple[bytes, bytes | None], limit: int
) -> list[Item]:
    """Return the first *limit* items of all shards whose sort keys are in the half-open range *bounds*, in order."""
    shards = [Shard(requests, pk, _between(pk, *bounds)) for pk in pks]
    share = limit // len(shards) + PAGE_SLACK
    await together(shard.read(share) for shard in shards)
    while True:
        found = sorted((item for shard in shards for item in shard.items), key=_sort_key)[:limit]
        # Items that were not read yet come after those that were.
        last = _sort_key(found[-1]) if len(found) == limit else None
        behind = [
            shard
            for shard in shards
            if not shard.is_read and (last is None or not shard.items or _sort_key(shard.items[-1]) < last)
        ]
        if not behind:
            return found
        await together(shard.read(share) for shard in behind)


def _between(pk: bytes, first: bytes, end: bytes | None) -> dict[str, Any]:
    values = {":pk": {"B": pk}, ":first": {"B": first}}
    condition = f"{HASH_KEY} = :pk AND {SORT_KEY} >= :first"
    if end is not None:
        condition = f"{HASH_KEY} = :pk AND {SORT_KEY} BETWEEN :first AND :end"
        values[":end"] = {"B": end}
    return {"KeyConditionExpression": condition, "ExpressionAttributeValues": values}


def _sort_key(item: Item) -> bytes:
    sk: bytes = item[SORT_KEY]["B"]
    return sk


# --- In the order of what is due -------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A record that is claimable."""

    pk: bytes
    item: Item


class Scan(NamedTuple):
    """The result of a scan of one partition."""

    partition: Partition
    found: list[Candidate]
    """The records to lease, soonest first."""
    next_at: Instant | None
    """When the first of the other records is claimable, as far as was read; at or before `now` if there is more."""


class Scanner:
    """
    Scans of partitions for claimable records. It remembers how many it found, to read no more than is needed.

    Claimers that meet at the start of a partition pay for each write that loses. A claimer that loses many picks records
    at random from a longer range, until it loses none.
    """

    def __init__(
        self, requests: Requests, chance: Callable[[list[Candidate], int], list[Candidate]] | None = None
    ) -> None:
        self._requests = requests
        self._busy: dict[Partition, int] = {}
        """The number of claimable records in the last scan."""
        self._crowds: dict[Partition, int] = {}
        """The estimated number of concurrent claimers, if it is more than one."""
        self._sample = chance or random.sample

    async def scan(
        self,
        partition: Partition,
        pks: Sequence[bytes],
        limit: int,
        now: Instant,
        expired_at: Instant,
        ahead: Duration,
    ) -> Scan:
        shards = [Shard(self._requests, pk, _soonest(pk)) for pk in pks]
        crowd = self._crowds.get(partition, 1)
        wanted = limit * crowd
        expected = min(wanted, self._busy.get(partition, 0))
        await together(shard.read(expected // len(shards) + PAGE_SLACK) for shard in shards)
        while True:
            seen = _Candidates(shards, now, expired_at, ahead)
            short = wanted * (WIDE if seen.has_expired else 1) + PAGE_SLACK - seen.surely
            if not seen.open or short <= 0 or (not limit and seen.claimable):
                break
            await together(shard.read(short // len(seen.open) + PAGE_SLACK) for shard in seen.open)
        self._busy[partition] = len(seen.claimable)
        taken = self._taken(seen.claimable, limit, wanted)
        more = len(taken) < len(seen.claimable) or bool(seen.open)
        return Scan(partition, taken, now if more else seen.next_at)

    def _taken(self, claimable: list[Candidate], limit: int, wanted: int) -> list[Candidate]:
        if wanted == limit or len(claimable) <= limit:
            return claimable[:limit]
        return sorted(self._sample(claimable[:wanted], limit), key=_claimable_at)

    def learn(self, partition: Partition, tried: int, lost: int) -> None:
        """Note that *lost* writes of those *tried* lost a race."""
        crowd = self._crowds.pop(partition, 1)
        crowd = min(2 * crowd, CROWD_MAX) if 2 * lost > tried else crowd - (not lost)
        if crowd > 1:
            self._crowds[partition] = crowd

    def forget(self) -> None:
        """Clear what was learned."""
        self._busy.clear()
        self._crowds.clear()


class _Candidates:
    """The claimable records of shards, as far as they were read."""

    def __init__(self, shards: Sequence[Shard], now: Instant, expired_at: Instant, ahead: Duration) -> None:
        self.open: list[Shard] = []
        """Shards that may have more claimable records."""
        self.claimable: list[Candidate] = []
        self.next_at: Instant | None = None
        self.has_expired = False
        frontier: Instant | None = None
        for shard in shards:
            last = sure_integer(shard.items[-1], NEXT) if shard.items else now
            if not shard.is_read and last <= now + ahead:
                self.open.append(shard)
                frontier = last if frontier is None else min(frontier, last)
            elif not shard.is_read:
                self._wait_until(last - ahead)  # the next item may be due at the same time
            for item in shard.items:
                self._see(shard.pk, item, now, expired_at, ahead)
        self.claimable.sort(key=_claimable_at)
        self.surely = sum(
            frontier is None or sure_integer(found.item, NEXT) <= frontier for found in self.claimable
        )
        """The number of claimable records that no unread record can precede."""

    def _see(self, pk: bytes, item: Item, now: Instant, expired_at: Instant, ahead: Duration) -> None:
        at, until = sure_integer(item, CLAIMABLE), sure_integer(item, UNTIL)
        if at <= now + ahead and until <= expired_at:
            self.claimable.append(Candidate(pk, item))
            self.has_expired = self.has_expired or until > at
            return
        # A lease may look expired, but must not be taken over yet, if the clock of the claimer has stepped.
        self._wait_until(max(at - ahead, until + now - expired_at if until > expired_at else at - ahead))

    def _wait_until(self, at: Instant) -> None:
        if self.next_at is None or at < self.next_at:
            self.next_at = at


def _soonest(pk: bytes) -> dict[str, Any]:
    return {
        "IndexName": INDEX,
        "KeyConditionExpression": f"{HASH_KEY} = :pk",
        "ExpressionAttributeValues": {":pk": {"B": pk}},
    }


def _claimable_at(found: Candidate) -> tuple[Instant, bytes]:
    return sure_integer(found.item, CLAIMABLE), _sort_key(found.item)


# --- In numbers ------------------------------------------------------------------------------------------------------


async def counted(
    requests: Requests,
    pks: Sequence[bytes],
    task: str | None,
    now: Instant,
    longest_lease: Duration,
    limit: int,
) -> Counted:
    """Count due and leased records, of each shard its share of *limit*, by eventually consistent reads at half the cost."""
    names = b"" if task is None else f"{task}\0".encode()
    share = -(-limit // len(pks))
    windows = await together(
        _window(requests, pk, first, last, share)
        for pk in pks
        # The index has a leased record at the end of its lease, or at its next due time if that is later.
        for first, last in ((LONG_AGO, now), (now + 1, now + longest_lease))
    )
    seen = [item for window, _ in windows for item in window if _sort_key(item).startswith(names)]
    leased = sum(sure_integer(item, UNTIL) > now for item in seen)
    due = sum(sure_integer(item, NEXT) <= now for item in seen)
    total = None if task is None else await _number(requests, pks, task)
    return Counted(min(due, limit), min(leased, limit), all(whole for _, whole in windows), total)


async def _window(
    requests: Requests, pk: bytes, first: Instant, last: Instant, limit: int
) -> tuple[list[Item], bool]:
    """Return at most *limit* index entries from *first* to *last*, and whether these are all."""
    query: dict[str, Any] = {
        "IndexName": INDEX,
        "KeyConditionExpression": f"{HASH_KEY} = :pk AND #next BETWEEN :first AND :last",
        "ProjectionExpression": f"{SORT_KEY}, #next, #until",
        "ExpressionAttributeNames": {"#next": NEXT, "#until": UNTIL},
        "ExpressionAttributeValues": {":pk": {"B": pk}, ":first": number(first), ":last": number(last)},
    }
    found: list[Item] = []
    while len(found) < limit:
        answer = await requests.call("query", **query, Limit=min(limit - len(found), PAGE_MAX))
        found += answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return found, True
        query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
    return found, False


async def _number(requests: Requests, pks: Sequence[bytes], task: str) -> int | None:
    """Return the number of instances of *task*; None if it takes more than one page of a shard."""
    answers = await together(
        requests.call(
            "query",
            **_between(pk, f"{task}\0\1".encode(), f"{task}\1".encode()),
            ProjectionExpression=SORT_KEY,
            Limit=PAGE_MAX,
        )
        for pk in pks
    )
    if any("LastEvaluatedKey" in answer for answer in answers):
        return None
    # A side run has a third name.
    return sum(_sort_key(item).endswith(b"\0") for answer in answers for item in answer["Items"])
