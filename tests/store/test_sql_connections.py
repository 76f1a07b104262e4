"""What a pool of connections to a SQL server does when a statement is not answered, on each driver."""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from pyncette.errors import StoreUnavailableError
from pyncette.store.mysql.address import read_address
from pyncette.store.mysql.connection import MysqlConnections
from pyncette.store.postgres.connection import PostgresConnections
from pyncette.store.postgres.statements import SESSION
from pyncette.store.sql.connections import Connections
from pyncette.testing.faults import SECRET, assert_is_one_sentence


class Kind(NamedTuple):
    url: str
    """The fixture of the URL of a database."""
    scheme: str
    open: Callable[..., Connections]
    query: Callable[[str], object]
    sleep: str


KINDS = [
    Kind(
        "postgres_url",
        "postgresql",
        lambda url, **options: PostgresConnections(url, SESSION, **options),
        lambda text: (text,),
        "SELECT pg_sleep(60)",
    ),
    Kind(
        "mariadb_url",
        "mysql",
        lambda url, **options: MysqlConnections(read_address(url), **options),
        lambda text: text,
        "SELECT sleep(60)",
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.scheme)
def kind(request):
    return request.param


async def test_a_statement_that_times_out_closes_its_connection(kind, request):
    lost = []
    connections = kind.open(
        request.getfixturevalue(kind.url), on_lost=lambda: lost.append(True), answer_seconds=0.3
    )
    begin = time.monotonic()

    with pytest.raises(StoreUnavailableError) as told:
        await connections.rows(kind.query(kind.sleep))

    assert time.monotonic() - begin < 5
    assert_is_one_sentence(told.value, "timed out after 0.3 seconds")
    assert lost == [True]
    assert [tuple(row) for row in await connections.rows(kind.query("SELECT 1"))] == [(1,)]
    await connections.close()


async def test_a_connection_that_is_not_accepted_in_time_is_given_up(kind):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{kind.scheme}://user:{SECRET}@127.0.0.1:{server.getsockname()[1]}/database"

        with pytest.raises(StoreUnavailableError) as told:
            await kind.open(url, connect_seconds=0.3).rows(kind.query("SELECT 1"))

    assert_is_one_sentence(told.value, "timed out after 0.3 seconds")
