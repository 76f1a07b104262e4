"""The scenes that these tests are played on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.scene import Scene, scene_on
from tests.servers import OwnDynamoDb, OwnPostgres, OwnRedis, OwnServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Play these one after the other, beside the other tests: each takes all that a small machine has for a while.

    Fault-injection accounts mostly wait, so they are in two groups of their own.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(
    params=[
        "postgresql",
        "mariadb",
        "redis",
        pytest.param("redis+cluster", marks=pytest.mark.long),
        "dynamodb",
        "sqlite",
    ]
)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """On each backend that several processes share, and empty."""
    with scene_on(tmp_path, backend_of(request, tmp_path)) as scene:
        yield scene


@pytest.fixture
def sqlite_scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_on(tmp_path, sqlite_in(tmp_path)) as scene:
        yield scene


@pytest.fixture
def dynamodb_scene(dynamodb_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene_on(tmp_path, dynamodb_url) as scene:
        yield scene


@pytest.fixture
def own_dynamodb_scene(own_dynamodb: OwnDynamoDb, tmp_path: Path) -> Iterator[Scene]:
    """On a server that the test may stop, start and freeze."""
    with scene_on(tmp_path, own_dynamodb.url_of("pyncette")) as scene:
        yield scene


@pytest.fixture
def own_postgres_scene(own_postgres: OwnPostgres, tmp_path: Path) -> Iterator[Scene]:
    """On a server that the test may stop, start and break."""
    with own_postgres.fresh_database() as url, scene_on(tmp_path, url) as scene:
        yield scene


@pytest.fixture(params=["postgresql", "redis", pytest.param("mariadb", marks=pytest.mark.long)])
def server_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """On each backend that there is a network in between to, and one server."""
    with scene_on(tmp_path, backend_of(request, tmp_path)) as scene:
        yield scene


@pytest.fixture(params=["postgresql", "mariadb", "redis"])
def own_server(request: pytest.FixtureRequest) -> OwnServer:
    """A server of each kind that the test may stop and start."""
    fixture = {"postgresql": "own_postgres", "mariadb": "own_mariadb", "redis": "own_redis"}[request.param]
    server: OwnServer = request.getfixturevalue(fixture)
    return server


@pytest.fixture
def own_server_scene(own_server: OwnServer, tmp_path: Path) -> Iterator[Scene]:
    fresh = own_server.fresh_namespace if isinstance(own_server, OwnRedis) else own_server.fresh_database
    with fresh() as url, scene_on(tmp_path, url) as scene:
        yield scene


def backend_of(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        return sqlite_in(folder)
    fixtures = {
        "postgresql": "postgres_url",
        "mariadb": "mariadb_url",
        "redis": "redis_url",
        "redis+cluster": "redis_cluster_url",
        "dynamodb": "dynamodb_url",
    }
    url: str = request.getfixturevalue(fixtures[request.param])
    return url


def sqlite_in(folder: Path) -> str:
    return f"sqlite:///{folder}/records.db"
