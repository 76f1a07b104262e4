"""A handler is a coroutine function that takes a context. Any other is reported at its declaration or when it runs."""

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
from pyncette.app.handlers import PlainHandlerWarning
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
        functools.partial(fine),
        Callme(),
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
        decorated(with_heartbeat()(fine)),
        Mock(),
        MagicMock(),
        AsyncMock(),
        create_autospec(fine),
        print,
        None,
    ],
)
def test_an_awaitable_handler_is_declared_without_a_warning(handler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        Pyncette().task(name="x", interval=A_MINUTE)(handler)
        Pyncette().handler(name="x")(handler)


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (plain, "plain"),
        (functools.partial(plain), "plain"),
        (Callme().plain_method, "plain_method"),
        (with_heartbeat()(plain), "plain"),
        (with_heartbeat()(functools.partial(plain)), "plain"),
    ],
)
def test_a_plain_function_causes_a_warning_with_its_location(handler, name):
    app = Pyncette()

    for declare in (
        app.task(name="task", interval=A_MINUTE),
        app.dynamic_task(name="dynamic"),
        app.partitioned_task(name="partitioned", partition_count=2),
        app.handler(name="handler"),
    ):
        with pytest.warns(
            PlainHandlerWarning, match=f"{name} is not a coroutine function: write `async def {name}"
        ) as warned:
            declare(handler)
        assert warned[0].filename == __file__


def test_a_handler_that_yields_causes_a_warning():
    with pytest.warns(PlainHandlerWarning, match="yielding is an async generator function"):
        Pyncette().task(interval=A_MINUTE)(yielding)


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


@pytest.mark.filterwarnings("ignore::pyncette.app.handlers.PlainHandlerWarning")
@pytest.mark.parametrize("mode", FailureMode)
@pytest.mark.parametrize("wrap", [lambda handler: handler, with_heartbeat(), decorated])
async def test_a_handler_that_cannot_be_awaited_runs_once_and_fails(repository, clock, caplog, mode, wrap):
    app = Pyncette(repository)
    ran = []

    def report(context):
        ran.append(context.attempt)

    task = app.dynamic_task(failure_mode=mode, lease_duration=seconds(5))(wrap(report))
    async with running(app, clock) as app_context:
        await app_context.schedule_task(task, "ada", execute_at=at(1))
        await clock.advance(seconds(100))
        state = await app_context.get_task(task, "ada")

    assert ran == [1]
    assert state is None
    assert "report returned None, which cannot be awaited: write `async def report(…)`" in caplog.text


async def test_a_task_continues_after_the_failure_of_a_handler_that_cannot_be_awaited(repository, clock):
    app = Pyncette(repository)
    counted = Mock(return_value=7)

    app.task(name="report", interval=seconds(10))(counted)
    async with running(app, clock) as app_context:
        await clock.advance(seconds(35))
        (record,) = await runtime_of(app_context).ledger.store.load([Key(Partition("", "report"), "report")])

    assert counted.call_count == 3
    assert record.due_at == instant_of(at(40))
    assert record.state.summary.counts.failed == 3
    assert record.state.summary.counts.succeeded == 0


@pytest.mark.parametrize(
    "handler",
    [
        annotated,
        annotated_in_words,
        of_generators,
        lambda context: fine(context),  # noqa: PLW0108 - as above
        AsyncMock(),
        PlainCallme(),
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
