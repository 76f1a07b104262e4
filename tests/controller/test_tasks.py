"""The record of a task is as its resource desires, and its status is what the record says."""

import asyncio
import json

import pytest

from pyncette.controller.cluster import objects
from pyncette.controller.cluster.api import NoSuchKindError
from pyncette.controller.reconcile.removal_notice import HeldBack, load_notices
from pyncette.core.record import Change, inert_record
from pyncette.core.spec import Spec
from tests.controller.bench import CLUSTER, INTERVALS, POOLS, TASKS, Bench, named


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.pool()
    yield bench
    await bench.end()


# --- Mirroring -------------------------------------------------------------------------------------------------------


async def test_a_task_is_stored_and_its_status_says_when_it_is_due(bench):
    bench.task()

    await bench.start()

    record = await bench.record()
    assert record.due_at is not None
    assert record.state.owner.uid == bench.api.stored(TASKS, "default/report")["metadata"]["uid"]
    assert bench.status()["observedGeneration"] == 1
    assert bench.condition("Scheduled")["status"] == "True"
    assert "nextScheduleTime" in bench.status()


async def test_an_edit_reaches_the_record_and_moves_the_next_run_only_if_it_touches_the_schedule(bench):
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", args={"to": "finance"})
    await bench.settled()

    after = await bench.record()
    assert (after.due_at, bytes(after.spec.args)) == (before.due_at, b'{"to":"finance"}')
    assert bench.status()["observedGeneration"] == 2

    bench.api.edit(TASKS, "default/report", intervalSeconds=60)
    await bench.settled()

    assert (await bench.record()).due_at < before.due_at


async def test_a_restart_writes_nothing(bench):
    for number in range(3):
        bench.task(f"task-{number}")
    await bench.start()
    await bench.end()
    before = [await bench.record(f"task-{number}") for number in range(3)]
    writes = bench.api.writes

    await bench.start()
    await asyncio.sleep(1)

    assert bench.api.writes == writes
    assert [await bench.record(f"task-{number}") for number in range(3)] == before


async def test_a_resync_writes_nothing_when_nothing_differs(bench):
    bench.task()
    await bench.start()
    writes = bench.api.writes

    await bench.operator.resync()
    await bench.settled()

    assert bench.api.writes == writes


async def test_metadata_is_never_written(bench):
    bench.task()
    before = bench.api.stored(TASKS, "default/report")["metadata"]

    await bench.start()
    bench.api.edit(TASKS, "default/report", suspend=True)
    await bench.settled()

    after = bench.api.stored(TASKS, "default/report")["metadata"]
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed <= {"resourceVersion", "generation", "managedFields"}


async def test_a_task_that_changes_its_handler_takes_its_due_time_and_counts_along(bench):
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", handler="mail")
    await bench.settled()

    after = await bench.record(handler="mail")
    assert (after.due_at, after.state.created_version) == (before.due_at, before.state.created_version)
    assert await bench.record() is None


async def test_a_task_that_changes_its_pool_takes_its_due_time_along(bench):
    bench.pool("other")
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", workerPoolRef={"name": "other"})
    await bench.settled()

    after = await bench.record(pool="other")
    assert after.due_at == before.due_at
    assert await bench.record() is None


async def test_a_task_without_its_pool_waits_and_is_stored_once_the_pool_is_there(bench):
    bench.task(workerPoolRef={"name": "late"})
    await bench.start()
    assert bench.condition("Ready")["reason"] == "PoolNotFound"

    bench.pool("late")
    await bench.settled()

    assert await bench.record(pool="late") is not None


async def test_a_pool_that_names_no_backend_of_the_settings_is_told_to_its_tasks(bench):
    bench.pool("lost", backendRef={"name": "nowhere"})
    bench.task(workerPoolRef={"name": "lost"})

    await bench.start()

    assert bench.condition("Ready")["reason"] == "BackendNotFound"
    assert bench.condition("Stalled")["status"] == "True"


async def test_a_bad_spec_is_reported_and_the_last_good_one_goes_on_until_it_is_repaired(bench):
    bench.task(schedule="0 12 * * *")
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", schedule="0 12 31 2 *")
    await bench.settled()

    assert bench.condition("Ready")["reason"] == "InvalidSchedule"
    assert bench.condition("Stalled")["status"] == "True"
    assert await bench.record() == before

    bench.api.edit(TASKS, "default/report", schedule="0 13 * * *")
    await bench.settled()

    assert bench.condition("Stalled") is None
    assert (await bench.record()).due_at != before.due_at


def suspended(bench):
    condition = bench.condition("Suspended")
    return f"{condition['status']} {condition['reason']}"


WRONG = {"schedule": "gibberish"}


async def test_suspend_suspends_whatever_else_is_wrong_and_its_end_resumes_the_last_good_generation(bench):
    bench.task(schedule="0 12 * * *")
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", suspend=True, **WRONG)
    await bench.settled()

    record = await bench.record()
    assert suspended(bench) == "True Suspended"
    assert record.claimable_at is None
    assert record.state.owner == before.state.owner
    assert record.spec.schedule == before.spec.schedule
    assert "generation 1 is suspended" in bench.condition("Suspended")["message"]
    ready = bench.condition("Ready")
    assert ready["reason"] == "InvalidSchedule"
    assert ready["message"].endswith("Until then generation 1 is suspended.")
    assert "nextScheduleTime" not in bench.status()

    bench.api.edit(TASKS, "default/report", suspend=None)
    await bench.settled()

    record = await bench.record()
    assert suspended(bench) == "False NotSuspended"
    assert record.claimable_at is not None
    assert record.state.owner == before.state.owner
    assert bench.condition("Ready")["message"].endswith("Until then generation 1 stays in effect.")

    bench.api.edit(TASKS, "default/report", schedule="0 13 * * *")
    await bench.settled()

    record = await bench.record()
    assert record.state.owner.generation == 4
    assert bench.condition("Scheduled")["status"] == "True"


async def test_a_correct_spec_after_a_suspension_alone_is_written_as_usual(bench):
    bench.task(schedule="0 12 * * *")
    await bench.start()
    bench.api.edit(TASKS, "default/report", suspend=True, **WRONG)
    await bench.settled()

    bench.api.edit(TASKS, "default/report", schedule="0 12 * * *")
    await bench.settled()

    record = await bench.record()
    assert record.state.owner.generation == 3
    assert record.spec.policies.suspend
    assert bench.condition("Ready")["reason"] == "Suspended"
    assert suspended(bench) == "True Suspended"


async def test_a_valid_generation_that_is_suspended_itself_stays_so_under_an_invalid_one(bench):
    bench.task(schedule="0 12 * * *", suspend=True)
    await bench.start()

    bench.api.edit(TASKS, "default/report", suspend=False, **WRONG)
    await bench.settled()

    assert suspended(bench) == "True Suspended"
    assert "Generation 1 is suspended by its own spec" in bench.condition("Suspended")["message"]
    assert (await bench.record()).claimable_at is None


async def test_a_suspension_with_an_invalid_spec_holds_and_ends_across_restarts(bench):
    bench.task(schedule="0 12 * * *")
    await bench.start()
    bench.api.edit(TASKS, "default/report", suspend=True, **WRONG)
    await bench.settled()
    record = await bench.record()
    await bench.end()
    await bench.start()
    assert await bench.record() == record
    await bench.end()

    bench.api.edit(TASKS, "default/report", suspend=None)
    await bench.start()

    assert (await bench.record()).claimable_at is not None
    assert suspended(bench) == "False NotSuspended"


async def test_a_suspension_beside_a_wrong_spec_ends_with_the_restore_of_a_cluster_that_knows_neither(bench):
    bench.task(schedule="0 12 * * *")
    await bench.start()
    backup = bench.api.backup()
    bench.api.edit(TASKS, "default/report", suspend=True, **WRONG)
    await bench.settled()
    assert (await bench.record()).claimable_at is None
    await bench.end()

    bench.api.restore(backup)
    await bench.start()

    assert suspended(bench) == "False NotSuspended"
    assert (await bench.record()).claimable_at is not None


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"workerPoolRef": {"name": "nowhere"}}, "PoolNotFound"),
        ({"workerPoolRef": {"name": "wrong"}}, "BackendNotFound"),
        ({"handler": "pkg:send"}, "InvalidName"),
    ],
)
async def test_suspend_suspends_if_the_spec_cannot_be_followed_elsewhere(bench, edit, reason):
    bench.pool("wrong", backendRef={"name": "none"})
    bench.task()
    await bench.start()

    bench.api.edit(TASKS, "default/report", suspend=True, **edit)
    await bench.settled()

    assert bench.condition("Ready")["reason"] == reason
    assert suspended(bench) == "True Suspended"
    assert (await bench.record()).claimable_at is None

    bench.api.edit(TASKS, "default/report", suspend=False)
    await bench.settled()

    assert suspended(bench) == "False NotSuspended"
    assert (await bench.record()).claimable_at is not None


async def test_a_dynamic_task_with_other_partitions_than_its_workers_have_is_reported_and_breaks_none(bench):
    """Stored with its own count, no worker would serve it; and it said Ready."""
    async with bench.worker("send", partitions=(("send", 1),)):
        await bench.start()

        bench.task("users", dynamic=True, partitions=8)
        await bench.until(
            lambda: (bench.condition("Ready", "users") or {}).get("reason") == "PartitionsDiffer"
        )

        assert "must be 1, as in the task module, not 8" in bench.condition("Ready", "users")["message"]
        assert bench.condition("Scheduled", "users")["status"] == "False"
        assert (await bench.record("send")).spec.partitions == 1

        bench.api.remove(TASKS, "default/users")
        await bench.until_record(lambda record: record.state.withdrawn_at is not None, "send")
        bench.task("users", dynamic=True, partitions=1)
        await bench.until(lambda: (bench.condition("Ready", "users") or {}).get("status") == "True")

        record = await bench.record("send")
        assert record.state.withdrawn_at is None
        assert record.spec.partitions == 1


async def test_instances_that_no_worker_polls_are_reported_at_their_dynamic_task(bench):
    async with bench.worker("send", partitions=(("send", 2),)):
        await bench.start()
        bench.task("users", dynamic=True, partitions=2)
        await bench.until(lambda: (bench.condition("Ready", "users") or {}).get("status") == "True")

        home = await bench.record("send")
        stray = home.key._replace(partition=home.key.partition._replace(number=5), instance="ada")
        async with bench.store() as store:
            await store.swap([Change(None, inert_record(stray, Spec(), await store.now()))])

        await bench.until(
            lambda: (bench.condition("Ready", "users") or {}).get("reason") == "PartitionsDiffer"
        )
        assert "unpolled partitions (5)" in bench.condition("Ready", "users")["message"]


async def test_two_tasks_for_one_template_are_distinguished_and_the_first_one_keeps_it(bench):
    bench.task("first", dynamic=True)
    await bench.start()

    bench.task("second", dynamic=True)
    await bench.settled()

    record = await bench.record("send")
    assert record.state.owner.name == "first"
    assert bench.condition("Ready", "second")["reason"] == "HandlerTaken"
    assert bench.condition("Scheduled", "first")["status"] == "True"

    bench.api.remove(TASKS, "default/first")
    await bench.until(lambda: (bench.condition("Scheduled", "second") or {}).get("status") == "True")

    assert (await bench.record("send")).state.owner.name == "second"


# --- Asking once -----------------------------------------------------------------------------------------------------


async def test_a_run_that_is_asked_for_is_there_once_and_echoed(bench):
    bench.task()
    await bench.start()

    bench.api.annotate(TASKS, "default/report", run_requested_at="now")
    await bench.settled()
    await bench.operator.resync()
    await bench.settled()

    assert await bench.runs_on_demand() == 1
    await bench.until(lambda: bench.status().get("lastHandledRunRequest") == "now")

    bench.api.annotate(TASKS, "default/report", run_requested_at="again")
    await bench.settled()

    assert await bench.runs_on_demand() == 2


async def test_a_resource_that_is_created_with_a_request_has_handled_it(bench):
    await bench.start()

    bench.task(annotations={"pyncette.dev/run-requested-at": "long ago"})
    await bench.settled()

    assert await bench.runs_on_demand() == 0
    assert bench.status()["lastHandledRunRequest"] == "long ago"


# --- Gone ------------------------------------------------------------------------------------------------------------


async def test_the_record_of_a_task_that_is_deleted_is_stopped_and_one_of_the_same_name_carries_on(bench):
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.remove(TASKS, "default/report")
    await bench.until_record(lambda record: record.state.withdrawn_at is not None)

    bench.task()
    await bench.until_record(lambda record: record.state.withdrawn_at is None)
    after = await bench.record()
    assert (after.due_at >= before.due_at, after.state.created_version) == (
        True,
        before.state.created_version,
    )
    assert after.state.owner.uid != before.state.owner.uid


async def test_a_finished_one_off_is_not_run_again_by_a_resource_of_the_same_name(bench):
    bench.task(executeAt="2020-01-01T00:00:00Z")
    await bench.start()
    assert (await bench.record()).due_at is None

    bench.api.remove(TASKS, "default/report")
    await bench.until_record(lambda record: record.state.withdrawn_at is not None)
    bench.task(executeAt="2020-01-01T00:00:00Z")
    await bench.until_record(lambda record: record.state.withdrawn_at is None)

    assert (await bench.record()).due_at is None


async def test_a_deletion_that_the_api_server_does_not_confirm_stops_nothing(bench):
    manifest = bench.task()
    await bench.start()

    bench.operator.seen(TASKS, "DELETED", manifest)
    await bench.settled()
    await asyncio.sleep(3 * INTERVALS.deletions)

    assert (await bench.record()).state.withdrawn_at is None


async def test_when_the_crd_is_gone_nothing_is_stopped_and_the_process_ends(bench):
    bench.task()
    await bench.start()

    bench.api.remove_crd(TASKS)

    with pytest.raises(ExceptionGroup) as ended:
        await bench.ended()
    assert ended.group_contains(NoSuchKindError)
    assert (await bench.record()).state.withdrawn_at is None


async def test_a_deletion_that_was_missed_is_noticed_in_the_second_list(bench):
    bench.task()
    await bench.start()
    bench.api.hold_events()
    bench.api.remove(TASKS, "default/report")
    bench.api.release_events(lost=True)

    await bench.operator.resync()
    await bench.settled()
    await asyncio.sleep(3 * INTERVALS.deletions)
    assert (await bench.record()).state.withdrawn_at is None

    await bench.operator.resync()
    await bench.until_record(lambda record: record.state.withdrawn_at is not None)


async def test_a_deletion_while_the_operator_was_down_is_noticed(bench):
    bench.task()
    await bench.start()
    await bench.end()
    bench.api.remove(TASKS, "default/report")

    await bench.start()
    await bench.operator.resync()
    await bench.operator.resync()

    await bench.until_record(lambda record: record.state.withdrawn_at is not None)


async def test_more_than_is_credible_is_held_back_until_it_is_confirmed(bench):
    names = [f"task-{number}" for number in range(10)]
    for name in names:
        bench.task(name)
    await bench.start()

    for name in names:
        bench.api.remove(TASKS, f"default/{name}")
    await bench.until(lambda: sum(bench.operator.held_back.values()) == 10)

    assert [(await bench.record(name)).state.withdrawn_at for name in names] == [None] * 10
    assert any(event["reason"] == "RemovalsHeldBack" for event in bench.api.events)
    async with bench.store() as store:
        notice = (await load_notices(store, CLUSTER, ["default"]))["default"]
        assert (notice.held.count, await notice.names(store)) == (10, names)
        assert await notice.confirm(store)

    for name in names:
        await bench.until_record(lambda record: record.state.withdrawn_at is not None, name)
    await bench.until(lambda: not sum(bench.operator.held_back.values()))
    async with bench.store() as store:
        assert (await load_notices(store, CLUSTER, ["default"]))["default"].held == HeldBack()


async def test_a_record_is_removed_after_its_grace(tmp_path):
    bench = Bench(tmp_path, withdrawalGraceSeconds=0)
    bench.pool()
    bench.task()
    await bench.start()
    bench.api.remove(TASKS, "default/report")
    await bench.until_record(lambda record: record.state.withdrawn_at is not None)

    await bench.operator.resync()

    await bench.until_record(lambda record: record is None)
    await bench.end()


# --- Backends --------------------------------------------------------------------------------------------------------


async def test_while_the_backend_is_unavailable_from_the_start_tasks_wait_and_are_stored_once_it_is_there(
    bench,
):
    url = (bench.folder / "url").read_text()
    (bench.folder / "url").unlink()
    bench.task()
    await bench.start(settled=False)
    await bench.until(lambda: (bench.condition("Ready") or {}).get("reason") == "BackendUnreachable")
    assert not bench.operator.liveness.is_ready()
    assert bench.operator.liveness.is_alive()

    (bench.folder / "url").write_text(url)
    await bench.until(lambda: (bench.condition("Scheduled") or {}).get("status") == "True")

    assert await bench.record() is not None
    assert bench.operator.liveness.is_ready()


async def test_two_backends_that_are_one_database_are_not_two_of_everything(tmp_path):
    url_file, namespaces = str(tmp_path / "url"), ["*"]
    names = ("default", "private")
    backends = [{"name": name, "urlFile": url_file, "namespaces": namespaces} for name in names]
    bench = Bench(tmp_path, backends=backends)
    bench.pool()
    bench.pool("other", backendRef={"name": "private"})
    bench.task()
    bench.task("second", workerPoolRef={"name": "other"})
    await bench.start()
    before = await bench.record(), await bench.record("second", pool="other")

    for _ in range(3):
        await bench.operator.resync()
        await asyncio.sleep(3 * INTERVALS.scan)
        await bench.settled()

    assert (await bench.record(), await bench.record("second", pool="other")) == before
    assert bench.condition("Scheduled")["status"] == "True"
    assert bench.condition("Scheduled", "second")["status"] == "True"
    await bench.end()


async def test_a_status_that_another_has_changed_meanwhile_is_worked_out_again(bench):
    bench.task()
    bench.api.fail("apply_status", kind=TASKS, error=None)

    await bench.start()

    await bench.until(lambda: bench.status()["observedGeneration"] == 1)


async def test_what_a_pool_says_is_told_to_its_tasks(bench):
    bench.task()
    await bench.start()

    async with bench.worker("send"):
        await bench.until(lambda: (bench.condition("Ready") or {}).get("status") == "True")

    assert bench.condition("HandlerResolved")["status"] == "True"
    assert named("report") in bench.api.names(TASKS)
    assert bench.api.stored(POOLS, "default/default")["status"]["tasks"] == 1


async def test_an_unknown_handler_is_reported_with_the_nearest_name(bench):
    async with bench.worker("send"):
        bench.task(handler="sned")
        await bench.start()

        await bench.until(lambda: bench.condition("HandlerResolved")["status"] == "False")

        assert "did you mean send?" in bench.condition("HandlerResolved")["message"]


async def test_a_pool_that_may_not_use_its_backend_says_so_itself(tmp_path):
    bench = Bench(tmp_path)
    elsewhere = {"name": "private", "urlFile": str(tmp_path / "url"), "namespaces": ["other"]}
    bench.settings = bench.settings.model_validate(
        {**bench.settings.model_dump(by_alias=True), "backends": [elsewhere]}
    )
    bench.pool(backendRef={"name": "private"})

    await bench.start()
    await bench.until(
        lambda: bench.api.stored(POOLS, "default/default").get("status", {}).get("observedGeneration") == 1
    )

    conditions = bench.api.stored(POOLS, "default/default")["status"]["conditions"]
    assert {"BackendNotAllowed"} == {one["reason"] for one in conditions if one["type"] == "Stalled"}
    await bench.end()


# --- Large arguments -------------------------------------------------------------------------------------------------

LARGE = {"a": "x" * 10_000}
TOO_LARGE = {"a": "x" * 1_000_000}


@pytest.fixture(params=["all are held", "none is held"])
def room(request, monkeypatch):
    """Room in the cache for large arguments."""
    if request.param == "none is held":
        monkeypatch.setattr(objects, "LARGE_BYTES_MAX", 0)


@pytest.mark.usefixtures("room")
async def test_large_arguments_reach_the_record_whether_or_not_the_cache_holds_them(bench):
    bench.task(args=LARGE)
    await bench.start()
    assert json.loads(bytes((await bench.record()).spec.args)) == LARGE

    bench.api.edit(TASKS, "default/report", args={**LARGE, "b": 1})
    await bench.settled()

    assert json.loads(bytes((await bench.record()).spec.args)) == {**LARGE, "b": 1}
    assert bench.condition("Scheduled")["status"] == "True"


async def test_a_task_that_is_deleted_while_its_arguments_are_read_again_is_forgotten(bench, monkeypatch):
    monkeypatch.setattr(objects, "LARGE_BYTES_MAX", 0)
    bench.task(args=LARGE)
    await bench.start()
    bench.api.hold_events()
    bench.api.edit(TASKS, "default/report", args={**LARGE, "b": 1})
    bench.api.release_events()

    bench.api.remove(TASKS, "default/report")
    await bench.settled()

    await bench.until_record(lambda record: record is None or record.state.withdrawn_at)


async def test_a_task_with_too_large_arguments_is_stalled_and_its_last_generation_stays(bench):
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", args=TOO_LARGE)
    await bench.settled()

    stalled = bench.condition("Stalled")
    assert stalled["reason"] == "ArgumentsTooLarge"
    assert "spec.args: take 1,000,008 bytes as JSON, 16,384 are allowed" in stalled["message"]
    assert (await bench.record()).due_at == before.due_at

    bench.api.edit(TASKS, "default/report", args={}, suspend=True)
    await bench.settled()

    assert bench.condition("Stalled") is None
    assert suspended(bench) == "True Suspended"


async def test_a_task_with_too_large_arguments_can_be_suspended(bench):
    bench.task()
    await bench.start()

    bench.api.edit(TASKS, "default/report", args=TOO_LARGE, suspend=True)
    await bench.settled()

    assert suspended(bench) == "True Suspended"
    assert (await bench.record()).claimable_at is None
