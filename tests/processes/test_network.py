"""Connections break in mid-reply: what was asked may have been done or not, and the account holds all the same."""

import random
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.processes.population import due_within_the_last_hour
from tests.processes.proxy import Proxy
from tests.processes.scene import Scene

INSTANCES = 6_000

TEARS = 100
TEARS_MIN = 30
"""A fast machine may be done before there were more."""


IN_TIME_ON_ONE = pytest.mark.parametrize(
    "server_scene",
    ["postgresql", *(pytest.param(other, marks=pytest.mark.long) for other in ("mariadb", "redis"))],
    indirect=True,
)
"""What takes long is tried on the others by `make test-long`."""


@pytest.fixture
def proxy(server_scene: Scene):
    address = urlsplit(server_scene.backend)
    assert address.hostname
    assert address.port
    with Proxy(address.port, address.hostname) as proxy:
        yield proxy


def lengths(chance: random.Random) -> Iterator[int]:
    """From a part of the first header, over a part of the first row, to many replies and a part of one more."""
    for _ in range(TEARS):
        yield int(10 ** chance.uniform(0, 5))


@pytest.mark.timeout(300)
def test_replies_that_are_torn_lose_nothing_and_run_nothing_twice(server_scene: Scene, proxy: Proxy):
    scene = server_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=40))
    both = scene.start_two(through=proxy.url_of(scene.backend))

    scene.wait_until_begun(0.1)
    proxy.tear(lengths(random.Random(7)))
    scene.wait_until_over()
    proxy.tear(iter(()))
    scene.wait_until_ready(*both)
    codes = [worker.stop() for worker in both]

    # A torn reply may be that of a completion, and of many at once.
    scene.check(may_be_lost=lambda run: True)
    assert proxy.torn >= TEARS_MIN
    assert codes == [0, 0]


@IN_TIME_ON_ONE
@pytest.mark.timeout(300)
def test_a_backend_that_is_silent_for_a_while_is_waited_for(server_scene: Scene, proxy: Proxy):
    scene = server_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=40))
    both = scene.start_two(through=proxy.url_of(scene.backend))

    scene.wait_until_begun(0.2)
    proxy.hold()
    scene.wait_until_unready(*both)
    assert all(worker.is_live for worker in both)
    proxy.release()
    scene.wait_until_ready(*both)
    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    scene.check(may_be_lost=lambda run: True)
    assert codes == [0, 0]


@IN_TIME_ON_ONE
@pytest.mark.timeout(120)
def test_a_slow_network_makes_things_slow_and_nothing_else(server_scene: Scene, proxy: Proxy):
    scene = server_scene
    scene.schedule(due_within_the_last_hour(1_000, long=10))
    proxy.delay(0.03)
    both = scene.start_two(through=proxy.url_of(scene.backend))

    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    found = scene.check()
    assert codes == [0, 0]
    assert all(record.state.summary.counts.lost == 0 for record in found.records.values())
