"""The fixture `world`, in small projects that pytest runs on their own, with the plugins that each names alone."""

import subprocess
import sys

import pytest

TASKS = """
from pyncette import Pyncette

app = Pyncette(sqlite_database="never.sqlite")
ran = []
not_an_app = 3

@app.dynamic_task()
async def remind(context):
    ran.append(f"{context.task.name} at {context.scheduled_at.isoformat()}")
"""

TESTS = """
import asyncio
import pathlib
import pytest
import tasks

{mark}
@pytest.fixture
def before():
    tasks.ran.clear()

async def test_a_reminder_runs(before, world):
    await world.context.schedule_task(tasks.remind, "ada", schedule="0 8 * * *", timezone="Asia/Tokyo")
    await world.advance(days=1)
    assert tasks.ran == ["ada at 2024-01-02T08:00:00+09:00"]

async def test_each_test_has_a_world_of_its_own(world):
    assert await world.context.get_task(tasks.remind, "ada") is None
    assert world.now.isoformat() == "2024-01-01T00:00:00+00:00"

async def test_the_world_is_in_the_loop_of_the_test(world):
    event = asyncio.Event()
    world.clock.call_later(1_000_000, event.set)
    waiting = asyncio.ensure_future(event.wait())
    await world.advance(seconds=1)
    assert await waiting
    assert not pathlib.Path("never.sqlite").exists()
"""

MARKED = "pytestmark = pytest.mark.asyncio"


class Project:
    """A folder with tasks, tests and a configuration."""

    def __init__(self, pytester, monkeypatch):
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
        self._pytester = pytester
        self.write(tasks=TASKS)
        self.configure('pyncette_app = "tasks:app"')

    def configure(self, *lines, pythonpath='pythonpath = ["."]'):
        lines = ["[tool.pytest.ini_options]", 'filterwarnings = ["error"]', pythonpath, *lines]
        self._pytester.path.joinpath("pyproject.toml").write_text("\n".join(lines))

    def write(self, **files):
        self._pytester.makepyfile(**files)

    def run(self, *plugins):
        """Run the tests with *plugins*, by the names of their entry points."""
        options = [option for plugin in ("pyncette", *plugins) for option in ("-p", plugin)]
        return self._pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *options)


@pytest.fixture
def project(pytester, monkeypatch):
    return Project(pytester, monkeypatch)


OLD = """
import pytest_asyncio
from pytest_asyncio import plugin

def fixture(fixture_function=None, **kwargs):
    if "loop_scope" in kwargs:
        raise TypeError("fixture() got an unexpected keyword argument 'loop_scope'")

plugin.fixture = pytest_asyncio.fixture = fixture
"""
"""A plugin that makes pytest-asyncio one from before 0.24."""


def refusal(run, **outcomes):
    """The output of a run that refuses to set up the world."""
    run.assert_outcomes(errors=1, **outcomes)
    return run.stdout.str()


@pytest.mark.parametrize(
    ("plugins", "mark", "mode"),
    [
        (["asyncio"], "", 'asyncio_mode = "auto"'),
        (["asyncio"], MARKED, 'asyncio_mode = "strict"'),
        (["asyncio"], 'pytestmark = pytest.mark.asyncio(loop_scope="module")', ""),
        (["asyncio"], MARKED, 'asyncio_default_test_loop_scope = "session"'),
        (["anyio"], "pytestmark = pytest.mark.anyio", ""),
        (["anyio"], "", 'anyio_mode = "auto"'),
        (["asyncio", "anyio"], "pytestmark = pytest.mark.anyio", 'asyncio_mode = "strict"'),
        (["asyncio", "anyio"], MARKED, ""),
    ],
)
def test_a_world_runs_with_each_plugin_for_async_tests(project, plugins, mark, mode):
    project.configure('pyncette_app = "tasks"', mode)
    project.write(test_it=TESTS.format(mark=mark))

    project.run(*plugins).assert_outcomes(passed=3)


def test_a_fixture_names_the_app_and_the_start_and_the_backend(project):
    project.configure('asyncio_mode = "auto"')
    project.write(
        conftest="""
        import datetime
        import pytest
        import tasks

        @pytest.fixture
        def pyncette_app():
            return tasks.app

        @pytest.fixture
        def pyncette_backend():
            return "app"
        """,
        test_it="""
        import datetime
        import pathlib
        import pytest

        @pytest.mark.parametrize("pyncette_start", [datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)])
        async def test_it(world):
            assert world.now == datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)
            assert pathlib.Path("never.sqlite").exists()
        """,
    )

    project.run("asyncio").assert_outcomes(passed=1)


def test_the_fixtures_of_a_project_may_use_the_world(project):
    project.configure('pyncette_app = "tasks:app"', 'asyncio_mode = "auto"')
    project.write(
        test_it="""
        import pytest
        import tasks

        @pytest.fixture
        async def ada(world):
            return await world.context.schedule_task(tasks.remind, "ada", schedule="0 8 * * *")

        async def test_it(ada, world):
            assert await world.context.get_task(ada) is not None
        """
    )

    project.run("asyncio").assert_outcomes(passed=1)


A_TEST = "async def test_it(world): ...\n"
MARKED_TEST = f"import pytest\n{MARKED}\n{A_TEST}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the fixture world does not know your app"),
        ('pyncette_app = "taks:app"', "pyncette_app = taks:app: module taks not found"),
        ('pyncette_app = "tasks:ap"', "pyncette_app = tasks:ap: tasks has no ap"),
        (
            'pyncette_app = "tasks:not_an_app"',
            "pyncette_app = tasks:not_an_app: not a Pyncette, but of type int",
        ),
        ('pyncette_app = "tasks.py"', "pyncette_app = tasks.py: module tasks.py not found"),
        ('pyncette_app = "a b"', "pyncette_app = a b: not MODULE:NAME, such as tasks:app"),
    ],
)
def test_an_app_that_is_not_found_is_an_error_that_says_what_to_write(project, line, message):
    project.configure(line)
    project.write(test_it=MARKED_TEST)

    assert message in refusal(project.run("asyncio"))


def test_the_error_of_a_missing_app_shows_both_ways_to_name_it(project):
    project.configure()
    project.write(test_it=MARKED_TEST)

    shown = refusal(project.run("asyncio"))

    assert 'pyncette_app = "tasks:app"' in shown
    assert "def pyncette_app():" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("plugins", "test"),
    [
        ([], "def test_it(world): ..."),
        (["asyncio", "anyio"], "def test_it(world): ..."),
        (["anyio"], "import pytest\n\n@pytest.mark.timeout(9)\ndef test_it(world): ..."),
    ],
)
def test_a_world_in_a_test_that_is_not_async_says_what_is_needed(project, plugins, test):
    project.write(test_it=test)

    shown = refusal(project.run("timeout", *plugins))

    assert "the fixture world needs an async test that a plugin runs" in shown
    assert "@pytest.mark.asyncio" in shown
    assert "@pytest.mark.anyio" in shown


def test_another_backend_of_anyio_is_refused(project):
    project.write(
        test_it="""
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"use_uvloop": False}

        @pytest.mark.anyio
        async def test_it(world): ...
        """,
        test_trio="""
        import pytest
        from pyncette.testing import pytest_plugin

        class Request:
            fixturenames = ["anyio_backend"]

        def test_it():
            made = pytest_plugin._pyncette_world_anyio._get_wrapped_function()("trio", None, None, "memory")
            with pytest.raises(pytest.fail.Exception, match="needs asyncio, not trio: return 'asyncio'"):
                made.asend(None).send(None)
        """,
    )

    project.run("anyio").assert_outcomes(passed=2)


def test_a_project_that_does_not_use_the_plugin_imports_nothing_of_the_app(project):
    project.write(
        test_it="""
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.startswith("pyncette")}
            assert ours == {
                "pyncette",
                "pyncette._version",
                "pyncette.testing",
                "pyncette.testing.pytest_asyncio_worlds",
                "pyncette.testing.pytest_plugin",
            }
            assert "pydantic" not in sys.modules
        """
    )

    project.run("asyncio").assert_outcomes(passed=1)


def test_nothing_but_the_plugin_and_the_suites_imports_pytest():
    program = "import sys, pyncette.testing as testing; testing.running, testing.VirtualClock; print('pytest' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown == "False\n"


def test_an_old_pytest_asyncio_is_refused_only_where_the_fixture_is_used(project):
    project.configure('pyncette_app = "tasks:app"', 'asyncio_mode = "auto"')
    project.write(old=OLD, test_it="async def test_other(): pass\n\nasync def test_world(world): pass")

    assert "needs pytest-asyncio 0.24 or later" in refusal(project.run("asyncio", "old"), passed=1)
