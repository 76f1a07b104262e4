"""The health of an app over HTTP."""

import asyncio
import errno
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyncette import Pyncette, healthcheck
from pyncette.errors import StoreUnavailableError
from pyncette.healthcheck import default_healthcheck, use_healthcheck_server
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.telemetry import http
from tests.app.harness import free_port, running, seconds


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def app(memory):
    app = Pyncette(memory)
    app.task(name="report", interval=seconds(10))(_nothing)
    return app


async def ask(port, method="GET", path="/health"):
    def request():
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), dict(error.headers)

    return await asyncio.to_thread(request)


async def send(port, raw):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/", "/health", "/healthz?full=1"])
async def test_a_healthy_app_answers_ok_on_any_path(app, clock, port, path):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        await clock.advance(seconds(100))
        status, text, _ = await ask(port, path=path)

    assert (status, text) == (200, "OK")


@pytest.mark.parametrize("answer", [False, None, ConnectionError("no database")])
async def test_an_unhealthy_app_answers_not_ok_even_if_the_check_raises(app, clock, port, answer):
    async def check(app_context):
        if isinstance(answer, Exception):
            raise answer
        return answer

    use_healthcheck_server(app, port=port, bind_address="127.0.0.1", healthcheck_handler=check)
    async with running(app, clock):
        status, text, _ = await ask(port)

    assert (status, text) == (500, "Not OK")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_other_methods_are_not_allowed(app, clock, port, method):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        status, _, headers = await ask(port, method=method)

    assert status == 405
    assert headers["Allow"] == "GET"


async def test_a_custom_health_check_gets_the_app_context(app, clock, port):
    seen = []

    async def check(app_context):
        seen.append(app_context)
        return True

    use_healthcheck_server(app, port=port, bind_address="127.0.0.1", healthcheck_handler=check)
    async with running(app, clock) as app_context:
        await ask(port)

    assert seen == [app_context]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nnever ends",
        b"GET / FTP/1\r\n\r\n",
    ],
)
async def test_bad_requests_do_not_end_the_server(app, clock, port, raw, caplog):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        answer = await send(port, raw)
        status, _, _ = await ask(port)

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") if raw else not answer
    assert status == 200
    assert "Traceback" not in caplog.text


async def test_a_silent_client_delays_neither_others_nor_the_end(app, clock, port):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with asyncio.timeout(20):
        async with running(app, clock):
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            status, _, _ = await ask(port)
        silent.close()

    assert status == 200


async def test_a_check_that_hangs_is_unhealthy_and_cancelled(app, clock, port, monkeypatch, caplog):
    monkeypatch.setattr(healthcheck, "CHECK_SECONDS", 0.2)
    cancelled = asyncio.Event()

    async def check(app_context):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    use_healthcheck_server(app, port=port, bind_address="127.0.0.1", healthcheck_handler=check)
    async with asyncio.timeout(3), running(app, clock):
        status, text, _ = await ask(port)
        await cancelled.wait()

    assert (status, text) == (500, "Not OK")
    assert "the health check took longer than 0.2 s" in caplog.text
    assert "Traceback" not in caplog.text


async def test_requests_hold_no_threads_while_the_loop_is_blocked(app, clock, port, monkeypatch):
    monkeypatch.setattr(healthcheck, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(http, "REST_SECONDS", 0.2)
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        before = threading.active_count()
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 3
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to be blocked
        assert threading.active_count() == before
        assert (await ask(port))[0] == 200


async def test_a_check_that_times_out_itself_is_logged(app, clock, port, caplog):
    async def check(app_context):
        raise TimeoutError("the database did not answer")

    use_healthcheck_server(app, port=port, bind_address="127.0.0.1", healthcheck_handler=check)
    async with running(app, clock):
        assert (await ask(port))[0] == 500

    assert "the database did not answer" in caplog.text


async def test_the_end_cancels_the_checks_in_progress(app, clock, port, caplog):
    begun = asyncio.Event()

    async def check(app_context):
        begun.set()
        await asyncio.Event().wait()

    use_healthcheck_server(app, port=port, bind_address="127.0.0.1", healthcheck_handler=check)
    async with asyncio.timeout(3):
        async with running(app, clock):
            asking = asyncio.create_task(ask(port))
            await begun.wait()
        status, text, _ = await asking

    assert (status, text) == (500, "Not OK")
    assert "Traceback" not in caplog.text


async def test_a_request_after_the_end_is_unhealthy(app, clock, port, caplog):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        await ask(port)
    writer.write(b"\r\n")

    assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
    assert "Traceback" not in caplog.text
    writer.close()


async def test_the_end_does_not_wait_for_the_default_executor(app, clock, port):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    loop = asyncio.get_running_loop()
    ended = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        async with running(app, clock):
            waiting = loop.run_in_executor(None, ended.wait, 10)
            started = time.monotonic()
        taken = time.monotonic() - started
        ended.set()
        await waiting

    assert taken < 3


async def test_a_taken_port_is_an_os_error(app, clock, port):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    refused = pytest.raises(OSError, match=f"health cannot be served on 127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)), refused as error:
        async with running(app, clock):
            pass

    assert error.value.errno == errno.EADDRINUSE


async def test_nothing_listens_any_more_once_the_app_has_ended(app, clock, port):
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    async with running(app, clock):
        pass

    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_an_app_can_be_served_on_two_ports(app, clock, port):
    other = free_port()
    use_healthcheck_server(app, port=port, bind_address="127.0.0.1")
    use_healthcheck_server(app, port=other, bind_address="127.0.0.1")
    async with running(app, clock):
        assert [(await ask(port))[0], (await ask(other))[0]] == [200, 200]


async def test_an_app_is_unhealthy_while_its_last_poll_is_two_intervals_old(clock):
    class Failing(MemoryStore):
        down = False

        async def claim(self, *arguments):
            if self.down:
                raise StoreUnavailableError("the backend is away")
            return await super().claim(*arguments)

    store = Failing(MemoryBackend())
    app = Pyncette(lambda: store, poll_interval=seconds(5))
    app.task(name="report", interval=seconds(10))(_nothing)
    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.advance(seconds(9))
        assert await default_healthcheck(app_context)

        store.down = True
        clock._now += 1_000_000
        clock._ring()
        await asyncio.sleep(0.05)
        assert await default_healthcheck(app_context)

        clock._now += 10_000_000
        assert not await default_healthcheck(app_context)
        assert not app_context.ready

        store.down = False
        async with asyncio.timeout(10):
            while not await default_healthcheck(app_context):  # noqa: ASYNC110 - as a probe would
                await asyncio.sleep(0.01)
        assert app_context.ready
        app_context.shutdown()
        await run


async def _nothing(context):
    del context
