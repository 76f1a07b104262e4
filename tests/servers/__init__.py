"""
Real servers for tests, benchmarks and examples: started on a free loopback port, thrown away afterwards.

A server that cannot be had is an error with the command that installs it, never a skipped test.
"""

from tests.servers.dynamodb import DynamoDb, Moto, OwnDynamoDb, open_dynamodb
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.postgres import GivenPostgres, OwnPostgres, Postgres, open_postgres

__all__ = [
    "DynamoDb",
    "GivenPostgres",
    "MissingServerError",
    "Moto",
    "OwnDynamoDb",
    "OwnPostgres",
    "Postgres",
    "ServerDidNotStartError",
    "open_dynamodb",
    "open_postgres",
]
