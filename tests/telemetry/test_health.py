"""Health and metrics are served on all addresses of a machine, of either version of IP."""

import errno
import socket
import urllib.request
from contextlib import closing
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from pyncette.errors import ConfigurationError
from pyncette.telemetry.health import HealthServer
from pyncette.telemetry.metrics import MetricsServer, served_metrics


def loopbacks():
    """Those that this machine has."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.bind((host, 0))
        except OSError:
            continue
        yield f"[{host}]" if ":" in host else host


LOOPBACKS = list(loopbacks())


def get(host, port, path):
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
        return answer.read()


def answer_of(port, method, path):
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        return answer


@pytest.mark.parametrize("host", LOOPBACKS)
def test_without_a_host_health_is_served_on_all_addresses(host):
    with HealthServer(None, 0, {"/healthz": lambda: True}) as server:
        assert get(host, server.port, "/healthz") == b"ok"


@pytest.mark.parametrize("host", LOOPBACKS)
def test_without_a_host_metrics_are_served_on_all_addresses(host):
    with served_metrics(None, 0, lambda: None) as port:
        assert b"pyncette_info" in get(host, port, "/metrics")


@pytest.mark.parametrize("host", LOOPBACKS)
def test_with_a_host_health_is_served_there(host):
    with HealthServer(host.strip("[]"), 0, {"/healthz": lambda: True}) as server:
        assert get(host, server.port, "/healthz") == b"ok"


def test_a_registry_of_ones_own_is_served():
    registry = CollectorRegistry()
    Counter("writes", "Writes", registry=registry).inc()

    with MetricsServer("127.0.0.1", 0, registry) as server:
        assert b"writes_total 1.0" in get("127.0.0.1", server.port, "/metrics")


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "BREW"])
def test_health_is_read_and_never_written(method):
    with HealthServer("127.0.0.1", 0, {"/healthz": lambda: True}) as server:
        answer = answer_of(server.port, method, "/healthz")

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_a_check_that_raises_has_failed_and_is_logged(caplog):
    with HealthServer("127.0.0.1", 0, {"/healthz": lambda: 1 / 0}) as server:
        answer = answer_of(server.port, "GET", "/healthz")

    assert answer.status == 503
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("what", "new_server"),
    [
        ("health", lambda port: HealthServer("127.0.0.1", port, {})),
        ("metrics", lambda port: MetricsServer("127.0.0.1", port, CollectorRegistry())),
    ],
)
def test_the_error_of_a_taken_port_names_it(what, new_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = new_server(port)
        message = f"{what} cannot be served on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(ConfigurationError, match=message):
            server.__enter__()
        with pytest.raises(OSError, match=message) as error:
            server.start()
    assert error.value.errno == errno.EADDRINUSE


def test_the_port_is_free_after_the_server_stopped():
    for _ in range(2):
        with served_metrics("127.0.0.1", 0, lambda: None) as port:
            get("127.0.0.1", port, "/metrics")
    with socket.create_server(("127.0.0.1", port)):
        pass
