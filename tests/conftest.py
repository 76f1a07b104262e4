"""The servers that tests ask for by name."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.servers import (
    MARIADB,
    MYSQL,
    GivenMysql,
    GivenPostgres,
    MissingServerError,
    Mysql,
    OwnMysql,
    OwnPostgres,
    Postgres,
    Product,
    open_mysql,
    open_postgres,
)

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
def mariadb() -> Iterator[Mysql]:
    """The session's MariaDB, to be treated like its PostgreSQL."""
    server = _mysql_or_failure(MARIADB)
    yield server
    server.close()


@pytest.fixture
def mariadb_url(mariadb: Mysql) -> Iterator[str]:
    """The URL of a database that is new and empty, for this test alone."""
    with mariadb.fresh_database() as url:
        yield url


@pytest.fixture
def own_mariadb() -> Iterator[OwnMysql]:
    """A MariaDB for this test alone (about two seconds to bring up)."""
    server = _mysql_or_failure(MARIADB, own=True)
    assert isinstance(server, OwnMysql)
    with server:
        yield server


@pytest.fixture(scope="session")
def mysql() -> Iterator[Mysql]:
    """The session's MySQL, to be treated like its PostgreSQL."""
    server = _mysql_or_failure(MYSQL)
    yield server
    server.close()


def _postgres_or_failure(*, own: bool = False) -> GivenPostgres | OwnPostgres:
    """A missing server fails the test with what there is to do about it, and without a traceback around that."""
    try:
        return open_postgres(own=own)
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)


def _mysql_or_failure(product: Product, *, own: bool = False) -> GivenMysql | OwnMysql:
    try:
        return open_mysql(product, own=own)
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)
