"""A migration shuts out programs that are too old, on every backend, and never while one of them runs."""

import pytest

from pyncette.coordination.members import TOLD_MAX, Member, OlderWorkersError, migrate, raise_min_reader
from pyncette.errors import SchemaError
from pyncette.store.backend import read_backend
from pyncette.store.base import MIN_READER, SCHEMA_VERSION, Versioned
from pyncette.store.memory import MemoryStore
from pyncette.store.schema import check_schema
from tests.membership import there

NEXT = SCHEMA_VERSION + 1

REALM = "cluster/shop/default"

BACKENDS = ["sqlite", "postgres_url", "mariadb_url", "redis_url", "redis_cluster_url", "dynamodb_url"]


@pytest.fixture(params=BACKENDS)
async def backend(request, tmp_path):
    url = f"sqlite:///{tmp_path}/tasks.db"
    backend = read_backend(url if request.param == "sqlite" else request.getfixturevalue(request.param))
    await migrate(backend)
    return backend


@pytest.fixture
async def file(tmp_path):
    backend = read_backend(f"sqlite:///{tmp_path}/tasks.db")
    await migrate(backend)
    return backend


def old(name="old", reader=SCHEMA_VERSION):
    """A worker of a release that knows no schema after *reader*."""
    return Member(name, version="0.9", reader=reader)


NEW = Member("new", reader=NEXT)


async def test_programs_that_are_too_old_are_refused_once_none_of_them_runs(backend):
    async with backend.new_store() as store:
        assert await store.min_reader() == MIN_READER
        async with there(store, REALM, old(), NEW):
            with pytest.raises(OlderWorkersError, match=r"no schema from 2 on: old \(0.9\)\. The tables"):
                await raise_min_reader(store, NEXT)

            assert await store.min_reader() == MIN_READER

        async with there(store, REALM, NEW):
            await raise_min_reader(store, NEXT)

        assert await store.min_reader() == NEXT

    with pytest.raises(
        SchemaError, match=f"this release knows {SCHEMA_VERSION}: use a release that is as new"
    ):
        async with backend.new_store():
            pass


def test_a_program_works_on_tables_of_the_next_release_as_long_as_they_let_it_in():
    check_schema(NEXT, SCHEMA_VERSION, "The tables")


@pytest.mark.parametrize(
    ("version", "min_reader", "advice"),
    [
        (NEXT, NEXT, "use a release that is as new as the one that changed them"),
        (SCHEMA_VERSION - 1, 0, "run `pyncette migrate`, or upgrade the operator, which does"),
    ],
    ids=["it is too old for them", "it is too new for them"],
)
def test_a_program_that_cannot_work_on_tables_says_what_to_do(version, min_reader, advice):
    with pytest.raises(SchemaError, match=advice):
        check_schema(version, min_reader, "The tables")


async def test_who_may_read_is_never_extended_again(backend):
    async with backend.new_store() as store:
        await store.raise_min_reader(NEXT)

        await store.raise_min_reader(MIN_READER)

        assert await store.min_reader() == NEXT


async def test_an_old_worker_in_any_realm_counts(file):
    async with file.new_store() as store, there(store, "", old("one")), there(store, REALM, old("other")):
        with pytest.raises(OlderWorkersError, match=r"one \(0.9\), other \(0.9\)"):
            await raise_min_reader(store, NEXT)


async def test_of_many_old_workers_some_are_named(file):
    many = [old(f"w{number}") for number in range(TOLD_MAX + 2)]
    async with file.new_store() as store, there(store, REALM, *many):
        with pytest.raises(OlderWorkersError, match=r"w4 \(0.9\) and 2 more"):
            await raise_min_reader(store, NEXT)


async def test_members_are_not_read_when_nothing_is_to_be_raised(file):
    async with file.new_store() as store, there(store, REALM, old(reader=0)):
        await raise_min_reader(store, MIN_READER)

    await migrate(file)


async def test_a_store_without_versions_is_migrated_as_it_can():
    assert not isinstance(MemoryStore(), Versioned)
    await raise_min_reader(MemoryStore(), NEXT)
