"""Every partition has its turn, a backlog delays no other, and polls that get less than is claimable are spread out."""

from itertools import accumulate

from pyncette.clock import SECOND
from pyncette.core.record import Partition
from pyncette.core.runs import NEVER
from pyncette.worker.turns import (
    CONTENDED_PAUSE,
    CONTENDED_PAUSE_MAX,
    LOCK_MAX,
    LOCKED_PAUSE_MAX,
    Pauses,
    Turns,
)

NOW = 1_000 * SECOND
LATER = NOW + 60 * SECOND

A, B, C, D = (Partition("", name) for name in "abcd")


class Game:
    """Turns of four partitions, and what each of them has due."""

    def __init__(self, ahead=0):
        self.turns = Turns(SECOND, ahead)
        self.real_time = 0.0
        self.polls = []

    def poll(self, at_most, due=None, next_at=LATER, now=NOW):
        """Poll at most so many partitions with a limit of one record each, of which *due* have one."""
        turns = self.turns
        turns.begin_poll()
        if turns.needs_round(now, self.real_time):
            turns.begin_round([A, B, C, D], self.real_time)
        taken = turns.take(at_most)
        self.polls.append(taken)
        full = {partition: 1 for partition in taken if partition in (due or ())}
        turns.polled(dict.fromkeys(taken, 1), full, next_at, now, self.real_time)
        return taken


def test_a_round_polls_each_partition_once_and_then_the_worker_may_sleep():
    game = Game()

    polled = [*game.poll(3), *game.poll(3)]

    assert sorted(polled) == [A, B, C, D]
    assert game.turns.next_at == LATER


def test_while_a_round_lasts_the_next_poll_comes_at_once():
    game = Game()

    game.poll(3)

    assert game.turns.next_at == NOW


def test_each_round_begins_with_another_partition():
    game = Game()

    for _ in range(4):
        game.poll(4)
        game.turns.poll_now()

    assert sorted(polled[0] for polled in game.polls) == [A, B, C, D]


def test_backlogged_partitions_have_all_slots_until_the_next_round_is_due():
    game = Game()
    game.poll(4, due=[A, C])

    assert game.turns.backlogged == {A, C}
    assert sorted(game.poll(4, due=[A, C])) == [A, C]
    assert sorted(game.poll(4, due=[A, C])) == [A, C]


def test_a_backlog_delays_no_round_that_is_due():
    game = Game()
    game.poll(4, due=[A])
    game.poll(4, due=[A])

    polled = game.poll(4, due=[A], now=LATER)

    assert sorted(polled) == [B, C, D]


def test_a_backlog_has_one_poll_at_least_after_each_round():
    game = Game()
    game.poll(4, due=[A])

    game.turns.poll_now()
    after_the_round = game.poll(4, due=[A])

    assert after_the_round == [A]


def test_a_partition_without_a_backlog_any_more_returns_to_the_rounds():
    game = Game()
    game.poll(4, due=[A])
    game.poll(4)

    assert game.turns.backlogged == frozenset()
    assert sorted(game.poll(4, now=LATER)) == [A, B, C, D]


def test_everything_is_polled_again_when_its_last_poll_is_an_interval_old():
    game = Game()
    game.poll(4, due=[A], next_at=None)
    game.poll(4, due=[A], next_at=None)

    game.real_time = 1.0

    assert sorted(game.poll(4, due=[A])) == [B, C, D]


def test_without_news_nothing_is_planned():
    game = Game()

    game.poll(4, next_at=None)

    assert game.turns.next_at == NEVER


def test_what_becomes_due_brings_the_next_poll_forward_and_never_puts_it_off():
    game = Game()
    game.poll(4)

    assert game.turns.due_at(NOW + SECOND)
    assert not game.turns.due_at(NOW + 2 * SECOND)
    assert game.turns.next_at == NOW + SECOND


def test_what_becomes_due_during_a_round_of_several_polls_is_not_forgotten():
    game = Game()
    game.poll(2)
    game.turns.due_at(NOW + SECOND)

    game.poll(2)

    assert game.turns.next_at == NOW + SECOND


def test_a_poll_comes_half_the_claim_ahead_before_something_is_due():
    game = Game(ahead=40_000)
    game.poll(4, next_at=LATER - 40_000)  # as a store says that is asked to look ahead

    assert game.turns.next_at == LATER - 20_000
    game.turns.due_at(NOW + SECOND)
    assert game.turns.next_at == NOW + SECOND - 20_000


def test_after_a_failed_poll_everything_is_polled_at_once():
    game = Game()
    game.poll(2, due=[A, B, C, D])

    game.turns.start_over()

    assert game.turns.next_at == 0
    assert sorted(game.poll(4)) == [A, B, C, D]


def test_postponed_partitions_come_first():
    game = Game()
    first = game.poll(1)

    game.turns.put_first(first)

    assert game.poll(1) == first


def test_a_poll_that_got_less_than_was_claimable_is_followed_by_a_pause_in_real_time():
    game = Game()

    game.poll(4, next_at=NOW)

    assert game.turns.is_contended
    assert game.turns.next_at == NEVER
    assert game.turns.stale_at == CONTENDED_PAUSE / SECOND


def test_a_poll_of_limits_that_are_all_zero_is_repeated_soon():
    turns = Turns(SECOND)
    turns.begin_poll()
    turns.begin_round([A], 0.0)

    turns.polled(dict.fromkeys(turns.take(1), 0), {}, NOW, NOW, 0.0)

    assert turns.next_at == NOW + CONTENDED_PAUSE
    assert not turns.is_contended


def test_pauses_grow_to_a_second_once_the_lock_cannot_be_ours() -> None:
    pauses = Pauses()

    taken = [pauses.next() for _ in range(200)]

    assert taken[:5] == [10_000, 20_000, 40_000, 80_000, 80_000]
    ours = [at for at, so_far in zip(taken, accumulate(taken, initial=0), strict=False) if so_far < LOCK_MAX]
    assert max(ours) == LOCKED_PAUSE_MAX
    assert taken[len(ours) :] == [160_000, 320_000, 640_000, *[CONTENDED_PAUSE_MAX] * (197 - len(ours))]
    pauses.reset()
    assert pauses.next() == CONTENDED_PAUSE
