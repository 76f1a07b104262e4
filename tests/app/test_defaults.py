"""The defaults of an app: those of Pyncette 1.x, and the safe ones."""

import datetime
import itertools
import logging
import re

import pytest

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.app.keywords import NEW_OPTIONS, OTHER_NAMES, remedy
from pyncette.core.spec import Heartbeat, Missed, Mode, Policies, Retry
from pyncette.errors import ConfigurationError, LooseKeywordWarning
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
    assert report._policies == Policies(missed=Missed.ALL, max_catch_up=0)
    assert report._policies.retry == Retry(max_attempts=5)


def test_options_win_over_safe_defaults(safe):
    @safe.dynamic_task(heartbeat="cooperative", failure_mode=FailureMode.NONE)
    async def report(context):
        pass

    assert report._policies.heartbeat is Heartbeat.COOPERATIVE
    assert report._policies.retry == Retry(max_attempts=0, wait_for_lease=True)
    assert report.failure_mode is FailureMode.NONE

    instance = report._spec_of("ada", {"interval": seconds(1), "failure_mode": FailureMode.COMMIT})
    assert instance.policies.retry == Retry(max_attempts=1, count_takeovers=False)


def test_a_safe_task_can_run_at_most_once(safe):
    @safe.task(interval=seconds(10), execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def tweet(context):
        pass

    assert tweet._policies.mode is Mode.AT_MOST_ONCE


async def test_a_failing_safe_task_is_retried_with_backoff_five_times(safe, clock):
    attempts = []

    @safe.dynamic_task()
    async def fail(context):
        attempts.append((context.attempt, runtime_of(context.app_context).clock.now()))
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
        ("tz", "(for an argument: args={'tz': …})"),
        ("person", "; pass arguments as args={'person': …}"),
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


@pytest.mark.filterwarnings("ignore::pyncette.errors.LooseKeywordWarning")
def test_args_is_an_argument_in_an_app_with_the_defaults_of_1_x(memory):
    remind = Pyncette(memory).dynamic_task(args={"a": 1}, other=2)(a_handler)

    assert remind.extra_args == {"args": {"a": 1}, "other": 2}
    assert remind.instantiate("ada", interval=seconds(1), args=3).extra_args == {"args": 3, "other": 2}
    assert Task(name="direct", func=a_handler, interval=seconds(1), args=4).extra_args == {"args": 4}


def test_defaults_is_an_argument_of_tasks(memory):
    assert Pyncette(memory).dynamic_task(defaults="safe")(a_handler).extra_args == {"defaults": "safe"}


def test_an_instance_of_a_safe_app_is_made_from_its_own_spec(safe):
    remind = safe.dynamic_task()(a_handler)
    ada = remind.instantiate("ada", interval=seconds(5), args={"name": "ada"})

    assert remind.instantiate_from_spec(ada.as_spec()).as_spec() == ada.as_spec()


async def test_an_option_in_the_wrong_place_is_not_suggested(safe, clock):
    remind = safe.dynamic_task()(a_handler)
    items = [("ada", {"interval": seconds(5), "keep_sooner": True})]

    async with safe.create(clock=clock) as app_context:
        (error,) = [result.error async for result in app_context.schedule_many(remind, items)]

    assert str(error) == "keep_sooner is no option here; for an argument: args={'keep_sooner': …}"


# --- Edits ---------------------------------------------------------------------------------------------------------------


async def scheduled_at(app, clock, *edits):
    remind = app.dynamic_task()(a_handler)
    async with app.create(clock=clock) as app_context:
        for edit in edits:
            await app_context.schedule_task(remind, "ada", **edit)
        return (await app_context.get_task(remind, "ada")).scheduled_at


async def test_an_edit_of_a_safe_app_replaces_the_next_time(safe, clock):
    assert await scheduled_at(safe, clock, {"execute_at": at(10)}, {"execute_at": at(20)}) == at(20)


async def test_an_edit_of_a_safe_app_keeps_the_sooner_time_if_told_to(safe, clock):
    later = {"execute_at": at(20), "keep_sooner": True}

    assert await scheduled_at(safe, clock, {"execute_at": at(10)}, later) == at(10)


async def test_an_edit_with_the_defaults_of_1_x_keeps_the_sooner_time(memory, clock):
    app = Pyncette(memory)

    assert await scheduled_at(app, clock, {"execute_at": at(10)}, {"execute_at": at(20)}) == at(10)


async def test_an_edit_with_the_same_schedule_leaves_the_next_time_alone(safe, clock):
    remind = safe.dynamic_task()(a_handler)
    async with safe.create(clock=clock) as app_context:
        await app_context.schedule_task(remind, "ada", interval=seconds(60))
        await clock.advance(seconds(45))
        await app_context.schedule_task(remind, "ada", interval=seconds(60), args={"user": 1})
        state = await app_context.get_task(remind, "ada")

    assert state.scheduled_at == at(60)
    assert state.task.extra_args == {"user": 1}


@pytest.mark.parametrize(("keep_sooner", "expected"), [(None, at(20)), (True, at(10)), (False, at(20))])
async def test_many_edits_of_a_safe_app_replace_unless_told_otherwise(safe, clock, keep_sooner, expected):
    remind = safe.dynamic_task()(a_handler)
    async with safe.create(clock=clock) as app_context:
        await app_context.schedule_task(remind, "ada", execute_at=at(10))
        items = [("ada", {"execute_at": at(20)})]
        async for result in app_context.schedule_many(remind, items, keep_sooner=keep_sooner):
            assert result.error is None
        assert (await app_context.get_task(remind, "ada")).scheduled_at == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"force": "x"}, "force must be True or False, not 'x'"),
        ({"keep_sooner": 1}, "keep_sooner must be True or False, not 1"),
        ({"force": True, "keep_sooner": True}, "force and keep_sooner are mutually exclusive"),
    ],
)
async def test_how_to_edit_is_checked(safe, clock, options, message):
    remind = safe.dynamic_task()(a_handler)
    async with safe.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match=message):
            await app_context.schedule_task(remind, "ada", execute_at=at(1), **options)


# --- Loose keywords with the defaults of 1.x -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pyncette.errors.LooseKeywordWarning")
@pytest.mark.parametrize("name", sorted(NEW_OPTIONS))
async def test_a_new_option_stays_an_argument_in_a_module_of_1_x(memory, clock, name):
    seen = []
    app = Pyncette(memory)

    @app.dynamic_task(**{name: "of the template"})
    async def remind(context):
        seen.append(context.args)

    @app.task(interval=seconds(3), **{name: 3})
    async def report(context):
        seen.append(context.args)

    async with running(app, clock) as app_context:
        with pytest.warns(LooseKeywordWarning, match=re.escape('use Pyncette(defaults="safe")')):
            await app_context.schedule_task(remind, "ada", execute_at=at(1), **{name: {"a": 1}})
        await app_context.schedule_task(remind, "bob", execute_at=at(2))
        await clock.advance(seconds(3))

    assert seen == [{name: {"a": 1}}, {name: "of the template"}, {name: 3}]


@pytest.mark.parametrize("name", [*OTHER_NAMES, "shedule", "time_zon", "failure_mod"])
def test_a_safe_app_and_one_of_1_x_know_what_a_keyword_was_meant_to_be(memory, safe, name):
    with pytest.warns(LooseKeywordWarning, match=re.escape(remedy(name))) as warned:
        task = Pyncette(memory).dynamic_task(**{name: 1})(a_handler)
    with pytest.raises(ValueError, match=re.escape(remedy(name))):
        safe.dynamic_task(**{name: 1})(a_handler)

    assert task.extra_args == {name: 1}
    assert warned[0].filename == __file__
    assert f"the keyword {name} is an argument here, and not an option" in str(warned[0].message)


async def test_a_loose_keyword_of_an_instance_is_warned_of_where_it_is_scheduled(memory, clock):
    remind = Pyncette(memory).dynamic_task()(a_handler)

    async def schedule(app_context):
        await app_context.schedule_task(remind, "ada", execute_at=at(1), tz="UTC")

    async with Pyncette(memory).create(clock=clock) as app_context:
        with pytest.warns(LooseKeywordWarning) as warned:
            await schedule(app_context)

    assert (warned[0].filename, warned[0].lineno) == (__file__, schedule.__code__.co_firstlineno + 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["user", "person_id", "at", "days", "recipient", "channel", "count"])
def test_a_loose_keyword_that_is_like_no_option_is_not_warned_of(memory, name):
    Pyncette(memory).dynamic_task(**{name: 1})(a_handler)


# --- At the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1.x", "safe"])
async def test_a_line_at_the_start_names_the_defaults(memory, clock, name, caplog):
    app = Pyncette(memory, defaults=name)
    app.dynamic_task()(a_handler)

    with caplog.at_level(logging.INFO, "pyncette"):
        async with running(app, clock):
            pass

    assert [record.getMessage() for record in caplog.records] == [f"running 1 task with the {name} defaults"]
