"""What a test may expect of the servers that it asks for."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
from asyncmy.errors import MySQLError

from tests.servers import (
    MARIADB,
    MYSQL,
    REDIS,
    VALKEY,
    GivenMysql,
    GivenPostgres,
    GivenRedis,
    MissingServerError,
    OwnPostgres,
    OwnRedis,
    Postgres,
    Redis,
    ServerDidNotStartError,
    open_cluster,
    open_dynamodb,
    open_mysql,
    open_postgres,
    open_redis,
    open_sentinel,
)
from tests.servers import dynamodb as servers_dynamodb
from tests.servers.wrong_clock import wrong_clock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    """One server for this module, which each test leaves running."""
    server = open_postgres(own=True)
    assert isinstance(server, OwnPostgres)
    with server:
        yield server


async def test_a_database_is_new_and_empty_and_gone_after_its_test(postgres: Postgres):
    with postgres.fresh_database() as one, postgres.fresh_database() as other:
        connection = await asyncpg.connect(one)
        await connection.execute("CREATE TABLE here (id int)")
        tables = "SELECT tablename FROM pg_tables WHERE tablename = 'here'"

        assert len(postgres.execute(tables, one)) == 1
        assert postgres.execute(tables, other) == []

    with pytest.raises(asyncpg.InvalidCatalogNameError):
        postgres.execute("SELECT 1", one)
    await connection.close()


def test_the_product_is_tested_as_a_user_who_is_no_superuser(server: OwnPostgres):
    with server.fresh_database() as url:
        rows = server.execute("SELECT usesuper FROM pg_user WHERE usename = current_user", url)

    assert [row["usesuper"] for row in rows] == [False]


def test_the_password_is_really_asked_for(server: OwnPostgres):
    with server.fresh_database() as url, pytest.raises(asyncpg.InvalidPasswordError):
        server.execute("SELECT 1", url.replace(server.password, "wrong"))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_stopped_server_does_not_answer_and_restarts_on_its_port_with_its_data(server: OwnPostgres, mode):
    with server.fresh_database() as url:
        server.execute("CREATE TABLE kept AS SELECT 7 AS seven", url)

        with server.stopped(mode), pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)

        assert server.execute("SELECT seven FROM kept", url)[0]["seven"] == 7


async def test_killing_connections_ends_those_of_one_database_alone(server: OwnPostgres):
    with server.fresh_database() as url, server.fresh_database() as other:
        killed = await asyncpg.connect(url)
        spared = await asyncpg.connect(other)

        assert server.kill_connections(url) == 1

        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await killed.fetch("SELECT 1")
        assert await spared.fetchval("SELECT 1") == 1
        await spared.close()


@pytest.mark.parametrize("minutes", [1, -1])
def test_a_server_can_run_with_a_clock_that_differs_by_a_minute(server: OwnPostgres, minutes):
    server.restart(clock_ahead=timedelta(minutes=minutes))
    told = server.execute("SELECT clock_timestamp() AS now")[0]["now"]
    server.restart()
    corrected = server.execute("SELECT clock_timestamp() AS now")[0]["now"]

    assert told - datetime.now(UTC) == pytest.approx(timedelta(minutes=minutes), abs=timedelta(seconds=20))
    assert corrected - datetime.now(UTC) == pytest.approx(timedelta(0), abs=timedelta(seconds=20))


HANGS_UP_SECONDS_MAX = 120
"""For a server whose tests were killed, also on a machine that is busy."""


def hangs_up_after_kill(server):
    """Return whether the expression *server* yields a server that ends once the tests that started it are killed."""
    program = (
        "import sys, tests.servers as servers\n"
        f"server = {server}\n"
        "print(server.port, flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    port = int(tests.stdout.readline())
    # The server hangs up when it ends; a server that stays would leave this waiting.
    with socket.create_connection(("127.0.0.1", port), HANGS_UP_SECONDS_MAX) as connection:
        os.kill(tests.pid, signal.SIGKILL)
        tests.communicate()
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


def test_a_server_ends_with_the_tests_even_if_they_are_killed():
    assert hangs_up_after_kill("servers.open_postgres(own=True)")


def test_a_server_named_by_the_environment_is_used_as_it_is(server: OwnPostgres, monkeypatch):
    monkeypatch.setenv("PYNCETTE_TEST_POSTGRES_URL", server.url_of("postgres"))

    given = open_postgres()

    assert isinstance(given, GivenPostgres)
    with given.fresh_database() as url:
        assert urlsplit(url).port == server.port
        assert given.execute("SELECT 1 AS one", url)[0]["one"] == 1


def test_a_missing_server_is_a_failure_that_names_the_command_that_installs_it(nothing_installed):
    with pytest.raises(MissingServerError) as missing:
        open_postgres()

    assert "sudo apt-get install postgresql" in str(missing.value)
    assert "PYNCETTE_TEST_POSTGRES_URL=postgresql://" in str(missing.value)


def test_a_missing_wrong_clock_is_a_failure_that_names_the_command_that_installs_it(nothing_installed):
    with pytest.raises(MissingServerError, match="sudo apt-get install libfaketime"):
        wrong_clock(timedelta(minutes=1))


def test_a_missing_server_fails_the_test_that_asks_for_it_and_skips_nothing(nothing_installed, pytester):
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest("from tests.conftest import postgres, postgres_url")
    pytester.makepyfile("def test_asks(postgres_url): pass")

    run = pytester.runpytest("-p", "no:cacheprovider")

    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines("*sudo apt-get install postgresql*")
    run.stdout.no_fnmatch_line("*tests/servers/postgres.py*")


def test_docker_is_the_last_resort_and_says_why_it_failed(nothing_installed, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\ncase $1 in info) exit 0 ;; *) echo "no such image" >&2; exit 125 ;; esac\n')
    docker.chmod(0o755)

    with pytest.raises(ServerDidNotStartError, match="docker run: no such image"):
        open_postgres()


def test_a_redis_ends_with_the_tests_even_if_they_are_killed():
    assert hangs_up_after_kill("servers.open_redis(own=True)")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_stopped_redis_comes_back_on_its_port_with_its_data(own_redis: OwnRedis, mode):
    own_redis.execute("SET", "kept", 7)

    with own_redis.stopped(mode), pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", own_redis.port), timeout=1)

    assert own_redis.execute("GET", "kept") == b"7"


def test_a_namespace_of_redis_is_empty_and_gone_after_its_test(redis_server: Redis):
    with redis_server.fresh_namespace() as url, redis_server.fresh_namespace() as other:
        assert url != other
        namespace = unquote(url.partition("namespace=")[2])
        redis_server.execute("SET", f"{namespace}here", 1)
        assert redis_server.keys(namespace) == [f"{namespace}here".encode()]

    assert redis_server.keys(namespace) == []


def test_a_redis_named_by_the_environment_is_used_as_it_is(own_redis: OwnRedis, monkeypatch):
    monkeypatch.setenv("PYNCETTE_TEST_REDIS_URL", own_redis.url_of_the_administrator)

    given = open_redis()

    assert isinstance(given, GivenRedis)
    with given.fresh_namespace() as url:
        assert urlsplit(url).port == own_redis.port
        assert given.execute("PING")


def test_a_missing_redis_is_a_failure_that_names_the_command_that_installs_it(nothing_installed):
    for product, way in ((REDIS, "sudo apt-get install redis-server"), (VALKEY, "Debian unstable")):
        for bring_up in (open_redis, open_cluster, open_sentinel):
            with pytest.raises(MissingServerError) as missing:
                bring_up(product)

            assert way in str(missing.value)
            assert f"{product.variable}=redis://" in str(missing.value)


def test_a_valkey_is_a_valkey(valkey_server: Redis):
    assert valkey_server.execute("INFO", "server")["server_name"] == "valkey"


@pytest.mark.parametrize("product", ["mariadb", "mysql"])
def test_what_a_mysql_server_promises_to_tests(request, monkeypatch, product):
    """Users who are no administrators, databases of their own, passwords that are asked for, and given servers as they are."""
    server = request.getfixturevalue(product)
    with server.fresh_database() as url, server.fresh_database() as other:
        assert server.execute("SHOW TABLES", url) == ()
        with pytest.raises(MySQLError, match="denied"):
            server.execute("CREATE DATABASE mine", url)
        with pytest.raises(MySQLError, match="denied"):
            server.execute("SELECT 1", url.replace(urlsplit(url).password, "wrong"))
        with ThreadPoolExecutor() as threads:
            long = threads.submit(server.execute, "SELECT sleep(60)", url)
            while not server.kill_connections(url):
                time.sleep(0.05)
            assert server.kill_connections(other) == 0
            assert isinstance(long.exception(30), MySQLError)

        monkeypatch.setenv(server.product.variable, server.url)
        given = open_mysql(server.product)
        assert isinstance(given, GivenMysql)
        with given.fresh_database() as third:
            assert given.execute("SELECT 1", third) == ((1,),)

    with pytest.raises(MySQLError, match=r"Unknown database|denied"):
        server.execute("SELECT 1", url)


def test_a_mysql_server_ends_with_the_tests_even_if_they_are_killed():
    program = (
        "import sys, tests.servers as servers\n"
        "server = servers.open_mysql(servers.MARIADB, own=True)\n"
        "print(server.port, server._folder, flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    port, folder = tests.stdout.readline().split()
    with socket.create_connection(("127.0.0.1", int(port)), HANGS_UP_SECONDS_MAX) as connection:
        assert connection.recv(4)

        os.kill(tests.pid, signal.SIGKILL)
        tests.communicate()

        with suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    end = time.monotonic() + HANGS_UP_SECONDS_MAX
    while Path(folder).exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("product", "way"), [(MARIADB, "sudo apt-get install mariadb"), (MYSQL, "Debian unstable")]
)
def test_a_missing_mysql_server_is_a_failure_that_names_what_brings_one(nothing_installed, product, way):
    with pytest.raises(MissingServerError) as missing:
        open_mysql(product)

    assert way in str(missing.value)
    assert f"{product.variable}={product.scheme}://" in str(missing.value)


@pytest.mark.long
def test_what_is_unpacked_is_unpacked_once_and_again_when_it_is_gone(tmp_path):
    """Fetches some 60 MB, twice."""
    program = (
        "from tests.servers.unpacked import unpacked\n"
        "print((unpacked('mysql-server-core') / 'usr/sbin/mysqld').is_file())"
    )

    def both():
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            )
            for _ in range(2)
        ]
        said = [process.communicate() for process in processes]
        assert [out for out, _ in said] == ["True\n"] * 2
        return sum(error.count("unpacking") for _, error in said)

    assert both() == 1
    assert both() == 0
    (tmp_path / "pyncette-tests/mysql-server-core/complete").unlink()
    assert both() == 1


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """A machine on which there is no server, and no way to install one."""
    for variable in ("PYNCETTE_TEST_POSTGRES_URL", "PYNCETTE_TEST_DYNAMODB_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for product in (MARIADB, MYSQL, REDIS, VALKEY):
        monkeypatch.delenv(product.variable, raising=False)
    monkeypatch.setattr("tests.servers.postgres.PLACES", {})
    monkeypatch.setattr("tests.servers.mysql.PLACES", [])
    monkeypatch.setattr("tests.servers.wrong_clock.PLACES", {})


def test_a_missing_dynamodb_is_a_failure_that_names_the_command_that_installs_it(nothing_installed):
    with pytest.raises(MissingServerError) as missing:
        open_dynamodb()

    assert "sudo apt-get install openjdk-17-jre-headless maven" in str(missing.value)
    assert "PYNCETTE_TEST_DYNAMODB_URL=http://" in str(missing.value)


def test_what_was_fetched_for_dynamodb_is_kept_and_what_came_in_part_is_not_used(tmp_path, monkeypatch):
    """Maven is asked once; what it left behind when it was killed does not count."""
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text('#!/bin/sh\necho asked >> "$ASKED"; touch DynamoDBLocal-3.3.1.jar\n')
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(maven.parent), prepend=os.pathsep)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    half = tmp_path / "cache" / "pyncette-tests" / "dynamodb-local-3.3.1.coming"
    half.mkdir(parents=True)

    found = [servers_dynamodb._jars() for _ in range(2)]

    assert found[0] == found[1]
    assert [jar.name for jar in found[0].glob("*.jar")] == ["DynamoDBLocal-3.3.1.jar"]
    assert (tmp_path / "asked").read_text() == "asked\n"
