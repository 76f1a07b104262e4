"""What a task module may declare, and the error if a declaration is invalid."""

import datetime
import functools
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from croniter import CroniterBadCronError

from pyncette import Context, ExecutionMode, FailureMode, Pyncette
from pyncette.app.tasks import kind_of
from pyncette.task import PartitionedTask, Task
from pyncette.utils import with_heartbeat

A_MINUTE = datetime.timedelta(minutes=1)
LATER = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)


async def a_handler(context: Context) -> None:
    del context


class Callme:
    async def __call__(self, context: Context) -> None:
        del context


@pytest.fixture
def app() -> Pyncette:
    return Pyncette()


# --- What can be declared ------------------------------------------------------------------------------------------------


def test_a_decorator_makes_a_task_that_is_named_like_the_function(app):
    task = app.task(interval=A_MINUTE)(a_handler)

    assert isinstance(task, Task)
    assert task.name == "a_handler"
    assert str(task) == "a_handler"


def test_a_task_shows_its_options(app):
    task = app.task(
        name="report",
        schedule="0 12 * * MON-FRI",
        timezone="Europe/Dublin",
        fast_forward=True,
        failure_mode=FailureMode.UNLOCK,
        lease_duration=datetime.timedelta(seconds=90),
        heartbeat="automatic",
        concurrency_limit=3,
        max_concurrent_runs=5,
        enabled=False,
        audience="finance",
    )(a_handler)

    assert task.name == "report"
    assert task.schedule == "0 12 * * MON-FRI"
    assert task.timezone == "Europe/Dublin"
    assert task.interval is None
    assert task.execute_at is None
    assert task.fast_forward
    assert task.failure_mode is FailureMode.UNLOCK
    assert task.execution_mode is ExecutionMode.AT_LEAST_ONCE
    assert task.lease_duration == datetime.timedelta(seconds=90)
    assert task.heartbeat == "automatic"
    assert task.concurrency_limit == 3
    assert task.max_concurrent_runs == 5
    assert not task.enabled
    assert task.extra_args == {
        "audience": "finance",
        "heartbeat": "automatic",
        "concurrency_limit": 3,
        "max_concurrent_runs": 5,
    }
    assert not task.dynamic


def test_options_that_are_not_given_have_the_defaults_of_the_contract(app):
    task = app.task(interval=A_MINUTE)(a_handler)

    assert task.interval == A_MINUTE
    assert task.enabled
    assert not task.fast_forward
    assert task.failure_mode is FailureMode.NONE
    assert task.execution_mode is ExecutionMode.AT_LEAST_ONCE
    assert task.lease_duration == datetime.timedelta(seconds=60)
    assert task.heartbeat == "cooperative"
    assert task.concurrency_limit is None
    assert task.max_concurrent_runs is None
    assert task.timezone is None
    assert task.extra_args == {}


def test_arguments_cannot_be_changed_through_the_task_that_shows_them(app):
    task = app.task(interval=A_MINUTE, audience=["finance"])(a_handler)

    task.extra_args["audience"].append("everybody")

    assert task.extra_args == {"audience": ["finance"]}


@pytest.mark.parametrize("schedule", ["* * * * *", "* * * * * 30", "0 0 1 1 * 0 2099", "@hourly"])
def test_cron_has_five_fields_or_six_with_seconds_last_or_seven_with_the_year(app, schedule):
    assert app.task(schedule=schedule)(a_handler).schedule == schedule


@pytest.mark.parametrize("timezone", ["Europe/Dublin", "UTC+3", "EST5EDT,M3.2.0,M11.1.0"])
def test_a_time_zone_is_an_iana_name_or_what_dateutil_takes(app, timezone):
    assert app.task(schedule="0 0 * * *", timezone=timezone)(a_handler).timezone == timezone


def test_decorators_can_be_stacked_and_share_the_handler(app):
    inner = app.task(interval=A_MINUTE)(a_handler)
    outer = app.task(name="hourly", schedule="@hourly")(inner)

    assert list(app.tasks) == ["a_handler", "hourly"]
    assert outer.task_func is inner.task_func is a_handler


async def test_a_task_can_be_called_like_its_function(app):
    called = []

    @app.task(interval=A_MINUTE)
    async def report(context):
        called.append(context)

    await report("a context")

    assert called == ["a context"]


def test_handlers_that_have_no_name_can_be_given_one(app):
    assert app.task(name="partial", interval=A_MINUTE)(functools.partial(a_handler)).name == "partial"
    assert app.dynamic_task(name="object")(Callme()).name == "object"


def test_a_heartbeat_keeps_the_name_of_its_handler(app):
    assert app.task(interval=A_MINUTE)(with_heartbeat()(a_handler)).name == "a_handler"


def test_a_partitioned_task_spreads_its_instances_evenly_by_the_hash_of_their_names(app):
    task = app.partitioned_task(partition_count=4)(a_handler)

    # sha1("hello") begins with aa: two thirds of the range.
    assert isinstance(task, PartitionedTask)
    assert task.partition_of("hello") == 2
    assert {task.partition_of(f"user-{number}") for number in range(100)} == {0, 1, 2, 3}
    assert [app.tasks["a_handler"].partition_count, task._polled_partitions] == [4, (0, 1, 2, 3)]
    assert task.enabled_partitions is None


def test_a_selector_returns_the_partition(app):
    task = app.partitioned_task(partition_count=4, partition_selector=lambda count, name: len(name) % count)(
        a_handler
    )

    assert task.partition_of("abcde") == 1


def test_a_process_may_poll_only_some_partitions(app):
    task = app.partitioned_task(partition_count=4, enabled_partitions=[3, 1])(a_handler)

    assert task._polled_partitions == (1, 3)


def test_workers_may_share_the_partitions_out(app):
    task = app.partitioned_task(partition_count=4, enabled_partitions="shared")(a_handler)

    assert task._polled_partitions == (0, 1, 2, 3)
    assert task._shares_partitions
    with pytest.raises(ValueError, match="must be numbers or 'shared', not 'some'"):
        app.partitioned_task(name="other", partition_count=4, enabled_partitions="some")(a_handler)


def test_a_task_knows_the_source_of_its_runs(app):
    static = app.task(interval=A_MINUTE)(a_handler)
    dynamic = app.dynamic_task(name="dynamic")(a_handler)
    handler = app.handler(name="handler")(a_handler)

    assert [kind_of(task).value for task in (static, dynamic, handler)] == ["static", "template", "handler"]


# --- What is refused -----------------------------------------------------------------------------------------------------


def test_a_name_cannot_be_declared_twice(app):
    app.task(interval=A_MINUTE)(a_handler)

    for declare in (app.task(interval=A_MINUTE), app.dynamic_task(), app.handler()):
        with pytest.raises(ValueError) as refused:
            declare(a_handler)
        assert str(refused.value).startswith("Duplicate task name a_handler")


@pytest.mark.parametrize("handler", [functools.partial(a_handler), Callme()])
def test_a_task_without_a_derivable_name_is_refused(app, handler):
    for declare in (
        app.task(interval=A_MINUTE),
        app.dynamic_task(),
        app.partitioned_task(partition_count=2),
        app.handler(),
    ):
        with pytest.raises(ValueError, match=r"^Unable to determine name for the task"):
            declare(handler)


def test_the_second_of_two_stacked_decorators_needs_a_name(app):
    inner = app.task(interval=A_MINUTE)(a_handler)

    with pytest.raises(ValueError, match=r"^Duplicate task name a_handler; pass another with name"):
        app.task(interval=A_MINUTE)(inner)


def test_a_fixture_without_a_derivable_name_is_refused(app):
    with pytest.raises(ValueError, match=r"^Unable to determine name for the fixture"):
        app.fixture()(functools.partial(a_handler))


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "n" * 251, 7])
def test_a_name_that_no_database_holds_is_refused(app, name):
    with pytest.raises(ValueError, match="name of a task"):
        app.task(name=name, interval=A_MINUTE)(a_handler)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "* * * * *", "interval": A_MINUTE},
        {"schedule": "* * * * *", "execute_at": LATER},
        {"interval": A_MINUTE, "execute_at": LATER},
        {"execute_at": LATER},
    ],
)
def test_a_task_has_exactly_one_of_schedule_and_interval(app, options):
    with pytest.raises(ValueError, match=r"schedule|execute_at"):
        app.task(**options)(a_handler)


def test_a_time_zone_without_a_cron_expression_is_refused(app):
    with pytest.raises(ValueError, match=r"^Timezone may only be specified when cron schedule is used"):
        app.task(interval=A_MINUTE, timezone="Europe/Dublin")(a_handler)


def test_an_unknown_time_zone_is_refused(app):
    with pytest.raises(ValueError) as refused:
        app.task(schedule="* * * * *", timezone="Europe/Dubin")(a_handler)

    assert str(refused.value) == "Invalid timezone specifier 'Europe/Dubin'. Did you mean Europe/Dublin?"


@pytest.mark.parametrize("schedule", ["", "* * * *", "61 * * * *", "every day", "0 0 30 2 *"])
def test_a_bad_cron_expression_is_refused_with_croniters_own_error(app, schedule):
    with pytest.raises(CroniterBadCronError) as refused:
        app.task(schedule=schedule)(a_handler)

    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("interval", [datetime.timedelta(0), datetime.timedelta(seconds=-1)])
def test_an_interval_that_is_not_longer_than_zero_is_refused(app, interval):
    with pytest.raises(ValueError, match="longer than zero"):
        app.task(interval=interval)(a_handler)


@pytest.mark.parametrize("mode", [FailureMode.UNLOCK, FailureMode.COMMIT])
def test_a_failure_mode_is_refused_at_most_once(app, mode):
    with pytest.raises(ValueError) as refused:
        app.task(interval=A_MINUTE, failure_mode=mode, execution_mode=ExecutionMode.AT_MOST_ONCE)(a_handler)

    assert str(refused.value) == "failure_mode is not applicable when execution_mode is AT_MOST_ONCE"


@pytest.mark.parametrize("value", [object(), LATER, Decimal(1), float("nan"), {1, 2}, b"bytes", "\ud800"])
def test_arguments_that_are_not_json_are_refused(app, value):
    with pytest.raises(ValueError, match=r"^Extra parameters must be JSON serializable"):
        app.task(interval=A_MINUTE, argument=value)(a_handler)


def test_arguments_that_contain_themselves_are_refused(app):
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(ValueError, match=r"^Extra parameters must be JSON serializable"):
        app.task(interval=A_MINUTE, argument=endless)(a_handler)


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_at_least_one_partition(app, count):
    with pytest.raises(ValueError) as refused:
        app.partitioned_task(partition_count=count)(a_handler)

    assert str(refused.value) == "Partition count must be greater than or equal to 1"


def test_partitions_that_do_not_exist_cannot_be_enabled(app):
    with pytest.raises(ValueError, match="must be from 0 to 3"):
        app.partitioned_task(partition_count=4, enabled_partitions=[4])(a_handler)


@pytest.mark.parametrize("number", [-1, 4, None, "1"])
def test_a_selector_that_names_a_partition_that_there_is_not_is_an_error(app, number):
    task = app.partitioned_task(partition_count=4, partition_selector=lambda *_: number)(a_handler)

    with pytest.raises(ValueError, match="must be from 0 to 3"):
        task.partition_of("user")


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.1])
def test_the_ratio_of_a_heartbeat_is_between_zero_and_one(ratio):
    with pytest.raises(ValueError, match=r"^Lease remaining ratio must be in \(0, 1\)"):
        with_heartbeat(lease_remaining_ratio=ratio)


@pytest.mark.parametrize(
    "name",
    [
        "app_context",
        "task",
        "scheduled_at",
        "args",
        "heartbeat",
        "attempt",
        "run_id",
        "fencing_token",
        "idempotency_key",
    ],
)
def test_a_fixture_cannot_have_the_name_of_a_field_of_the_context(app, name):
    async def fixture(app_context) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(ValueError, match=f"^Cannot use reserved name {name}"):
        app.use_fixture(name, fixture)
    with pytest.raises(ValueError, match=f"^Cannot use reserved name {name}"):
        app.fixture(name=name)(fixture)


def test_two_fixtures_cannot_have_the_same_name(app):
    @app.fixture()
    async def db(app_context):
        yield 1

    with pytest.raises(ValueError, match="Duplicate fixture name db"):
        app.use_fixture("db", db)


@pytest.mark.parametrize(
    "options",
    [
        {"lease_duration": datetime.timedelta(0)},
        {"lease_duration": datetime.timedelta.max},
        {"lease_duration": 60},
        {"heartbeat": "sometimes"},
        {"failure_mode": "UNLOCK"},
        {"execution_mode": "AT_MOST_ONCE"},
        {"concurrency_limit": 0},
        {"max_concurrent_runs": 0},
        {"max_concurrent_runs": 10_001},
        {"schedule": 5, "interval": None},
        {"interval": 5},
    ],
)
def test_an_option_that_is_not_what_it_should_be_is_refused_by_its_name(app, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        app.task(**({"interval": A_MINUTE} | options))(a_handler)


def test_a_handler_decorator_without_parentheses_is_refused(app):
    with pytest.raises(ValueError, match=r"write @app.handler\(…\)"):
        app.handler(a_handler)(a_handler)
