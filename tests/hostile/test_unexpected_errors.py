"""Whatever a driver raises that met a hostile database, it affects only what is on that database."""

import asyncio

import pytest

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.backends import COMPARED_SECONDS
from pyncette.coordination.identity import IDENTITY_REALM
from pyncette.core.record import Partition, replace
from tests.controller.world import POOLS, TASKS
from tests.hostile.tenants import CLUSTER, Tenants, forged

EVERYBODY = ["shop", "billing"]
SHARED = {"first": EVERYBODY, "second": EVERYBODY}
PROOFS = Partition(IDENTITY_REALM, "proof")
ERRORS = [ValueError("a number does not fit into 64 bits"), asyncio.CancelledError()]


@pytest.fixture
def world_of():
    made = []

    def make(**options):
        world = Tenants(**options)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.fixture
def separate(world_of):
    """A task of each of two tenants, which have a database each."""
    world = world_of()
    for namespace in EVERYBODY:
        world.pool(namespace)
        world.task(namespace)
    return world


@pytest.fixture
def shared(world_of):
    """A task on the first of two databases that both tenants may write to."""
    world = world_of(namespaces=SHARED)
    world.pool("shop", backend="first")
    world.task("shop", args={"to": "staff"})
    world.start()
    world.run(10)
    return world


def edit_is_observed(world, backend):
    """Edit the task of shop, and return whether its record on *backend* and its status soon show that."""
    world.api.edit(TASKS, "shop/payroll", args={"n": 1})
    world.run(15)
    (record,) = world.on(backend).values()
    status = world.api.stored(TASKS, "shop/payroll")["status"]
    return (bytes(record.spec.args), status["observedGeneration"]) == (b'{"n":1}', 2)


@pytest.mark.parametrize("error", ERRORS)
def test_a_backend_recovers_once_its_driver_raises_no_error_any_more(separate, error):
    separate.start()
    separate.run(10)
    separate.backends["shop"].bug = error
    separate.run(60)
    separate.backends["shop"].bug = None
    separate.run(60)

    assert edit_is_observed(separate, "shop")
    (record,) = separate.on("shop").values()
    separate.put("shop", replace(record, version=record.version + 1, due_at=record.due_at + 1))
    separate.run(60)
    (observed,) = separate.operator._mirrored.records(ObjectName("shop", "payroll"))
    assert observed.record.due_at == record.due_at + 1


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_a_comparison_stops_only_the_backend_whose_driver_raises_it(separate, error):
    hostile = separate.backends["billing"]
    own = hostile.memory.shelf(PROOFS).records
    separate.start()
    separate.run(10)
    hostile.fault = lambda verb, key: (
        error if verb == "load" and key.partition == PROOFS and key not in own else None
    )

    separate.backends["shop"].is_away = True
    separate.run(20)
    separate.backends["shop"].is_away = False
    separate.run(COMPARED_SECONDS)

    assert edit_is_observed(separate, "shop")


@pytest.mark.parametrize("error", ERRORS)
def test_an_unlisted_record_that_cannot_be_written_delays_nothing(shared, error):
    shared.backends["second"].fault = lambda verb, key: error if key.task == "payroll" else None

    shared.put("second", forged(shared))
    shared.run(10)

    assert edit_is_observed(shared, "first")


@pytest.mark.parametrize("error", ERRORS)
def test_a_record_that_was_left_behind_and_cannot_be_written_delays_nothing(shared, error):
    shared.api.edit(POOLS, "shop/default", backendRef={"name": "second"})
    shared.settle()
    shared.backends["first"].fault = lambda verb, key: error if key.task == "payroll" else None
    locations = [{"backend": name, "realm": f"{CLUSTER}/shop/default"} for name in ("second", "first")]
    shared.api.set_status(TASKS, "shop/payroll", locations=locations)

    shared.put("first", forged(shared))
    shared.run(10)

    assert edit_is_observed(shared, "second")
