"""Metrics over TLS: by the certificate of the moment, and for clients that speak it."""

import shutil
import socket
import ssl
import time
from contextlib import closing, suppress
from http.client import HTTPSConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from pyncette.errors import ConfigurationError
from pyncette.telemetry import http
from pyncette.telemetry.certificate import ServerCertificate
from pyncette.telemetry.http import Response
from pyncette.telemetry.metrics import MetricsServer
from tests.servers.certificates import make_certificate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Certificates for two host names, by name."""
    folder = tmp_path_factory.mktemp("certificates")
    return {host: make_certificate(folder, host) for host in ("localhost", "renewed")}


@pytest.fixture
def folder(tmp_path, made):
    put(tmp_path, made["localhost"])
    return tmp_path


def put(folder, certificate):
    """Write the files anew, as the kubelet does: what was there before is not changed, but replaced."""
    for source, name in ((certificate.file, "tls.crt"), (certificate.key, "tls.key")):
        shutil.copy(source, folder / f"new-{name}")
        (folder / f"new-{name}").replace(folder / name)


def serving(folder, guard=None):
    registry = CollectorRegistry()
    Counter("writes", "Writes", registry=registry).inc()
    return MetricsServer("127.0.0.1", 0, registry, guard, ServerCertificate(folder))


def read(server, authority, host="localhost"):
    context = ssl.create_default_context(cafile=authority.file)
    connection = HTTPSConnection("127.0.0.1", server.port, timeout=10, context=context)
    connection.sock = context.wrap_socket(
        socket.create_connection(("127.0.0.1", server.port), 10), server_hostname=host
    )
    with closing(connection):
        connection.request("GET", "/metrics", headers={"Authorization": "Bearer x"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_client_that_trusts_the_authority_reads_the_metrics(folder, made):
    with serving(folder) as server:
        status, body = read(server, made["localhost"])

    assert status == 200
    assert b"writes_total 1.0" in body


def test_a_client_that_trusts_another_authority_reads_nothing(folder, made):
    with serving(folder) as server, pytest.raises(ssl.SSLCertVerificationError):
        read(server, made["renewed"])


def test_a_request_without_tls_gets_no_metrics(folder):
    with (
        serving(folder) as server,
        closing(socket.create_connection(("127.0.0.1", server.port), 10)) as plain,
    ):
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

        received = b""
        with suppress(ConnectionResetError):
            while data := plain.recv(65536):
                received += data

    assert b"HTTP" not in received


def test_the_guard_decides_on_requests_over_tls(folder, made):
    def guard(request):
        return Response.of_text(403, request.headers["Authorization"])

    with serving(folder, guard) as server:
        assert read(server, made["localhost"]) == (403, b"Bearer x")


def test_a_renewed_certificate_is_shown_without_a_restart(folder, made):
    with serving(folder) as server:
        read(server, made["localhost"])
        put(folder, made["renewed"])

        assert read(server, made["renewed"], "renewed")[0] == 200


def test_a_certificate_that_cannot_be_used_leaves_the_one_before_in_place(folder, made, caplog):
    with serving(folder) as server:
        (folder / "tls.crt").write_text("nothing")
        assert read(server, made["localhost"])[0] == 200
        assert [record.message for record in caplog.records] == ["could not reload the certificate"]
        read(server, made["localhost"])
        assert len(caplog.records) == 1, "it is said once for each change"

        put(folder, made["renewed"])
        assert read(server, made["renewed"], "renewed")[0] == 200


@pytest.mark.parametrize("broken", ["tls.crt", "tls.key", None])
def test_a_certificate_that_cannot_be_used_at_the_start_is_an_error_of_configuration(folder, broken):
    if broken is None:
        (folder / "tls.key").unlink()
    else:
        (folder / broken).write_text("nothing")

    with pytest.raises(ConfigurationError, match=r"it needs tls\.crt and tls\.key") as refused:
        ServerCertificate(folder)

    assert str(folder) in str(refused.value)


def test_a_client_that_does_not_complete_the_handshake_is_cut_off(monkeypatch, folder, made):
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(http, "REQUESTS_MAX", 1)
    with serving(folder) as server, closing(socket.create_connection(("127.0.0.1", server.port), 10)) as slow:
        started = time.monotonic()
        assert slow.recv(1) == b""
        assert time.monotonic() - started < 5
        assert read(server, made["localhost"])[0] == 200
