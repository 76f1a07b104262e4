"""The mistakes that newcomers make: each gets a message that says where it is, and what to write instead."""

import datetime
import uuid
import warnings
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from pyncette import Pyncette
from pyncette.cli.commands import cli
from pyncette.testing import running
from tests.cli import MODULE, TaskFolder

DAILY = {"schedule": '"0 9 * * *"'}

IN_MANIFESTS = {
    "a minute that is out of range": (
        {"schedule": '"61 * * * *"'},
        ":7:13: spec.schedule: ",
        "look at the minute, 61",
    ),
    "an unknown handler": (DAILY | {"handler": "greeet"}, "spec.handler: ", "did you mean greet?"),
    "the time zone without its capital": (
        DAILY | {"timezone": "UTC"},
        "spec.timezone: ",
        "did you mean timeZone?",
    ),
    "retries": (
        DAILY | {"retries": 3},
        "spec.retries: ",
        "write retryPolicy.maxAttempts, which counts the first run",
    ),
    "timeout": (DAILY | {"timeout": 5}, "spec.timeout: ", "write activeDeadlineSeconds"),
    "cron": ({"cron": '"0 9 * * *"'}, "spec.cron: ", "write schedule"),
    "interval": ({"interval": 60}, "spec.interval: ", "write intervalSeconds"),
    "a misspelled zone": (
        DAILY | {"timeZone": "Europe/Dubln"},
        "spec.timeZone: ",
        "did you mean Europe/Dublin?",
    ),
    "a zone in lower case": (
        DAILY | {"timeZone": "europe/dublin"},
        "spec.timeZone: ",
        "did you mean Europe/Dublin?",
    ),
    "an offset": (DAILY | {"timeZone": "UTC+2"}, "spec.timeZone: ", "did you mean Etc/GMT-2?"),
    "an abbreviation": (DAILY | {"timeZone": "PST"}, "spec.timeZone: ", "did you mean America/Los_Angeles?"),
    "an abbreviation with an offset": (
        DAILY | {"timeZone": "EST5"},
        "spec.timeZone: ",
        "did you mean America/New_York?",
    ),
    "a number in quotes": (
        {"intervalSeconds": '"2"'},
        "spec.intervalSeconds: ",
        "write it without quotes: 2",
    ),
    "two schedules": (
        DAILY | {"intervalSeconds": 3},
        "spec.intervalSeconds: ",
        "mutually exclusive: keep one of them",
    ),
    "an instant without an offset": (
        {"executeAt": "2030-01-01T09:00:00"},
        "spec.executeAt: ",
        "write 2030-01-01T09:00:00Z",
    ),
    "a schedule without quotes": (
        {"schedule": "* * * * *"},
        ":7:13: ",
        'begins with * needs quotes: "* * * * *"',
    ),
    "a tab": ({"schedule": '"0 9 * * *"\n\ttimeZone: UTC'}, ":8:1: ", "indented with a tab; use spaces"),
    "an interval in words": (
        {"schedule": "every 5 minutes"},
        "spec.schedule: ",
        "write intervalSeconds: 300",
    ),
    "an interval of Go": ({"schedule": '"@every 5m"'}, "spec.schedule: ", "write intervalSeconds: 300"),
    "the keyword for a boot": (
        {"schedule": '"@reboot"'},
        "spec.schedule: ",
        "the keywords are @hourly, @daily",
    ),
    "seconds first": ({"schedule": '"0 0 9 * * *"'}, "note: ", 'seconds come last: write "0 9 * * *"'),
    "seconds first, at each hour": (
        {"schedule": '"0 9 * * * *"'},
        "note: ",
        'seconds come last: write "9 * * * *"',
    ),
    "an unknown field": (
        DAILY | {"colour": "red"},
        ":8:3: spec.colour: ",
        "unknown field; there are activeDeadlineSeconds",
    ),
}

IN_MODULES = {
    "an import that fails": ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    "a syntax error": ("x = = 1", "SyntaxError: invalid syntax"),
    "an exception": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a handler without a context": (
        "@app.handler()\nasync def water(): ...",
        "write `async def water(context)`",
    ),
    "a bare handler": ("@app.handler\nasync def water(context): ...", "write @app.handler(…)"),
    "a bare task": ("@app.task\nasync def water(context): ...", "write @app.task(…)"),
    "a bare dynamic task": ("@app.dynamic_task\nasync def water(context): ...", "write @app.dynamic_task(…)"),
    "a bare fixture": ("@app.fixture\nasync def db(app_context): yield 1", "write @app.fixture(…)"),
    "a task without a schedule": (
        "@app.task()\nasync def water(context): ...",
        "schedule, interval, execute_at",
    ),
}

OPTIONS = {
    "time_zone": ("Asia/Tokyo", 'write timezone="Europe/Dublin"'),
    "tz": ("Asia/Tokyo", 'write timezone="Europe/Dublin"'),
    "max_retries": (3, "write retry=Retry(max_attempts=3)"),
    "retries": (3, "write retry=Retry(max_attempts=3)"),
    "shedule": ("0 9 * * *", "did you mean schedule?"),
    "intervall": (5, "did you mean interval?"),
    "not_aftr": (5, "did you mean not_after?"),
}

VALUES = [
    ({"timezone": "Dublin"}, "Did you mean Europe/Dublin?"),
    ({"timezone": "PST"}, "Did you mean America/Los_Angeles?"),
    ({"timezone": ZoneInfo("Europe/Dublin")}, "write 'Europe/Dublin'"),
    ({"schedule": 3}, "schedule must be a str"),
    ({"schedule": "every 5 minutes"}, "interval=timedelta(seconds=300)"),
    ({"schedule": "61 * * * *"}, "look at the minute, 61"),
    ({"jitter": 5}, "write timedelta(seconds=5)"),
    ({"not_after": "2030-01-01"}, "not_after must be a datetime with a time zone"),
    ({"suspend": "x"}, "suspend must be True or False"),
    ({"force": "x"}, "force must be True or False"),
    ({"args": {"id": uuid.UUID(int=1)}}, "Name the argument in the signature of the handler"),
    ({"args": {"at": datetime.datetime(2030, 1, 1)}}, "Name the argument in the signature of the handler"),  # noqa: DTZ001 - as people write it
]

SETTINGS = [
    ({"sqlite_databse": "x"}, "did you mean sqlite_database?"),
    ({"postgres_url": "postgresql://"}, "from pyncette.postgres import postgres_repository"),
    ({"backend_url": "sqlite:///x"}, "from pyncette.backend import backend_repository"),
    ({"poll_interval": 5}, "write timedelta(seconds=5)"),
]


def checked(folder):
    return CliRunner().invoke(cli, ["check", str(folder.path)])


@pytest.mark.parametrize("mistake", IN_MANIFESTS)
def test_a_mistake_in_a_manifest_is_reported_with_its_place(mistake, tmp_path):
    fields, place, instead = IN_MANIFESTS[mistake]
    folder = TaskFolder(tmp_path).write("tasks.py", MODULE).task("report", **fields)

    result = checked(folder)

    assert place in result.output
    assert instead in result.output
    assert result.exit_code == (0 if place == "note: " else 1)


@pytest.mark.parametrize("mistake", IN_MODULES)
def test_a_mistake_in_a_module_is_reported_with_its_line(mistake, tmp_path):
    code, instead = IN_MODULES[mistake]
    folder = TaskFolder(tmp_path).write(
        "tasks.py", "from pyncette import Pyncette\n\napp = Pyncette()\n" + code + "\n"
    )

    result = checked(folder)

    assert "tasks.py:4: " in result.output
    assert instead in result.output
    assert result.exit_code == 1


def a_task(defaults):
    app = Pyncette(defaults=defaults)

    @app.dynamic_task()
    async def remind(context): ...

    return app, remind


@pytest.mark.parametrize("option", OPTIONS)
async def test_an_option_that_does_not_exist_is_refused(option):
    value, instead = OPTIONS[option]
    app, remind = a_task("safe")

    async with running(app) as world:
        with pytest.raises(ValueError) as refused:
            await world.context.schedule_task(remind, "ada", schedule="0 9 * * *", **{option: value})

    assert f"unknown option {option}; {instead}" in str(refused.value)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_does_not_exist_is_warned_of_with_the_defaults_of_1_x(option):
    value, instead = OPTIONS[option]

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        Pyncette().dynamic_task(name="remind", **{option: value})(a_task("1.x")[1].task_func)

    assert instead in str(warned[0].message)


@pytest.mark.parametrize(("options", "instead"), VALUES)
async def test_an_invalid_value_of_an_option_is_refused(options, instead):
    app, remind = a_task("safe")

    async with running(app) as world:
        with pytest.raises(ValueError) as refused:
            await world.context.schedule_task(remind, "ada", **({"schedule": "0 9 * * *"} | options))

    assert instead in str(refused.value)


@pytest.mark.parametrize(("settings", "instead"), SETTINGS)
def test_a_setting_that_is_unknown_or_invalid_is_refused(settings, instead):
    with pytest.raises(ValueError) as refused:
        Pyncette(**settings)

    assert instead in str(refused.value)


@pytest.mark.parametrize("call", ["schedule_task", "unschedule_task", "get_task", "list_tasks"])
@pytest.mark.parametrize("task", ["remind", checked])
async def test_what_is_no_task_is_refused_by_each_call(call, task):
    app, _ = a_task("safe")
    name = [] if call == "list_tasks" else ["ada"]

    async with running(app) as world:
        with pytest.raises(ValueError, match=r"is not a task: pass the function that @app\.dynamic_task"):
            await getattr(world.context, call)(task, *name)
