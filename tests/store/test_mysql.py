"""MySQL and MariaDB keep what every store promises, and what only their locks, their modes and their tables can break."""

from collections.abc import Iterator

import pytest

from pyncette.core.record import Key
from pyncette.store.base import Store
from pyncette.store.mysql import MysqlStore, migrate
from pyncette.store.mysql_address import read_address
from pyncette.testing.conformance import StoreConformance
from tests.servers import Mysql
from tests.servers.mysql import execute

TABLES = ("", "_history", "_partitions")
"""What is emptied for each test: that takes a tenth of the time that it takes to create them."""


@pytest.fixture(scope="module")
def shared_mariadb_url(mariadb: Mysql) -> Iterator[str]:
    with mariadb.fresh_database() as url:
        yield url


@pytest.fixture(scope="module")
def shared_mysql_url(mysql: Mysql) -> Iterator[str]:
    with mysql.fresh_database() as url:
        yield url


class OnServer(StoreConformance):
    """
    On tables that are there; how they are created is tested below. Run by one process for each server, since it takes longer
    to bring one up than all of this.
    """

    @pytest.fixture
    async def backend(self, shared_url: str) -> str:
        await migrate(read_address(shared_url))
        for suffix in TABLES:
            await execute(shared_url, f"DELETE FROM pyncette_tasks{suffix}")
        return shared_url

    def open_store(self, backend: str) -> Store:
        return MysqlStore(read_address(backend))

    async def poison(self, backend: str, key: Key) -> None:
        await execute(
            backend,
            "UPDATE pyncette_tasks SET spec = '{' WHERE task = %s AND instance = %s AND occurrence = %s",
            *key[1:],
        )


@pytest.mark.xdist_group("mariadb")
class TestMariadb(OnServer):
    @pytest.fixture
    def shared_url(self, shared_mariadb_url: str) -> str:
        return shared_mariadb_url


@pytest.mark.xdist_group("mysql")
class TestMysql(OnServer):
    @pytest.fixture
    def shared_url(self, shared_mysql_url: str) -> str:
        return shared_mysql_url
