"""Which partitions a worker polls, while a program changes what its tasks enable."""

from types import SimpleNamespace

from pyncette.core.record import Partition
from pyncette.worker.partitions import Partitions

NUMBERS = 4


class OthersHaveAll:
    """An assignment that gives every partition to other workers."""

    def is_ours(self, partition, count):
        assert count == NUMBERS
        return False


def a_handler(shared_among):
    partitions = tuple(Partition("", "send", number) for number in range(NUMBERS))
    return SimpleNamespace(handler="send", partitions=partitions, shared_among=shared_among)


def test_partitions_that_are_shared_out_are_polled_by_the_assignment():
    partitions = Partitions([a_handler(NUMBERS)], OthersHaveAll())

    assert not any(map(partitions.is_ours, partitions.all()))


def test_a_task_that_is_shared_out_no_more_has_all_its_partitions_polled_at_once():
    handler = a_handler(NUMBERS)
    partitions = Partitions([handler], OthersHaveAll())

    handler.shared_among = 0

    assert all(map(partitions.is_ours, partitions.all()))
