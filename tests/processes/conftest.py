"""The scenes that these tests are played on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.scene import Scene, scene_on
from tests.servers import OwnMysql, OwnPostgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Play these one after the other, beside the other tests: each takes all that a small machine has for a while."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """On each backend that several processes share, and empty."""
    with scene_on(tmp_path, backend_of(request, tmp_path)) as scene:
        yield scene


@pytest.fixture
def sqlite_scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_on(tmp_path, sqlite_in(tmp_path)) as scene:
        yield scene


@pytest.fixture
def own_postgres_scene(own_postgres: OwnPostgres, tmp_path: Path) -> Iterator[Scene]:
    """On a server that the test may stop, start and break."""
    with own_postgres.fresh_database() as url, scene_on(tmp_path, url) as scene:
        yield scene


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.long)])
def server_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """On each backend that is reached through a network."""
    with scene_on(tmp_path, backend_of(request, tmp_path)) as scene:
        yield scene


@pytest.fixture(params=["postgresql", "mariadb"])
def own_server(request: pytest.FixtureRequest) -> OwnPostgres | OwnMysql:
    """A server of each kind that the test may stop and start."""
    fixture = {"postgresql": "own_postgres", "mariadb": "own_mariadb"}[request.param]
    server: OwnPostgres | OwnMysql = request.getfixturevalue(fixture)
    return server


@pytest.fixture
def own_server_scene(own_server: OwnPostgres | OwnMysql, tmp_path: Path) -> Iterator[Scene]:
    with own_server.fresh_database() as url, scene_on(tmp_path, url) as scene:
        yield scene


def backend_of(request: pytest.FixtureRequest, folder: Path) -> str:
    fixture = {"postgresql": "postgres_url", "mariadb": "mariadb_url"}.get(request.param)
    url: str = request.getfixturevalue(fixture) if fixture else sqlite_in(folder)
    return url


def sqlite_in(folder: Path) -> str:
    return f"sqlite:///{folder}/records.db"
