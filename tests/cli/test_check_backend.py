"""`pyncette check` says of a backend whether workers can do on it all that they do."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from pyncette.store.backend import read_backend
from tests.cli import called

ALL = ["connect", "read the clock", "read", "create", "claim", "renew", "complete", "keep history", "remove"]


def check(backend):
    code, output = called("check", "--backend", backend, "--output", "json")
    assert "Traceback" not in output
    steps = json.loads(output)["steps"]
    return code, [step["name"] for step in steps if step["works"]], steps[-1]["note"]


@pytest.fixture
async def with_tables(postgres_url):
    await read_backend(postgres_url).migrate()
    return postgres_url


async def test_a_file_with_tables_is_good_for_everything_and_keeps_nothing_of_the_trial(tmp_path):
    backend = read_backend(f"sqlite:///{tmp_path / 'tasks.db'}")
    await backend.migrate()

    code, works, _ = check(backend.url)

    assert (code, works) == (0, ALL)
    async with backend.new_store(create=False) as store:
        partitions = await store.partitions("")
        assert not [
            records for partition in partitions if (records := await store.scan(partition, None, None, 10))
        ]


def test_a_server_is_tried_with_its_notifications(with_tables):
    code, works, _ = check(with_tables)

    assert (code, works) == (0, [*ALL, "notify"])


@pytest.mark.parametrize("url", ["redis_url", "redis_cluster_url", "valkey_url", "valkey_cluster_url"])
def test_redis_is_tried_with_its_notifications_by_itself_and_as_a_cluster(request, url):
    given = request.getfixturevalue(url)
    backend = read_backend(given.replace("redis", "valkey", 1) if url.startswith("valkey") else given)
    asyncio.run(backend.migrate())

    code, works, _ = check(backend.url)

    assert (code, works) == (0, [*ALL, "notify"])


def test_a_server_is_named_with_its_version_whatever_the_url_calls_it(valkey_server, valkey_url):
    version = valkey_server.execute("INFO", "server")["valkey_version"]
    asyncio.run(read_backend(valkey_url).migrate())

    _, output = called("check", "--backend", valkey_url)

    assert f"Redis at {urlsplit(valkey_url).netloc.partition('@')[2]}, which is Valkey {version}" in " ".join(
        output.split()
    )


def test_settings_that_may_lose_records_are_reported(own_redis):
    own_redis.execute("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    asyncio.run(read_backend(own_redis.url).migrate())

    code, output = called("check", "--backend", own_redis.url)

    assert code == 0
    assert "warning: maxmemory-policy is allkeys-lru" in " ".join(output.split())


def test_a_server_without_notifications_is_good_for_everything_else(mariadb_url):
    assert called("migrate", "--backend", mariadb_url)[0] == 0

    code, works, _ = check(mariadb_url)

    assert (code, works) == (0, ALL)


def test_a_right_that_is_missing_is_named_at_the_step_that_needs_it(postgres, with_tables):
    role = urlsplit(with_tables).path[1:]
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")
    postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", with_tables)
    address = urlsplit(with_tables)
    try:
        code, works, told = check(
            f"postgresql://{role}:hunter2@{address.hostname}:{address.port}{address.path}"
        )
    finally:
        postgres.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}", with_tables)
        postgres.execute(f"DROP ROLE {role}")

    assert (code, works) == (1, ALL[: ALL.index("create")])
    assert "permission denied: permission denied for" in told


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("sqlite:///there/is/no.db", "there is no file there/is/no.db: run `pyncette migrate`"),
        ("postgresql://ada:hunter2@127.0.0.1:1/db", "PostgreSQL at 127.0.0.1:1/db does not answer"),
        ("redis://ada:hunter2@127.0.0.1:1/2", "Redis at 127.0.0.1:1/2 does not answer"),
        ("mysql://ada:hunter2@127.0.0.1:1/db", "MySQL at 127.0.0.1:1/db does not answer"),
    ],
)
def test_an_unavailable_backend_is_reported_without_its_password(backend, said):
    code, works, told = check(backend)

    assert (code, works) == (1, [])
    assert said in told
    assert "hunter2" not in told


def test_the_error_of_missing_tables_names_the_command_that_creates_them(postgres_url):
    code, works, told = check(postgres_url)

    assert (code, works) == (1, [])
    assert "run `pyncette migrate`" in told


@pytest.mark.parametrize("with_path", [True, False])
@pytest.mark.parametrize("variable", ["PYNCETTE_BACKEND", "PYNCETTE_BACKEND_FILE"])
def test_a_variable_does_not_change_what_is_checked(tmp_path, variable, with_path):
    (tmp_path / "tasks.py").write_text("from pyncette import Pyncette\n\napp = Pyncette()\n")
    (tmp_path / "url.txt").write_text("sqlite:///there/is/no.db")
    value = "url.txt" if variable.endswith("FILE") else "sqlite:///there/is/no.db"

    code, output = called("check", *(["."] if with_path else []), cwd=tmp_path, **{variable: value})

    assert (code, output) == (0, ".: 0 manifests, 0 handlers, no problems\n")


@pytest.mark.parametrize("option", [["."], ["--module", "tasks"]])
def test_a_folder_and_a_backend_are_not_checked_together(tmp_path, option):
    code, output = called("check", *option, "--backend", "sqlite:///there/is/no.db", cwd=tmp_path)

    assert code == 2
    assert "a folder and a backend are checked separately" in output
