"""A backend's URL may stand in a file: what changes there counts from the next connect on, and nothing of it is ever shown."""

import asyncio
import logging
import secrets
from urllib.parse import urlsplit

import pytest

from pyncette.errors import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.backend_file import BYTES_MAX, read_backend_file
from pyncette.testing.conformance import a_record, create


@pytest.fixture
def file(tmp_path):
    return tmp_path / "url"


def holding(file, text):
    file.write_text(text)
    return read_backend_file(str(file))


# --- Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["sqlite:///a.db", "sqlite:///a.db\n", " sqlite:///a.db \r\n\n"])
def test_a_file_names_the_backend_of_its_url(file, text):
    assert holding(file, text) == read_backend("sqlite:///a.db")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"hunter2", "write sqlite:///"),
        (b"hunter2://host/db", "write sqlite:///"),
        (b"postgresql://user:hunter2@host/db\nhunter2", "it must contain the URL and nothing else"),
        (b"postgresql://user:hunter2#@host:port/db", "percent-encode"),
        (b"redis://host/0?password=hunter2", "an unknown parameter"),
        (b"\xff\xfehunter2", "not valid UTF-8"),
        (b"postgresql://user:hunter2@host/" + b"x" * BYTES_MAX, "it must contain the URL"),
    ],
)
def test_a_file_without_a_url_is_refused_and_not_repeated(file, content, told):
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as refused:
        read_backend_file(str(file))

    assert str(refused.value).startswith(f"{file} does not contain the URL of a backend: ")
    assert told in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(file):
    with pytest.raises(ConfigurationError, match="url cannot be read: No such file or directory"):
        read_backend_file(str(file))


# --- Reading again ---------------------------------------------------------------------------------------------------

HERE = "postgresql://user:{}@host/db"


def test_a_file_that_is_created_later_is_found_by_the_next_read(file):
    backend = holding(file, HERE.format("one"))
    file.write_text(HERE.format("two"))

    later = backend.with_current_credentials()

    assert (backend.url, later.url) == (HERE.format("one"), HERE.format("two"))
    file.write_text(HERE.format("three"))
    assert (
        later.with_current_credentials().url == backend.with_current_credentials().url == HERE.format("three")
    )


def test_a_backend_without_a_file_keeps_its_credentials():
    backend = read_backend(HERE.format("one"))

    assert backend.with_current_credentials() is backend


@pytest.mark.parametrize(
    "content", [None, b"", b"hunter", b"\xff", b"sqlite:///a.db", b"postgresql://u@elsewhere/db"]
)
def test_a_file_that_is_invalid_for_a_moment_is_logged_once_and_its_last_url_is_used(file, caplog, content):
    caplog.set_level(logging.INFO)
    backend = holding(file, HERE.format("one"))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    found = [backend.with_current_credentials() for _ in range(3)]
    file.write_text(HERE.format("two"))

    assert [one.url for one in found] == [HERE.format("one")] * 3
    assert backend.with_current_credentials().url == HERE.format("two")
    assert [record.message.partition(" error=")[0] for record in caplog.records] == [
        "could not use the file of the backend; using the URL that it had before",
        "read new credentials from the file of the backend",
    ]
    assert "hunter" not in str([record.__dict__ for record in caplog.records])


def test_a_secret_that_kubernetes_replaces_is_followed(tmp_path):
    """A mounted Secret is a chain of links, of which one is turned."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "url").write_text(HERE.format(name))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "url").symlink_to("..data/url")
    backend = read_backend_file(str(tmp_path / "url"))

    (tmp_path / "..turned").symlink_to("two")
    (tmp_path / "..turned").rename(tmp_path / "..data")

    assert backend.with_current_credentials().url == HERE.format("two")


# --- Credentials that change -----------------------------------------------------------------------------------------


class OnPostgres:
    def __init__(self, server):
        self.server = server
        self.database = server.create_database()
        server.execute("CREATE ROLE worker LOGIN SUPERUSER PASSWORD 'one'")

    def url(self, password):
        parts = urlsplit(self.database)
        return f"postgresql://worker:{password}@127.0.0.1:{parts.port}{parts.path}"

    def change(self, password):
        self.server.execute(f"ALTER ROLE worker PASSWORD '{password}'")
        assert self.server.kill_connections(self.database)


class OnMariadb:
    def __init__(self, server):
        self.server = server
        self.database = server.create_database()
        server.execute("CREATE USER worker@'%' IDENTIFIED BY 'one'")
        server.execute(f"GRANT ALL ON {urlsplit(self.database).path[1:]}.* TO worker@'%'")

    def url(self, password):
        parts = urlsplit(self.database)
        return f"mysql://worker:{password}@127.0.0.1:{parts.port}{parts.path}"

    def change(self, password):
        self.server.execute(f"ALTER USER worker@'%' IDENTIFIED BY '{password}'")
        assert self.server.kill_connections(self.database)


class OnRedis:
    def __init__(self, server):
        self.server = server
        server.execute("ACL", "SETUSER", "worker", "on", ">one", "~*", "&*", "+@all")

    def url(self, password):
        return f"redis://worker:{password}@127.0.0.1:{self.server.port}?namespace=shop%3A"

    def change(self, password):
        self.server.execute("ACL", "SETUSER", "worker", "resetpass", f">{password}")
        assert self.server.execute("CLIENT", "KILL", "USER", "worker")


class OnRedisCluster:
    """Each of its nodes has users of its own."""

    def __init__(self, server):
        self.nodes = server.nodes
        self.namespace = secrets.token_hex(4)
        self._each("ACL", "SETUSER", "worker", "on", ">one", "~*", "&*", "+@all")

    def url(self, password):
        return (
            f"redis+cluster://worker:{password}@127.0.0.1:{self.nodes[0].port}?namespace={self.namespace}%3A"
        )

    def change(self, password):
        self._each("ACL", "SETUSER", "worker", "resetpass", f">{password}")
        assert sum(self._each("CLIENT", "KILL", "USER", "worker"))

    def close(self):
        self._each("ACL", "DELUSER", "worker")

    def _each(self, *command):
        return [node.execute(*command) for node in self.nodes]


SERVERS = {
    "own_postgres": OnPostgres,
    "own_mariadb": OnMariadb,
    "own_redis": OnRedis,
    "redis_cluster": OnRedisCluster,
}


@pytest.fixture(params=SERVERS)
def server(request):
    server = SERVERS[request.param](request.getfixturevalue(request.param))
    yield server
    if isinstance(server, OnRedisCluster):  # it is everybody's
        server.close()


async def test_a_changed_password_works_without_a_restart_once_it_is_in_the_file(server, file):
    record = a_record()
    async with holding(file, server.url("one")).new_store() as store:
        await create(store, record)

        server.change("two")
        with pytest.raises(StoreRefusedError, match="authentication failed"):
            await until_it_connects_again(store)
        file.write_text(server.url("two"))

        (found,) = await store.load([record.key])
        assert found is not None


async def test_a_password_is_rotated_without_a_pause_if_the_file_changes_first(server, file):
    record = a_record()
    async with holding(file, server.url("one")).new_store() as store:
        await create(store, record)
        file.write_text(server.url("two"))
        await store.load([record.key])  # by the connection that there is

        server.change("two")

        (found,) = await until_it_connects_again(store)
        assert found is not None


async def until_it_connects_again(store):
    """Load something; the first calls may just find that their connections are gone."""
    while True:
        try:
            return await store.load([a_record().key])
        except StoreUnavailableError:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["sqlite", "dynamodb"])
async def test_a_backend_without_credentials_in_its_url_is_read_from_a_file_as_well(kind, file, request):
    url = f"sqlite:///{file}.db" if kind == "sqlite" else request.getfixturevalue("dynamodb_url")
    backend = holding(file, url)

    async with backend.new_store() as store:
        await create(store, a_record())
        file.unlink()
        (found,) = await store.load([a_record().key])

    assert found is not None


async def test_a_migration_goes_by_the_file_too(own_postgres, file):
    server = OnPostgres(own_postgres)
    backend = holding(file, server.url("one"))
    file.write_text(server.url("two"))
    own_postgres.execute("ALTER ROLE worker PASSWORD 'two'")

    assert (await backend.migrate()).before == 0


async def test_an_error_of_a_changed_password_shows_neither(own_redis, file):
    server = OnRedis(own_redis)
    with pytest.raises(StoreError) as told:
        async with holding(file, server.url("hunter2")).new_store():
            pass

    assert "hunter2" not in str(told.value)
