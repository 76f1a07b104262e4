"""In a database of its own, the operator creates a role for itself and one for the workers: neither is a superuser."""

import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from pyncette.cli.check_backend import try_out
from pyncette.errors import ConfigurationError, StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import Administrator, read_backend
from pyncette.store.postgres.roles import grants
from pyncette.store.postgres.schema import tables_named
from pyncette.store.postgres.scram import is_verifier_of, verifier_of
from pyncette.testing.conformance import a_record, create, load
from tests.servers import OwnPostgres, open_postgres

pytestmark = pytest.mark.xdist_group("postgres-roles")

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/stores-postgresql.md"


@pytest.fixture(scope="module")
def server():
    with open_postgres(own=True) as server:
        assert isinstance(server, OwnPostgres)
        yield server


class Database:
    """An empty database, in which the superuser may do everything and nobody else anything."""

    def __init__(self, server, url):
        parts = urlsplit(url)
        self._place = f"{parts.hostname}:{parts.port}{parts.path}"
        self.server = server
        self.administrator = Administrator(server.administrator, server.password)
        self.superuser = read_backend(self.url(*self.administrator))
        self.owner = read_backend(self.url("the operator", "of/the:owner"))
        self.worker = read_backend(self.url("worker", "of the worker's"))

    def url(self, user, password):
        return f"postgresql://{quote(user)}:{quote(password, safe='')}@{self._place}"

    def execute(self, statement):
        return self.server.execute(statement, self.superuser.url)

    async def set_up(self):
        roles = self.owner.roles(self.worker, self.administrator)
        await roles.create()
        await self.owner.migrate()
        await roles.grant()


@pytest.fixture
def database(server):
    with server.fresh_database() as url:
        database = Database(server, url)
        yield database
        for role in ("worker", "the operator"):
            if server.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
                database.execute(f'DROP OWNED BY "{role}" CASCADE')
                database.execute(f'DROP ROLE "{role}"')


async def test_the_worker_can_do_all_that_workers_do_and_neither_role_is_a_superuser(database):
    await database.set_up()

    steps = await try_out(database.worker, "")

    assert all(step.works for step in steps), steps
    found = database.execute(
        "SELECT rolsuper OR rolcreatedb OR rolcreaterole AS may FROM pg_roles WHERE rolname IN ('worker', 'the operator')"
    )
    assert [row["may"] for row in found] == [False, False]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY pyncette_tasks_meta FROM PROGRAM 'id'",
        "SELECT pg_read_file('PG_VERSION')",
        "ALTER SYSTEM SET ssl = off",
        "SELECT rolpassword FROM pg_authid",
        "CREATE TABLE mine (a int)",
        "ALTER TABLE pyncette_tasks ADD COLUMN mine int",
        "DROP TABLE pyncette_tasks",
        "UPDATE pyncette_tasks_meta SET min_reader = 99",
        'SET ROLE "the operator"',
    ],
)
async def test_a_worker_cannot_reach_beyond_its_rows(database, statement):
    await database.set_up()

    connection = await asyncpg.connect(database.worker.url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_volume_that_the_superuser_has_filled_gets_the_roles_and_keeps_its_records(database):
    async with database.superuser.new_store() as store:
        await create(store, a_record())

    await database.set_up()

    owners = database.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [row["tableowner"] for row in owners] == ["the operator"]
    async with database.worker.new_store(create=False) as store:
        assert (await load(store, a_record())).key == a_record().key
        steps = await try_out(database.worker, "")
    assert all(step.works for step in steps), steps


async def test_a_new_password_in_a_url_is_given_to_its_role_and_none_is_changed_without_need(database):
    await database.set_up()
    before = passwords(database)

    await database.set_up()
    again = passwords(database)
    database.worker = read_backend(database.url("worker", "another"))
    await database.set_up()
    after = passwords(database)

    assert again == before
    assert after["the operator"] == before["the operator"]
    assert after["worker"] != before["worker"]
    async with database.worker.new_store(create=False) as store:
        assert await store.now()


def passwords(database):
    found = database.execute(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('worker', 'the operator')"
    )
    return {row["rolname"]: row["rolpassword"] for row in found}


@pytest.mark.parametrize("which", ["owner", "worker"])
async def test_a_superuser_is_no_role_of_the_operator_and_none_of_the_workers(database, which):
    setattr(database, which, database.superuser)

    with pytest.raises(ConfigurationError, match="the role postgres is a superuser"):
        await database.set_up()

    assert not database.execute("SELECT 1 FROM pg_roles WHERE rolname IN ('worker', 'the operator')")


def test_the_operator_and_the_workers_have_a_role_each_in_one_database(database):
    with pytest.raises(ConfigurationError, match="have the same role the operator"):
        database.owner.roles(database.owner, database.administrator)
    with pytest.raises(ConfigurationError, match="leads to another place"):
        database.owner.roles(read_backend("postgresql://worker:pw@elsewhere/d"), database.administrator)
    with pytest.raises(ConfigurationError, match="the URL of the workers has no user or no password"):
        database.owner.roles(
            read_backend(database.owner.url.replace("the%20operator:of%2Fthe%3Aowner@", "")),
            database.administrator,
        )
    with pytest.raises(ConfigurationError, match="must have ASCII characters alone"):
        database.owner.roles(read_backend(database.url("worker", "pä")), database.administrator)


def test_other_databases_have_no_roles_to_create():
    with pytest.raises(ConfigurationError, match="no users can be created at Redis"):
        read_backend("redis://h").roles(read_backend("redis://h"), Administrator("a", "b"))


async def test_a_wrong_password_of_the_superuser_is_reported_without_it(database):
    database.administrator = Administrator("postgres", "hunter2")

    with pytest.raises((StoreRefusedError, StoreUnavailableError), match="authentication failed") as told:
        await database.set_up()

    assert "hunter2" not in str(told.value)


def test_the_rights_are_those_of_the_reference():
    (documented,) = re.findall(r"```sql\n(GRANT .*?)```", REFERENCE.read_text(), re.DOTALL)

    assert grants(tables_named("pyncette_tasks"), "worker").replace('"', "") == documented


@pytest.mark.parametrize("password", ["pencil", "a b'c\"d\\e", "x" * 200])
def test_a_stored_password_is_recognized_and_no_other_one(password):
    stored = verifier_of(password)

    assert is_verifier_of(stored, password)
    assert not is_verifier_of(stored, password + "x")
    assert stored != verifier_of(password)
    assert password not in stored


@pytest.mark.parametrize("stored", [None, "", "md5d41d8cd98f00b204e9800998ecf8427e", "SCRAM-SHA-256$x"])
def test_a_password_that_is_stored_otherwise_counts_as_another(stored):
    assert not is_verifier_of(stored, "pencil")


def test_passwords_are_hashed_as_the_standard_has_it():
    # The example of RFC 7677, section 3, whose server signature follows from the server key below.
    stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

    assert is_verifier_of(stored, "pencil")
