"""The defaults of an app: those of Pyncette 1.x, and the safe ones."""

import datetime
import itertools

import pytest

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.core.spec import Heartbeat, Missed, Mode, Policies, Retry
from pyncette.errors import ConfigurationError
from pyncette.task import Task
from tests.app.harness import NOON, at, running, seconds


@pytest.fixture
def safe(memory):
    return Pyncette(memory, defaults="safe")


def test_an_app_has_the_defaults_of_1_x_unless_it_asks_for_the_safe_ones(memory):
    assert Pyncette(memory).defaults.name == "1.x"
    assert Pyncette(memory, defaults="1.x").defaults == Pyncette(memory).defaults
    assert Pyncette(memory, defaults="safe").defaults.name == "safe"


@pytest.mark.parametrize(("name", "hint"), [("save", "did you mean safe?"), (True, "write '1.x' or 'safe'")])
def test_unknown_defaults_are_refused(memory, name, hint):
    with pytest.raises(ConfigurationError, match="unknown defaults") as error:
        Pyncette(memory, defaults=name)

    assert hint in str(error.value)


@pytest.mark.parametrize("kind", ["task", "dynamic_task", "partitioned_task"])
def test_safe_tasks_have_the_heartbeat_and_the_retries_of_a_pyncette_task(safe, kind):
    more = {"partition_count": 2} if kind == "partitioned_task" else {}

    @getattr(safe, kind)(interval=seconds(10), **more)
    async def report(context):
        pass

    assert report.heartbeat == "automatic"
    assert report.failure_mode is FailureMode.UNLOCK
    assert report.policies == Policies(missed=Missed.ALL, max_catch_up=0)
    assert report.policies.retry == Retry(max_attempts=5)


def test_options_win_over_safe_defaults(safe):
    @safe.dynamic_task(heartbeat="cooperative", failure_mode=FailureMode.NONE)
    async def report(context):
        pass

    assert report.policies.heartbeat is Heartbeat.COOPERATIVE
    assert report.policies.retry == Retry(max_attempts=0, wait_for_lease=True)
    assert report.failure_mode is FailureMode.NONE

    instance = report.spec_of("ada", {"interval": seconds(1), "failure_mode": FailureMode.COMMIT})
    assert instance.policies.retry == Retry(max_attempts=1, count_takeovers=False)


def test_a_safe_task_can_run_at_most_once(safe):
    @safe.task(interval=seconds(10), execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def tweet(context):
        pass

    assert tweet.policies.mode is Mode.AT_MOST_ONCE


async def test_a_failing_safe_task_is_retried_with_backoff_five_times(safe, clock):
    attempts = []

    @safe.dynamic_task()
    async def fail(context):
        attempts.append((context.attempt, context.app_context.clock.now()))
        raise ValueError("no")

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(fail, "ada", execute_at=at(1))
        await clock.advance(datetime.timedelta(hours=1))
        assert await app_context.get_task(fail, "ada") is None

    assert [number for number, _ in attempts] == [1, 2, 3, 4, 5]
    times = [time for _, time in attempts]
    delays = [after - before for before, after in itertools.pairwise(times)]
    assert all(later > sooner for sooner, later in itertools.pairwise(delays))


def test_a_safe_app_takes_arguments_in_args(safe):
    @safe.dynamic_task(args={"greeting": "hello", "name": "ada", "timezone": "UTC"})
    async def remind(context):
        pass

    assert remind.extra_args == {"greeting": "hello", "name": "ada", "timezone": "UTC"}
    assert remind.name == "remind"
    instance = remind.instantiate("bob", interval=seconds(5), args={"name": "bob"})
    assert instance.extra_args == {"greeting": "hello", "name": "bob", "timezone": "UTC"}


@pytest.mark.parametrize("args", [3, [1], "text", {1: 2}])
def test_args_are_a_dictionary_by_name(safe, args):
    with pytest.raises(ValueError, match="args must be a dictionary of arguments by name"):
        safe.dynamic_task(args=args)(a_handler)


async def a_handler(context):
    pass


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("shedule", "did you mean schedule?"),
        ("tz", 'write timezone="Europe/Dublin"'),
        ("person", "(pass arguments as args={'person': …})"),
    ],
)
def test_a_safe_app_refuses_loose_keywords(safe, keyword, hint):
    remind = safe.dynamic_task()(a_handler)

    with pytest.raises(ValueError, match=f"unknown option {keyword}; ") as of_a_task:
        safe.task(interval=seconds(1), name="other", **{keyword: 1})(a_handler)
    with pytest.raises(ValueError, match=f"unknown option {keyword}; ") as of_an_instance:
        remind.instantiate("ada", interval=seconds(1), **{keyword: 1})

    assert hint in str(of_a_task.value)
    assert hint in str(of_an_instance.value)


async def test_an_instance_of_a_safe_app_with_a_loose_keyword_is_not_scheduled(safe, clock):
    remind = safe.dynamic_task()(a_handler)

    async with safe.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="did you mean timezone"):
            await app_context.schedule_task(remind, "ada", schedule="0 9 * * *", timezon="Asia/Tokyo")
        many = [
            result
            async for result in app_context.schedule_many(
                remind,
                [
                    ("ada", {"execute_at": NOON, "user": 1}),
                    ("bob", {"execute_at": NOON, "args": {"user": 1}}),
                ],
            )
        ]

        assert [result.error is None for result in many] == [False, True]
        assert await app_context.get_task(remind, "ada") is None


def test_args_is_an_argument_in_an_app_with_the_defaults_of_1_x(memory):
    remind = Pyncette(memory).dynamic_task(args={"a": 1}, other=2)(a_handler)

    assert remind.extra_args == {"args": {"a": 1}, "other": 2}
    assert remind.instantiate("ada", interval=seconds(1), args=3).extra_args == {"args": 3, "other": 2}
    assert Task(name="direct", func=a_handler, interval=seconds(1), args=4).extra_args == {"args": 4}


def test_defaults_is_an_argument_of_tasks(memory):
    assert Pyncette(memory).dynamic_task(defaults="safe")(a_handler).extra_args == {"defaults": "safe"}
