"""Instants and datetimes convert both ways without loss."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.core.times import datetime_of, instant_of


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_and_its_datetime_convert_both_ways(moment):
    assert datetime_of(instant_of(moment)) == moment


def test_the_offset_of_a_datetime_counts():
    there = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))

    assert instant_of(there) == instant_of(datetime(2024, 1, 1, tzinfo=UTC))


def test_a_datetime_without_a_zone_is_taken_as_utc():
    naive = datetime(1970, 1, 1, 0, 0, 1)  # noqa: DTZ001 - as the Python API of 1.x may be given

    assert instant_of(naive) == 1_000_000


def test_an_instant_beyond_the_year_9999_has_no_datetime():
    with pytest.raises(OverflowError):
        datetime_of(2**62)
