"""Which authorities a client of Redis trusts: those of the file in its URL, and no others."""

import asyncio
import contextlib
import ssl

import pytest
from redis.exceptions import ConnectionError as DriverConnectionError

from pyncette.errors import StoreError
from pyncette.store.redis.connection import Connections
from pyncette.store.redis.url import read_url
from pyncette.store.tls import with_parameters
from tests.servers.certificates import make_certificate

CLUSTER = (
    "rediss+cluster://localhost:{}?ssl_check_hostname=no"  # the driver asks for the address of localhost
)
SENTINEL = "rediss+sentinel://localhost:{}/service"

URLS = ["rediss://localhost:{}", CLUSTER, SENTINEL]


class Listener:
    """A server that closes each connection, and counts those whose client trusted its certificate."""

    def __init__(self, folder):
        self.certificate = make_certificate(folder)
        self.trusting = 0

    @contextlib.asynccontextmanager
    async def listening(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.certificate)
        async with await asyncio.start_server(self._meet, "localhost", 0, ssl=context) as server:
            yield server.sockets[0].getsockname()[1]

    def _meet(self, _, writer):
        self.trusting += 1
        writer.close()


@pytest.fixture
def listener(tmp_path, monkeypatch):
    """A listener that the system vouches for."""
    (tmp_path / "listener").mkdir()
    listener = Listener(tmp_path / "listener")
    monkeypatch.setenv("SSL_CERT_FILE", str(listener.certificate.file))
    return listener


@pytest.fixture
def other(tmp_path):
    """A file with an authority that vouches for another server."""
    (tmp_path / "other").mkdir()
    return make_certificate(tmp_path / "other").file


async def ask(url, port, file):
    """Ask the server of *url* on *port* something, with the authorities in *file*. No such server answers."""
    connections = Connections(
        read_url(with_parameters(url.format(port), {"ssl_ca_certs": str(file)} if file else {}))
    )
    try:
        with pytest.raises(StoreError):
            await connections.ask([["PING"]])
    finally:
        await connections.close()


@pytest.mark.parametrize("url", URLS)
async def test_a_server_that_the_system_alone_vouches_for_is_refused(listener, other, url):
    async with listener.listening() as port:
        await ask(url, port, other)

    assert not listener.trusting


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("named", [True, False])
async def test_a_server_that_the_file_or_without_one_the_system_vouches_for_is_trusted(
    listener, other, monkeypatch, url, named
):
    if named:
        monkeypatch.setenv("SSL_CERT_FILE", str(other))
    async with listener.listening() as port:
        await ask(url, port, listener.certificate.file if named else None)

    assert listener.trusting


async def test_the_same_holds_for_the_server_that_sentinel_names(listener, other):
    async with listener.listening() as port:
        connections = Connections(read_url(f"{SENTINEL.format(port)}?ssl_ca_certs={other}"))
        connection = connections._client.connection_pool.make_connection()
        with pytest.raises(DriverConnectionError, match="certificate verify failed"):
            await connection.connect_to(("localhost", port))
        await connection.disconnect()

    assert not listener.trusting
