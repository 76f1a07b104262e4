"""Whatever befalls the operator, in the end records and statuses are what they are when nothing does."""

from contextlib import ExitStack, closing
from random import Random

import pytest

from pyncette.clock import SECOND
from pyncette.controller.reconcile import tasks
from pyncette.controller.reconcile.removal_notice import load_notices
from pyncette.controller.status.task_phase import PENDING_MAX
from pyncette.controller.status.task_status import status_of_task
from pyncette.core.accounting import Verdict, with_verdict
from pyncette.core.record import Outcome, replace
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.records import mirror_one
from pyncette.resources.reading import read_stored
from pyncette.resources.task import PyncetteTask
from tests.controller.bench import task
from tests.controller.fake_api import pool
from tests.controller.scene import EIGHT
from tests.controller.world import CLUSTER, POOLS, RESYNC_SECONDS, TASKS, World

YEARLY = "0 12 24 12 *"
"""Due at the same time whenever it is created in a test."""


@pytest.fixture
def world_of():
    with ExitStack() as worlds:
        yield lambda *backends, **options: worlds.enter_context(closing(World(*backends, **options)))


def yearly(name="report", annotations=None, **spec):
    return task(name, annotations, **({"schedule": YEARLY} | spec))


def external(name="default", **spec):
    return pool(name, external=True, image=None, module=None, **({"backendRef": {"name": "first"}} | spec))


# --- Crashes ---------------------------------------------------------------------------------------------------------


def play(world):
    """What users do in a while, one thing after the other."""
    api = world.api
    api.create(external())
    api.create(external("other", backendRef={"name": "second"}))
    world.start()
    steps = (
        lambda: api.create(yearly()),
        lambda: api.create(yearly("second", args={"n": 1})),
        lambda: api.edit(TASKS, "report", args={"to": "finance"}),
        lambda: api.annotate(TASKS, "report", run_requested_at="now"),
        world.finish_runs,
        lambda: api.edit(TASKS, "report", suspend=True),
        lambda: api.annotate(TASKS, "report", run_requested_at="again", resume_requested_at="now"),
        world.finish_runs,
        lambda: api.edit(TASKS, "report", suspend=None, handler="mail"),
        lambda: api.edit(TASKS, "report", workerPoolRef={"name": "other"}),
        lambda: api.edit(TASKS, "second", schedule="0 12 31 2 *"),
        lambda: api.edit(TASKS, "second", schedule="0 12 25 12 *"),
        lambda: api.remove(TASKS, "report"),
        lambda: api.create(yearly(annotations={"pyncette.dev/run-requested-at": "from the start"})),
        lambda: api.edit(TASKS, "report", workerPoolRef={"name": "other"}, handler="mail"),
        lambda: api.annotate(TASKS, "report", run_requested_at="at last"),
        world.finish_runs,
        lambda: api.remove(TASKS, "second"),
    )
    for step in steps:
        step()
        world.run(7)
    world.settle()
    return world.outcome()


@pytest.fixture(scope="module")
def without_a_fault():
    world = World("first", "second")
    outcome = play(world)
    world.close()
    return outcome, world.writes


def test_without_a_fault_it_ends_as_it_should(without_a_fault):
    outcome, writes = without_a_fault

    assert writes > 30
    assert outcome["runs"] == {"report": 3}
    assert {key[1:4]: record["stopped"] for key, record in outcome["records"].items()} == {
        ("east/default/other", "mail", 0): False,
        ("east/default/default", "send", 0): True,
    }


@pytest.mark.parametrize("number", range(1, 60))
def test_a_crash_after_any_write_changes_nothing_in_the_end(without_a_fault, world_of, number):
    expected, writes = without_a_fault
    world = world_of("first", "second", crash_at=[number])

    assert play(world) == expected
    assert world.crashes == (number <= writes)


@pytest.mark.parametrize("seed", range(12))
def test_many_crashes_change_nothing_either(without_a_fault, world_of, seed):
    expected, writes = without_a_fault
    numbers = Random(seed).sample(range(1, writes), 12)
    world = world_of("first", "second", crash_at=numbers)

    assert play(world) == expected
    assert world.crashes > 3


@pytest.mark.parametrize("seed", range(12))
def test_writes_whose_answers_are_lost_change_nothing_in_the_end(without_a_fault, world_of, seed):
    expected, _ = without_a_fault
    random = Random(seed)
    world = world_of("first", "second")
    for backend in world.backends.values():
        backend.loses_answer = lambda: random.random() < 0.2
    world.api.fail("apply_status", times=3, done=True)

    assert play(world) == expected


# --- What is told late, twice, or never ------------------------------------------------------------------------------


@pytest.fixture
def world(world_of):
    world = world_of("first", "second")
    world.api.create(external())
    world.api.create(external("other", backendRef={"name": "second"}))
    return world


def started(world, *tasks):
    for manifest in tasks:
        world.api.create(manifest)
    world.start()
    world.run(10)
    return world


def test_events_of_the_past_change_nothing(world):
    started(world, yearly())
    world.api.edit(TASKS, "report", args={"n": 1})
    world.api.remove(TASKS, "report")
    world.api.create(yearly(args={"n": 2}))
    world.settle()
    before = world.outcome()

    for event in world.api.history:
        world.api.replay(event)
    for event in reversed(world.api.history):
        world.api.replay(event)
    world.settle()

    assert world.outcome() == before


def test_lists_of_the_past_change_nothing_and_end_the_process(world):
    started(world, yearly(), yearly("second"))
    world.api.freeze_lists()
    world.api.edit(TASKS, "report", args={"n": 1})
    world.api.create(yearly("third"))
    world.run(RESYNC_SECONDS)
    world.api.remove(TASKS, "second")
    world.run(10)
    before = world.outcome()["records"]

    world.run(3 * RESYNC_SECONDS)

    assert world.outcome()["records"] == before
    assert world.homes("second") == []


@pytest.mark.parametrize("end", ["drop", "misdirect"])
def test_a_restart_writes_nothing_about_a_task_whose_pool_is_of_no_use(world, end):
    started(world, yearly())
    if end == "drop":
        world.api.remove(POOLS, "default")
    else:
        world.api.edit(POOLS, "default", backendRef={"name": "unheard-of"})
    world.settle()
    writes = world.api.writes

    world.restart()
    world.settle()

    assert world.api.writes == writes
    assert world.condition("Scheduled")["status"] == "True"


@pytest.fixture
def looks(monkeypatch):
    """The uids of tasks whose status was worked out, once for each time."""
    seen_of = []

    def looked(task, seen, *others):
        seen_of.append(seen.uid)
        return status_of_task(task, seen, *others)

    monkeypatch.setattr(tasks, "status_of_task", looked)
    return seen_of


def test_a_resync_passes_over_tasks_of_which_nothing_has_changed(world, looks):
    started(world, yearly(), yearly("second"))
    world.settle()
    assert looks
    looks.clear()

    world.run(5 * RESYNC_SECONDS)

    assert looks == []


WHAT_CHANGES = {
    "its spec": lambda world: world.api.edit(TASKS, "report", args={"n": 1}),
    "its status, by the hand of another": lambda world: world.api.set_status(TASKS, "report", active=7),
    "its record": lambda world: finished(world, "report"),
    "its record, which is lost": lambda world: world.backends["first"].wipe(),
    "its pool": lambda world: world.api.edit(POOLS, "default", backendRef={"name": "second"}),
    "its pool, which is gone": lambda world: world.api.remove(POOLS, "default"),
    "its backend, which is away": lambda world: setattr(world.backends["first"], "is_away", True),
}


@pytest.mark.parametrize("change", WHAT_CHANGES.values(), ids=WHAT_CHANGES)
def test_a_task_is_reconciled_again_if_anything_has_changed(world, looks, change):
    started(world, yearly())
    world.settle()
    world.api.hold_events()
    looks.clear()

    change(world)
    world.run(3 * RESYNC_SECONDS)

    assert looks


def test_a_task_is_reconciled_again_when_its_next_times_are_others(world, looks):
    started(world, yearly(schedule="*/5 * * * *"))
    world.settle()
    world.api.hold_events()
    before = world.api.stored(TASKS, "report")["status"]["upcomingScheduleTimes"]
    looks.clear()

    world.run(300)

    assert 0 < len(looks) < 300 / RESYNC_SECONDS
    assert world.api.stored(TASKS, "report")["status"]["upcomingScheduleTimes"] != before


def test_what_happened_while_the_operator_was_down_is_made_up_for(world, world_of):
    started(world, yearly(), yearly("second"), yearly("third"))
    world.kill()
    world.api.edit(TASKS, "report", args={"n": 1})
    world.api.remove(TASKS, "second")
    world.api.create(yearly("fourth"))
    world.api.remove(TASKS, "third")
    world.api.create(yearly("third", handler="mail"))

    world.start()
    world.settle()

    assert bytes(world.record("report").spec.args) == b'{"n":1}'
    assert world.homes("second") == []
    assert world.homes("third") == [("first", "default", "mail")]
    assert world.homes("fourth") == [("first", "default", "send")]


def test_what_a_silent_watch_does_not_tell_is_found_by_lists(world):
    started(world, yearly(), yearly("second"))
    world.api.hold_events()
    world.api.edit(TASKS, "report", args={"n": 1})
    world.api.remove(TASKS, "second")
    world.api.create(yearly("third"))
    world.api.edit(POOLS, "other", backendRef={"name": "first"})

    world.settle()

    assert bytes(world.record("report").spec.args) == b'{"n":1}'
    assert world.homes("second") == []
    assert world.homes("third") == [("first", "default", "send")]


def test_an_edit_that_a_list_shows_which_then_fails_is_not_lost(world):
    started(world, *(yearly(f"task-{number:03}") for number in range(520)))
    world.api.hold_events()
    world.api.edit(TASKS, "task-000", args={"n": 1})
    world.api.fail("list", kind=TASKS, times=float("inf"), after_pages=1)

    world.run(RESYNC_SECONDS + 5)
    world.api.release_events()
    world.run(2)

    assert bytes(world.record("task-000").spec.args) == b'{"n":1}'


def test_while_the_watch_is_behind_a_status_is_not_written_in_vain_again_and_again(world):
    started(world, yearly())
    world.api.hold_events()
    world.api.annotate(TASKS, "report", note="it has another version now")
    world.api.forget_calls()

    finished(world, "report")

    assert 1 < world.api.count("apply_status") <= 10
    world.api.release_events()
    world.settle()
    assert world.condition("RunsHealthy")["status"] == "True"


def test_a_deletion_that_was_reported_and_is_not_so_costs_the_task_nothing(world):
    started(world, yearly())
    manifest = world.api.stored(TASKS, "report")
    world.operator.seen(TASKS, "DELETED", manifest)
    world.run(10)

    world.api.edit(TASKS, "report", args={"n": 1})
    world.run(1)

    assert bytes(world.record("report").spec.args) == b'{"n":1}'


def test_a_deletion_that_a_list_showed_first_is_acted_upon_when_it_is_reported(world):
    started(world, yearly())
    world.api.hold_events()
    world.api.remove(TASKS, "report")
    world.run(RESYNC_SECONDS - 5)
    assert world.homes("report") != []

    world.api.release_events()
    world.run(4)

    assert world.homes("report") == []


# --- Backends --------------------------------------------------------------------------------------------------------


def test_a_backend_that_is_unavailable_at_the_start_costs_the_tasks_of_another_nothing(world):
    world.backends["first"].is_away = True

    started(world, yearly(), yearly("second", workerPoolRef={"name": "other"}))
    world.run(30)

    assert world.homes("second") == [("second", "other", "send")]
    assert world.condition("Ready")["reason"] == "BackendUnreachable"

    world.backends["first"].is_away = False
    world.run(60)

    assert world.homes("report") == [("first", "default", "send")]
    assert world.condition("Scheduled")["status"] == "True"


def test_a_restart_while_a_backend_is_unavailable_leaves_the_statuses_of_its_tasks_alone(world):
    started(world, yearly())
    before = world.api.stored(TASKS, "report")["status"]
    world.backends["first"].is_away = True

    world.restart()
    world.settle()

    assert world.api.stored(TASKS, "report")["status"] == before


def test_a_start_says_of_no_backend_that_it_is_unavailable_before_it_has_been_asked(world):
    started(world, yearly())
    world.kill()
    world.api.edit(TASKS, "report", args={"n": 1})
    world.backends["first"].seconds = 1.0

    world.start()
    world.settle()

    assert bytes(world.record("report").spec.args) == b'{"n":1}'
    assert [event["reason"] for event in world.api.events if event["reason"] == "BackendUnreachable"] == []


def test_a_task_that_moves_from_a_backend_that_is_unavailable_since_the_start_is_not_created_again(world):
    started(world, yearly(executeAt="2030-01-01T08:00:01Z", schedule=None))
    finished(world, "report")
    world.kill()
    world.backends["first"].is_away = True
    world.api.edit(TASKS, "report", workerPoolRef={"name": "other"})

    world.start()
    world.settle()
    assert world.homes("report") == [("first", "default", "send")]
    assert 'backend "first" does not answer' in world.condition("Ready")["message"]

    world.backends["first"].is_away = False
    world.settle()

    assert world.homes("report") == [("second", "other", "send")]
    assert world.record("report").due_at is None


@pytest.mark.parametrize("away", ["first", "second"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_task_moves_between_backends_once_both_are_there(world, away, restarts):
    started(world, yearly())
    world.backends[away].is_away = True
    world.run(10)
    world.api.edit(TASKS, "report", workerPoolRef={"name": "other"})
    if restarts:
        world.restart()
    world.settle()
    assert world.homes("report") == [("first", "default", "send")]

    world.backends[away].is_away = False
    world.settle()

    assert world.homes("report", running=False) == [("second", "other", "send")]
    assert world.condition("Scheduled")["status"] == "True"


def test_a_task_goes_along_when_its_pool_names_another_backend(world):
    started(world, yearly())

    world.api.edit(POOLS, "default", backendRef={"name": "second"})
    world.settle()

    assert world.homes("report", running=False) == [("second", "default", "send")]


def test_a_wiped_backend_gets_its_records_again(world):
    started(world, yearly(), yearly("second"))
    world.settle()
    before = world.outcome()

    world.backends["first"].wipe()
    world.settle()

    assert world.outcome() == before


def test_a_finished_one_off_is_not_run_again_after_its_backend_was_wiped(world):
    started(world, yearly(executeAt="2030-01-01T08:00:01Z", schedule=None))
    finished(world, "report")
    world.settle()
    assert world.condition("Ready")["reason"] == "Completed"

    world.backends["first"].wipe()
    world.restart()
    world.settle()

    assert world.record("report").due_at is None
    assert world.condition("Ready")["reason"] == "Completed"


def test_what_a_failover_lost_is_written_again(world):
    started(world, yearly())
    snapshot = world.backends["first"].snapshot()
    world.api.edit(TASKS, "report", args={"n": 1})
    world.run(10)

    world.backends["first"].fail_over(snapshot)
    world.run(10)

    assert bytes(world.record("report").spec.args) == b'{"n":1}'


def test_what_goes_while_its_backend_is_unavailable_is_stopped_once_it_is_back(world):
    started(world, yearly())
    world.backends["first"].is_away = True
    world.run(10)
    world.api.remove(TASKS, "report")
    world.settle()

    world.backends["first"].is_away = False
    world.settle()

    assert world.homes("report") == []


def test_a_slow_backend_only_costs_time(world):
    for backend in world.backends.values():
        backend.seconds = 2.0
    started(world, yearly(), yearly("second", workerPoolRef={"name": "other"}))
    world.settle()

    assert world.homes("report") == [("first", "default", "send")]
    assert world.condition("Scheduled", "second")["status"] == "True"


def test_the_backend_of_one_pool_that_fails_in_an_unheard_of_way_hurts_itself_only(world):
    world.backends["first"].bug = ValueError("a row that nobody can read")

    started(world, yearly(), yearly("second", workerPoolRef={"name": "other"}))
    world.settle()

    assert world.homes("second") == [("second", "other", "send")]


def test_a_row_that_cannot_be_read_hurts_its_own_task_only(world):
    started(world, yearly(), yearly("second"))
    world.backends["first"].memory.poison(world.record("report").key)

    world.settle()
    world.api.edit(TASKS, "second", args={"n": 1})
    world.settle()

    assert bytes(world.record("second").spec.args) == b'{"n":1}'
    assert world.operator.liveness.is_ready()


def test_a_resource_that_cannot_be_read_hurts_itself_only(world):
    started(world, yearly(), yearly("second", schedule=["no text"], args="no mapping", timeZone={}))
    world.api.set_status(TASKS, "report", conditions="no list", active="many")
    world.settle()

    assert world.condition("Stalled", "second")["status"] == "True"
    assert world.condition("Scheduled")["status"] == "True"


def finished(world, name):
    """Have the one occurrence of a task end well."""
    record = world.record(name)
    verdict = Verdict(Outcome.SUCCEEDED, record.due_at, EIGHT, EIGHT + SECOND, 1, "worker-1", "")
    state = replace(record.state, summary=with_verdict(record.state.summary, verdict))
    after = replace(record, version=record.version + 1, due_at=None, claimable_at=None, state=state)
    shelves = [one.memory for one in world.backends.values() if record in list(one.records())]
    shelves[0].shelf(record.key.partition).put(after)
    world.run(5)


# --- Namespaces, clusters and other operators ------------------------------------------------------------------------


def test_a_namespace_that_goes_while_a_namespaced_operator_is_down_is_held_back_until_it_is_confirmed(
    world_of,
):
    world = world_of("first", namespaces=["default", "shop"])
    world.api.create(external())
    for number in range(10):
        world.api.create(
            {**yearly(f"task-{number}"), "metadata": {"name": f"task-{number}", "namespace": "shop"}}
        )
    world.api.create({**external(), "metadata": {"name": "default", "namespace": "shop"}})
    started(world, yearly())
    assert world.homes("task-0") == [("first", "default", "send")]
    world.kill()
    world.api.remove_namespace("shop")

    world.start()
    world.settle()
    assert sum(world.operator.held_back.values()) == 10
    assert world.homes("task-0") != []

    confirm(world, "first", 10, "shop")
    world.settle()

    assert [world.homes(f"task-{number}") for number in range(10)] == [[]] * 10
    assert world.homes("report") != []
    assert sum(world.operator.held_back.values()) == 0


def confirm(world, backend, count, namespace="default"):
    async def confirmed():
        store = world.backends[backend].new_store()
        notice = (await load_notices(store, CLUSTER, [namespace]))[namespace]
        assert notice.held.count == count
        assert await notice.confirm(store)

    world.loop.spawn("user", confirmed)
    world.run(0)


@pytest.mark.parametrize("stopped_before", range(1, 10))
def test_a_confirmation_outlives_a_crash_in_the_midst_of_what_it_confirms(world, stopped_before):
    names = [f"task-{number}" for number in range(10)]
    started(world, *map(yearly, names))
    for name in names:
        world.api.remove(TASKS, name)
    world.settle()
    confirm(world, "first", 10)
    world.crash_at = {world.writes + stopped_before}

    world.settle()
    world.settle()

    assert world.crashes == 1
    assert [world.homes(name) for name in names] == [[]] * 10


def test_what_is_confirmed_just_after_a_start_is_not_forgotten(world):
    names = [f"task-{number}" for number in range(10)]
    started(world, *map(yearly, names), yearly("kept"))
    for name in names:
        world.api.remove(TASKS, name)
    world.settle()
    world.restart()

    confirm(world, "first", 10)
    world.run(5)
    world.api.remove(TASKS, "kept")
    world.settle()

    assert [world.homes(name) for name in [*names, "kept"]] == [[]] * 11


def test_what_was_held_back_before_a_start_is_reported_no_more_once_it_came_back(world):
    names = [f"task-{number}" for number in range(10)]
    started(world, *map(yearly, names))
    for name in names:
        world.api.remove(TASKS, name)
    world.settle()
    world.kill()
    for name in names:
        world.api.create(yearly(name))

    world.start()
    world.settle()

    told = {}

    async def look():
        notices = await load_notices(world.backends["first"].new_store(), CLUSTER, ["default"])
        told["held"] = notices["default"].held

    world.loop.spawn("user", look)
    world.run(0)
    assert told["held"].count == 0


def test_the_number_in_the_settings_confirms_that_many_at_the_start(world_of):
    world = world_of("first", sweep={"confirm": 10})
    world.api.create(external())
    names = [f"task-{number}" for number in range(10)]
    started(world, *map(yearly, names))
    world.kill()
    for name in names:
        world.api.remove(TASKS, name)

    world.start()
    world.settle()

    assert [world.homes(name) for name in names] == [[]] * 10


def test_tasks_of_a_pool_that_went_with_them_are_found_and_stopped(world):
    started(world, yearly())
    world.kill()
    world.api.remove(TASKS, "report")
    world.api.remove(POOLS, "default")

    world.start()
    world.settle()

    assert world.homes("report") == []


def test_a_restore_with_new_uids_carries_on(world):
    started(world, yearly(), yearly("second", suspend=True))
    before = {name: world.record(name).state.created_version for name in ("report", "second")}
    for name in ("report", "second"):
        world.api.remove(TASKS, name)
    world.run(10)

    world.api.create(yearly())
    world.api.create(yearly("second", suspend=True))
    world.settle()

    assert {name: world.record(name).state.created_version for name in ("report", "second")} == before
    assert world.homes("report") == [("first", "default", "send")]
    assert world.condition("Ready", "second")["reason"] == "Suspended"


def test_an_edit_after_a_restore_of_the_cluster_has_effect_though_its_generation_was_there_before(world):
    started(world, yearly())
    backup = world.api.backup()
    for number in range(5):
        world.api.edit(TASKS, "report", args={"n": number})
    world.run(10)
    world.kill()
    world.api.restore(backup)

    world.start()
    world.settle()
    assert bytes(world.record("report").spec.args) == b"{}"
    world.api.edit(TASKS, "report", args={"n": "new"})
    world.settle()

    assert bytes(world.record("report").spec.args) == b'{"n":"new"}'
    assert world.condition("Scheduled")["observedGeneration"] == 2


def test_a_watch_that_is_late_undoes_nothing_that_another_operator_wrote(world):
    started(world, yearly())
    world.api.hold_events()
    world.api.freeze_lists()
    world.api.edit(TASKS, "report", args={"n": 1})
    newer = read_stored(PyncetteTask, world.api.stored(TASKS, "report"))

    async def write():
        ledger = Ledger(world.backends["first"].new_store(), world.clock())
        await mirror_one(ledger, desired_record_of(newer, world.record("report").key.partition.realm))

    world.loop.spawn("another operator", write)
    world.api.forget_calls()
    world.settle()

    assert world.api.count("get", TASKS) > 0
    assert bytes(world.record("report").spec.args) == b'{"n":1}'


def test_two_operators_at_once_do_no_harm(without_a_fault, world_of):
    expected, _ = without_a_fault
    world = world_of("first", "second")
    world.has_twin = True

    assert play(world) == expected


def test_a_record_that_others_change_all_the_time_holds_no_pass_for_long_and_is_tried_again(world, caplog):
    started(world, yearly())
    world.backends["first"].contested = frozenset({"report"})
    world.backends["first"].seconds = 0.01
    world.api.edit(TASKS, "report", args={"n": 1})

    world.run(4)
    assert caplog.text.count("could not reconcile") >= 2

    world.backends["first"].contested = frozenset()
    world.run(4)
    assert bytes(world.record("report").spec.args) == b'{"n":1}'


# --- Pools -----------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_gone_and_comes_back_finds_its_tasks_again(world):
    started(world, yearly())
    before = world.record("report")
    world.api.hold_events()
    world.api.remove(POOLS, "default")
    world.settle()
    assert world.record("report") == before

    world.api.release_events(lost=True)
    world.api.create(external())
    world.api.edit(TASKS, "report", args={"n": 1})
    world.run(5)

    assert bytes(world.record("report").spec.args) == b'{"n":1}'


def test_a_task_whose_place_is_given_to_another_meanwhile_does_not_stop_it(world):
    started(world, yearly("one", dynamic=True, schedule=None))
    world.api.create(yearly("another", dynamic=True, schedule=None))
    world.run(5)
    assert world.condition("Ready", "another")["reason"] == "HandlerTaken"

    world.api.remove(TASKS, "one")
    world.api.edit(TASKS, "another", args={"n": 1})  # at once: it takes over before the other is stopped
    world.settle()

    assert world.homes("send") == [("first", "default", "send")]
    assert world.condition("Scheduled", "another")["status"] == "True"


def test_an_older_task_takes_over_the_handler_of_a_newer_one_that_was_removed(world):
    started(world, yearly("older", dynamic=True, schedule=None, workerPoolRef={"name": "later"}))
    world.run(5)
    newer = yearly("newer", dynamic=True, schedule=None)
    newer["metadata"]["creationTimestamp"] = "2100-01-01T00:00:00Z"
    world.api.create(newer)
    world.run(5)
    world.api.edit(TASKS, "older", workerPoolRef={"name": "default"})
    world.run(5)
    assert world.condition("Ready", "older")["reason"] == "HandlerTaken"

    world.api.remove(TASKS, "newer")
    world.settle()

    assert world.condition("Scheduled", "older")["status"] == "True"
    assert world.record("send").state.owner.name == "older"


def test_of_two_tasks_that_want_one_handler_at_the_same_moment_one_gets_it(world):
    started(world, *(yearly(name, dynamic=True, schedule=None) for name in ("one", "another")))
    world.settle()

    ready = sorted(world.condition("Ready", name)["reason"] for name in ("one", "another"))
    assert ready == ["HandlerPending", "HandlerTaken"]


# --- Clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [15, -15])
def test_an_operator_on_a_node_with_a_wrong_clock_counts_schedules_from_the_backends_time(world_of, minutes):
    world = world_of("first", ahead=minutes * 60)
    world.api.create(external())
    world.start()
    world.run(5)

    world.api.create(yearly(schedule="* * * * *"))
    world.run(5)

    record = world.record("report")
    assert record.due_at == EIGHT + 60 * SECOND
    assert EIGHT <= record.version <= EIGHT + world.loop.now

    world.run(120)
    world.api.edit(TASKS, "report", schedule="*/2 * * * *")
    world.run(5)

    assert world.record("report").due_at == EIGHT + 240 * SECOND


def test_an_operator_on_a_node_that_is_behind_reports_due_changes_in_time(world_of):
    world = world_of("first", ahead=-15 * 60)
    world.api.create(external())
    world.api.create(yearly())
    world.start()

    world.run(PENDING_MAX / SECOND + 60)

    assert world.condition("Stalled")["reason"] == "HandlerDeadlineExceeded"
