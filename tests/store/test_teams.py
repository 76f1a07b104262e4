"""Several teams on one server, as docs/how-to/security.md says: each credential reaches the records of its own team alone."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from pyncette.core.record import Key, Partition
from pyncette.errors import StoreError, StoreRefusedError
from pyncette.store.backend import read_backend
from pyncette.store.redis.store import RedisStore
from pyncette.testing.conformance import a_record, create, load
from tests.cli import called

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "security.md"

TEAMS = ("shop", "billing")


def documented(title):
    (text,) = re.findall(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    return text


def check(url, realm="east/shop/default"):
    code, output = called("check", "--backend", url, "--realm", realm, "--output", "json")
    return code, {step["name"]: step["note"] for step in json.loads(output)["steps"]}


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def run_script(server, database, script):
    for statement in script.split(";")[:-1]:
        server.execute(statement, database)


def url_of(database, user, password):
    address = urlsplit(database)
    return f"postgresql://{user}:{password}@{address.hostname}:{address.port}{address.path}"


@pytest.fixture
def schemas(postgres):
    """The database in which each team has a schema, and the URLs of the workers."""
    with postgres.fresh_database() as url:
        database = urlunsplit(urlsplit(postgres.url)._replace(path=urlsplit(url).path))
        try:
            for team in TEAMS:
                run_script(postgres, database, documented("team.sql").replace("shop", team))
                code, _ = called("migrate", "--backend", url_of(database, f"{team}_operator", "secret-1"))
                assert code == 0
                run_script(postgres, database, documented("rights.sql").replace("shop", team))
            yield database, {team: url_of(database, f"{team}_worker", "secret-2") for team in TEAMS}
        finally:
            for team in TEAMS:
                for role in (f"{team}_worker", f"{team}_operator"):
                    with contextlib.suppress(asyncpg.UndefinedObjectError):
                        run_script(postgres, database, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role};")


def test_a_worker_has_all_rights_that_it_needs_in_the_schema_of_its_team(schemas):
    _, workers = schemas

    code, notes = check(workers["shop"])

    assert code == 0
    assert "notify" in notes
    assert notes["stay in its realm"].endswith("no other has had workers")


async def test_a_team_finds_nothing_of_the_other_and_may_not_read_or_write_there(schemas):
    _, workers = schemas
    async with read_backend(workers["billing"]).new_store(create=False) as store:
        await create(store, a_record())
    async with read_backend(workers["shop"]).new_store(create=False) as store:
        assert await store.load([a_record().key]) == [None]

    connection = await asyncpg.connect(workers["shop"])
    try:
        for statement in (
            "SELECT * FROM billing.pyncette_tasks",
            "UPDATE billing.pyncette_tasks SET due_at = 0",
            "CREATE TABLE billing.mine (a int)",
            "CREATE TABLE public.mine (a int)",
            "CREATE FUNCTION shop.octet_length(varchar) RETURNS int LANGUAGE sql AS 'SELECT 0'",
            "SET ROLE billing_worker",
            "SET ROLE shop_operator",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("path", ["billing", "billing,shop"])
async def test_naming_the_schema_of_the_other_team_in_a_url_does_not_open_it(schemas, path):
    _, workers = schemas
    async with read_backend(workers["billing"]).new_store(create=False) as store:
        await create(store, a_record())

    with contextlib.suppress(StoreError):
        async with read_backend(f"{workers['shop']}?search_path={path}").new_store(create=False) as store:
            assert await store.load([a_record().key]) == [None]


async def test_the_search_path_is_pinned_to_the_schema_of_the_tables(schemas, postgres):
    database, _ = schemas
    administrator = f"{database}?search_path=empty,shop,public"
    postgres.execute("CREATE SCHEMA empty", database)

    async with read_backend(administrator).new_store(create=False) as store:
        ((path,),) = await store._rows(("SELECT current_setting('search_path')",))

    assert path == "shop, pg_temp"


def test_a_credential_that_reaches_the_tables_of_others_is_reported(schemas):
    database, _ = schemas

    _, notes = check(f"{database}?search_path=shop")

    assert "the table billing.pyncette_tasks" in notes["stay in its realm"]
    assert "shop.pyncette_tasks" not in notes["stay in its realm"]


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def prefixes(own_redis):
    """The server on which each team has a user and a prefix, and their URLs."""
    port = urlsplit(own_redis.url).port
    urls = {}
    for team in TEAMS:
        rules = documented("team.acl").replace("shop", team).replace("PASSWORD", f"{team}-secret").split()
        own_redis.execute(*rules)
        urls[team] = f"redis://{team}:{team}-secret@127.0.0.1:{port}/0?namespace={team}%3A"
        assert called("migrate", "--backend", urls[team])[0] == 0
    yield port, urls
    for team in TEAMS:
        own_redis.execute("ACL", "DELUSER", team)


def test_a_user_has_all_rights_that_it_needs_under_the_prefix_of_its_team(prefixes):
    _, urls = prefixes

    code, notes = check(urls["shop"])

    assert code == 0
    assert "notify" in notes
    assert notes["stay in its realm"].endswith("no other has had workers")


async def test_a_team_may_not_touch_the_keys_or_the_channel_of_the_other(prefixes):
    port, urls = prefixes
    async with RedisStore(urls["billing"]) as store:
        await create(store, a_record())
        assert await load(store, a_record())
    async with RedisStore(urls["shop"]) as store:
        assert await store.load([a_record().key]) == [None]

    with pytest.raises(StoreRefusedError):
        async with RedisStore(urls["shop"].replace("namespace=shop", "namespace=billing")):
            pass

    with Redis(port=port, username="shop", password="shop-secret") as client:
        name = "billing:pyncette-operator:{realm/handler/0}:records"
        for command in (
            ("HVALS", name),
            ("HSET", name, "a", "b"),
            ("EVAL", "return redis.call('HVALS', KEYS[1])", 1, name),
            ("EVAL", f"return redis.call('HVALS', '{name}')", 0),
            ("PUBLISH", "billing:pyncette-operator:due", "[]"),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
        ):
            with pytest.raises(Exception, match=r"permission|can't"):
                client.execute_command(*command)
        with client.pubsub() as listener:
            listener.subscribe("billing:pyncette-operator:due")
            with pytest.raises(NoPermissionError):
                listener.get_message(timeout=5)


@pytest.mark.usefixtures("prefixes")
def test_a_user_without_a_prefix_is_reported(own_redis):
    _, notes = check(f"{own_redis.url_of_the_administrator}?namespace=shop%3A")

    assert "keys outside of its namespace" in notes["stay in its realm"]


# --- Any store -------------------------------------------------------------------------------------------------------


def test_a_credential_that_reaches_the_realms_of_others_is_reported(tmp_path):
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    assert called("migrate", "--backend", url)[0] == 0

    async def register(realm):
        async with read_backend(url).new_store() as store:
            member = Key(Partition("pyncette:members", realm), "worker", "w-1")
            await create(store, a_record(key=member, claimable_at=None))

    asyncio.run(register("east/billing/default"))

    _, notes = check(url)

    assert "warning: the credential also reaches the realm east/billing/default" in notes["stay in its realm"]
