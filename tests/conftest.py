"""The servers that tests ask for by name."""

from collections.abc import Iterator

import pytest

from tests.servers import OwnPostgres, Postgres, open_postgres

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL: for databases, and not to be stopped, since it may be somebody's and is everybody's."""
    server = open_postgres()
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
    server = open_postgres(own=True)
    assert isinstance(server, OwnPostgres)
    with server:
        yield server
