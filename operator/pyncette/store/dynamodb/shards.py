"""Reads the shards of a partition as if they were one: in the order of keys, or of what is due."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.record import Partition
from pyncette.store.base import Counted
from pyncette.store.dynamodb.connection import Requests, together
from pyncette.store.dynamodb.items import CLAIMABLE, UNTIL, Item, number, sure_integer
from pyncette.store.dynamodb.schema import HASH_KEY, INDEX, NEXT, SORT_KEY

PAGE_SLACK: Final = 4
"""Names fall to shards by chance, so of each shard some more are read than its share."""

WIDE: Final = 2
"""Where leases have expired, so many times the limit is looked at for what was due first."""

CROWD_MAX: Final = 8
"""So many claimers at most are made room for."""

PAGE_MAX: Final = 1000
"""Items asked for at once; DynamoDB answers with a megabyte at most, whatever is asked."""

LONG_AGO: Final[Instant] = -(2**63)


class Shard:
    """What was read so far of one shard, in its order."""

    def __init__(self, requests: Requests, pk: bytes, query: dict[str, Any]) -> None:
        self.pk = pk
        self.items: list[Item] = []
        self.is_read = False
        """Whether there is no more."""
        self._requests = requests
        self._query = query

    async def read(self, count: int) -> None:
        """Read some more items, about *count*."""
        answer = await self._requests.query(**self._query, Limit=min(count, PAGE_MAX))
        self.items += answer["Items"]
        self._query["ExclusiveStartKey"] = answer.get("LastEvaluatedKey")
        self.is_read = "LastEvaluatedKey" not in answer


# --- In the order of keys --------------------------------------------------------------------------------------------


async def first_by_key(
    requests: Requests, pks: Sequence[bytes], bounds: tuple[bytes, bytes | None], limit: int
) -> list[Item]:
    """Return the first *limit* items of all shards whose sort keys are in *bounds* (the last one not), in their order."""
    shards = [Shard(requests, pk, _between(pk, *bounds)) for pk in pks]
    share = limit // len(shards) + PAGE_SLACK
    await together(shard.read(share) for shard in shards)
    while True:
        found = sorted((item for shard in shards for item in shard.items), key=_sort_key)[:limit]
        # What a shard has not told yet comes after what it has.
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


class Found(NamedTuple):
    """A record that may be claimed."""

    pk: bytes
    item: Item


class Look(NamedTuple):
    """What a look at one partition saw."""

    partition: Partition
    found: list[Found]
    """What to take, soonest first."""
    next_at: Instant | None
    """When the first of all others can be claimed, as far as was read; at or before `now` if there is more."""


class Looks:
    """
    Looks for what can be claimed, and remembers what it has found, to read no more than is needed.

    Claimers that meet at the head of a partition pay for each write that loses. Whoever loses many takes them from
    farther behind, at random, until it loses none any more.
    """

    def __init__(
        self, requests: Requests, chance: Callable[[list[Found], int], list[Found]] | None = None
    ) -> None:
        self._requests = requests
        self._busy: dict[Partition, int] = {}
        """How many were claimable at the last look."""
        self._crowds: dict[Partition, int] = {}
        """How many seem to claim at once, where it is more than one."""
        self._sample = chance or random.sample

    async def look(
        self,
        partition: Partition,
        pks: Sequence[bytes],
        limit: int,
        now: Instant,
        expired_at: Instant,
        ahead: Duration,
    ) -> Look:
        shards = [Shard(self._requests, pk, _soonest(pk)) for pk in pks]
        crowd = self._crowds.get(partition, 1)
        wanted = limit * crowd
        expected = min(wanted, self._busy.get(partition, 0))
        await together(shard.read(expected // len(shards) + PAGE_SLACK) for shard in shards)
        while True:
            seen = _Seen(shards, now, expired_at, ahead)
            short = wanted * (WIDE if seen.has_expired else 1) + PAGE_SLACK - seen.surely
            if not seen.open or short <= 0 or (not limit and seen.claimable):
                break
            await together(shard.read(short // len(seen.open) + PAGE_SLACK) for shard in seen.open)
        self._busy[partition] = len(seen.claimable)
        taken = self._taken(seen.claimable, limit, wanted)
        more = len(taken) < len(seen.claimable) or bool(seen.open)
        return Look(partition, taken, now if more else seen.next_at)

    def _taken(self, claimable: list[Found], limit: int, wanted: int) -> list[Found]:
        if wanted == limit or len(claimable) <= limit:
            return claimable[:limit]
        return sorted(self._sample(claimable[:wanted], limit), key=_claimable_at)

    def learn(self, partition: Partition, tried: int, lost: int) -> None:
        """Take note of how many writes lost of those that were tried."""
        crowd = self._crowds.pop(partition, 1)
        crowd = min(2 * crowd, CROWD_MAX) if 2 * lost > tried else crowd - (not lost)
        if crowd > 1:
            self._crowds[partition] = crowd

    def forget(self) -> None:
        """Know nothing, as at the beginning."""
        self._busy.clear()
        self._crowds.clear()


class _Seen:
    """What the shards tell, as far as they were read."""

    def __init__(self, shards: Sequence[Shard], now: Instant, expired_at: Instant, ahead: Duration) -> None:
        self.open: list[Shard] = []
        """Shards that may hold more of what is claimable."""
        self.claimable: list[Found] = []
        self.next_at: Instant | None = None
        self.has_expired = False
        frontier: Instant | None = None
        for shard in shards:
            last = sure_integer(shard.items[-1], NEXT) if shard.items else now
            if not shard.is_read and last <= now + ahead:
                self.open.append(shard)
                frontier = last if frontier is None else min(frontier, last)
            elif not shard.is_read:
                self._wait_until(last - ahead)  # what comes behind it may be due just then
            for item in shard.items:
                self._see(shard.pk, item, now, expired_at, ahead)
        self.claimable.sort(key=_claimable_at)
        self.surely = sum(
            frontier is None or sure_integer(found.item, NEXT) <= frontier for found in self.claimable
        )
        """Of the claimable, those before which nothing can be that was not read."""

    def _see(self, pk: bytes, item: Item, now: Instant, expired_at: Instant, ahead: Duration) -> None:
        at, until = sure_integer(item, CLAIMABLE), sure_integer(item, UNTIL)
        if at <= now + ahead and until <= expired_at:
            self.claimable.append(Found(pk, item))
            self.has_expired = self.has_expired or until > at
            return
        # By one who waits, a lease that looks expired but is not to be taken over is waited for as well.
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


def _claimable_at(found: Found) -> tuple[Instant, bytes]:
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
    """Count what is due and leased, of each shard its share of *limit*; by weak reads, which cost half."""
    names = b"" if task is None else f"{task}\0".encode()
    share = -(-limit // len(pks))
    windows = await together(
        _window(requests, pk, first, last, share)
        for pk in pks
        # What is leased is filed at the end of its lease, or when it is due again, whichever is later.
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
    """Return what is filed from *first* to *last*, at most *limit* items, and whether that is all."""
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
    """Return how many instances *task* has, if one page of each shard tells: to read on costs by what is there."""
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
    # What lives beside an instance has a third name.
    return sum(_sort_key(item).endswith(b"\0") for answer in answers for item in answer["Items"])
