"""Tasks with a schedule of their own, and templates, as they are declared at each start."""

from pyncette import FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.app.options import encode_args
from pyncette.core.edits import created
from pyncette.core.record import Key, Owner, Partition
from pyncette.core.schedule import Interval
from pyncette.core.spec import Heartbeat, Missed, Mode, Overlap, Policies, Spec
from pyncette.core.times import instant_of
from tests.app.harness import at, running, seconds


async def record_of(app_context, name):
    (record,) = await runtime_of(app_context).ledger.store.load([Key(Partition("", name), name)])
    return record


def an_app(repository, ran=None, *, name="report", **options):
    app = Pyncette(repository)

    async def handler(context):
        (ran if ran is not None else []).append(context.scheduled_at)

    app.task(**({"name": name, "interval": seconds(10)} | options))(handler)
    return app


async def test_a_start_that_declares_what_is_stored_writes_nothing(repository, clock):
    async with an_app(repository).create(clock=clock) as app_context:
        before = await record_of(app_context, "report")
    await clock.advance(seconds(5))
    async with an_app(repository).create(clock=clock) as app_context:
        after = await record_of(app_context, "report")

    assert after.version == before.version


async def test_an_edit_of_arguments_leaves_the_next_time_alone(repository, clock):
    ran = []
    async with an_app(repository).create(clock=clock):
        pass
    await clock.advance(seconds(5))
    async with running(an_app(repository, ran, audience="finance"), clock):
        await clock.advance(seconds(20))

    assert ran == [at(10), at(20)]


async def test_an_edit_of_the_schedule_counts_from_the_start_that_brought_it(repository, clock):
    ran = []
    async with an_app(repository).create(clock=clock):
        pass
    await clock.advance(seconds(5))
    async with running(an_app(repository, ran, interval=seconds(100)), clock):
        await clock.advance(seconds(250))

    assert ran == [at(105), at(205)]


async def test_a_static_task_stores_its_policies_and_keeps_a_history(repository, clock):
    app = an_app(repository, failure_mode=FailureMode.COMMIT, fast_forward=True, heartbeat="automatic")
    async with running(app, clock) as app_context:
        await clock.advance(seconds(100))
        record = await record_of(app_context, "report")
        history = await runtime_of(app_context).ledger.store.history(record.key)

    policies = record.spec.policies
    assert (policies.mode, policies.overlap) == (Mode.AT_LEAST_ONCE, Overlap.FORBID)
    assert (policies.missed, policies.heartbeat) == (Missed.FAST_FORWARD, Heartbeat.AUTOMATIC)
    assert (policies.keep_successful, policies.keep_failed, policies.keep_finished) == (3, 10, True)
    assert len(history) == 3
    assert record.state.summary.counts.succeeded == 10


async def test_a_schedule_that_is_over_stays_over_at_the_next_start(repository, clock):
    ran = []
    for _ in range(2):
        async with running(
            an_app(repository, ran, interval=None, schedule="1 12 1 6 * 0 2030"), clock
        ) as app_context:
            await clock.advance(seconds(3600))
            state = await app_context.get_task(runtime_of(app_context).app.tasks["report"])

    assert ran == [at(60)]
    assert state.scheduled_at is None


async def test_a_schedule_that_is_over_is_warned_of_at_each_start(repository, clock, caplog):
    app = an_app(repository, interval=None, schedule="0 0 1 1 * 0 2020-2029")

    async with app.create(clock=clock):
        pass

    assert "[0 0 1 1 * 0 2020-2029] never fires after" in caplog.text


async def test_two_tasks_with_one_handler_run_each_on_its_own(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(name="often", interval=seconds(10))
    @app.task(name="seldom", interval=seconds(25))
    async def report(context):
        ran.append((context.task.name, context.scheduled_at))

    async with running(app, clock):
        await clock.advance(seconds(30))

    assert sorted(ran) == [("often", at(10)), ("often", at(20)), ("often", at(30)), ("seldom", at(25))]


async def test_a_resource_that_is_mirrored_under_the_name_of_a_template_is_left_as_it_is(repository, clock):
    app = Pyncette(repository)
    app.dynamic_task(name="remind")(print)
    policies = Policies(suspend=True)
    key = Key(Partition("", "remind"), "remind")
    spec = Spec(Interval(60_000_000), encode_args({"what": "tea"}), policies)
    mirrored = created(key, spec, policies, instant_of(clock.utc), owner=Owner("uid", 1, "hash"))
    async with Pyncette(repository).create(clock=clock) as app_context:
        await runtime_of(app_context).ledger.create([mirrored])

    async with app.create(clock=clock) as app_context:
        record = await record_of(app_context, "remind")

    assert record.spec == spec
    assert record.version == mirrored.version
