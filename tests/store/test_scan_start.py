"""Claims stay fast while a snapshot is open, and records that they skip meanwhile are found."""

import pytest

from pyncette.core.record import Partition
from pyncette.store.backend import read_backend
from pyncette.store.sql.scan_start import (
    BEGINNING,
    FULL_SCAN_SHARE,
    MARGIN,
    PAUSE_MAX,
    USUAL,
    USUAL_EACH,
    ScanStarts,
)
from pyncette.testing.conformance import (
    HERE,
    T0,
    a_record,
    claim,
    create,
    instances,
)

LONG = 1_000_000
ELSEWHERE = Partition("realm", "handler", 1)


SLOW = LONG // 5


@pytest.fixture
def starts():
    """After two scans of a fifth of a second, at T0, that found a record due a minute before."""
    starts = ScanStarts()
    scan_twice(starts, [a_record(at=T0 - 60 * LONG)])
    return starts


def scan_twice(starts, records, limit=1, took=SLOW):
    for _ in range(2):
        starts.learn({HERE: limit}, records, T0, took)


def test_while_no_scan_is_slow_all_scans_are_full():
    starts = ScanStarts()

    scan_twice(starts, [a_record()] * 10, limit=10, took=USUAL + 10 * USUAL_EACH)

    assert starts.begin(HERE, T0) == BEGINNING
    assert starts.until([HERE]) is None


def test_one_slow_scan_changes_nothing():
    starts = ScanStarts()

    for took in (SLOW, USUAL, SLOW):
        starts.learn({HERE: 1}, [], T0, took)

    assert starts.begin(HERE, T0) == BEGINNING


def test_after_slow_scans_the_next_starts_at_the_first_record_found(starts):
    assert starts.begin(HERE, T0 + 1) == T0 - 60 * LONG - MARGIN
    assert starts.begin(ELSEWHERE, T0 + 1) == BEGINNING


def test_after_slow_scans_that_found_nothing_the_next_starts_at_now():
    starts = ScanStarts()

    scan_twice(starts, [])

    assert starts.begin(HERE, T0 + 1) == T0 - MARGIN


def test_a_slow_claim_with_the_limit_0_changes_nothing():
    starts = ScanStarts()

    scan_twice(starts, [], limit=0)

    assert starts.begin(HERE, T0 + 1) == BEGINNING


def test_full_scans_take_no_more_than_their_share_of_the_time(starts):
    until = T0 + FULL_SCAN_SHARE * (SLOW - USUAL - USUAL_EACH)

    assert starts.until([HERE, ELSEWHERE]) == until
    assert starts.begin(HERE, until - 1) != BEGINNING
    assert starts.begin(HERE, until) == BEGINNING


def test_the_pause_between_full_scans_is_bounded():
    starts = ScanStarts()

    scan_twice(starts, [], took=60 * LONG)

    assert starts.until([HERE]) == T0 + PAUSE_MAX


def test_a_clock_that_went_back_makes_the_next_scan_full(starts):
    assert starts.begin(HERE, T0 - 1) == BEGINNING


def test_later_scans_move_the_start_forward_only(starts):
    starts.learn({HERE: 1}, [a_record(at=T0 - 30 * LONG)], T0 + 1, 0)
    starts.learn({HERE: 1}, [a_record(at=T0 - 40 * LONG)], T0 + 2, SLOW)

    assert starts.begin(HERE, T0 + 3) == T0 - 30 * LONG - MARGIN


def test_records_that_this_store_writes_are_never_skipped(starts):
    starts.include([a_record(at=T0 - 90 * LONG), a_record(at=None), a_record(at=T0)])

    assert starts.begin(HERE, T0 + 1) == T0 - 90 * LONG


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def backend(request):
    return read_backend(request.getfixturevalue(request.param))


async def test_a_record_that_another_store_writes_before_the_start_is_found_by_the_next_full_scan(backend):
    async with backend.new_store() as store, backend.new_store() as other:
        await create(store, a_record("first"))
        scan_twice(store._scan_starts, [a_record("first")])
        await create(other, a_record("older", at=T0 - LONG))

        claimed = await store.claim({HERE: 10}, "1", "worker", T0 + 1, T0 + 1)
        assert instances(list(claimed.records)) == ["first"]
        assert claimed.next_claimable_at == store._scan_starts.until([HERE])

        assert instances(await claim(store, now=claimed.next_claimable_at, lease_id="2")) == ["older"]


async def test_a_record_that_the_store_writes_before_the_start_is_found_at_once(backend):
    async with backend.new_store() as store:
        scan_twice(store._scan_starts, [])

        await create(store, a_record("older", at=T0 - LONG))

        assert instances(await claim(store, now=T0 + 1)) == ["older"]
