"""Namespaces take turns, urgent keys come first, and nothing that waits is starved."""

from random import Random

import pytest

from pyncette.controller.fair_queue import URGENT_IN_A_ROW_MAX, FairQueue


def queue_of(*keys):
    """Return a queue with *keys*, such as "a1": the first letter is the namespace; a "!" makes it urgent."""
    queue = FairQueue()
    for key in keys:
        queue.add(key, key[0], int(key.endswith("!")))
    return queue


def all_of(queue):
    return [queue.take() for _ in range(len(queue))]


def test_an_empty_queue_returns_nothing():
    assert FairQueue().take() is None


def test_keys_of_one_namespace_come_in_the_order_of_their_arrival():
    assert all_of(queue_of("a3", "a1", "a2")) == ["a3", "a1", "a2"]


def test_namespaces_take_turns_however_much_one_of_them_has():
    queue = queue_of(*(f"a{number}" for number in range(1000)), "b1", "c1", "b2")

    assert [queue.take()[0] for _ in range(6)] == ["a", "b", "c", "a", "b", "a"]


def test_a_namespace_that_comes_late_waits_for_one_turn_of_each_other_at_most():
    queue = queue_of(*(f"{namespace}{number}" for namespace in "abc" for number in range(100)))
    all_before = [queue.take() for _ in range(10)]

    queue.add("z1", "z")

    assert "z1" in [queue.take() for _ in range(4)]
    assert len(all_before) == 10


def test_an_urgent_key_comes_before_many_namespaces_that_have_none():
    queue = FairQueue()
    for number in range(1000):
        queue.add(number, f"namespace-{number}")

    queue.add("edit", "b", 1)

    assert "edit" in [queue.take() for _ in range(2)]


def test_urgent_keys_of_one_namespace_leave_half_of_the_turns_to_less_urgent_keys_elsewhere():
    queue = queue_of(*(f"a{number}!" for number in range(1000)), *(f"b{number}" for number in range(1000)))

    taken = [queue.take()[0] for _ in range(100)]

    assert taken.count("b") == pytest.approx(50, abs=2)


def test_within_a_namespace_the_more_urgent_come_first():
    assert all_of(queue_of("a1", "a2!", "a3", "a4!")) == ["a2!", "a4!", "a1", "a3"]


def test_within_a_namespace_a_flood_of_urgent_keys_does_not_starve_the_oldest_of_the_others():
    queue = FairQueue()
    queue.add("condition", "a", 2)
    queue.add("rest", "a", 1)
    for number in range(100):
        queue.add(number, "a", 3)

    taken = all_of(queue)

    assert taken.index("condition") == URGENT_IN_A_ROW_MAX
    assert taken.index("rest") == 2 * URGENT_IN_A_ROW_MAX + 1


def test_a_key_that_waits_keeps_its_place():
    queue = queue_of("a1", "a2")

    queue.add("a1", "a")

    assert all_of(queue) == ["a1", "a2"]


def test_a_key_that_becomes_more_urgent_moves_up_and_never_down():
    queue = queue_of("a1", "a2!", "a3")

    queue.add("a3", "a", 1)
    queue.add("a2!", "a", 0)

    assert all_of(queue) == ["a2!", "a3", "a1"]


def test_a_discarded_key_is_not_taken():
    queue = queue_of("a1", "b1!", "a2")

    queue.discard("b1!")
    queue.discard("unknown")

    assert ("b1!" in queue, queue.counts()) == (False, {"a": 2})
    assert all_of(queue) == ["a1", "a2"]


def test_a_namespace_that_is_not_allowed_is_passed_over():
    queue = queue_of("a1", "a2!", "b1")

    taken = [queue.take(lambda namespace: namespace != "a") for _ in range(2)]

    assert taken == ["b1", None]
    assert all_of(queue) == ["a2!", "a1"]


def test_the_namespace_with_the_most_keys_is_the_one_that_sheds_its_oldest():
    queue = queue_of("b1", "a1", "a2", "a3!")

    assert [queue.shed() for _ in range(2)] == ["a1", "a2"]
    assert len(queue) == 2


def test_random_use_returns_each_key_once_and_keeps_nothing():
    for seed in range(50):
        random, queue, waiting = Random(seed), FairQueue(), set()
        for _ in range(500):
            key = random.choice("abcd") + str(random.randrange(20))
            if random.random() < 0.6:
                queue.add(key, key[0], random.randrange(4))
                waiting.add(key)
            elif random.random() < 0.2:
                queue.discard(key)
                waiting.discard(key)
            elif waiting:
                taken = queue.take()
                assert taken in waiting, seed
                waiting.remove(taken)
            assert len(queue) == len(waiting) == sum(queue.counts().values()), seed

        assert {*all_of(queue)} == waiting, seed
        assert [value for value in vars(queue).values() if isinstance(value, dict) and value] == [], seed
