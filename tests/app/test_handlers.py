"""A handler takes a context. One that yields is reported at its declaration, and what wraps a coroutine function awaits it."""

import asyncio
import datetime
import functools
import types
import warnings
from collections.abc import Awaitable
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from pyncette import FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.app.handlers import UnawaitableWarning, is_plain
from pyncette.core.record import Key, Partition
from pyncette.core.times import instant_of
from pyncette.utils import with_heartbeat
from tests.app.harness import at, running, seconds

A_MINUTE = datetime.timedelta(minutes=1)


async def fine(context):
    del context


def plain(context):
    del context


async def yielding(context):
    yield context


def generating(context):
    yield context


def decorated(handler):
    @functools.wraps(handler)
    def call(*args):
        return handler(*args)

    return call


def awaited(handler):
    @functools.wraps(handler)
    async def call(context):
        handler(context)

    return call


def annotated(context) -> Awaitable[None]:
    return fine(context)


def annotated_in_words(context) -> "asyncio.Future[None]":
    return asyncio.ensure_future(fine(context))


@types.coroutine
def of_generators(context):
    yield


class Callme:
    async def __call__(self, context):
        pass

    async def method(self, context):
        pass

    def plain_method(self, context):
        pass


class PlainCallme:
    def __call__(self, context):
        return fine(context)


# --- What is declared ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handler",
    [
        fine,
        plain,
        functools.partial(fine),
        functools.partial(plain),
        Callme(),
        Callme().plain_method,
        Callme().method,
        functools.partial(Callme().method),
        PlainCallme(),
        decorated(fine),
        decorated(decorated(fine)),
        decorated(plain),
        awaited(plain),
        annotated,
        annotated_in_words,
        of_generators,
        lambda context: fine(context),  # noqa: PLW0108 - the test is of a lambda
        with_heartbeat()(fine),
        with_heartbeat()(annotated),
        with_heartbeat()(plain),
        decorated(with_heartbeat()(fine)),
        Mock(),
        MagicMock(),
        AsyncMock(),
        create_autospec(fine),
        print,
        None,
    ],
)
def test_a_handler_is_declared_without_a_warning(handler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        Pyncette().task(name="x", interval=A_MINUTE)(handler)
        Pyncette().handler(name="x")(handler)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (yielding, "yielding is an async generator function: a handler must not yield"),
        (generating, "generating is a generator function: a handler must not yield"),
        (functools.partial(generating), "generating is a generator function"),
        (with_heartbeat()(generating), "generating is a generator function"),
    ],
)
def test_a_handler_that_yields_causes_a_warning_with_its_location(handler, message):
    app = Pyncette()

    for declare in (
        app.task(name="task", interval=A_MINUTE),
        app.dynamic_task(name="dynamic"),
        app.partitioned_task(name="partitioned", partition_count=2),
        app.handler(name="handler"),
    ):
        with pytest.warns(UnawaitableWarning, match=message) as warned:
            declare(handler)
        assert warned[0].filename == __file__


class Awaited:
    """A handler whose objects are what is awaited."""

    def __init__(self, context):
        self.context = context

    def __await__(self):
        return fine(self.context).__await__()


def of_asyncio(context):
    return fine(context)


of_asyncio._is_coroutine = asyncio.coroutines._is_coroutine


def of_a_task(context):
    return asyncio.get_running_loop().create_task(fine(context))


def starting_a_loop(context) -> None:
    asyncio.new_event_loop().create_task(fine(context))


@pytest.mark.parametrize(
    "handler",
    [
        fine,
        functools.partial(fine),
        Callme(),
        Callme().method,
        functools.partial(Callme().method),
        decorated(fine),
        decorated(decorated(fine)),
        awaited(plain),
        annotated,
        annotated_in_words,
        of_generators,
        of_asyncio,
        with_heartbeat()(fine),
        with_heartbeat()(plain),
        decorated(with_heartbeat()(fine)),
        create_autospec(fine),
        Awaited,
        lambda context: asyncio.create_task(fine(context)),
        decorated(of_a_task),
    ],
)
def test_a_handler_that_returns_an_awaitable_is_called_on_the_event_loop(handler):
    assert not is_plain(handler)


@pytest.mark.parametrize(
    "handler",
    [
        plain,
        functools.partial(plain),
        functools.cache(plain),
        Callme().plain_method,
        PlainCallme(),
        decorated(plain),
        starting_a_loop,
        lambda context: fine(context),  # noqa: PLW0108 - inspection does not tell what it returns
        Mock(),
        MagicMock(),
        create_autospec(plain),
        print,
        str,
        None,
    ],
)
def test_any_other_handler_is_called_in_a_thread(handler):
    assert is_plain(handler)


async def nothing():
    pass


async def too_much(context, database):
    pass


async def by_name(*, context):
    pass


class OfAClass:
    async def run(self, context):
        pass


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (nothing, r"nothing takes \(\), .* write `async def nothing\(context\)`"),
        (too_much, r"too_much takes \(context, database\), .* write `async def too_much\(context\)`"),
        (by_name, "by_name takes"),
        (functools.partial(fine, "database"), "fine takes"),
        (OfAClass.run, "declare a bound method"),
        (with_heartbeat()(too_much), "too_much takes"),
    ],
)
def test_a_handler_that_cannot_take_the_context_is_refused(handler, message):
    app = Pyncette()

    for declare in (app.task(name="task", interval=A_MINUTE), app.dynamic_task(name="d"), app.handler("h")):
        with pytest.raises(ValueError, match=message):
            declare(handler)
    assert not app.tasks


def injecting(handler):
    @functools.wraps(handler)
    async def call(*args):
        await handler(*args, "database")

    return call


async def optional(context, database=None):
    pass


@pytest.mark.parametrize(
    "handler", [injecting(too_much), functools.partial(too_much, database=1), optional, OfAClass().run]
)
def test_a_decorator_may_pass_further_arguments_to_a_handler(handler):
    Pyncette().task(name="x", interval=A_MINUTE)(handler)


@pytest.mark.parametrize("decorator", ["task", "dynamic_task", "partitioned_task", "handler", "fixture"])
def test_a_decorator_without_parentheses_is_refused(decorator):
    app = Pyncette()

    with pytest.raises(ValueError, match=rf"write @app\.{decorator}\(…\)"):
        getattr(app, decorator)(fine)


def test_a_positional_option_is_refused():
    with pytest.raises(
        ValueError, match=r"@app\.task\(…\) takes its options as keywords, as in name='report'"
    ):
        Pyncette().task("report")


# --- What is run ---------------------------------------------------------------------------------------------------------


def returning_none(context) -> Awaitable[None]:
    del context


@pytest.mark.filterwarnings("ignore::pyncette.app.handlers.UnawaitableWarning")
@pytest.mark.parametrize("mode", FailureMode)
@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (returning_none, "returning_none returned None, which cannot be awaited: write `async def"),
        (with_heartbeat()(returning_none), "returning_none returned None, which cannot be awaited"),
        (generating, "generating returned a generator, so nothing of it has run: a handler must not yield"),
        (lambda context: yielding(context), "returned an async_generator, so nothing of it has run"),  # noqa: PLW0108
    ],
)
async def test_a_handler_whose_result_can_be_of_no_use_is_called_once_and_fails(
    repository, clock, caplog, mode, handler, message
):
    app = Pyncette(repository)
    task = app.dynamic_task(name="x", failure_mode=mode, lease_duration=seconds(5))(handler)
    async with running(app, clock) as app_context:
        await app_context.schedule_task(task, "ada", execute_at=at(1))
        await clock.advance(seconds(100))
        state = await app_context.get_task(task, "ada")

    assert state is None
    assert caplog.text.count(message) == 1


async def test_a_task_continues_after_the_failure_of_a_handler_that_cannot_be_awaited(repository, clock):
    app = Pyncette(repository)

    app.task(name="report", interval=seconds(10))(returning_none)
    async with running(app, clock) as app_context:
        await clock.advance(seconds(35))
        (record,) = await runtime_of(app_context).ledger.store.load([Key(Partition("", "report"), "report")])

    assert record.due_at == instant_of(at(40))
    assert record.state.summary.counts.failed == 3
    assert record.state.summary.counts.succeeded == 0


def without_wraps(handler):
    def call(context):
        return handler(context)

    return call


@pytest.mark.parametrize(
    "handler",
    [
        annotated,
        annotated_in_words,
        of_generators,
        lambda context: fine(context),  # noqa: PLW0108 - as above
        AsyncMock(),
        PlainCallme(),
        Awaited,
        without_wraps(fine),
        without_wraps(with_heartbeat()(fine)),
    ],
)
async def test_a_function_that_returns_an_awaitable_still_works(repository, clock, caplog, handler):
    app = Pyncette(repository)
    app.dynamic_task(name="x", failure_mode=FailureMode.UNLOCK)(handler)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["x"], "ada", execute_at=at(1))
        await clock.advance(seconds(2))
        assert await app_context.get_task(app.tasks["x"], "ada") is None

    assert "failed" not in caplog.text
