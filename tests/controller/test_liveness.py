"""The process is never alive and blind, and an outage of others does not kill it."""

import asyncio
import threading
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from pyncette.controller.cluster.api import TASKS, ObjectName
from pyncette.controller.cluster.liveness import FIRST_SECONDS, STALE_SECONDS, Liveness, WatchStaleness
from pyncette.telemetry.health import HealthServer
from tests.controller.fake_api import task
from tests.controller.test_objects import World

REPORT = ObjectName("default", "report")
RESYNC_SECONDS = 300.0


class Operator(World):
    """What observes, and what says whether it still does."""

    def __init__(self):
        super().__init__()
        self.backends_ready = True
        self.liveness = Liveness(self.sight, RESYNC_SECONDS, lambda: self.backends_ready, lambda: self.now)

    async def resync(self, *args, **kwargs):
        listed = await super().resync(*args, **kwargs)
        if listed.fresh:
            self.liveness.resynced()
        else:
            self.liveness.listed_older()
        return listed

    async def start(self):
        self.watch()
        self.liveness.discovered()
        await self.resync()


@pytest.fixture
def operator():
    return Operator()


async def test_a_watch_that_delivers_is_not_stale(operator):
    await operator.start()
    for _ in range(20):
        operator.api.put(task(handler=f"h{operator.now}"))
        operator.now += RESYNC_SECONDS
        await operator.resync()
        assert operator.liveness.is_alive()


async def test_a_quiet_cluster_does_not_make_the_watch_stale(operator):
    await operator.start()
    operator.api.create(task())
    for _ in range(20):
        operator.now += RESYNC_SECONDS
        await operator.resync()

    assert operator.liveness.is_alive()


async def test_a_watch_that_does_not_deliver_what_a_list_shows_is_blind_after_a_while(operator):
    await operator.start()
    operator.api.hold_events()
    operator.api.create(task())
    await operator.resync()

    operator.now += STALE_SECONDS
    assert operator.liveness.is_alive()
    operator.now += 1
    assert operator.liveness.why_dead() == (
        "the watch did not deliver PyncetteTask default/report, which a list shows"
    )


async def test_a_watch_that_delivers_late_is_not_stale(operator):
    await operator.start()
    operator.api.hold_events()
    operator.api.create(task())
    await operator.resync()

    operator.now += STALE_SECONDS - 1
    operator.api.release_events()
    operator.now += 100

    assert operator.liveness.is_alive()


async def test_a_watch_that_restarts_is_not_stale(operator):
    await operator.start()
    operator.api.hold_events()
    operator.api.create(task())
    await operator.resync()

    operator.api.release_events(lost=True)
    operator.api.list_again()
    operator.now += 100

    assert operator.liveness.is_alive()


async def test_an_object_that_changes_all_the_time_is_late_all_the_same(operator):
    await operator.start()
    operator.api.hold_events()
    for number in range(10):
        operator.api.put(task(handler=f"h{number}"))
        await operator.resync()
        operator.now += 10

    assert not operator.liveness.is_alive()


async def test_an_older_event_is_not_what_is_waited_for(operator):
    await operator.start()
    operator.api.create(task())
    old = operator.api.history[-1]
    operator.api.hold_events()
    operator.api.edit(TASKS, "report", suspend=True)
    await operator.resync()
    operator.api.release_events(lost=True)

    operator.api.replay(old)
    operator.now += STALE_SECONDS + 1

    assert not operator.liveness.is_alive()


async def test_our_own_writes_hide_no_blindness(operator):
    await operator.start()
    operator.api.create(task())
    operator.api.hold_events()
    operator.objects.learn(TASKS, operator.api.set_status(TASKS, "report", active=1))
    operator.api.edit(TASKS, "report", suspend=True)
    await operator.resync()
    operator.now += STALE_SECONDS + 1

    assert not operator.liveness.is_alive()


async def test_a_deletion_that_was_missed_is_no_blindness(operator):
    await operator.start()
    operator.api.create(task())
    operator.api.hold_events()
    operator.api.remove(TASKS, "report")
    operator.api.release_events(lost=True)

    await operator.resync()
    operator.now += STALE_SECONDS + 1

    assert operator.liveness.is_alive()


async def test_at_the_start_the_watch_has_more_time(operator):
    operator.api.create(task())
    operator.liveness.discovered()
    await operator.resync()

    operator.now += STALE_SECONDS + 1
    assert operator.liveness.is_alive()
    operator.now += FIRST_SECONDS
    assert not operator.liveness.is_alive()


async def test_a_resync_that_is_overdue_by_three_periods_is_fatal(operator):
    await operator.start()

    operator.now += 3 * RESYNC_SECONDS
    assert operator.liveness.is_alive()
    operator.now += 1
    assert operator.liveness.why_dead() == "no resync succeeded for 900 seconds"


async def test_an_api_server_that_is_unavailable_makes_unready_and_not_dead(operator):
    await operator.start()
    for _ in range(20):
        operator.now += RESYNC_SECONDS
        operator.liveness.unreachable()

    assert operator.liveness.is_alive()
    assert not operator.liveness.is_ready()
    await operator.resync()
    assert operator.liveness.is_ready()


async def test_without_crds_it_waits_and_is_not_ready(operator):
    operator.now += 100 * RESYNC_SECONDS

    assert operator.liveness.is_alive()
    assert not operator.liveness.is_ready()


async def test_it_is_ready_once_all_was_listed_and_while_the_backends_are(operator):
    operator.watch()
    operator.liveness.discovered()
    assert not operator.liveness.is_ready()
    await operator.resync()
    assert operator.liveness.is_ready()

    operator.backends_ready = False

    assert not operator.liveness.is_ready()
    assert operator.liveness.is_alive()


async def test_a_cluster_that_was_restored_is_observed_from_scratch(operator):
    await operator.start()
    operator.api.freeze_lists()
    operator.api.create(task())
    operator.api.thaw_lists()
    await operator.resync()
    operator.api._version -= 50

    await operator.resync()
    assert operator.liveness.is_alive()
    await operator.resync()
    assert operator.liveness.why_dead() == "lists are older than they were: the cluster was restored"


def test_probes_are_answered_by_it():
    operator = Operator()
    asyncio.run(operator.start())
    checks = {"/healthz": operator.liveness.is_alive, "/readyz": operator.liveness.is_ready}
    with HealthServer("127.0.0.1", 0, checks) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert urlopen(f"{url}/healthz").read() == b"ok"
        assert urlopen(f"{url}/readyz").read() == b"ok"
        operator.now += 3 * RESYNC_SECONDS + 1
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"{url}/healthz")


def test_it_can_be_read_while_it_is_updated():
    sight = WatchStaleness()
    failures = []

    def ask():
        try:
            for _ in range(2000):
                sight.missed()
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5000):
        sight.listed_newer(TASKS, ObjectName("default", str(number)), number)
        sight.delivered(TASKS, ObjectName("default", str(number - 100)), number)
    for thread in threads:
        thread.join()

    assert failures == []
