"""
The plugin of pytest: the fixture `world`, an app in simulated time.

pytest loads it in every project that has this distribution installed. So it imports nothing of the app until a test asks
for the fixture.
"""

from __future__ import annotations

import datetime
import inspect
import pkgutil
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette
    from pyncette.store.base import Store
    from pyncette.testing.world import World

LOOP_SCOPES: Final = ("function", "class", "module", "package", "session")
"""The scopes of the event loops of pytest-asyncio. A world must be in the loop of its test."""

NO_APP: Final = """\
the fixture world does not know your app. Either name it in the configuration of pytest:

    [tool.pytest.ini_options]
    pyncette_app = "tasks:app"

or return it from a fixture of your conftest.py:

    @pytest.fixture
    def pyncette_app():
        return app
"""

NO_LOOP: Final = """\
the fixture world needs an async test that a plugin runs. Either

- install pytest-asyncio, and set `asyncio_mode = "auto"` or mark the test with @pytest.mark.asyncio; or
- install anyio, and mark the test with @pytest.mark.anyio
"""


OLD_PLUGIN: Final = "the fixture world needs pytest-asyncio 0.24 or later"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "pyncette_app", "The app that the fixture world runs, as MODULE:NAME, such as tasks:app.", default=""
    )


def pytest_configure(config: pytest.Config) -> None:
    if _has_loop_scopes(config):
        config.pluginmanager.import_plugin("pyncette.testing.pytest_asyncio_worlds")


@pytest.fixture
def pyncette_app(pytestconfig: pytest.Config) -> Pyncette:
    """The app that `world` runs: `pyncette_app` of the pytest configuration. Override it to return another one."""
    name = pytestconfig.getini("pyncette_app")
    if not name:
        pytest.fail(NO_APP, pytrace=False)
    return _load(name)


@pytest.fixture
def pyncette_start() -> datetime.datetime | None:
    """The time at which `world` starts; None: 2024-01-01 in UTC. Override or parametrize it to return another one."""
    return None


@pytest.fixture
def pyncette_backend() -> Literal["memory", "app"] | Callable[[], Store]:
    """The backend of `world`, as in `running`: in memory. Override it to return `"app"` for that of the app."""
    return "memory"


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    pyncette_app: Pyncette,  # noqa: ARG001 - named here, so that a test can parametrize them
    pyncette_start: datetime.datetime | None,  # noqa: ARG001
    pyncette_backend: object,  # noqa: ARG001
) -> World:
    """A `World`: the app of `pyncette_app`, running in simulated time until the test ends."""
    found: World = request.getfixturevalue(_world_for(request))
    return found


@pytest.fixture
async def _pyncette_world_anyio(
    anyio_backend: Any, pyncette_app: Pyncette, pyncette_start: Any, pyncette_backend: Any
) -> AsyncIterator[World]:
    name = anyio_backend if isinstance(anyio_backend, str) else anyio_backend[0]
    if name != "asyncio":
        pytest.fail(
            f"the fixture world needs asyncio, not {name}: return 'asyncio' from a fixture anyio_backend",
            pytrace=False,
        )
    async for one in running_world(pyncette_app, pyncette_start, pyncette_backend):
        yield one


async def running_world(app: Pyncette, start: Any, backend: Any) -> AsyncIterator[World]:
    """Yield the world of one test."""
    from pyncette.testing.world import running  # noqa: PLC0415 - see the top

    async with running(app, start, backend=backend) as one:
        yield one


def _world_for(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture that makes a world in the event loop of the test."""
    if "anyio_backend" in request.fixturenames:
        return _pyncette_world_anyio.__name__
    marker = request.node.get_closest_marker("asyncio")
    if marker is None or not request.config.pluginmanager.has_plugin("asyncio"):
        pytest.fail(NO_LOOP, pytrace=False)
    if not _has_loop_scopes(request.config):
        pytest.fail(OLD_PLUGIN, pytrace=False)
    given = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return f"_pyncette_world_{given or _default_scope(request.config)}"


def _has_loop_scopes(config: pytest.Config) -> bool:
    """Say whether pytest-asyncio is there, and takes the scope of the event loop of a fixture: from 0.24 on."""
    fixture = getattr(config.pluginmanager.get_plugin("asyncio"), "fixture", None)
    return fixture is not None and "loop_scope" in inspect.signature(fixture).parameters


def _default_scope(config: pytest.Config) -> str:
    try:
        return str(config.getini("asyncio_default_test_loop_scope"))
    except ValueError:  # a version without this setting
        return "function"


def _load(name: str) -> Pyncette:
    """Import the app of `MODULE:NAME`."""
    from pyncette.app.application import Pyncette  # noqa: PLC0415 - see the top

    module, _, attribute = name.partition(":")
    try:
        found = pkgutil.resolve_name(f"{module}:{attribute or 'app'}")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        pytest.fail(
            f"pyncette_app = {name}: module {error.name} not found. "
            'If it is in the folder of the configuration, add `pythonpath = ["."]`',
            pytrace=False,
        )
    except AttributeError:
        pytest.fail(f"pyncette_app = {name}: {module} has no {attribute or 'app'}", pytrace=False)
    except ValueError:
        pytest.fail(f"pyncette_app = {name}: not MODULE:NAME, such as tasks:app", pytrace=False)
    if not isinstance(found, Pyncette):
        pytest.fail(
            f"pyncette_app = {name}: not a Pyncette, but of type {type(found).__name__}", pytrace=False
        )
    return found
