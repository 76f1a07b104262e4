"""Lists and streams of events arrive at kopf reduced, however their bytes are split."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import aiohttp
import kopf
import pytest
from aiohttp import web
from kopf._cogs.clients.api import iter_jsonlines
from kopf._cogs.clients.errors import APIForbiddenError, APIServerError, check_response

from pyncette.controller.cluster import watch_session
from pyncette.controller.cluster.api import TASKS
from pyncette.controller.cluster.reduction import reduced
from pyncette.controller.cluster.watch_session import session_of
from tests.controller.fake_api import task

LARGE = {**task(args={"a": "x" * 3 * 2**20}), "metadata": {**task()["metadata"], "uid": "1"}}
BOOKMARK = {
    "type": "BOOKMARK",
    "object": {"kind": TASKS.name, "apiVersion": TASKS.api_version, "metadata": {}},
}
EVENTS = [{"type": "ADDED", "object": LARGE}, BOOKMARK, {"type": "DELETED", "object": LARGE}]

compact = json.JSONEncoder(separators=(",", ":")).encode


@asynccontextmanager
async def serving(*parts, status=200):
    """An API server whose answer arrives in these parts, and a session of kopf's with it."""

    async def answer(request):
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        async with logged_in(url) as session, session.get(url) as response:
            yield response
    finally:
        await runner.cleanup()


def logged_in(url):
    return session_of(kopf.ConnectionInfo(server=url, scheme="Bearer", token="secret")).session


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [100_000, 2**20, 2**30])
async def test_each_event_of_a_stream_is_reduced(size):
    stream = "\n".join(map(compact, EVENTS)).encode() + b"\n"

    async with serving(*cut(stream, size)) as response:
        lines = [json.loads(line) async for line in iter_jsonlines(response.content)]

    small = reduced(TASKS, LARGE)
    assert lines == [{"type": "ADDED", "object": small}, BOOKMARK, {"type": "DELETED", "object": small}]


async def test_half_an_event_at_the_end_of_a_stream_is_passed_to_kopf_which_ends_the_stream():
    async with serving(b'{"type": "ADDED", "obj') as response:
        lines = [line async for line in iter_jsonlines(response.content)]

    assert lines == [b'{"type": "ADDED", "obj']


async def test_an_endless_event_closes_the_connection(monkeypatch):
    monkeypatch.setattr(watch_session, "LINE_BYTES_MAX", 10_000)

    async with serving(b"x" * 100_000) as response:
        with pytest.raises(aiohttp.ClientPayloadError, match="more than 10,000 bytes"):
            [line async for line in iter_jsonlines(response.content)]


async def test_a_server_that_sends_no_headers_is_given_up_like_any_that_is_silent():
    ended = asyncio.Event()

    async def answer_nothing(reader, writer):
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    silent = await asyncio.start_server(answer_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"

    async with silent, logged_in(url) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await session.get(url)
        await session.close()
        await ended.wait()


async def test_kopf_does_not_close_the_session_of_watchers_that_it_leaves_behind():
    session = session_of(kopf.ConnectionInfo(server="http://127.0.0.1"))

    await session.close()
    assert not session.closed

    await session.end()
    assert session.closed


async def test_a_list_is_reduced():
    page = {
        "kind": f"{TASKS.name}List",
        "apiVersion": TASKS.api_version,
        "metadata": {"resourceVersion": "7"},
        "items": [LARGE],
    }

    async with serving(compact(page).encode()) as response:
        read = await response.json()

    assert read["items"] == [reduced(TASKS, LARGE)]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b"apiserver is shutting down", APIServerError),
        (502, b'"a text"', APIServerError),
        (403, b'{"kind": "Status", "apiVersion": "v1", "reason": "Forbidden"}', APIForbiddenError),
    ],
)
async def test_kopf_receives_an_error_with_any_body(status, body, error):
    async with serving(body, status=status) as response:
        with pytest.raises(error):
            await check_response(response)
