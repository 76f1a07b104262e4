"""Delays between retries double, are bounded, and are spread."""

from itertools import islice

import pytest

from pyncette.core.backoff import Backoff, doubled


def test_delays_double_up_to_the_maximum():
    backoff = Backoff(1.0, 10.0, jitter=0.0)

    assert list(islice(backoff.delays(lambda: 0.5), 6)) == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize(
    ("jitter", "chance", "expected"),
    [(1.0, 0.0, 0.0), (1.0, 0.25, 1.0), (0.5, 0.0, 2.0), (0.5, 0.5, 3.0), (0.0, 0.0, 4.0)],
)
def test_jitter_takes_a_random_share_off_a_delay(jitter, chance, expected):
    assert Backoff(1.0, 10.0, jitter).after(3, chance) == pytest.approx(expected)


def test_each_delay_has_a_random_number_of_its_own():
    chances = iter([0.5, 1.0, 0.5])

    assert list(islice(Backoff(1.0, 10.0, 1.0).delays(lambda: next(chances)), 3)) == [0.5, 2.0, 2.0]


def test_a_new_iterator_starts_with_the_shortest_delay():
    backoff = Backoff(1.0, 10.0, jitter=0.0)
    list(islice(backoff.delays(lambda: 0.0), 5))

    assert next(backoff.delays(lambda: 0.0)) == 1


def test_delays_stay_bounded_after_any_number_of_failures():
    assert Backoff(0.05, 2.0, jitter=0.0).after(100_000, 0.0) == 2.0
    assert doubled(1, 10**15, 100_000) == 2**40


def test_integers_stay_integers():
    assert isinstance(doubled(10_000, 80_000, 2), int)
