"""Health is served on all addresses of a machine, whichever version of IP its pods have."""

import socket
import urllib.request

import pytest

from pyncette.telemetry.health import HealthServer
from pyncette.telemetry.metrics import served_metrics


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


def test_what_was_served_is_given_back():
    for _ in range(2):
        with served_metrics("127.0.0.1", 0, lambda: None) as port:
            get("127.0.0.1", port, "/metrics")
    with socket.create_server(("127.0.0.1", port)):
        pass
