"""Tasks that are gone are stopped, unless they are too many at once to be believed."""

import pytest

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.deletion_guard import WINDOW_SECONDS, Guard


def names(count, begin=0):
    return [ObjectName("default", f"task-{number:03}") for number in range(begin, begin + count)]


@pytest.mark.parametrize(("mirrored", "gone"), [(5, 5), (25, 5), (100, 20), (1000, 200)])
def test_a_fifth_of_all_or_five_go_without_asking(mirrored, gone):
    guard = Guard(share=20, least=5)

    verdict = guard.judge(names(gone), mirrored, now=0.0)

    assert verdict.stopped == names(gone)
    assert guard.held == frozenset()


@pytest.mark.parametrize(("mirrored", "gone"), [(6, 6), (10, 10), (100, 21), (1000, 201)])
def test_if_more_go_at_once_none_of_them_is_stopped(mirrored, gone):
    guard = Guard(share=20, least=5)

    verdict = guard.judge(names(gone), mirrored, now=0.0)

    assert (verdict.stopped, verdict.held) == ((), names(gone))
    assert guard.held == frozenset(names(gone))


def test_those_of_one_hour_count_together():
    guard = Guard(share=20, least=5)
    guard.judge(names(15), 100, now=0.0)

    held = guard.judge(names(6, begin=15), 85, now=WINDOW_SECONDS - 1)
    later = guard.judge(names(6, begin=15), 85, now=WINDOW_SECONDS)

    assert held.stopped == ()
    assert later.stopped == names(6, begin=15)


def test_one_that_comes_back_is_held_no_more():
    guard = Guard(share=20, least=5)
    guard.judge(names(6), 6, now=0.0)

    verdict = guard.judge(names(5), 6, now=1.0)

    assert verdict.stopped == names(5)
