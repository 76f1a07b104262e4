"""Tasks that are gone are stopped, unless their namespace loses too many at once to be believed."""

import pytest

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.deletion_guard import WINDOW_SECONDS, Guard


def names(count, begin=0, namespace="a"):
    return [ObjectName(namespace, f"task-{number:03}") for number in range(begin, begin + count)]


@pytest.fixture
def guard():
    return Guard(share=20, least=5)


def stopped(guard, gone, mirrored, now=0.0):
    """Return the verdict about tasks, of which the credible ones are stopped."""
    verdict = guard.judge(gone, mirrored, now)
    guard.note_stopped(verdict.credible, now)
    return verdict


@pytest.mark.parametrize(("mirrored", "gone"), [(5, 5), (25, 5), (100, 20), (1000, 200)])
def test_a_fifth_of_a_namespace_or_five_tasks_need_no_confirmation(guard, mirrored, gone):
    verdict = guard.judge(names(gone), {"a": mirrored}, now=0.0)

    assert verdict == (names(gone), [])


@pytest.mark.parametrize(("mirrored", "gone"), [(6, 6), (10, 10), (100, 21), (1000, 201)])
def test_if_more_go_at_once_none_of_them_is_stopped(guard, mirrored, gone):
    verdict = guard.judge(names(gone), {"a": mirrored}, now=0.0)

    assert verdict == ([], names(gone))


def test_a_mass_deletion_in_one_namespace_holds_back_no_other(guard):
    gone = [*names(20), *names(1, namespace="b")]

    verdict = guard.judge(gone, {"a": 30, "b": 30}, now=0.0)

    assert verdict == (names(1, namespace="b"), names(20))


def test_many_tasks_in_other_namespaces_do_not_make_a_mass_deletion_credible(guard):
    verdict = guard.judge(names(20), {"a": 30, "b": 10_000}, now=0.0)

    assert verdict == ([], names(20))


def test_deletions_within_an_hour_count_together(guard):
    stopped(guard, names(15), {"a": 100})

    held = guard.judge(names(6, begin=15), {"a": 85}, now=WINDOW_SECONDS - 1)
    later = guard.judge(names(6, begin=15), {"a": 85}, now=WINDOW_SECONDS)

    assert held.credible == []
    assert later.credible == names(6, begin=15)


def test_a_task_that_could_not_be_stopped_counts_once(guard):
    for _ in range(10):
        verdict = guard.judge(names(5), {"a": 25}, now=0.0)

    assert verdict.credible == names(5)


def test_a_task_that_returns_is_no_longer_held_back(guard):
    guard.judge(names(6), {"a": 6}, now=0.0)

    verdict = guard.judge(names(5), {"a": 6}, now=1.0)

    assert verdict.credible == names(5)


def many_small(namespaces, tasks):
    return {f"team-{number:03}": tasks for number in range(namespaces)}


def test_many_small_namespaces_that_lose_all_at_once_are_held_back(guard):
    mirrored = many_small(100, 3)
    gone = [name for namespace in mirrored for name in names(3, namespace=namespace)]

    verdict = guard.judge(gone, mirrored, now=0.0)

    assert verdict == ([], gone)


def test_beyond_the_limit_of_all_only_namespaces_that_exceed_an_equal_part_are_held_back(guard):
    mirrored = {**many_small(50, 5), "b": 50}
    flood = [name for namespace in many_small(50, 5) for name in names(5, namespace=namespace)]

    verdict = guard.judge([*flood, *names(1, namespace="b")], mirrored, now=0.0)

    assert verdict == (names(1, namespace="b"), flood)


def test_a_deletion_goes_on_although_others_have_used_up_the_limit_of_all(guard):
    mirrored = {**many_small(50, 5), "b": 50}
    for namespace in many_small(50, 5):
        verdict = stopped(guard, names(5, namespace=namespace), mirrored)
        mirrored[namespace] -= len(verdict.credible)
    assert sum(mirrored.values()) < 300 - 50

    verdict = guard.judge(names(1, namespace="b"), mirrored, now=1.0)

    assert verdict.credible == names(1, namespace="b")


def test_nothing_is_kept_of_a_namespace_an_hour_later(guard):
    stopped(guard, names(5), {"a": 25})

    guard.judge([], {}, now=WINDOW_SECONDS)

    assert guard._stopped_at == {}
