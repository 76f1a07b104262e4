"""A snapshot that somebody holds does not make claims slow for good, and what is passed over meanwhile is found."""

import pytest

from pyncette.core.record import Partition
from pyncette.store.backend import read_backend
from pyncette.store.sql.heads import BEGINNING, MARGIN, PAUSE_MAX, SHARE, USUAL, USUAL_EACH, Heads
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
def heads():
    """After two looks of a fifth of a second, at T0, that found a record due a minute before."""
    heads = Heads()
    look_twice(heads, [a_record(at=T0 - 60 * LONG)])
    return heads


def look_twice(heads, records, limit=1, took=SLOW):
    for _ in range(2):
        heads.learn({HERE: limit}, records, T0, took)


def test_as_long_as_no_look_is_slow_all_are_whole():
    heads = Heads()

    look_twice(heads, [a_record()] * 10, limit=10, took=USUAL + 10 * USUAL_EACH)

    assert heads.begin(HERE, T0) == BEGINNING
    assert heads.until([HERE]) is None


def test_one_slow_look_may_have_been_slow_for_any_reason():
    heads = Heads()

    for took in (SLOW, USUAL, SLOW):
        heads.learn({HERE: 1}, [], T0, took)

    assert heads.begin(HERE, T0) == BEGINNING


def test_after_slow_looks_the_next_begins_where_they_found_the_first(heads):
    assert heads.begin(HERE, T0 + 1) == T0 - 60 * LONG - MARGIN
    assert heads.begin(ELSEWHERE, T0 + 1) == BEGINNING


def test_a_slow_look_that_found_nothing_has_seen_all_until_now():
    heads = Heads()

    look_twice(heads, [])

    assert heads.begin(HERE, T0 + 1) == T0 - MARGIN


def test_a_slow_look_for_nothing_has_seen_nothing():
    heads = Heads()

    look_twice(heads, [], limit=0)

    assert heads.begin(HERE, T0 + 1) == BEGINNING


def test_whole_looks_take_no_more_than_their_share_of_the_time(heads):
    until = T0 + SHARE * (SLOW - USUAL - USUAL_EACH)

    assert heads.until([HERE, ELSEWHERE]) == until
    assert heads.begin(HERE, until - 1) != BEGINNING
    assert heads.begin(HERE, until) == BEGINNING


def test_however_slow_a_look_is_the_next_whole_one_comes_soon():
    heads = Heads()

    look_twice(heads, [], took=60 * LONG)

    assert heads.until([HERE]) == T0 + PAUSE_MAX


def test_a_clock_that_went_back_makes_the_next_look_whole(heads):
    assert heads.begin(HERE, T0 - 1) == BEGINNING


def test_further_looks_move_on_and_never_back(heads):
    heads.learn({HERE: 1}, [a_record(at=T0 - 30 * LONG)], T0 + 1, 0)
    heads.learn({HERE: 1}, [a_record(at=T0 - 40 * LONG)], T0 + 2, SLOW)

    assert heads.begin(HERE, T0 + 3) == T0 - 30 * LONG - MARGIN


def test_what_this_store_writes_is_never_passed_over(heads):
    heads.file([a_record(at=T0 - 90 * LONG), a_record(at=None), a_record(at=T0)])

    assert heads.begin(HERE, T0 + 1) == T0 - 90 * LONG


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def backend(request):
    return read_backend(request.getfixturevalue(request.param))


async def test_what_another_store_files_before_the_head_is_found_when_the_next_look_is_whole(backend):
    async with backend.new_store() as store, backend.new_store() as other:
        await create(store, a_record("first"))
        look_twice(store._heads, [a_record("first")])
        await create(other, a_record("older", at=T0 - LONG))

        claimed = await store.claim({HERE: 10}, "1", "worker", T0 + 1, T0 + 1)
        assert instances(list(claimed.records)) == ["first"]
        assert claimed.next_claimable_at == store._heads.until([HERE])

        assert instances(await claim(store, now=claimed.next_claimable_at, lease_id="2")) == ["older"]


async def test_what_the_store_itself_files_before_the_head_is_found_at_once(backend):
    async with backend.new_store() as store:
        look_twice(store._heads, [])

        await create(store, a_record("older", at=T0 - LONG))

        assert instances(await claim(store, now=T0 + 1)) == ["older"]
