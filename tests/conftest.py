"""The servers that tests ask for by name."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import TypeVar

import hypothesis
import pytest

from tests.rotation import VARIABLE, fix_rotation
from tests.servers import (
    MARIADB,
    MYSQL,
    VALKEY,
    ApiServer,
    DynamoDb,
    GivenMysql,
    GivenPostgres,
    MissingServerError,
    Mysql,
    OwnCluster,
    OwnDynamoDb,
    OwnMysql,
    OwnPostgres,
    OwnRedis,
    OwnSentinel,
    Postgres,
    Product,
    Redis,
    open_apiserver,
    open_cluster,
    open_dynamodb,
    open_mysql,
    open_postgres,
    open_redis,
    open_sentinel,
)
from tests.servers.dynamodb import credentials
from tests.servers.kubernetes import find_programs
from tests.servers.tools import Helm, find_helm, open_helm

pytest_plugins = ["pytester"]

_Server = TypeVar("_Server")

# A slow example on a laden machine is no bug; what must be fast is measured by benchmarks/.
hypothesis.settings.register_profile("pyncette", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pyncette")


def pytest_configure() -> None:
    fix_rotation()  # before processes are started that collect the same tests


def pytest_report_header() -> str:
    return f"rotation: {VARIABLE}={fix_rotation()}"


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


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """The session's Redis: to write to under a name of one's own, and not to be stopped."""
    server = _or_failure(open_redis)
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: Redis) -> Iterator[str]:
    """The URL of a namespace that holds nothing, for this test alone."""
    with redis_server.fresh_namespace() as url:
        yield url


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """A Redis for this test alone, to stop, start, crash and put the clock wrong on."""
    server = _or_failure(lambda: open_redis(own=True))
    assert isinstance(server, OwnRedis)
    with server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Redis]:
    """The session's Valkey, to be treated like its Redis."""
    server = _or_failure(lambda: open_redis(VALKEY))
    yield server
    server.close()


@pytest.fixture
def valkey_url(valkey_server: Redis) -> Iterator[str]:
    """The URL of a namespace that holds nothing, for this test alone."""
    with valkey_server.fresh_namespace() as url:
        yield url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[OwnCluster]:
    """The session's Redis Cluster, which each test leaves running (about two seconds to bring up)."""
    with _or_failure(open_cluster) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: OwnCluster) -> Iterator[str]:
    """The URL of a namespace of a cluster that holds nothing, for this test alone."""
    with redis_cluster.fresh_namespace() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[OwnCluster]:
    """The session's cluster of Valkey, to be treated like that of Redis."""
    with _or_failure(lambda: open_cluster(VALKEY)) as cluster:
        yield cluster


@pytest.fixture
def valkey_cluster_url(valkey_cluster: OwnCluster) -> Iterator[str]:
    """The URL of a namespace of a cluster that holds nothing, for this test alone."""
    with valkey_cluster.fresh_namespace() as url:
        yield url


@pytest.fixture
def own_sentinel() -> Iterator[OwnSentinel]:
    """Two servers behind Sentinel for this test alone, to let fail over."""
    with _or_failure(open_sentinel) as servers:
        yield servers


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


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """Helm, with a home of its own."""
    with ExitStack() as stack:
        yield _or_failure(lambda: stack.enter_context(open_helm()))


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """The session's API server, with the CRDs, which each test leaves running (about five seconds, and 450 MB)."""
    with _or_failure(open_apiserver) as server:
        server.install()
        yield server


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A namespace of the session's API server that holds nothing, for this test alone."""
    with apiserver.fresh_namespace() as name:
        yield name


@pytest.fixture
def own_apiserver() -> Iterator[ApiServer]:
    """An API server for this test alone, with the CRDs and an audit log: to stop, to freeze, and to take the CRDs from."""
    with _or_failure(lambda: open_apiserver(audit=True)) as server:
        server.install()
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the API server, and keep them together in one process: it is the dearest server in memory."""
    for item in items:
        if _asks_for_an_apiserver(item):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("apiserver"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build API server and Helm now, where they are to be built: that takes longer than any one test may."""
    if session.config.option.collectonly:
        return
    if any(map(_asks_for_an_apiserver, session.items)):
        find_programs()
    if any("helm" in getattr(item, "fixturenames", ()) for item in session.items):
        # The test that asks for it will say so.
        with suppress(MissingServerError):
            find_helm()


def _asks_for_an_apiserver(item: pytest.Item) -> bool:
    return not {"apiserver", "bare_apiserver", "own_apiserver"}.isdisjoint(getattr(item, "fixturenames", ()))


def _dynamodb_or_failure(*, own: bool = False, durable: bool = False) -> DynamoDb:
    return _or_failure(lambda: open_dynamodb(own=own, durable=durable))


def _postgres_or_failure(*, own: bool = False) -> GivenPostgres | OwnPostgres:
    return _or_failure(lambda: open_postgres(own=own))


def _or_failure(start: Callable[[], _Server]) -> _Server:
    """A missing server fails the test with what there is to do about it, and without a traceback around that."""
    try:
        return start()
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)


def _mysql_or_failure(product: Product, *, own: bool = False) -> GivenMysql | OwnMysql:
    return _or_failure(lambda: open_mysql(product, own=own))
