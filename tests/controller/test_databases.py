"""Two backends are one database only if that is proved. A claimed identity stops no other team."""

import asyncio
import logging
from contextlib import ExitStack, closing

import msgspec
import pytest

from pyncette.controller.metrics import DATABASE_COPIED
from pyncette.controller.reconcile.backends import COMPARED_SECONDS
from pyncette.controller.reconcile.databases import ANSWER_SECONDS
from pyncette.coordination.identity import renew_identity
from pyncette.core.record import RESERVED_REALMS, Key, Partition, inert_record
from pyncette.core.spec import Spec
from pyncette.store.memory import MemoryStore
from tests.controller.bench import task
from tests.controller.fake_api import pool
from tests.controller.scene import EIGHT
from tests.controller.world import RemoteStore, World

IDENTITY = Key(Partition(f"{RESERVED_REALMS}backend", "identity"), "identity")
SOON = COMPARED_SECONDS + 10


@pytest.fixture
def world_of():
    with ExitStack() as worlds:
        yield lambda *backends, **options: worlds.enter_context(closing(World(*backends, **options)))


@pytest.fixture
def world(world_of):
    """Two backends with a pool and a task each."""
    world = world_of("shop", "billing")
    for name in ("shop", "billing"):
        world.api.create(pool(name, external=True, image=None, module=None, backendRef={"name": name}))
        world.api.create(task(f"{name}-task", workerPoolRef={"name": name}))
    return world


def claim_identity(backend, identity):
    """Do what a tenant can do to its own database."""
    spec = Spec(args=msgspec.Raw(identity))
    backend.memory.shelf(IDENTITY.partition).put(inert_record(IDENTITY, spec, EIGHT))


def identity_in(backend):
    return bytes(backend.memory.shelf(IDENTITY.partition).records[IDENTITY].spec.args)


def share(world):
    """Have both backends lead to one database."""
    world.backends["billing"].memory = world.backends["shop"].memory


def homes(world, name):
    """Return where the records of a task are known to be."""
    (stored,) = [found for found in world.operator._mirrored.names() if found.name == name]
    return [observed.backend for observed in world.operator._mirrored.records(stored)]


def is_mirrored(world, name):
    scheduled = world.condition("Scheduled", f"{name}-task")
    return scheduled is not None and scheduled["status"] == "True"


def copied(world, name):
    found = world.pool_condition("DatabaseCopied", name)
    return found is not None and (found["status"], found["reason"]) == ("True", "DatabaseCopied")


def reasons(world):
    return [event["reason"] for event in world.api.events]


def metric(world, name):
    registry = world.operator.metrics.registry
    return registry.get_sample_value(DATABASE_COPIED.full_name, {"backend": name})


def test_two_names_of_one_database_are_one(world):
    share(world)
    world.start()
    world.settle()

    names = {backend.store_name for backend in world.operator._backends}

    assert len(names) == 1
    assert homes(world, "shop-task") == homes(world, "billing-task") == [*names]
    assert is_mirrored(world, "shop")
    assert is_mirrored(world, "billing")
    assert not copied(world, "shop")


def test_a_restored_copy_is_used_and_reported(world, caplog):
    world.start()
    world.run(SOON)
    world.kill()
    world.backends["billing"].fail_over(world.backends["shop"].snapshot())
    world.api.create(task("billing-new", workerPoolRef={"name": "billing"}))

    with caplog.at_level(logging.WARNING):
        world.start()
        world.settle()

    assert [backend.store_name for backend in world.operator._backends] == ["shop", "billing"]
    assert world.homes("billing-new") == [("billing", "billing", "send")]
    assert world.condition("Scheduled", "billing-new")["status"] == "True"
    assert copied(world, "billing")
    assert copied(world, "shop")
    assert "migrate --new-identity" in world.pool_condition("DatabaseCopied", "billing")["message"]
    assert reasons(world).count("DatabaseCopied") == 2
    assert sum("is a copy of another one" in entry.getMessage() for entry in caplog.records) == 2


def test_a_copy_with_a_new_identity_is_no_longer_reported(world):
    world.start()
    world.run(SOON)
    claim_identity(world.backends["billing"], identity_in(world.backends["shop"]))
    world.run(SOON)
    assert copied(world, "billing")
    assert metric(world, "billing") == 1

    asyncio.run(renew_identity(MemoryStore(world.backends["billing"].memory)))
    world.run(2 * SOON)

    assert not copied(world, "billing")
    assert not copied(world, "shop")
    assert metric(world, "billing") == 0


@pytest.mark.parametrize("late", ["shop", "billing"])
def test_a_claimed_identity_stops_nobody_in_any_order_of_opening(world, late):
    world.start()
    world.run(SOON)
    world.kill()
    claim_identity(world.backends["billing"], identity_in(world.backends["shop"]))
    world.backends[late].is_away = True
    world.start()
    world.run(SOON)
    world.backends[late].is_away = False
    for name in ("shop", "billing"):
        world.api.create(task(f"{name}-new", workerPoolRef={"name": name}))

    world.settle()

    assert world.homes("shop-new") == [("shop", "shop", "send")]
    assert world.homes("billing-new") == [("billing", "billing", "send")]
    assert [backend.store_name for backend in world.operator._backends] == ["shop", "billing"]


class EchoingStore(RemoteStore):
    """A store that returns a record for every key: the last one that it has seen."""

    seen = Spec()

    async def swap(self, changes):
        for change in changes:
            if change.after is not None:
                type(self).seen = change.after.spec
        return await super().swap(changes)

    async def load(self, keys):
        found = await super().load(keys)
        return [
            inert_record(key, type(self).seen, EIGHT)
            if record is None and key.partition.handler == "proof"
            else record
            for key, record in zip(keys, found, strict=True)
        ]


@pytest.mark.parametrize("liar", ["shop", "billing"])
def test_a_database_that_answers_any_question_does_not_pass_for_another(world, monkeypatch, liar):
    hostile = world.backends[liar]
    monkeypatch.setattr(hostile, "new_store", lambda create=True: EchoingStore(hostile))
    claim_identity(hostile, b'{"id": "known"}')
    for backend in world.backends.values():
        claim_identity(backend, b'{"id": "known"}')

    world.start()
    world.settle()

    assert [backend.store_name for backend in world.operator._backends] == ["shop", "billing"]
    assert is_mirrored(world, "shop")
    assert is_mirrored(world, "billing")


class SilentStore(RemoteStore):
    """A store that reports its time and never answers a comparison."""

    async def load(self, keys):
        if any(key.partition.handler == "proof" for key in keys):
            await asyncio.sleep(1_000_000)
        return await super().load(keys)


def test_a_database_that_answers_no_comparison_is_unavailable_and_stops_nobody(world, monkeypatch):
    silent = world.backends["billing"]
    monkeypatch.setattr(silent, "new_store", lambda create=True: SilentStore(silent))
    world.start()
    world.run(2 * ANSWER_SECONDS)

    ready = {backend.name for backend in world.operator._backends if backend.ledger is not None}

    assert "shop" in ready
    assert is_mirrored(world, "shop")


def test_a_name_that_leads_to_another_database_later_is_noticed(world):
    share(world)
    world.start()
    world.settle()
    leader, alias = sorted(world.operator._backends, key=lambda backend: backend.is_alias)
    assert alias.is_alias

    world.backends[alias.name].wipe()
    world.run(SOON)
    world.settle()

    assert not alias.is_alias
    assert world.homes(f"{alias.name}-task") == [(alias.name, alias.name, "send")]
    assert is_mirrored(world, alias.name)
    assert is_mirrored(world, leader.name)


def test_a_database_that_gets_a_second_name_later_loses_no_task(world):
    world.start()
    world.settle()
    before = world.record("shop-task")

    share(world)
    world.run(SOON)
    world.settle()

    assert len({backend.store_name for backend in world.operator._backends}) == 1
    (record,) = [found for found in world.backends["shop"].records() if found.key == before.key]
    assert (record.due_at, record.fence) == (before.due_at, before.fence)
    assert is_mirrored(world, "billing")


def test_proofs_leave_nothing_behind(world):
    claim_identity(world.backends["shop"], b'{"id": "known"}')
    claim_identity(world.backends["billing"], b'{"id": "known"}')
    world.start()
    world.settle()

    left = [
        record.key
        for backend in world.backends.values()
        for record in backend.records()
        if record.key.partition.handler == "proof"
    ]

    assert left == []
