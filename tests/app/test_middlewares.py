"""A middleware is a coroutine function that takes a context and `next`. Any other is reported, as handlers are."""

import functools
import warnings
from collections.abc import Awaitable
from unittest.mock import AsyncMock, Mock

import pytest

from pyncette import FailureMode, Pyncette
from pyncette.app.handlers import UnawaitableWarning
from tests.app.harness import at, running, seconds


async def fine(context, next):  # noqa: A002 - a middleware's second argument
    del context
    await next()


def passes_on(context, next):  # noqa: A002
    return fine(context, next)


def annotated(context, next) -> Awaitable[None]:  # noqa: A002
    return fine(context, next)


async def without_next(context):
    del context


class Callme:
    async def __call__(self, context, next):  # noqa: A002
        await next()

    async def method(self, context, next):  # noqa: A002
        await next()


@pytest.mark.parametrize(
    "middleware",
    [
        fine,
        functools.partial(fine),
        annotated,
        Callme(),
        Callme().method,
        AsyncMock(),
        lambda context, next: fine(context, next),  # noqa: A006, PLW0108 - the test is of a lambda
    ],
)
def test_an_awaitable_middleware_is_declared_without_a_warning(middleware):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        Pyncette().use_middleware(middleware)
        Pyncette().middleware(middleware)


def test_a_plain_function_causes_a_warning_with_its_location():
    app = Pyncette()

    for declare in (app.use_middleware, app.middleware):
        with pytest.warns(
            UnawaitableWarning,
            match="The middleware passes_on is not a coroutine function: write `async def",
        ) as warned:
            declare(passes_on)
        assert warned[0].filename == __file__


def test_a_middleware_that_cannot_take_both_arguments_is_refused():
    app = Pyncette()

    with pytest.raises(ValueError, match=r"write `async def without_next\(context, next\)`"):
        app.use_middleware(without_next)

    assert app.middlewares == []


@pytest.mark.filterwarnings("ignore::pyncette.app.handlers.UnawaitableWarning")
@pytest.mark.parametrize("mode", FailureMode)
async def test_a_middleware_that_cannot_be_awaited_fails_the_run_once(repository, clock, caplog, mode):
    app = Pyncette(repository)
    called = []
    handler = AsyncMock()

    @app.middleware
    def trace(context, next):  # noqa: A002
        del next
        called.append(context.attempt)

    task = app.dynamic_task(name="report", failure_mode=mode, lease_duration=seconds(5))(handler)
    async with running(app, clock) as app_context:
        await app_context.schedule_task(task, "ada", execute_at=at(1))
        await clock.advance(seconds(100))
        state = await app_context.get_task(task, "ada")

    assert called == [1]
    assert not handler.called
    assert state is None
    assert "the middleware trace returned None, which cannot be awaited" in caplog.text
    assert "write `async def trace(…)`" in caplog.text


@pytest.mark.filterwarnings("ignore::pyncette.app.handlers.UnawaitableWarning")
@pytest.mark.parametrize("middleware", [passes_on, annotated, Mock(side_effect=fine)])
async def test_a_function_that_returns_an_awaitable_still_works(repository, clock, caplog, middleware):
    app = Pyncette(repository)
    handler = AsyncMock()
    task = app.dynamic_task(name="report", failure_mode=FailureMode.UNLOCK)(handler)
    app.use_middleware(middleware)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(task, "ada", execute_at=at(1))
        await clock.advance(seconds(2))

    assert handler.call_count == 1
    assert "failed" not in caplog.text
