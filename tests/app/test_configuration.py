"""What `Pyncette(…)` takes, and what becomes of what it does not know."""

import contextlib
import datetime
import functools

import pytest

from pyncette import Pyncette
from pyncette.backend import backend_repository
from pyncette.errors import ConfigurationError
from pyncette.executor import DefaultExecutor, SynchronousExecutor
from pyncette.postgres import postgres_repository
from pyncette.prometheus import with_prometheus_repository
from pyncette.store.base import ANSWER_RECORDS_MAX
from pyncette.store.memory import MemoryStore
from tests.app.harness import running, seconds


def a_repository(*, colour="red"):
    return MemoryStore()


@pytest.mark.parametrize(
    ("configuration", "close"),
    [
        ({"sqlite_databse": "x"}, "did you mean sqlite_database?"),
        ({"batchsize": 1}, "did you mean batch_size?"),
        ({"concurency_limit": 1}, "did you mean concurrency_limit?"),
        ({"postgres_url": "x"}, "from pyncette.postgres import postgres_repository"),
        ({"colour": "x"}, "valid settings: batch_size, concurrency_limit, realm, sqlite_database"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one(configuration, close):
    with pytest.raises(ConfigurationError) as refused:
        Pyncette(**configuration)

    (key,) = configuration
    assert str(refused.value).startswith(f"unknown setting {key}; ")
    assert close in str(refused.value)


@pytest.mark.parametrize(
    "factory", [a_repository, with_prometheus_repository(a_repository), functools.partial(a_repository)]
)
def test_the_keys_of_a_factory_are_those_of_its_signature_also_when_it_is_wrapped(factory):
    Pyncette(factory, colour="blue")

    with pytest.raises(ConfigurationError, match="did you mean colour"):
        Pyncette(factory, color="blue")


def test_a_factory_that_takes_whatever_comes_gets_it():
    given = {}

    def factory(**configuration):
        given.update(configuration)
        return MemoryStore()

    Pyncette(factory, anything=1).new_store()

    assert given == {"anything": 1}


def test_a_key_that_is_needed_and_missing_is_named():
    with pytest.raises(ConfigurationError, match="postgres_repository needs postgres_url"):
        Pyncette(postgres_repository).new_store()


@pytest.mark.parametrize("name", ["Tasks", "tasks; drop table users", "tasks-1", "täsks", "", 'ta"sks'])
def test_the_name_of_a_table_is_checked_before_any_statement_runs(name):
    with pytest.raises(ValueError, match="postgres_table_name"):
        Pyncette(
            postgres_repository, postgres_url="postgresql://nowhere", postgres_table_name=name
        ).new_store()


@pytest.mark.parametrize("size", [0, -1, "many"])
def test_a_batch_holds_at_least_one(size):
    with pytest.raises(ConfigurationError, match="batch_size must be an integer of at least 1"):
        Pyncette(batch_size=size)


def test_a_batch_holds_no_more_than_one_answer_of_a_backend():
    assert Pyncette(batch_size=1000).batch_size == ANSWER_RECORDS_MAX
    assert Pyncette(batch_size=ANSWER_RECORDS_MAX).batch_size == ANSWER_RECORDS_MAX


def test_at_least_one_handler_runs_at_once():
    with pytest.raises(ConfigurationError, match="concurrency_limit must be at least 1"):
        Pyncette(concurrency_limit=0)


@pytest.mark.parametrize("interval", [datetime.timedelta(0), datetime.timedelta.max])
def test_a_poll_interval_is_longer_than_zero_and_shorter_than_a_century(interval):
    with pytest.raises(ConfigurationError, match="poll_interval must be longer than zero"):
        Pyncette(poll_interval=interval)


@pytest.mark.parametrize(
    ("executor", "configuration", "slots"),
    [
        (DefaultExecutor, {}, 100),
        (DefaultExecutor, {"concurrency_limit": 7}, 7),
        (SynchronousExecutor, {}, 1),
        (SynchronousExecutor, {"concurrency_limit": 7}, 1),
    ],
)
def test_an_executor_limits_how_many_handlers_run_at_the_same_time(executor, configuration, slots):
    assert Pyncette(executor_cls=executor, **configuration).slots == slots


def test_an_executor_without_slots_is_refused_by_its_name():
    class OldExecutor:
        pass

    with pytest.raises(ConfigurationError, match="OldExecutor is not an executor of this version"):
        Pyncette(executor_cls=OldExecutor)


@pytest.mark.parametrize(("executor", "most"), [(DefaultExecutor, 5), (SynchronousExecutor, 1)])
async def test_no_more_handlers_run_at_once_than_the_executor_lets(memory, clock, executor, most):
    app = Pyncette(memory, executor, **({"concurrency_limit": 5} if most == 5 else {}))
    at_once, seen = 0, []

    @app.dynamic_task()
    async def work(context):
        nonlocal at_once
        at_once += 1
        seen.append(at_once)
        await clock.sleep(seconds(1))
        at_once -= 1

    async with running(app, clock) as app_context:
        for number in range(20):
            await app_context.schedule_task(work, f"work-{number}", execute_at=clock.utc)
        await clock.advance(seconds(30))

    assert len(seen) == 20
    assert max(seen) == most


async def test_a_repository_of_pyncette_1_is_refused_by_its_name(clock):
    @contextlib.asynccontextmanager
    async def my_old_repository(**kwargs):
        yield object()

    with pytest.raises(ConfigurationError) as refused:
        async with Pyncette(my_old_repository).create(clock=clock):
            pass

    assert "my_old_repository returned a _AsyncGeneratorContextManager, which is not a store" in str(
        refused.value
    )
    assert "Pyncette 1.x are not supported" in str(refused.value)
    with pytest.raises(ConfigurationError, match="my_old_repository"):
        Pyncette(with_prometheus_repository(my_old_repository)).new_store()


async def test_a_url_names_the_backend(tmp_path):
    app = Pyncette(backend_repository, backend_url=f"sqlite:///{tmp_path / 'schedules.sqlite'}")

    @app.dynamic_task()
    async def remind(context): ...

    async with app.create() as app_context:
        await app_context.schedule_task(remind, "ada", interval=seconds(60))

    async with app.create() as app_context:
        assert await app_context.get_task(remind, "ada") is not None
    assert (tmp_path / "schedules.sqlite").exists()


async def test_a_url_of_no_backend_is_refused_with_those_that_there_are():
    app = Pyncette(backend_repository, backend_url="mongodb://localhost/schedules")

    with pytest.raises(ConfigurationError, match=r"postgresql://"):
        async with app.create():
            pass
