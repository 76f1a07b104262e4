"""The servers that tests ask for by name."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.servers import (
    DynamoDb,
    GivenPostgres,
    MissingServerError,
    OwnDynamoDb,
    OwnPostgres,
    Postgres,
    open_dynamodb,
    open_postgres,
)
from tests.servers.dynamodb import credentials

pytest_plugins = ["pytester"]

# A slow example on a laden machine is no bug; what must be fast is measured by benchmarks/.
hypothesis.settings.register_profile("pyncette", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pyncette")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL: for databases, and not to be stopped, since it may be somebody's and is everybody's."""
    server = _postgres_or_failure()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database that is new and empty, for this test alone."""
    with postgres.fresh_database() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL for this test alone, to stop, start, crash and put the clock wrong on (about a second to bring up)."""
    server = _postgres_or_failure(own=True)
    assert isinstance(server, OwnPostgres)
    with server:
        yield server


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[DynamoDb]:
    """The session's DynamoDB: for tables, and not to be stopped."""
    with credentials(), _dynamodb_or_failure() as server:
        yield server


@pytest.fixture
def dynamodb_url(dynamodb: DynamoDb) -> Iterator[str]:
    """The URL of a table that is not there yet, for this test alone."""
    with dynamodb.fresh_table() as table:
        yield dynamodb.url_of(table)


@pytest.fixture
def own_dynamodb() -> Iterator[OwnDynamoDb]:
    """A DynamoDB for this test alone, to stop, start and freeze; its tables outlive that (some seconds to bring up)."""
    with credentials(), _dynamodb_or_failure(own=True, durable=True) as server:
        assert isinstance(server, OwnDynamoDb)
        yield server


def _dynamodb_or_failure(*, own: bool = False, durable: bool = False) -> DynamoDb:
    try:
        return open_dynamodb(own=own, durable=durable)
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)


def _postgres_or_failure(*, own: bool = False) -> GivenPostgres | OwnPostgres:
    """A missing server fails the test with what there is to do about it, and without a traceback around that."""
    try:
        return open_postgres(own=own)
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)
