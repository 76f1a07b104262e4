"""The operator keeps the objects of a pool as its spec says, despite changes and faults, and reports its status."""

import pytest

from pyncette.controller.cluster import objects
from pyncette.controller.cluster.api import DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICE_ACCOUNTS, ForbiddenError
from tests.controller.fake_api import pool
from tests.controller.test_faults import yearly
from tests.controller.world import POOLS, RESYNC_SECONDS, TASKS, World

PARTS = (DEPLOYMENTS, SERVICE_ACCOUNTS, DISRUPTION_BUDGETS)
NAME = "pyncette-default"


@pytest.fixture
def world_of():
    made = []

    def make(*backends, **options):
        made.append(World(*backends, **options))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(world_of):
    """A pool of one worker, whose Deployment is applied and not rolled out yet."""
    world = world_of("first")
    world.api.create(pool(backendRef={"name": "first"}))
    world.start()
    world.run(10)
    return world


def parts(world):
    return {kind.name: world.api.stored(kind, NAME) for kind in PARTS}


def specs(world):
    return {
        kind: part and (part["metadata"]["ownerReferences"], part.get("spec"))
        for kind, part in parts(world).items()
    }


def rolled_out(world, replicas=1):
    numbers = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    generation = world.api.stored(DEPLOYMENTS, NAME)["metadata"]["generation"]
    world.api.set_status(DEPLOYMENTS, NAME, observedGeneration=generation, **dict.fromkeys(numbers, replicas))


def told_of(world, reason):
    return [event for event in world.api.events if event["reason"] == reason]


def test_a_pool_gets_what_it_consists_of_and_says_that_it_is_on_its_way(world):
    uid = world.api.stored(POOLS, "default")["metadata"]["uid"]

    for part in parts(world).values():
        (owner,) = part["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
    assert world.pool_condition("Reconciling")["reason"] == "RollingOut"

    rolled_out(world)
    world.run(1)

    assert world.api.stored(POOLS, "default")["status"]["readyReplicas"] == 1
    assert world.pool_condition("Available")["status"] == "True"


def test_a_resync_and_a_restart_apply_nothing(world):
    rolled_out(world)
    world.settle()
    writes = world.api.writes

    world.settle()
    world.restart()
    world.settle()

    assert world.api.writes == writes


@pytest.mark.parametrize("number", range(1, 12))
def test_a_crash_after_any_write_changes_nothing_in_the_end(world, world_of, number):
    world.api.edit(POOLS, "default", replicas=3)
    world.api.create(yearly())
    world.settle()
    other = world_of("first", crash_at=[number])
    other.api.create(pool(backendRef={"name": "first"}))
    other.start()
    other.run(10)
    other.api.edit(POOLS, "default", replicas=3)
    other.api.create(yearly())
    other.settle()

    assert {kind: part and part[1] for kind, part in specs(other).items()} == {
        kind: part and part[1] for kind, part in specs(world).items()
    }
    assert other.pool_condition("Ready")["reason"] == world.pool_condition("Ready")["reason"]
    assert other.api.stored(POOLS, "default")["status"]["tasks"] == 1


@pytest.mark.parametrize("kind", PARTS)
def test_what_someone_deletes_is_created_again(world, kind):
    before = specs(world)

    world.api.remove(kind, NAME)
    world.run(1 if kind is DEPLOYMENTS else RESYNC_SECONDS + 1)

    assert specs(world) == before


def test_what_someone_changes_is_put_back(world):
    before = specs(world)

    world.api.edit(DEPLOYMENTS, NAME, replicas=7)
    world.run(1)

    assert specs(world) == before


def test_an_edit_of_the_pool_is_rolled_out(world):
    world.api.edit(POOLS, "default", image="registry.example/tasks:2")
    world.run(1)

    (container,) = world.api.stored(DEPLOYMENTS, NAME)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/tasks:2"


def test_a_template_that_is_refused_leaves_the_workers_as_they_are(world):
    before = specs(world)

    world.api.edit(POOLS, "default", template={"spec": {"hostNetwork": True}})
    world.run(5)
    assert world.pool_condition("Stalled")["reason"] == "TemplateRefused"
    assert specs(world) == before

    world.api.edit(POOLS, "default", template=None, image="registry.example/tasks:2")
    world.run(5)
    assert world.pool_condition("Stalled") is None
    assert specs(world) != before


def test_what_the_api_server_refuses_is_reported_and_tried_again(world):
    world.api.refuses = lambda manifest: "denied by policy" if manifest["kind"] == "Deployment" else None
    world.api.edit(POOLS, "default", image="registry.example/tasks:2")
    world.run(5)
    assert world.pool_condition("Stalled")["reason"] == "ApplyRefused"
    assert "denied by policy" in world.pool_condition("Ready")["message"]

    world.api.refuses = lambda _: None
    world.run(RESYNC_SECONDS + 1)

    assert world.pool_condition("Stalled") is None


def test_what_is_forbidden_in_one_namespace_is_reported_there(world):
    world.api.fail("apply", ForbiddenError("no such right"), times=float("inf"), kind=DEPLOYMENTS)
    world.api.edit(POOLS, "default", image="registry.example/tasks:2")

    world.run(5)

    assert world.pool_condition("Stalled")["reason"] == "ApplyRefused"


def test_an_object_of_someone_else_that_has_the_name_is_left_alone(world_of):
    world = world_of("first")
    own = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": "default"}}
    before = world.api.create(own)
    world.api.create(pool(backendRef={"name": "first"}))

    world.start()
    world.settle()

    assert world.pool_condition("Stalled")["reason"] == "NameTaken"
    assert world.api.stored(SERVICE_ACCOUNTS, NAME) == before
    assert world.api.stored(DEPLOYMENTS, NAME) is None

    world.api.remove(SERVICE_ACCOUNTS, NAME)
    world.run(RESYNC_SECONDS + 1)

    assert world.api.stored(DEPLOYMENTS, NAME) is not None


def test_a_pool_that_may_not_use_its_backend_says_so_and_so_do_its_tasks(world_of):
    world = world_of("first", backends=[{"name": "first", "urlFile": "first", "namespaces": ["elsewhere"]}])
    world.api.create(pool(backendRef={"name": "first"}))
    world.api.create(yearly())

    world.start()
    world.settle()

    assert world.pool_condition("Stalled")["reason"] == "BackendNotAllowed"
    assert world.condition("Stalled")["reason"] == "BackendNotAllowed"
    assert world.api.stored(DEPLOYMENTS, NAME) is None


def test_what_goes_before_a_pool_that_is_being_deleted_is_not_created_again(world):
    manifest = world.api.stored(POOLS, "default")
    manifest["metadata"]["finalizers"] = ["foregroundDeletion"]
    world.api.put(manifest)
    world.api.remove(POOLS, "default")
    world.api.remove(DEPLOYMENTS, NAME)

    world.run(RESYNC_SECONDS + 5)

    assert world.api.stored(DEPLOYMENTS, NAME) is None
    assert world.pool_condition("Ready")["reason"] == "Terminating"


def test_a_pool_that_is_deleted_takes_all_of_it_along_and_one_that_comes_back_makes_its_own(world):
    world.api.create(yearly())
    world.run(5)
    before = specs(world)

    world.api.remove(POOLS, "default")
    world.run(5)
    assert parts(world) == dict.fromkeys(parts(world))
    assert world.condition("Scheduled")["status"] == "True"

    world.api.create(pool(backendRef={"name": "first"}))
    world.run(5)

    assert {kind: part[1] for kind, part in specs(world).items()} == {
        kind: part[1] for kind, part in before.items()
    }
    assert world.api.stored(POOLS, "default")["status"]["tasks"] == 1


def test_a_pool_that_is_deleted_stalls_its_tasks_also_for_an_operator_that_restarts(world):
    world.api.create(yearly())
    world.run(5)
    assert world.condition("Scheduled")["status"] == "True"

    world.api.remove(POOLS, "default")
    world.run(5)
    assert world.condition("Ready")["reason"] == "PoolNotFound"
    assert world.condition("Stalled") is None
    assert told_of(world, "PoolNotFound") == []

    world.run(15)
    world.restart()
    world.run(20)

    assert world.condition("Stalled")["reason"] == "PoolNotFound"
    assert world.condition("HandlerResolved")["status"] == "Unknown"
    assert len(told_of(world, "PoolNotFound")) == 1
    world.restart()
    world.settle()
    assert world.condition("Stalled")["reason"] == "PoolNotFound"

    world.api.create(pool(backendRef={"name": "first"}))
    world.run(10)
    assert world.condition("Stalled") is None


def test_a_pool_that_is_replaced_within_seconds_causes_no_warning(world):
    world.api.create(yearly())
    world.run(5)

    world.api.remove(POOLS, "default")
    world.run(3)
    world.api.create(pool(backendRef={"name": "first"}))
    world.run(60)

    assert told_of(world, "PoolNotFound") == []
    assert world.condition("Stalled") is None


def test_a_rollout_whose_pods_are_not_ready_says_what_to_check_and_so_do_its_tasks(world):
    world.api.create(yearly())
    world.api.set_status(DEPLOYMENTS, NAME, observedGeneration=1, replicas=1, updatedReplicas=1)
    world.run(10)
    assert "kubectl" not in world.pool_condition("Ready")["message"]

    world.run(30)

    assert "See kubectl describe pods -n default" in world.pool_condition("Ready")["message"]
    assert "kubectl describe pyncetteworkerpool default -n default" in world.condition("Ready")["message"]
    assert len(told_of(world, "PodsNotReady")) == 1


def test_tasks_report_the_problem_of_their_pool_as_soon_as_its_status_is_written(world):
    world.api.create(yearly())
    world.api.set_status(DEPLOYMENTS, NAME, observedGeneration=1, replicas=1, updatedReplicas=1)
    world.run(10)

    world.api.hold_events()
    while "See kubectl describe pods" not in world.pool_condition("Ready")["message"]:
        world.run(1)
    world.run(3)

    assert "kubectl describe pyncetteworkerpool default -n default" in world.condition("Ready")["message"]


def test_a_backend_that_refuses_the_operator_is_reported_with_its_error_by_pools_and_new_tasks(world_of):
    world = world_of("first")
    world.backends["first"].is_away = True
    world.api.create(pool(backendRef={"name": "first"}))
    world.api.create(yearly())
    world.start()
    world.run(10)

    assert "remote first does not answer" in world.pool_condition("BackendReachable")["message"]
    assert "remote first does not answer" in world.condition("Ready")["message"]

    world.backends["first"].bug = RuntimeError("postgresql://shop:hunter2@db")
    world.run(120)

    for message in (world.pool_condition("BackendReachable")["message"], world.condition("Ready")["message"]):
        assert "unexpected RuntimeError" in message
        assert "hunter2" not in message


def test_an_account_of_the_user_leaves_ours_to_those_who_run_as_it(world):
    world.api.edit(POOLS, "default", serviceAccountName="mine")
    world.run(1)

    assert world.api.stored(DEPLOYMENTS, NAME)["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    assert world.api.stored(SERVICE_ACCOUNTS, NAME) is not None


def test_tasks_of_a_pool_that_wants_no_worker_do_not_wait_for_one(world):
    world.api.edit(POOLS, "default", replicas=0)
    world.run(1)
    rolled_out(world, 0)
    world.api.create(yearly())
    world.run(5)

    assert world.pool_condition("Ready")["reason"] == "ScaledToZero"
    assert world.condition("HandlerResolved")["reason"] == "NoWorker"
    assert world.condition("Ready")["status"] == "True"


def test_an_outage_of_the_api_server_is_waited_out(world):
    with world.api.down():
        world.api.edit(POOLS, "default", image="registry.example/tasks:2")
        world.run(3 * RESYNC_SECONDS)

    world.settle()

    (container,) = world.api.stored(DEPLOYMENTS, NAME)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/tasks:2"


def test_how_many_tasks_refer_to_a_pool_is_counted_also_if_they_go_unseen(world):
    for name in ("a", "b", "c"):
        world.api.create(yearly(name, workerPoolRef={"name": "default"}, schedule="0 12 31 2 *"))
    world.settle()
    assert world.api.stored(POOLS, "default")["status"]["tasks"] == 3

    world.api.hold_events()
    world.api.remove(TASKS, "a")
    world.api.edit(TASKS, "b", workerPoolRef={"name": "other"})
    world.settle()

    assert world.api.stored(POOLS, "default")["status"]["tasks"] == 1


# --- Large templates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 2**20])
def test_a_large_template_reaches_the_deployment_whether_or_not_the_cache_holds_it(world, monkeypatch, room):
    monkeypatch.setattr(objects, "LARGE_BYTES_MAX", room)
    world.api.edit(POOLS, "default", template={"metadata": {"annotations": {"note": "x" * 10_000}}})
    world.run(10)

    template = world.api.stored(DEPLOYMENTS, NAME)["spec"]["template"]
    assert len(template["metadata"]["annotations"]["note"]) == 10_000

    world.settle()
    writes = world.api.writes
    world.settle()

    assert world.api.writes == writes


def test_a_pool_with_a_template_that_is_too_large_is_stalled_and_its_workers_stay(world):
    before = specs(world)

    world.api.edit(POOLS, "default", template={"metadata": {"annotations": {"note": "x" * 100_000}}})
    world.settle()

    stalled = world.pool_condition("Stalled")
    assert stalled["reason"] == "TooLarge"
    assert "spec.template: takes 100,040 bytes as JSON, 65,536 are allowed" in stalled["message"]
    assert specs(world) == before

    world.api.edit(POOLS, "default", template={})
    world.run(10)

    assert world.pool_condition("Stalled") is None
