"""
Real servers for tests, benchmarks and examples: started on a free loopback port, thrown away afterwards.

A server that cannot be had is an error with the command that installs it, never a skipped test.
"""

from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.mysql import MARIADB, MYSQL, GivenMysql, Mysql, OwnMysql, Product, open_mysql
from tests.servers.postgres import GivenPostgres, OwnPostgres, Postgres, open_postgres

__all__ = [
    "MARIADB",
    "MYSQL",
    "GivenMysql",
    "GivenPostgres",
    "MissingServerError",
    "Mysql",
    "OwnMysql",
    "OwnPostgres",
    "Postgres",
    "Product",
    "ServerDidNotStartError",
    "open_mysql",
    "open_postgres",
]
