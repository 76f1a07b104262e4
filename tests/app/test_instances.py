"""Instances of dynamic tasks: scheduled, updated, overwritten, removed, listed."""

import base64
import datetime
import itertools
import json

import pytest
from croniter import CroniterBadCronError

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.core import rules
from pyncette.core.record import Change, Key, Partition, replace
from pyncette.core.runs import UNSTARTED
from pyncette.core.schedule import Cron
from pyncette.errors import TaskLockedException
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.model import ContinuationToken
from tests.app.harness import NOON, at, running, schedule_at_once, seconds

HERE = Partition("", "remind")


@pytest.fixture
def ran():
    return []


@pytest.fixture
def app(repository, clock, ran):
    app = Pyncette(repository)

    @app.dynamic_task(greeting="hello")
    async def remind(context):
        ran.append((context.task.name, context.scheduled_at, context.args))
        await clock.sleep(seconds(context.args.get("takes", 0)))

    @app.partitioned_task(partition_count=4)
    async def spread(context):
        ran.append((context.task.name, context.scheduled_at, context.args))

    @app.task(interval=seconds(10))
    async def static(context):
        pass

    return app


# --- Scheduling ----------------------------------------------------------------------------------------------------------


async def test_an_instance_runs_on_its_own_schedule_with_its_own_arguments(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]

        await app_context.schedule_task(task, "ada", interval=seconds(10), user=1)
        await app_context.schedule_task(task, "bob", schedule="0 * * * *", timezone="Asia/Kolkata", user=2)
        await clock.advance(seconds(30 * 60))

    assert [run for run in ran if run[0] == "ada"][:2] == [
        ("ada", at(10), {"greeting": "hello", "user": 1}),
        ("ada", at(20), {"greeting": "hello", "user": 1}),
    ]
    # Half an hour from Greenwich: full hours there are half hours here.
    assert [run for run in ran if run[0] == "bob"] == [("bob", at(1800), {"greeting": "hello", "user": 2})]
    assert str(ran[-1][1].tzinfo) in {"Asia/Kolkata", "UTC"}


async def test_scheduling_returns_the_instance_with_what_was_asked_for(app, clock):
    async with app.create(clock=clock) as app_context:
        instance = await app_context.schedule_task(
            app.tasks["remind"], "ada", schedule="0 9 * * *", timezone="Europe/Dublin", user=1
        )

    assert instance.name == "ada"
    assert str(instance) == "remind:ada"
    assert instance.parent_task is app.tasks["remind"]
    assert instance.schedule == "0 9 * * *"
    assert instance.timezone == "Europe/Dublin"
    assert instance.extra_args == {"greeting": "hello", "user": 1}


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
async def test_many_contexts_can_schedule_one_instance_at_once(app, equal):
    task = app.tasks["remind"]

    errors = await schedule_at_once(
        app, task, 50, lambda number: {"interval": seconds(3600), "number": 0 if equal else number}
    )

    assert errors == []


async def test_scheduling_an_unchanged_instance_writes_nothing(app, clock):
    task = app.tasks["remind"]
    async with app.create(clock=clock) as app_context:
        for name, options in (
            ("ada", {"interval": seconds(60), "user": 1}),
            ("bob", {"schedule": "* * * * *", "user": 1}),
            ("eve", {"execute_at": at(60), "user": 1}),
        ):
            await app_context.schedule_task(task, name, **options)
            before = await runtime_of(app_context).ledger.store.scan(HERE, "remind", None, 10)
            await clock.advance(seconds(1))

            await app_context.schedule_task(task, name, **options)
            assert await runtime_of(app_context).ledger.store.scan(HERE, "remind", None, 10) == before

            await app_context.schedule_task(task, name, **options | {"user": 2})
            assert await runtime_of(app_context).ledger.store.scan(HERE, "remind", None, 10) != before


async def test_scheduling_an_unchanged_but_late_instance_writes_it(app, clock):
    task = app.tasks["remind"]
    async with app.create(clock=clock) as app_context:
        await app_context.schedule_task(task, "ada", interval=seconds(60))
        (_, before) = await runtime_of(app_context).ledger.store.scan(HERE, "remind", None, 10)
        await clock.advance(seconds(200))

        await app_context.schedule_task(task, "ada", interval=seconds(60))

        (_, after) = await runtime_of(app_context).ledger.store.scan(HERE, "remind", None, 10)
        assert after.version > before.version


async def test_a_one_off_is_removed_when_it_completes(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", execute_at=at(5))
        await clock.advance(seconds(10))

        assert ran == [("ada", at(5), {"greeting": "hello"})]
        assert await app_context.get_task(task, "ada") is None


async def test_a_one_off_of_the_past_runs_at_once_and_its_name_can_be_used_afresh(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        for _ in range(2):
            await app_context.schedule_task(task, "ada", execute_at=at(-3600))
            await clock.advance(seconds(1))

    assert [run[1] for run in ran] == [at(-3600), at(-3600)]


async def test_a_time_without_a_zone_is_taken_for_utc(app, clock):
    async with app.create(clock=clock) as app_context:
        instance = await app_context.schedule_task(
            app.tasks["remind"], "ada", execute_at=at(3600).replace(tzinfo=None)
        )

    assert instance.execute_at == at(3600)


async def test_an_instance_without_a_schedule_has_that_of_its_template(repository, clock, ran):
    app = Pyncette(repository)

    @app.dynamic_task(interval=seconds(10))
    async def remind(context):
        ran.append((context.task.name, context.scheduled_at))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(remind, "ada")
        await app_context.schedule_task(remind, "bob", execute_at=at(7))
        await clock.advance(seconds(10))

    assert ran == [("bob", at(7)), ("ada", at(10))]


async def test_an_instance_may_behave_otherwise_than_its_template(app, clock):
    async with app.create(clock=clock) as app_context:
        task = app.tasks["remind"]
        options = {
            "fast_forward": True,
            "failure_mode": FailureMode.COMMIT,
            "lease_duration": seconds(5),
            "heartbeat": "automatic",
        }
        await app_context.schedule_task(task, "ada", interval=seconds(10), **options)
        state = await app_context.get_task(task, "ada")

    assert state.task.fast_forward
    assert state.task.failure_mode is FailureMode.COMMIT
    assert state.task.lease_duration == seconds(5)
    assert state.task.heartbeat == "automatic"
    assert not task.fast_forward


# --- Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Exactly one of the following must be specified: schedule, interval, execute_at"),
        ({"interval": seconds(1), "execute_at": NOON}, "mutually exclusive"),
        (
            {"interval": seconds(1), "timezone": "UTC"},
            "Timezone may only be specified when cron schedule is used",
        ),
        ({"schedule": "* * * * *", "timezone": "Nowhere"}, "^Invalid timezone specifier 'Nowhere'.$"),
        ({"interval": seconds(1), "user": object()}, "^Extra parameters must be JSON serializable"),
        ({"interval": seconds(1), "enabled": False}, "enabled is not an option of an instance"),
        ({"interval": seconds(1), "name": "x"}, "name is not an option of an instance"),
        (
            {
                "interval": seconds(1),
                "execution_mode": ExecutionMode.AT_MOST_ONCE,
                "failure_mode": FailureMode.COMMIT,
            },
            "^failure_mode is not applicable when execution_mode is AT_MOST_ONCE$",
        ),
    ],
)
async def test_invalid_options_are_refused(app, clock, options, message):
    async with app.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match=message):
            await app_context.schedule_task(app.tasks["remind"], "ada", **options)


async def test_an_expression_whose_years_are_over_is_refused(app, clock):
    past, present = "0 0 1 1 * 0 2020-2029", "0 0 1 12 * 0 2020-2030"
    async with app.create(clock=clock) as app_context:
        with pytest.raises(CroniterBadCronError, match="never fires after"):
            await app_context.schedule_task(app.tasks["remind"], "ada", schedule=past)
        results = app_context.schedule_many(
            app.tasks["remind"], [("bob", {"schedule": past}), ("eve", {"schedule": present})]
        )
        errors = [result.error async for result in results]
        left = await app_context.list_tasks(app.tasks["remind"])

    assert [type(error) for error in errors] == [CroniterBadCronError, type(None)]
    assert [state.task.name for state in left.tasks] == ["eve"]


async def test_a_bad_cron_expression_of_an_instance_is_refused_with_croniters_own_error(app, clock):
    async with app.create(clock=clock) as app_context:
        with pytest.raises(CroniterBadCronError):
            await app_context.schedule_task(app.tasks["remind"], "ada", schedule="not a cron")


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "n" * 651, 7])
async def test_an_instance_name_that_no_database_holds_is_refused(app, clock, name):
    async with app.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="name of an instance"):
            await app_context.schedule_task(app.tasks["remind"], name, interval=seconds(1))


async def test_a_task_that_is_no_template_has_no_instances(app, clock):
    async with app.create(clock=clock) as app_context:
        instance = await app_context.schedule_task(app.tasks["remind"], "ada", interval=seconds(1))
        for task in (app.tasks["static"], instance):
            with pytest.raises(ValueError, match="Cannot instantiate a non-dynamic task"):
                await app_context.schedule_task(task, "ada", interval=seconds(1))


# --- Updating ------------------------------------------------------------------------------------------------------------


async def test_an_update_replaces_the_arguments_and_keeps_the_sooner_next_time(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "sooner", execute_at=at(5), user=1)
        await app_context.schedule_task(task, "sooner", execute_at=at(50), user=2)
        await app_context.schedule_task(task, "later", execute_at=at(50), user=1)
        await app_context.schedule_task(task, "later", execute_at=at(5), user=2)
        await clock.advance(seconds(60))

        assert sorted((name, due, args["user"]) for name, due, args in ran) == [
            ("later", at(5), 2),
            ("sooner", at(5), 2),
        ]
        assert await app_context.get_task(task, "sooner") is None


async def test_an_interval_that_kept_a_sooner_time_counts_from_there(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", interval=seconds(10))
        await app_context.schedule_task(task, "ada", interval=seconds(100))
        await clock.advance(seconds(250))

    assert [due for _, due, _ in ran] == [at(10), at(110), at(210)]


@pytest.mark.parametrize("way", ["one", "many"])
async def test_a_tighter_schedule_of_a_late_instance_runs_no_time_before_the_update(app, clock, ran, way):
    task = app.tasks["remind"]
    async with app.create(clock=clock) as app_context:
        await app_context.schedule_task(task, "ada", schedule="*/10 * * * *")
        await clock.advance(seconds(3600))  # no worker runs
        if way == "one":
            await app_context.schedule_task(task, "ada", schedule="* * * * *")
        else:
            items = [("ada", {"schedule": "* * * * *"})]
            assert [result.error async for result in app_context.schedule_many(task, items)] == [None]

    async with running(app, clock):
        await clock.advance(seconds(120))

    # The sooner time of the old schedule was kept; the rest is of the new one, after the update.
    assert [run[1] for run in ran] == [at(600), at(3660), at(3720)]


async def test_an_instance_that_runs_cannot_be_updated(app, clock):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", execute_at=at(1), takes=30)
        await clock.advance(seconds(10))

        with pytest.raises(TaskLockedException) as locked:
            await app_context.schedule_task(task, "ada", execute_at=at(100))

    assert str(locked.value.task) == "remind:ada"
    assert locked.value.locked_until == at(61)


async def test_force_overwrites_the_next_time_even_with_a_later_one(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", execute_at=at(5), user=1)
        await app_context.schedule_task(task, "ada", force=True, execute_at=at(50), user=2)
        await clock.advance(seconds(60))

    assert ran == [("ada", at(50), {"greeting": "hello", "user": 2})]


async def test_force_takes_the_lease_of_a_running_handler(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", execute_at=at(1), takes=30)
        await clock.advance(seconds(10))

        await app_context.schedule_task(task, "ada", force=True, execute_at=at(20))
        await clock.advance(seconds(60))

        assert [run[1] for run in ran] == [at(1), at(20)]
        assert await app_context.get_task(task, "ada") is None


async def test_an_instance_of_at_most_once_is_never_locked(repository, clock, ran):
    app = Pyncette(repository)

    @app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def remind(context):
        ran.append((context.scheduled_at, context.args["user"]))
        await clock.sleep(seconds(30))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(remind, "ada", interval=seconds(10), user=1)
        await clock.advance(seconds(15))
        await app_context.schedule_task(remind, "ada", interval=seconds(10), user=2)
        await clock.advance(seconds(10))

    assert ran == [(at(10), 1), (at(20), 2)]


# --- Removing ------------------------------------------------------------------------------------------------------------


async def test_a_removed_instance_does_not_run(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", interval=seconds(10))
        await app_context.unschedule_task(task, "ada")
        await clock.advance(seconds(60))

        assert ran == []
        assert await app_context.get_task(task, "ada") is None


async def test_removing_an_unknown_instance_raises_no_error_and_changes_nothing(app, clock):
    async with app.create(clock=clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", interval=seconds(10))
        before = await app_context.get_task(task, "ada")
        await app_context.unschedule_task(task, "nobody")

        assert await app_context.get_task(task, "nobody") is None
        assert (await app_context.get_task(task, "ada")).scheduled_at == before.scheduled_at


async def test_an_instance_can_be_removed_by_itself(app, clock):
    async with app.create(clock=clock) as app_context:
        task = app.tasks["remind"]
        instance = await app_context.schedule_task(task, "ada", interval=seconds(10))
        await app_context.unschedule_task(instance)

        assert await app_context.get_task(instance) is None


async def test_a_template_cannot_be_removed_without_the_name_of_an_instance(app, clock):
    async with app.create(clock=clock) as app_context:
        for call in (app_context.unschedule_task, app_context.get_task):
            with pytest.raises(ValueError, match=r"^instance name must be provided"):
                await call(app.tasks["remind"])


async def test_a_static_task_can_be_removed_until_the_next_start(app, clock):
    async with app.create(clock=clock) as app_context:
        await app_context.unschedule_task(app.tasks["static"])
        assert await app_context.get_task(app.tasks["static"]) is None

    async with app.create(clock=clock) as app_context:
        assert await app_context.get_task(app.tasks["static"]) is not None


async def test_an_instance_removed_in_mid_run_is_not_completed(app, clock, ran):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", interval=seconds(10), takes=5)
        await clock.advance(seconds(12))
        await app_context.unschedule_task(task, "ada")
        await clock.advance(seconds(60))

        assert len(ran) == 1
        assert await app_context.get_task(task, "ada") is None


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_a_one_off_that_a_worker_released_before_its_run_can_still_be_removed(
    app, clock, ran, repository, many
):
    task = app.tasks["remind"]
    async with app.create(clock=clock) as app_context, repository() as store:
        await app_context.schedule_task(
            task, "ada", execute_at=at(-60), execution_mode=ExecutionMode.AT_MOST_ONCE
        )
        await release_unstarted(store, clock)

        if many:
            assert [result.error async for result in app_context.unschedule_many(task, ["ada"])] == [None]
        else:
            await app_context.unschedule_task(task, "ada")

    async with running(app, clock):
        await clock.advance(seconds(120))
    assert ran == []


async def release_unstarted(store, clock):
    """Claim and start all that is due, and release it before the handlers are called."""
    ledger, now = Ledger(store, clock), clock.now()
    claimed = await store.claim({HERE: 10}, "lease", "worker", now, now)
    starting = [
        PendingStart(rules.begin(record, policies, now), policies, clock.monotonic() + record.lease_length)
        for record in claimed.records
        for policies in [record.spec.policies]
    ]
    async for decided in ledger.start(starting):
        held = [run for run in decided.values() if run is not None]
        assert await ledger.settle([rules.settle(run, UNSTARTED, now) for run in held]) == [True] * len(held)
        assert held


# --- Looking -------------------------------------------------------------------------------------------------------------


async def test_the_state_of_an_instance_tells_when_it_is_due_and_who_runs_it(app, clock):
    async with running(app, clock) as app_context:
        task = app.tasks["remind"]
        await app_context.schedule_task(task, "ada", interval=seconds(10), takes=5, user=1)
        waiting = await app_context.get_task(task, "ada")
        await clock.advance(seconds(12))
        locked = await app_context.get_task(task, "ada")
        await clock.advance(seconds(5))
        waiting_again = await app_context.get_task(task, "ada")

    assert waiting.task.extra_args == {"greeting": "hello", "takes": 5, "user": 1}
    assert (waiting.scheduled_at, waiting.locked_until, waiting.locked_by) == (at(10), None, None)
    assert (locked.scheduled_at, locked.locked_until) == (at(10), at(70))
    assert locked.locked_by
    assert (waiting_again.scheduled_at, waiting_again.locked_until) == (at(20), None)


async def test_the_state_of_a_static_task_can_be_seen_too(app, clock):
    async with app.create(clock=clock) as app_context:
        state = await app_context.get_task(app.tasks["static"])

    assert state.task is app.tasks["static"]
    assert state.scheduled_at == at(10)


async def pages(app_context, task, limit, prefix=""):
    token, found = None, []
    while True:
        page = await app_context.list_tasks(task, limit=limit, continuation_token=token, prefix=prefix)
        found.append([state.task.name for state in page.tasks])
        token = page.continuation_token
        if token is None:
            return found


@pytest.mark.parametrize("name", ["remind", "spread"])
@pytest.mark.parametrize("limit", [1, 3, 7, 20, 1000, None])
async def test_pages_hold_each_instance_exactly_once_and_never_more_than_their_limit(app, clock, name, limit):
    task = app.tasks[name]
    names = {f"user-{number}" for number in range(20)}
    async with app.create(clock=clock) as app_context:
        for instance in names:
            await app_context.schedule_task(task, instance, interval=seconds(10))

        found = await pages(app_context, task, limit)

    assert all(len(page) <= (limit or 100) for page in found)
    assert sorted(itertools.chain(*found)) == sorted(names)


@pytest.mark.parametrize("name", ["remind", "spread"])
@pytest.mark.parametrize("limit", [1, 2, None])
@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("ada/", {"ada/1", "ada/2", "ada/é"}),
        ("ada", {"ada", "ada/1", "ada/2", "ada/é", "adam/1"}),
        ("ada/é", {"ada/é"}),
        ("zoe", {"zoe/1"}),
        ("b", set()),
    ],
)
async def test_a_prefix_lists_the_instances_whose_names_begin_with_it(
    app, clock, name, limit, prefix, expected
):
    task = app.tasks[name]
    async with app.create(clock=clock) as app_context:
        for instance in ("ada", "ada/1", "ada/2", "ada/é", "adam/1", "Ada/1", "a", "zoe/1"):
            await app_context.schedule_task(task, instance, interval=seconds(10))

        found = await pages(app_context, task, limit, prefix)

    assert all(len(page) <= (limit or 100) for page in found)
    assert sorted(itertools.chain(*found)) == sorted(expected)


async def test_instances_that_come_and_go_while_pages_are_read_disturb_no_other(app, clock):
    task = app.tasks["spread"]
    async with app.create(clock=clock) as app_context:
        for number in range(20):
            await app_context.schedule_task(task, f"user-{number}", interval=seconds(10))
        first = await app_context.list_tasks(task, limit=8)
        read = {state.task.name for state in first.tasks}

        gone = min(read)
        await app_context.unschedule_task(task, gone)
        await app_context.schedule_task(task, "newcomer", interval=seconds(10))
        rest = await app_context.list_tasks(task, limit=100, continuation_token=first.continuation_token)

    others = [state.task.name for state in rest.tasks]
    assert len(others) == len(set(others))
    assert not read & set(others)
    assert read | set(others) >= {f"user-{number}" for number in range(20)}


async def test_a_list_shows_neither_the_templates_own_record_nor_runs_beside_a_schedule(repository, clock):
    app = Pyncette(repository)

    @app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def remind(context):
        await clock.sleep(seconds(30))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(remind, "ada", interval=seconds(10))
        await clock.advance(seconds(25))

        assert await pages(app_context, remind, 100) == [["ada"]]
        assert await runtime_of(app_context).ledger.store.load([Key(Partition("", "remind"), "remind")]) != [
            None
        ]


async def test_an_instance_whose_zone_is_gone_is_listed_in_utc_and_can_be_mended_or_removed(app, clock):
    task = app.tasks["remind"]
    async with app.create(clock=clock) as app_context:
        for name in ("ada", "bob"):
            await app_context.schedule_task(task, name, schedule="0 9 * * *", timezone="Europe/Dublin")
            (record,) = await runtime_of(app_context).ledger.store.load(
                [Key(Partition("", "remind"), "remind", name)]
            )
            spec = replace(record.spec, schedule=Cron("0 9 * * *", "Gone/Nowhere"))
            claimed = replace(
                record, spec=spec, version=record.version + 1, attempt=1, began_at=record.due_at
            )
            await runtime_of(app_context).ledger.store.swap([Change(record, claimed)])

        page = await app_context.list_tasks(task)
        await app_context.schedule_task(task, "ada", schedule="0 9 * * *", timezone="Europe/Paris")
        await app_context.unschedule_task(task, "bob")
        left = await app_context.list_tasks(task)

    assert [state.scheduled_at.tzinfo for state in page.tasks] == [datetime.UTC, datetime.UTC]
    assert [state.task.timezone for state in left.tasks] == ["Europe/Paris"]


async def test_only_templates_can_be_listed(app, clock):
    async with app.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="Cannot list instances of non-dynamic task"):
            await app_context.list_tasks(app.tasks["static"])


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_holds_at_least_one_instance(app, clock, limit):
    async with app.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="at least 1"):
            await app_context.list_tasks(app.tasks["remind"], limit=limit)


async def test_a_token_that_is_none_or_of_another_task_is_refused(app, clock):
    async with app.create(clock=clock) as app_context:
        for number in range(2):
            await app_context.schedule_task(app.tasks["remind"], f"user-{number}", interval=seconds(10))
        page = await app_context.list_tasks(app.tasks["remind"], limit=1)

        with pytest.raises(ValueError, match="is of the task remind"):
            await app_context.list_tasks(app.tasks["spread"], continuation_token=page.continuation_token)
        with pytest.raises(ValueError, match="not a continuation token"):
            await app_context.list_tasks(
                app.tasks["spread"], continuation_token=ContinuationToken("invented")
            )
        with pytest.raises(ValueError, match="without the prefix 'other'"):
            await app_context.list_tasks(
                app.tasks["remind"], continuation_token=page.continuation_token, prefix="other"
            )


@pytest.mark.parametrize(
    "place",
    [
        ["remind", 0, "ada"],
        ["remind", 0, 1, ""],
        ["remind", "0", "ada", ""],
        ["remind", -(10**12), "ada", ""],
        ["remind", 0, "ada\0", ""],
        ["remind", 0, "ada", None],
        {"remind": 0},
        None,
    ],
)
async def test_a_token_that_somebody_made_up_is_refused(app, clock, place):
    token = ContinuationToken(base64.urlsafe_b64encode(json.dumps(place).encode()).decode())

    async with app.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="not a continuation token"):
            await app_context.list_tasks(app.tasks["remind"], continuation_token=token, prefix="ada")


async def test_apps_of_two_realms_on_one_database_do_not_see_each_other(repository, clock):
    apps = [Pyncette(repository, realm=realm) for realm in ("one", "two")]
    tasks = [app.dynamic_task(name="remind")(None) for app in apps]
    async with apps[0].create(clock=clock) as one, apps[1].create(clock=clock) as two:
        await one.schedule_task(tasks[0], "ada", interval=seconds(10))

        assert await two.get_task(tasks[1], "ada") is None
        assert (await two.list_tasks(tasks[1])).tasks == []
