"""A task moves only from a database that its status lists, and carries over only plausible records."""

import logging
from contextlib import ExitStack, closing

import msgspec
import pytest

from pyncette.core.record import Counts, Owner, State, Summary, replace
from tests.controller.world import POOLS, TASKS
from tests.hostile.tenants import CLUSTER, DAY, Tenants, forged, forged_dead_letter

REALM = f"{CLUSTER}/shop/default"
EVERYBODY = ["shop", "billing"]
SHARED = {"first": EVERYBODY, "second": EVERYBODY, "third": EVERYBODY}
HISTORY = Summary(counts=Counts(succeeded=7))


@pytest.fixture
def world_of():
    with ExitStack() as worlds:

        def make(namespaces=SHARED, backend="first", **settings):
            world = worlds.enter_context(closing(Tenants(namespaces=namespaces, **settings)))
            world.pool("shop", backend=backend)
            return world

        yield make


@pytest.fixture
def world(world_of):
    """A task on the first of three databases that other tenants may write to, too."""
    world = world_of()
    world.task("shop", args={"to": "staff"})
    world.start()
    world.run(10)
    return world


def to(world, backend):
    world.api.edit(POOLS, "shop/default", backendRef={"name": backend})


def with_history(world, backend="first"):
    """Have the task on *backend* have run some times."""
    (record,) = world.on(backend).values()
    state = replace(record.state, summary=HISTORY)
    world.put(backend, replace(record, version=record.version + 1, state=state))
    world.run(5)


def locations(world):
    return [
        (each["backend"], each["realm"])
        for each in world.api.stored(TASKS, "shop/payroll").get("status", {}).get("locations", ())
    ]


def events(world, reason="NotCarriedOver"):
    return [event["message"] for event in world.api.events if event["reason"] == reason]


def test_the_status_lists_where_the_record_is(world):
    assert locations(world) == [("first", REALM)]

    to(world, "second")
    world.settle()

    assert locations(world) == [("second", REALM)]


def test_a_task_moves_with_its_history_from_the_database_that_its_status_lists(world):
    with_history(world)

    to(world, "second")
    world.settle()

    (record,) = world.on("second").values()
    assert record.state.summary == HISTORY
    assert world.on("first") == {}
    assert events(world) == []


def test_a_forged_record_on_a_shared_database_is_not_carried_over_but_stopped(world):
    home = forged(world, due_at=world.now, claimable_at=world.now, state=State(owner=Owner("x", 9, "x")))
    (before,) = world.on("first").values()

    world.put("second", home, forged_dead_letter(world, home))
    world.settle()

    assert list(world.on("first").values()) == [before]
    unlisted = world.on("second")["payroll"]
    assert (unlisted.claimable_at, unlisted.state.withdrawn_at is None) == (None, False)
    assert world.condition("Ready", "shop/payroll")["reason"] != "Moving"
    assert len(events(world)) == 1
    assert '"second"' in events(world)[0]


def test_a_forged_record_that_was_there_before_its_task_is_not_carried_over(world_of):
    world = world_of()
    home = forged(world, due_at=world.now, version=2**62)
    world.put("second", home, forged_dead_letter(world, home))
    world.start()
    world.run(10)

    world.task("shop", args={"to": "staff"})
    world.settle()

    (record,) = world.on("first").values()
    assert record.due_at > world.now + DAY
    assert record.version < world.now
    assert world.condition("Scheduled", "shop/payroll")["status"] == "True"


def test_an_unlisted_record_is_removed_after_the_grace(world_of):
    world = world_of(withdrawalGraceSeconds=60)
    world.task("shop")
    world.put("second", forged(world))
    world.start()
    world.run(30)
    assert len(world.on("second")) == 1

    world.run(90)

    assert world.on("second") == {}
    assert len(world.on("first")) == 1


@pytest.mark.parametrize("away", ["is_away", "refuses_writes"])
def test_a_database_that_holds_an_unlisted_record_delays_nothing(world, away, caplog):
    caplog.set_level(logging.WARNING)
    world.put("second", forged(world))
    setattr(world.backends["second"], away, True)

    world.api.edit(TASKS, "shop/payroll", args={"n": 1})
    world.run(5)

    assert bytes(world.on("first")["payroll"].spec.args) == b'{"n":1}'
    assert world.api.stored(TASKS, "shop/payroll")["status"]["observedGeneration"] == 2
    assert "could not reconcile" not in caplog.text


def test_a_database_that_is_unavailable_from_the_start_delays_no_task_that_was_never_there(world):
    world.backends["second"].is_away = True
    world.kill()
    world.backends["first"].wipe()

    world.start()
    world.run(10)

    assert len(world.on("first")) == 1


def test_a_forged_due_time_on_the_database_that_a_task_leaves_makes_nothing_due_at_once(world):
    (record,) = world.on("first").values()
    world.put("first", replace(record, version=record.version + 1, due_at=world.now - DAY))

    to(world, "second")
    world.settle()

    (record,) = world.on("second").values()
    assert record.due_at > world.now + DAY
    assert "its due time is not in its schedule" in events(world)[0]


def test_a_finished_one_off_does_not_run_again_if_its_record_is_not_carried_over(world_of):
    world = world_of()
    world.pool("shop", "other", backend="second")
    world.task("shop", schedule=None, executeAt="2030-01-01T08:00:05Z")
    world.start()
    world.run(3)
    (record,) = world.on("first").values()
    summary = replace(HISTORY, last_ended_at=world.now)
    done = replace(
        record,
        version=record.version + 1,
        due_at=None,
        claimable_at=None,
        state=replace(record.state, summary=summary),
    )
    world.put("first", done)
    world.run(30)
    assert world.condition("Ready", "shop/payroll")["reason"] == "Completed"

    world.put("first", replace(done, version=done.version + 1, due_at=record.due_at))
    world.api.edit(TASKS, "shop/payroll", workerPoolRef={"name": "other"})
    world.settle()

    (record,) = world.on("second").values()
    assert (record.due_at, record.claimable_at) == (None, None)


def test_a_status_that_could_not_be_written_costs_a_move_nothing(world_of):
    world = world_of()
    world.task("shop")
    world.api.fail("apply_status", times=float("inf"))
    world.start()
    world.run(10)
    with_history(world)

    to(world, "second")
    world.run(30)
    assert locations(world) == []
    world.api.heal()
    world.settle()

    (record,) = world.on("second").values()
    assert record.state.summary == HISTORY


def test_a_move_waits_for_the_status_that_lists_both_databases(world):
    with_history(world)
    world.api.fail("apply_status", times=float("inf"))
    to(world, "second")
    world.run(30)
    assert [len(world.on("first")), len(world.on("second"))] == [1, 0]

    world.api.heal()
    world.settle()

    assert world.on("second")["payroll"].state.summary == HISTORY


@pytest.mark.parametrize("number", range(1, 14))
def test_two_moves_in_a_row_that_a_crash_interrupts_lose_nothing(world, number):
    with_history(world)
    world.crash_at = {world.writes + number}

    to(world, "second")
    world.run(3)
    to(world, "third")
    world.settle()

    (record,) = world.on("third").values()
    assert record.state.summary == HISTORY
    assert [world.on("first"), world.on("second")] == [{}, {}]
    assert world.crashes == 1


def test_a_resource_that_was_deleted_and_created_again_finds_its_record_where_it_belongs(world):
    with_history(world)
    world.api.remove(TASKS, "shop/payroll")
    world.run(10)

    world.task("shop")
    world.settle()

    assert world.on("first")["payroll"].state.summary == HISTORY


def test_a_resource_that_was_deleted_and_created_again_for_another_database_starts_anew(world):
    with_history(world)
    world.api.remove(TASKS, "shop/payroll")
    world.run(10)

    to(world, "second")
    world.task("shop")
    world.settle()

    assert world.on("second")["payroll"].state.summary == Summary()
    assert world.on("first")["payroll"].state.withdrawn_at is not None


def test_a_move_that_a_restore_of_the_cluster_undoes_leaves_one_record_that_runs(world):
    backup = world.api.backup()
    to(world, "second")
    world.settle()
    world.kill()
    world.api.restore(backup)

    world.start()
    world.settle()

    assert world.on("first")["payroll"].claimable_at is not None
    assert world.on("second")["payroll"].claimable_at is None
    assert locations(world) == [("first", REALM)]


def test_a_list_that_shows_an_older_status_does_not_make_a_record_unlisted(world):
    """Another operator has begun to move the record back, and its status is newer than what this one has listed."""
    with_history(world)
    world.kill()
    world.api.freeze_lists()
    world.api.hold_events()
    world.api.set_status(
        TASKS,
        "shop/payroll",
        locations=[{"backend": name, "realm": REALM} for name in ("first", "second")],
    )
    (record,) = world.on("first").values()
    stopped_at = world.now - DAY
    world.put("second", record)
    world.put(
        "first",
        replace(record, claimable_at=None, state=State(withdrawn_at=stopped_at, owner=record.state.owner)),
    )

    world.start()
    world.settle()

    assert world.on("first")["payroll"].state.summary == HISTORY
    assert world.on("second") == {}
    assert events(world) == []


def test_a_database_of_one_tenant_alone_needs_no_status_that_lists_it(world_of):
    world = world_of({"first": ["shop"], "second": ["shop"]})
    world.task("shop")
    world.start()
    world.run(10)
    with_history(world)
    world.kill()
    world.api.set_status(TASKS, "shop/payroll", locations=[])
    to(world, "second")

    world.start()
    world.settle()

    assert world.on("second")["payroll"].state.summary == HISTORY
    assert world.on("first") == {}


def test_the_status_of_a_task_with_an_invalid_spec_ignores_an_unlisted_record(world):
    world.kill()
    world.put("second", forged(world, pool="other"))
    world.api.edit(TASKS, "shop/payroll", handler="no:handler", suspend=True)
    world.backends["first"].seconds = 0.5  # so the other one is scanned first

    world.start()
    world.settle()

    assert world.condition("Ready", "shop/payroll")["reason"] == "InvalidName"
    assert world.on("first")["payroll"].claimable_at is None
    assert world.on("second")["payroll"].claimable_at is not None
    assert locations(world) == [("first", REALM)]


def test_a_task_is_not_started_anew_while_its_record_may_be_unread(world_of):
    exclusive = {"first": ["shop"], "second": ["shop"]}
    world = world_of(exclusive, recordMebibytesPerNamespace=1)
    world.task("shop", args={"to": "staff"})
    world.start()
    world.settle()
    world.kill()
    large = b'"%s"' % (b"x" * 40_000)
    filling = [
        replace(record, spec=replace(record.spec, args=msgspec.Raw(large)))
        for record in (forged(world, name=f"a-{number:03}") for number in range(40))
    ]
    world.put("first", *filling)
    to(world, "second")

    world.start()
    world.settle()
    held = world.on("second")
    for record in filling:
        world.backends["first"].memory.shelf(record.key.partition).remove(record.key)
    world.run(600)

    assert held == {}
    assert list(world.on("second")) == ["payroll"]
    assert world.on("first") == {}
    assert events(world) == []
