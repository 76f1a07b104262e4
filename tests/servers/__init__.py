"""
Real servers for tests, benchmarks and examples: started on a free loopback port, thrown away afterwards.

A server that cannot be had is an error with the command that installs it, never a skipped test.
"""

from tests.servers.dynamodb import DynamoDb, Moto, OwnDynamoDb, open_dynamodb, open_dynamodb_with_tls
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.kubernetes import Account, ApiServer, open_apiserver
from tests.servers.kubernetes_client import ApiError, Client
from tests.servers.mysql import (
    MARIADB,
    MYSQL,
    GivenMysql,
    InstalledMysql,
    Mysql,
    OwnMysql,
    Product,
    open_mysql,
)
from tests.servers.postgres import GivenPostgres, InstalledPostgres, OwnPostgres, Postgres, open_postgres
from tests.servers.redis import (
    REDIS,
    VALKEY,
    GivenRedis,
    OwnCluster,
    OwnRedis,
    OwnSentinel,
    Redis,
    RedisWithTls,
    open_cluster,
    open_redis,
    open_redis_with_tls,
    open_sentinel,
)

OwnServer = OwnPostgres | OwnMysql | OwnRedis
"""A server of the tests' own, to stop and start."""

__all__ = [
    "MARIADB",
    "MYSQL",
    "REDIS",
    "VALKEY",
    "Account",
    "ApiError",
    "ApiServer",
    "Client",
    "DynamoDb",
    "GivenMysql",
    "GivenPostgres",
    "GivenRedis",
    "InstalledMysql",
    "InstalledPostgres",
    "MissingServerError",
    "Moto",
    "Mysql",
    "OwnCluster",
    "OwnDynamoDb",
    "OwnMysql",
    "OwnPostgres",
    "OwnRedis",
    "OwnSentinel",
    "OwnServer",
    "Postgres",
    "Product",
    "Redis",
    "RedisWithTls",
    "ServerDidNotStartError",
    "open_apiserver",
    "open_cluster",
    "open_dynamodb",
    "open_dynamodb_with_tls",
    "open_mysql",
    "open_postgres",
    "open_redis",
    "open_redis_with_tls",
    "open_sentinel",
]
