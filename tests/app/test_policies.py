"""Each policy that Python declares takes effect, for tasks and for single instances, in simulated time."""

from datetime import timedelta

import pytest

from pyncette import ExecutionMode, Pyncette, Retry
from pyncette.app.context import runtime_of
from pyncette.core.record import DEAD_LETTER_PREFIX, Key, Outcome, Partition
from pyncette.errors import DoNotRetry, RetryAfter, TaskLockedException
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.rules import mirrored
from pyncette.resources.reading import read
from pyncette.resources.task import PyncetteTask
from pyncette.schedules import next_times
from tests.app.harness import NOON, at, running, seconds
from tests.resources import manifest

HOUR = timedelta(hours=1)


@pytest.fixture
def safe(memory):
    return Pyncette(memory, defaults="safe")


class Handler:
    """A handler that records its calls and ends as it is told: it returns, raises, or sleeps first."""

    def __init__(self, error=None, takes=None, clock=None):
        self.calls = []
        self.ended = []
        self._error, self._takes, self._clock = error, takes, clock

    @property
    def scheduled(self):
        """The due times of the calls, in seconds after noon."""
        return [(call.scheduled_at - NOON).total_seconds() for call in self.calls]

    async def __call__(self, context):
        self.calls.append(context)
        if self._takes is not None:
            await self._clock.sleep(self._takes)
            self.ended.append(context)
        if self._error is not None:
            raise self._error


def declared(app, how, handler, **policies):
    """Declare *policies* with a task of its own, with a template, or with nothing but an instance; return how to schedule it."""
    if how == "task":
        app.task(name="it", **policies)(handler)
        return None, {}
    of_template = policies if how == "template" else {}
    schedule = {name: policies.pop(name) for name in ("schedule", "interval") if name in policies}
    template = app.dynamic_task(name="it", **({} if how == "instance" else of_template))(handler)
    return template, schedule | (policies if how == "instance" else {})


HOW = pytest.mark.parametrize("how", ["task", "template", "instance"])


async def played(app, clock, how, handler, length, /, **policies):
    """Run a task or an instance with *policies* for a *length* of time."""
    template, options = declared(app, how, handler, **policies)
    async with running(app, clock) as app_context:
        if template is not None:
            await app_context.schedule_task(template, "ada", **options)
        await clock.advance(length)


async def summary_of(app, clock, how):
    key = Key(Partition("", "it"), "it", "" if how == "task" else "ada")
    async with app.new_store() as store:
        (record,) = await store.load([key])
        return record.state.summary.counts


@HOW
async def test_a_retry_policy_bounds_attempts_and_their_delays(safe, clock, how):
    handler = Handler(ValueError("no"))

    await played(
        safe, clock, how, handler, HOUR * 1.5,
        interval=HOUR, retry=Retry(max_attempts=4, initial_backoff=seconds(100), max_backoff=seconds(200)),
    )  # fmt: skip

    assert [call.attempt for call in handler.calls] == [1, 2, 3, 4]
    assert (await summary_of(safe, clock, how)).failed == 1


@HOW
async def test_a_run_is_cancelled_at_its_timeout_and_retried(safe, clock, how):
    handler = Handler(takes=HOUR, clock=clock)

    await played(
        safe, clock, how, handler, HOUR + seconds(300),
        interval=HOUR, timeout=seconds(10), retry=Retry(max_attempts=2),
    )  # fmt: skip

    assert [call.attempt for call in handler.calls] == [1, 2]
    assert not handler.ended


@HOW
async def test_a_dead_letter_is_kept(safe, clock, how):
    await played(
        safe, clock, how, Handler(ValueError("no")), HOUR * 1.1,
        interval=HOUR, retry=Retry(max_attempts=1), on_exhausted="dead_letter",
    )  # fmt: skip

    async with safe.new_store() as store:
        records = await store.scan(Partition("", "it"), "it", None, 10)
    assert [record.key for record in records if record.key.occurrence.startswith(DEAD_LETTER_PREFIX)]


@HOW
async def test_exhaustion_suspends(safe, clock, how):
    handler = Handler(ValueError("no"))

    await played(
        safe, clock, how, handler, HOUR * 5,
        interval=HOUR, retry=Retry(max_attempts=1), on_exhausted="suspend",
    )  # fmt: skip

    assert len(handler.calls) == 1


@HOW
async def test_overlapping_runs(safe, clock, how):
    allow, replaced, forbid = (Handler(takes=seconds(25), clock=clock) for _ in range(3))
    for handler, overlap in ((allow, "allow"), (replaced, "replace"), (forbid, "forbid")):
        app = Pyncette(safe.repository_factory, defaults="safe", realm=overlap)
        await played(app, clock, how, handler, seconds(34), interval=seconds(10), overlap=overlap)

    assert [len(handler.calls) for handler in (allow, replaced, forbid)] == [3, 3, 1]
    assert [len(handler.ended) for handler in (allow, replaced, forbid)] == [0, 0, 0]


@HOW
@pytest.mark.parametrize(
    ("policies", "hours"),
    [
        ({"missed": "all"}, [1, 2, 3]),
        ({"missed": "all", "max_catch_up_runs": 2}, [2, 3]),
        ({"missed": "latest"}, [3]),
        ({"missed": "skip"}, []),
        ({"starting_deadline": HOUR}, [3]),
    ],
    ids=str,
)
async def test_missed_occurrences(safe, clock, how, policies, hours):
    handler = Handler()
    template, options = declared(safe, how, handler, interval=HOUR, **policies)
    async with safe.create(clock=clock) as app_context:
        if template is not None:
            await app_context.schedule_task(template, "ada", **options)
        await clock.advance(HOUR * 3.5)
    async with running(safe, clock):
        await clock.advance(seconds(60))

    assert handler.scheduled == [hour * 3600 for hour in hours]


@HOW
async def test_jitter_delays_the_start_but_not_the_due_time(safe, clock, how):
    started = []

    async def handler(context):
        started.append((clock.now(), context.scheduled_at))

    await played(safe, clock, how, handler, HOUR * 1.9, interval=HOUR, jitter=timedelta(minutes=50))

    ((now, scheduled_at),) = started
    assert scheduled_at == NOON + HOUR
    assert 0 < now - scheduled_at.timestamp() * 1e6 < timedelta(minutes=50).total_seconds() * 1e6


@HOW
async def test_only_times_within_the_window_count(safe, clock, how):
    handler = Handler()

    await played(
        safe, clock, how, handler, HOUR * 6,
        schedule="0 * * * *", not_before=NOON + HOUR * 2, not_after=NOON + HOUR * 4,
    )  # fmt: skip

    assert handler.scheduled == [2 * 3600, 3 * 3600, 4 * 3600]


async def test_an_instance_is_removed_after_its_last_time_in_the_window(safe, clock):
    template = safe.dynamic_task(name="it")(Handler())
    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", interval=HOUR, not_after=NOON + HOUR * 2)
        await clock.advance(HOUR * 1.5)
        assert await app_context.get_task(template, "ada") is not None
        await clock.advance(HOUR)
        assert await app_context.get_task(template, "ada") is None


@HOW
async def test_what_is_suspended_does_not_run(safe, clock, how):
    handler = Handler()

    await played(safe, clock, how, handler, HOUR * 3, interval=HOUR, suspend=True)

    assert not handler.calls


@pytest.mark.parametrize("how", ["template", "instance"])
async def test_an_instance_keeps_history_if_asked(safe, clock, how):
    await played(safe, clock, how, Handler(), HOUR * 5, interval=HOUR, successful_runs_history_limit=2)

    async with safe.new_store() as store:
        assert len(await store.history(Key(Partition("", "it"), "it", "ada"))) == 2


async def test_a_run_that_force_withdraws_is_in_the_history(safe, clock):
    template, _ = declared(
        safe, "template", Handler(takes=seconds(60), clock=clock), failed_runs_history_limit=2
    )

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", interval=HOUR)
        await clock.advance(HOUR + seconds(10))
        await app_context.schedule_task(template, "ada", force=True, interval=HOUR)

    async with safe.new_store() as store:
        (row,) = await store.history(Key(Partition("", "it"), "it", "ada"))
        assert row.outcome is Outcome.WITHDRAWN


@pytest.mark.parametrize("policies", [{"execution_mode": ExecutionMode.AT_MOST_ONCE}, {"overlap": "allow"}])
@pytest.mark.parametrize("force", [False, True])
async def test_a_run_by_the_policies_of_the_template_is_in_progress_for_an_edit_that_has_its_own(
    safe, clock, policies, force
):
    handler = Handler(takes=seconds(60), clock=clock)
    template, _ = declared(safe, "instance", handler)

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", interval=HOUR)
        await clock.advance(HOUR + seconds(10))
        editing = app_context.schedule_task(template, "ada", force, interval=HOUR, **policies)
        if force:
            await editing
        else:
            with pytest.raises(TaskLockedException):
                await editing
        await clock.advance(seconds(100))

        counts = await summary_of(safe, clock, "instance")
        assert (counts.succeeded, counts.withdrawn) == ((0, 1) if force else (1, 0))
        assert handler.scheduled == [3600]


async def test_a_task_keeps_as_much_history_as_asked(safe, clock):
    await played(safe, clock, "task", Handler(), HOUR * 6, interval=HOUR, successful_runs_history_limit=5)

    async with safe.new_store() as store:
        assert len(await store.history(Key(Partition("", "it"), "it"))) == 5


# --- Suspension ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
async def test_a_resumed_instance_counts_from_the_call(safe, clock, force):
    handler = Handler()
    template = safe.dynamic_task(name="it")(handler)

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", schedule="0 * * * *")
        await clock.advance(HOUR * 1.5)
        await app_context.schedule_task(template, "ada", schedule="0 * * * *", suspend=True)
        await clock.advance(HOUR * 10)
        state = await app_context.get_task(template, "ada")
        assert state.task.suspend
        assert state.scheduled_at is None
        await app_context.schedule_task(template, "ada", force=force, schedule="0 * * * *", suspend=False)
        state = await app_context.get_task(template, "ada")
        assert not state.task.suspend
        assert state.scheduled_at == NOON + HOUR * 12
        await clock.advance(HOUR)

    assert handler.scheduled == [3600, 12 * 3600]


async def test_an_instance_of_a_suspended_template_shows_it(safe, clock):
    template = safe.dynamic_task(name="it", suspend=True)(Handler())

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", interval=HOUR)
        await app_context.schedule_task(template, "bob", interval=HOUR, timeout=HOUR, suspend=False)
        states = [await app_context.get_task(template, name) for name in ("ada", "bob")]
        page = await app_context.list_tasks(template)

    for state in (*states, *page.tasks):
        assert state.task.suspend
        assert state.scheduled_at is None
    assert states[1].task.timeout == HOUR


async def test_a_static_task_resumes_with_the_next_start(memory, clock):
    calls = []
    for suspend, length in ((True, HOUR * 5.5), (False, HOUR)):
        app, handler = Pyncette(memory, defaults="safe"), Handler()
        app.task(name="it", schedule="0 * * * *", suspend=suspend)(handler)
        async with running(app, clock):
            await clock.advance(length)
        calls += handler.scheduled

    assert calls == [6 * 3600]


# --- Windows that are over -----------------------------------------------------------------------------------------------


async def test_a_schedule_without_a_further_time_in_its_window_is_refused(safe, clock):
    template = safe.dynamic_task(name="it")(Handler())

    async with safe.create(clock=clock) as app_context:
        with pytest.raises(ValueError, match="No further time of the schedule lies within"):
            await app_context.schedule_task(template, "ada", interval=HOUR, not_after=NOON + seconds(60))
        items = [("ada", {"interval": HOUR, "not_after": NOON}), ("bob", {"execute_at": at(-1)})]
        results = [result async for result in app_context.schedule_many(template, items)]
        assert [type(result.error) for result in results] == [ValueError, type(None)]
        assert await app_context.get_task(template, "ada") is None


async def test_a_task_whose_window_is_over_starts_with_a_warning(safe, clock, caplog):
    safe.task(name="it", interval=HOUR, not_after=NOON)(Handler())

    async with safe.create(clock=clock):
        assert "a task has no further due time: No further time of the schedule" in caplog.text


async def test_a_later_start_of_the_window_moves_the_next_time(safe, clock):
    template = safe.dynamic_task(name="it")(Handler())

    async with safe.create(clock=clock) as app_context:
        await app_context.schedule_task(template, "ada", schedule="0 * * * *")
        await app_context.schedule_task(template, "ada", schedule="0 * * * *", not_before=NOON + HOUR * 5)
        state = await app_context.get_task(template, "ada")

    assert state.scheduled_at == NOON + HOUR * 5


# --- Templates and their instances ---------------------------------------------------------------------------------------


async def test_an_edit_of_a_template_applies_to_instances_without_policies_of_their_own(memory, clock):
    names = []
    for number, timeout in enumerate([HOUR, seconds(10)]):
        app = Pyncette(memory, defaults="safe")
        handler = Handler(takes=seconds(60), clock=clock)
        template = app.dynamic_task(name="it", timeout=timeout, retry=Retry(max_attempts=1))(handler)
        async with running(app, clock) as app_context:
            if not number:
                await app_context.schedule_task(template, "ada", interval=HOUR)
                await app_context.schedule_task(template, "bob", interval=HOUR, missed="latest")
            await clock.advance(HOUR * 1.1)
            states = [await app_context.get_task(template, name) for name in ("ada", "bob")]
        names.append(sorted(call.task.name for call in handler.ended))

    assert names == [["ada", "bob"], ["bob"]]
    assert [state.task.timeout for state in states] == [seconds(10), HOUR]


# --- Exceptions ----------------------------------------------------------------------------------------------------------

BOTH = ExceptionGroup("both", [TimeoutError("slow"), ValueError("bad")])


class Batch(ExceptionGroup):
    """A group with a class of its own."""


BATCH = Batch("batch", [TimeoutError("slow"), ValueError("bad")])
NESTED = ExceptionGroup("nested", [ExceptionGroup("one", [TimeoutError("slow")])])


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        ({}, ValueError("bad"), 3),
        ({}, SystemExit(2), 3),
        ({"on": TimeoutError}, TimeoutError("slow"), 3),
        ({"on": TimeoutError}, ValueError("bad"), 1),
        ({"on": OSError}, ConnectionResetError("a subclass"), 3),
        ({"give_up_on": ValueError}, ValueError("bad"), 1),
        ({"give_up_on": LookupError}, KeyError("a subclass"), 1),
        ({"give_up_on": ValueError}, TimeoutError("slow"), 3),
        ({"on": Exception, "give_up_on": (ValueError, KeyError)}, KeyError("bad"), 1),
        ({"on": TimeoutError}, NESTED, 3),
        ({"on": TimeoutError}, BOTH, 1),
        ({"give_up_on": ValueError}, BOTH, 1),
        ({}, BOTH, 3),
        ({}, ExceptionGroup("refused", [DoNotRetry("no")]), 1),
        ({"on": Batch}, BATCH, 3),
        ({"on": Batch, "give_up_on": ValueError}, BATCH, 1),
        ({"give_up_on": Batch}, BATCH, 1),
        ({"give_up_on": Batch}, BOTH, 3),
        ({"on": TimeoutError}, RetryAfter(seconds(9)), 3),
        ({"give_up_on": Exception}, RetryAfter(seconds(9)), 3),
        ({"on": Exception}, DoNotRetry("no"), 1),
    ],
    ids=repr,
)
async def test_the_exceptions_of_a_task_decide_whether_it_is_retried(safe, clock, retry, error, attempts):
    handler = Handler(error)

    await played(
        safe, clock, "template", handler, HOUR * 1.5, interval=HOUR, retry=Retry(max_attempts=3, **retry)
    )

    assert [call.attempt for call in handler.calls] == [1, 2, 3][:attempts]
    assert (await summary_of(safe, clock, "template")).failed == 1


@pytest.mark.parametrize(
    ("retry", "attempts"), [({"on": TimeoutError}, 2), ({"on": ValueError}, 1), ({"give_up_on": OSError}, 1)]
)
async def test_a_timeout_counts_as_a_timeout_error(safe, clock, retry, attempts):
    handler = Handler(takes=HOUR, clock=clock)

    await played(
        safe, clock, "task", handler, HOUR * 1.5,
        interval=HOUR, timeout=seconds(5), retry=Retry(max_attempts=2, **retry),
    )  # fmt: skip

    assert len(handler.calls) == attempts


async def test_the_exceptions_of_the_template_apply_to_an_instance_with_a_retry_policy(safe, clock):
    handler = Handler(ValueError("bad"))
    template = safe.dynamic_task(name="it", retry=Retry(give_up_on=ValueError))(handler)

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(template, "ada", interval=HOUR, retry=Retry(max_attempts=9))
        await clock.advance(HOUR * 1.5)
        state = await app_context.get_task(template, "ada")

    assert len(handler.calls) == 1
    assert state.task.retry == Retry(max_attempts=9, give_up_on=ValueError)


async def test_the_exceptions_of_a_handler_apply_to_a_manifest_which_sets_the_numbers(safe, clock):
    handlers = {name: Handler(error) for name, error in (("a", ValueError("bad")), ("b", OSError("busy")))}
    desired = []
    for name, handler in handlers.items():
        safe.handler(name, retry=Retry(give_up_on=ValueError))(handler)
        given = manifest(name=name, handler=name, intervalSeconds=3600, retryPolicy={"maxAttempts": 4})
        desired.append(desired_record_of(read(PyncetteTask, given), ""))

    async with running(safe, clock) as app_context:
        await runtime_of(app_context).ledger.apply({each.key: mirrored(each) for each in desired})
        await clock.advance(HOUR * 1.5)

    assert [len(handler.calls) for handler in handlers.values()] == [1, 4]
    assert handlers["b"].calls[0].task.retry == Retry(max_attempts=4, give_up_on=ValueError)


# --- H -------------------------------------------------------------------------------------------------------------------


async def test_h_is_hashed_from_the_names_of_task_and_instance(safe, clock):
    handler = Handler()
    task = safe.task(name="static", schedule="H H * * *")(handler)
    template = safe.dynamic_task(name="template", schedule="H H * * *")(handler)

    async with running(safe, clock, realm="any") as app_context:
        for name in ("ada", "bob"):
            await app_context.schedule_task(template, name)
        ada, bob = [(await app_context.get_task(template, name)) for name in ("ada", "bob")]
        await clock.advance(timedelta(days=1))

    def time(key):
        (first,) = next_times("H H * * *", after=NOON, n=1, key=key)
        return first

    assert ada.scheduled_at == time("template/ada")
    assert bob.scheduled_at == time("template/bob")
    assert ada.scheduled_at != bob.scheduled_at
    assert task.get_next_execution(NOON, None) == time("static")
    assert ada.task.get_next_execution(NOON, None) == time("template/ada")
    assert template.instantiate("ada").get_next_execution(NOON, None) == time("template/ada")
    assert {call.task.name: call.scheduled_at for call in handler.calls} == {
        "static": time("static"),
        "ada": time("template/ada"),
        "bob": time("template/bob"),
    }
