"""What is held of an object is the newest that was ever seen of it, whatever order it is told in."""

import gc
import itertools
import tracemalloc
from random import Random

import pytest

from pyncette.controller.cluster import objects
from pyncette.controller.cluster.api import DEPLOYMENTS, TASKS, ApiUnavailableError, ObjectName, Page
from pyncette.controller.cluster.liveness import WatchStaleness
from pyncette.controller.cluster.objects import News, Objects
from pyncette.controller.cluster.reduction import is_incomplete
from pyncette.resources.task import PyncetteTask
from tests.controller.fake_api import FakeApi, task

REPORT = ObjectName("default", "report")


class World:
    """An API server in memory, and what the operator holds of it."""

    def __init__(self):
        self.now = 0.0
        self.api = FakeApi()
        self.sight = WatchStaleness(lambda: self.now)
        self.objects = Objects(self.sight)
        self.news = []

    def watch(self):
        self.api.watch(lambda kind, change, body: self.news.append(self.objects.observe(kind, change, body)))

    async def resync(self, kind=TASKS, namespace=None):
        return await self.objects.absorb(kind, namespace, self.api.list(kind, namespace))

    def held(self, name=REPORT, kind=TASKS):
        return self.objects.get(kind, name)


@pytest.fixture
def world():
    return World()


def body(version, *, uid="a", generation=1, name="report", created="2026-01-01T00:00:00Z", **parts):
    return {
        **task(name),
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": generation,
            "creationTimestamp": created,
            **parts.pop("metadata", {}),
        },
        **parts,
    }


# --- What is kept ----------------------------------------------------------------------------------------------------


def test_what_decisions_need_is_kept_and_the_rest_is_not(world):
    given = body(
        1,
        metadata={
            "annotations": {"pyncette.dev/run-requested-at": "now", "kubectl.kubernetes.io/last": "x" * 1000},
            "labels": {"team": "a"},
            "managedFields": [{"manager": "kubectl"}],
            "finalizers": ["somebody/else"],
            "deletionTimestamp": "2026-01-02T00:00:00Z",
        },
        status={"active": 1},
    )

    world.objects.observe(TASKS, None, given)

    assert world.held() == {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "metadata": {
            "name": "report",
            "namespace": "default",
            "uid": "a",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": "2026-01-02T00:00:00Z",
            "resourceVersion": "1",
            "annotations": {"pyncette.dev/run-requested-at": "now"},
        },
        "spec": given["spec"],
        "status": {"active": 1},
    }


def test_what_is_held_is_read_by_the_model(world):
    world.watch()
    world.api.create(task())

    assert PyncetteTask.model_validate(world.held()).metadata.name == "report"


def test_what_is_not_there_is_none(world):
    assert world.held() is None
    assert world.objects.names(TASKS) == []


def test_objects_are_found_by_kind_and_namespace(world):
    world.watch()
    world.api.create(task())
    world.api.create(task("other", "elsewhere"))

    assert world.objects.count(TASKS) == 2
    assert world.objects.names(TASKS, "elsewhere") == [ObjectName("elsewhere", "other")]
    assert [held["metadata"]["name"] for held in world.objects.each(TASKS)] == ["report", "other"]
    assert world.objects.count(DEPLOYMENTS) == 0


def test_ten_thousand_tasks_with_full_status_cost_less_than_60_megabytes(world):
    run = {"id": "r" * 36, "scheduledTime": "2026-01-01T00:00:00Z", "message": "m" * 1024, "attempts": 5}
    conditions = [
        {"type": kind, "status": "True", "reason": "Good", "message": "m" * 100, "observedGeneration": 1}
        for kind in ("Ready", "Scheduled", "HandlerResolved", "RunsHealthy", "Suspended")
    ]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for number in range(1, 10_001):
        status = {"conditions": conditions, "lastRun": run, "upcomingScheduleTimes": ["t" * 20] * 5}
        world.objects.observe(
            TASKS, None, body(number, name=f"task-{number}", uid=f"{number:036}", status=status)
        )

    gc.collect()
    megabytes = (tracemalloc.get_traced_memory()[0] - before) / 1e6
    tracemalloc.stop()
    assert world.objects.count(TASKS) == 10_000
    assert megabytes < 60


# --- What is news ----------------------------------------------------------------------------------------------------


def test_a_new_spec_is_news_and_our_own_status_is_no_new_spec(world):
    world.watch()
    world.api.create(task())
    world.api.edit(TASKS, "report", suspend=True)
    world.api.set_status(TASKS, "report", active=1)
    world.api.annotate(TASKS, "report", run_requested_at="now")
    world.api.label(TASKS, "report", team="a")
    world.api.remove(TASKS, "report")

    assert world.news == [News.DESIRED, News.DESIRED, News.STATUS, News.DESIRED, News.NOTHING, News.GONE]


def test_the_begin_of_a_deletion_is_news(world):
    world.watch()
    world.api.create({**task(), "metadata": {**task()["metadata"], "finalizers": ["somebody/else"]}})
    world.api.remove(TASKS, "report")

    assert world.news == [News.DESIRED, News.DESIRED]
    assert world.held()["metadata"]["deletionTimestamp"]


def test_an_answer_of_the_api_server_is_no_news_when_the_watch_reports_it_again(world):
    world.watch()
    created = world.api.create(task())
    world.api.hold_events()
    answer = world.api.set_status(TASKS, "report", active=1)

    assert world.objects.learn(TASKS, answer) is News.STATUS
    world.api.release_events()

    assert world.news == [News.DESIRED, News.NOTHING]
    assert world.held()["metadata"]["resourceVersion"] > created["metadata"]["resourceVersion"]


# --- What is stale ---------------------------------------------------------------------------------------------------


def test_an_older_event_changes_nothing(world):
    world.objects.observe(TASKS, "MODIFIED", body(9, generation=2))

    assert world.objects.observe(TASKS, "MODIFIED", body(8, generation=1)) is News.NOTHING
    assert world.held()["metadata"]["generation"] == 2


def test_versions_are_compared_as_numbers(world):
    world.objects.observe(TASKS, "ADDED", body(9))
    world.objects.observe(TASKS, "MODIFIED", body(10, generation=2))

    assert world.held()["metadata"]["generation"] == 2


def test_another_uid_is_taken_only_if_it_is_newer(world):
    world.objects.observe(TASKS, "ADDED", body(20, uid="new"))

    assert world.objects.observe(TASKS, "MODIFIED", body(10, uid="old")) is News.NOTHING
    assert world.objects.observe(TASKS, "ADDED", body(30, uid="newest")) is News.DESIRED
    assert world.objects.uid(TASKS, REPORT) == "newest"


def test_the_end_of_an_earlier_object_does_not_end_the_present_one(world):
    world.objects.observe(TASKS, "ADDED", body(20, uid="new"))

    assert world.objects.observe(TASKS, "DELETED", body(15, uid="old")) is News.NOTHING
    assert world.objects.uid(TASKS, REPORT) == "new"


def test_a_late_event_does_not_raise_the_dead(world):
    world.objects.observe(TASKS, "ADDED", body(10))
    world.objects.observe(TASKS, "DELETED", body(12))

    assert world.objects.observe(TASKS, "MODIFIED", body(11)) is News.NOTHING
    assert world.objects.observe(TASKS, "ADDED", body(9, uid="earlier")) is News.NOTHING
    assert world.held() is None
    assert world.objects.observe(TASKS, "ADDED", body(13, uid="b")) is News.DESIRED


async def test_a_late_event_of_what_a_list_no_longer_shows_is_of_the_past(world):
    world.api.create(task())
    late = world.api.stored(TASKS, "report")
    world.api.remove(TASKS, "report")
    await world.resync()

    assert world.objects.observe(TASKS, "MODIFIED", late) is News.NOTHING
    assert world.held() is None


def test_without_numbers_the_generation_decides(world):
    world.objects.observe(TASKS, "ADDED", body("x", generation=2))

    assert world.objects.observe(TASKS, "MODIFIED", body("w", generation=1)) is News.NOTHING
    assert (
        world.objects.observe(TASKS, "MODIFIED", body("y", generation=2, status={"active": 1})) is News.STATUS
    )
    assert world.objects.observe(TASKS, "MODIFIED", body("z", generation=3)) is News.DESIRED


def test_without_numbers_the_creation_time_distinguishes_uids(world):
    world.objects.observe(TASKS, "ADDED", body("x", uid="new", created="2026-01-02T00:00:00Z"))

    assert world.objects.observe(TASKS, "MODIFIED", body("y", uid="old")) is News.NOTHING
    assert world.objects.uid(TASKS, REPORT) == "new"


def test_in_whatever_order_a_life_is_reported_its_end_is_held():
    for seed in range(200):
        random, world = Random(seed), World()
        api = world.api
        for _ in range(12):
            if api.stored(TASKS, "report") is None:
                api.create(task())
            elif random.random() < 0.3:
                api.remove(TASKS, "report")
            else:
                api.edit(TASKS, "report", handler=f"h{random.randrange(9)}")
        told = [*api.history, *random.sample(api.history, 6)]
        random.shuffle(told)

        for kind, change, event in told:
            world.objects.observe(kind, change, event)

        last = api.stored(TASKS, "report")
        held = world.held()
        assert (held or {}).get("spec") == (last or {}).get("spec"), seed


# --- Lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_reports_what_changed_and_what_is_absent(world):
    world.watch()
    for name in ("a", "b", "c"):
        world.api.create(task(name))
    world.api.hold_events()
    world.api.edit(TASKS, "a", suspend=True)
    world.api.set_status(TASKS, "b", active=1)
    world.api.remove(TASKS, "c")
    world.api.create(task("d"))

    listed = await world.resync()

    a, b, c, d = (ObjectName("default", name) for name in "abcd")
    assert listed.fresh
    assert listed.names == {a, b, d}
    assert listed.changed == {a: News.DESIRED, b: News.STATUS, d: News.DESIRED}
    assert listed.absent == [c]
    assert world.held(c) is None


async def test_a_list_of_what_is_known_changes_nothing(world):
    world.watch()
    world.api.create(task())

    listed = await world.resync()

    assert (listed.changed, listed.absent) == ({}, [])


async def test_a_list_of_one_namespace_says_nothing_of_another(world):
    world.watch()
    world.api.create(task())
    world.api.create(task("other", "elsewhere"))
    world.api.hold_events()
    world.api.remove(TASKS, "report")

    assert (await world.resync(namespace="elsewhere")).absent == []
    assert world.held() is not None


async def test_a_list_that_breaks_off_makes_nothing_absent(world):
    world.watch()
    for number in range(501):
        world.api.create(task(f"t{number}"))
    world.api.fail("list", after_pages=1)

    with pytest.raises(ApiUnavailableError):
        await world.resync()

    assert world.objects.count(TASKS) == 501


async def test_what_was_created_after_the_list_is_not_absent_from_it(world):
    world.watch()

    async def pages():
        version = str(world.api._version)
        world.api.create(task())
        yield Page([], version)

    listed = await world.objects.absorb(TASKS, None, pages())

    assert listed.absent == []
    assert world.held() is not None


async def test_what_was_deleted_during_the_list_does_not_come_back_with_it(world):
    world.watch()
    world.api.create(task())
    stored, version = world.api.stored(TASKS, "report"), str(world.api._version)

    async def pages():
        world.api.remove(TASKS, "report")
        yield Page([stored], version)

    listed = await world.objects.absorb(TASKS, None, pages())

    assert world.held() is None
    assert listed.changed == {}


async def test_a_list_from_the_past_is_no_list(world):
    world.watch()
    world.api.freeze_lists()
    past = [page async for page in world.api.list(TASKS, None)]
    world.api.thaw_lists()
    world.api.create(task())
    await world.resync()

    async def pages():
        for page in past:
            yield page

    listed = await world.objects.absorb(TASKS, None, pages())

    assert not listed.fresh
    assert listed.absent == ()
    assert world.held() is not None


async def test_what_is_remembered_of_the_dead_ends_with_the_next_list(world):
    world.watch()
    for number in range(100):
        world.api.create(task(f"t{number}"))
        world.api.remove(TASKS, f"t{number}")
    assert len(world.objects._gone[TASKS]) == 100

    await world.resync()

    assert world.objects._gone[TASKS] == {}


async def test_lists_and_events_together_end_with_what_there_is():
    for seed in range(100):
        random, world = Random(seed), World()
        api, names = world.api, ["a", "b", "c"]
        pending: list = []
        told = itertools.count()
        api.watch(lambda *event, pending=pending: pending.append(event))
        for _ in range(60):
            name = random.choice(names)
            match random.choice(["user", "user", "event", "event", "list"]):
                case "user":
                    if api.stored(TASKS, name) is None:
                        api.create(task(name))
                    elif random.random() < 0.4:
                        api.remove(TASKS, name)
                    else:
                        api.edit(TASKS, name, handler=f"h{next(told)}")
                case "event" if pending:
                    world.objects.observe(*pending.pop(random.randrange(len(pending))))
                case "list":
                    await world.resync()
        await world.resync()
        random.shuffle(pending)
        for event in pending:
            world.objects.observe(*event)

        for name in names:
            stored, held = api.stored(TASKS, name), world.held(ObjectName("default", name))
            assert (held or {}).get("spec") == (stored or {}).get("spec"), seed


# --- Large parts -----------------------------------------------------------------------------------------------------


def test_large_arguments_are_held_up_to_a_number_of_bytes_in_all_and_room_is_made_by_what_goes(monkeypatch):
    monkeypatch.setattr(objects, "LARGE_BYTES_MAX", 25_000)
    cache = Objects(WatchStaleness())

    def is_held(name, version, args):
        given = body(version, name=name)
        cache.observe(TASKS, "MODIFIED", {**given, "spec": {**given["spec"], "args": args}})
        return not is_incomplete(TASKS, cache.get(TASKS, ObjectName("default", name)))

    large = {"a": "x" * 10_000}
    assert [is_held(name, 1, large) for name in ("a", "b", "c")] == [True, True, False]
    assert not is_held("c", 2, large)

    assert is_held("a", 3, {})
    assert is_held("c", 4, large)
