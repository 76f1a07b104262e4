"""What a client may do to the server of health and metrics, and what it answers."""

import socket
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from pyncette.errors import ConfigurationError
from pyncette.telemetry import http
from pyncette.telemetry.health import HealthServer
from pyncette.telemetry.metrics import MetricsServer


def new_health(host="127.0.0.1"):
    return HealthServer(host, 0, {"/": lambda: True})


def new_metrics(host="127.0.0.1"):
    registry = CollectorRegistry()
    Counter("writes", "Writes", registry=registry).inc()
    return MetricsServer(host, 0, registry)


both = pytest.mark.parametrize("new_server", [new_health, new_metrics])


def ask(server, method="GET", path="/", host="127.0.0.1", **headers):
    """Return the answer, and its body."""
    with closing(HTTPConnection(host, server.port, timeout=5)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


def connected(server):
    return closing(socket.create_connection(("127.0.0.1", server.port), timeout=5))


def all_of(connection):
    return b"".join(iter(lambda: connection.recv(65536), b""))


def is_open(connection):
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


@both
def test_a_client_that_sends_its_request_slowly_is_cut_off(monkeypatch, new_server):
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.5)
    with new_server() as server, connected(server) as slow:
        slow.settimeout(0.1)
        started = time.monotonic()
        while is_open(slow) and time.monotonic() < started + 4:
            slow.sendall(b"x")

    assert 0.4 < time.monotonic() - started < 2


@both
@pytest.mark.parametrize(
    "request_head",
    [b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 500_000],
    ids=["long head", "body"],
)
def test_a_request_that_is_not_read_to_its_end_gets_its_answer(new_server, request_head):
    with new_server() as server:
        for _ in range(20):
            with connected(server) as client:
                client.sendall(request_head)
                client.shutdown(socket.SHUT_WR)
                assert all_of(client).startswith(b"HTTP/1.1 40")


@both
@pytest.mark.parametrize("request_head", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n"])
def test_a_request_without_an_end_is_a_bad_one(new_server, request_head):
    with new_server() as server, connected(server) as client:
        client.sendall(request_head)
        client.shutdown(socket.SHUT_WR)
        assert all_of(client).startswith(b"HTTP/1.1 400 ")


@both
def test_connections_beyond_the_limit_are_closed(monkeypatch, new_server):
    monkeypatch.setattr(http, "REQUESTS_MAX", 3)
    with new_server() as server:
        with ExitStack() as clients:
            for _ in range(3):
                clients.enter_context(connected(server))
            with pytest.raises(ConnectionError):
                ask(server)
        deadline = time.monotonic() + 5
        while True:
            try:
                assert ask(server)[0].status == 200
                break
            except ConnectionError:
                assert time.monotonic() < deadline


@both
def test_a_server_stops_at_once(new_server):
    taken = []
    for _ in range(3):
        with new_server() as server:
            ask(server)
            started = time.monotonic()
        taken.append(time.monotonic() - started)

    assert min(taken) < 0.3


@both
def test_a_name_is_served_on_all_its_addresses(monkeypatch, new_server):
    resolve({"name.test": ["127.0.0.1", "127.0.0.2"]}, monkeypatch)
    with new_server("name.test") as server:
        assert ask(server, host="127.0.0.1")[0].status == 200
        assert ask(server, host="127.0.0.2")[0].status == 200


@both
def test_a_name_may_have_addresses_of_ipv6_only(monkeypatch, new_server):
    resolve({"name.test": ["::1"]}, monkeypatch)
    with new_server("name.test") as server:
        assert ask(server, host="::1")[0].status == 200


@both
def test_addresses_that_the_machine_does_not_have_are_left_out(monkeypatch, new_server):
    resolve({"name.test": ["192.0.2.1", "127.0.0.1"]}, monkeypatch)
    with new_server("name.test") as server:
        assert ask(server)[0].status == 200

    resolve({"name.test": ["192.0.2.1"]}, monkeypatch)
    with pytest.raises(ConfigurationError, match=r"cannot be served on name\.test:0"):
        new_server("name.test").__enter__()


def resolve(names, monkeypatch):
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        return [
            found for address in names.get(host, [host]) for found in real(address, *arguments, **options)
        ]

    monkeypatch.setattr(http, "getaddrinfo", getaddrinfo)


# --- Metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_metrics_have_a_length(coding):
    with new_metrics() as server:
        answer, body = ask(server, **{"Accept-Encoding": coding})

    assert int(answer.headers["Content-Length"]) == len(body) > 0
    assert answer.headers.get("Content-Encoding", "identity") == coding
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_metrics_may_be_selected_by_name():
    with new_metrics() as server:
        assert b"writes_total 1.0" in ask(server, path="/metrics?name[]=writes_total")[1]
        assert b"writes_total" not in ask(server, path="/metrics?name[]=reads_total")[1]


def test_the_head_of_metrics_is_answered_without_a_body():
    with new_metrics() as server, connected(server) as client:
        client.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _, body = all_of(client).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Length: 0" not in head
    assert body == b""


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("POST", 405), ("BREW", 405)])
def test_metrics_are_read_and_never_written(method, status):
    with new_metrics() as server:
        answer, body = ask(server, method=method)

    assert answer.status == status
    assert "GET" in answer.headers["Allow"]
    assert b"<html" not in body.lower()


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), OSError("no")])
def test_a_collector_that_raises_is_answered_with_an_error_and_logged(error, caplog):
    class Failing(Collector):
        def describe(self):
            return []

        def collect(self):
            raise error

    registry = CollectorRegistry()
    registry.register(Failing())
    with MetricsServer("127.0.0.1", 0, registry) as server:
        answer, _ = ask(server)

    assert answer.status == 500
    assert type(error).__name__ in caplog.text
