"""DynamoDB throttles, breaks connections in mid-reply and goes away; the account holds all the same."""

import random
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.processes.population import due_within_the_last_hour
from tests.processes.proxy import Proxy
from tests.processes.scene import Scene
from tests.processes.test_outages import Outage
from tests.servers import OwnDynamoDb
from tests.servers.dynamodb_gate import Gate

INSTANCES = 600

TEARS = 60
TEARS_MIN = 15
"""A fast machine may be done before there were more."""

OUTAGE_SECONDS = 6


def endpoint_of(scene: Scene) -> str:
    (endpoint,) = parse_qs(urlsplit(scene.backend).query)["endpoint"]
    return endpoint


@pytest.mark.long
@pytest.mark.timeout(300)
def test_workers_that_are_throttled_run_everything_and_nothing_twice(dynamodb_scene: Scene):
    scene = dynamodb_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=10))

    with Gate(endpoint_of(scene)) as gate:
        gate.throttling = 0.2
        both = scene.start_two(through=scene.backend.replace(endpoint_of(scene), gate.endpoint))
        scene.wait_until_over()
        codes = [worker.stop() for worker in both]

    # What is put off for longer than a lease, which is short here, is lost at most once, as promised.
    scene.check(may_be_lost=lambda run: True)
    assert codes == [0, 0]
    assert gate.defer > 20


def lengths(chance: random.Random) -> Iterator[int]:
    """From a part of the first header to many replies and a part of one more."""
    for _ in range(TEARS):
        yield int(10 ** chance.uniform(0, 5))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_replies_that_are_torn_lose_nothing_and_run_nothing_twice(dynamodb_scene: Scene):
    scene = dynamodb_scene
    scene.schedule(due_within_the_last_hour(2 * INSTANCES, long=40))
    address = urlsplit(endpoint_of(scene))
    assert address.hostname
    assert address.port

    with Proxy(address.port, address.hostname) as proxy:
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


@pytest.mark.long
@pytest.mark.timeout(300)
def test_workers_outlive_a_server_that_is_gone_for_a_while(
    own_dynamodb_scene: Scene, own_dynamodb: OwnDynamoDb
):
    scene = own_dynamodb_scene
    scene.schedule(due_within_the_last_hour(2 * INSTANCES, long=40))
    both = scene.start_two()

    scene.wait_until_begun(0.2)
    outage = Outage()
    with own_dynamodb.stopped():
        end = time.monotonic() + OUTAGE_SECONDS
        scene.wait_until_unready(*both)
        assert all(worker.is_live for worker in both)
        time.sleep(max(0, end - time.monotonic()))
    outage.over()
    scene.wait_until_ready(*both)
    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    scene.check(may_be_lost=outage.may_have_lost)
    assert codes == [0, 0]
    assert all(worker.entries("the backend does not answer") for worker in both)
    assert all(worker.entries("the backend answers again") for worker in both)
