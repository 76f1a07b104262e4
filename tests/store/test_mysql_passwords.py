"""A server that asks for the password itself gets it only if its certificate has been verified."""

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

import pytest

from pyncette.errors import StoreError, StoreRefusedError
from pyncette.mysql import mysql_repository
from pyncette.store.mysql.address import read_address
from pyncette.store.mysql.connection import MysqlConnections
from pyncette.testing.faults import SECRET, assert_is_one_sentence
from tests.cli import called
from tests.servers.certificates import Certificate, make_certificate

CLEAR_TEXT = ["mysql_clear_password", "dialog"]

PROTOCOL_41, CONNECT_WITH_DB, SSL, SECURE_CONNECTION, PLUGIN_AUTH = 1 << 9, 1 << 3, 1 << 11, 1 << 15, 1 << 19

SALT = b"s" * 20

SECONDS_MAX = 10


class Rogue:
    """A server that speaks as much of the protocol as it takes to be sent a password."""

    def __init__(self, plugin: str, certificate: Certificate | None) -> None:
        self._plugin = plugin
        self._certificate = certificate
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(SECONDS_MAX)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port = self._listening.getsockname()[1]
        self.heard = b""
        """All that a client sent."""

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        await asyncio.to_thread(self._thread.join)  # the client closes its end by the loop

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError), contextlib.ExitStack() as stack:
            connection, _ = self._listening.accept()
            stack.enter_context(connection)
            connection.settimeout(SECONDS_MAX)
            connection.sendall(_packet(0, self._greeting()))
            number = self._read(connection)
            if self._certificate:  # that was the request for TLS
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(self._certificate.file, self._certificate.key)
                connection = stack.enter_context(context.wrap_socket(connection, server_side=True))
                number = self._read(connection)
            question = b"\4Password: " if self._plugin == "dialog" else SALT + b"\0"
            connection.sendall(_packet(number + 1, b"\xfe" + self._plugin.encode() + b"\0" + question))
            self._read(connection)

    def _read(self, connection: socket.socket) -> int:
        """Read a packet, and return its number."""
        head = _exactly(connection, 4)
        self.heard += _exactly(connection, int.from_bytes(head[:3], "little"))
        return head[3]

    def _greeting(self) -> bytes:
        able = PROTOCOL_41 | CONNECT_WITH_DB | SECURE_CONNECTION | PLUGIN_AUTH
        able |= SSL if self._certificate else 0
        capabilities = able.to_bytes(4, "little")
        return (
            b"\x0a8.0.36\0" + bytes(4) + SALT[:8] + b"\0" + capabilities[:2] + b"\x2d" + bytes(2)
            + capabilities[2:] + bytes([21]) + bytes(10) + SALT[8:] + b"\0mysql_native_password\0"
        )  # fmt: skip


def _packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@pytest.mark.parametrize("plugin", CLEAR_TEXT)
async def test_a_server_that_asks_for_the_password_itself_does_not_get_it(plugin):
    async with Rogue(plugin, None) as server:
        url = f"mysql://shop:{SECRET}@127.0.0.1:{server.port}/shop"
        with pytest.raises(StoreRefusedError) as told:
            await MysqlConnections(read_address(url)).rows("SELECT 1")

    assert_is_one_sentence(told.value, plugin, "ssl-mode=verify-identity")
    assert b"shop" in server.heard
    assert SECRET.encode() not in server.heard


@pytest.mark.parametrize("plugin", CLEAR_TEXT)
async def test_nor_does_it_get_that_of_the_settings_of_1_x(plugin):
    async with Rogue(plugin, None) as server:
        store = mysql_repository(
            mysql_host="127.0.0.1",
            mysql_port=server.port,
            mysql_user="shop",
            mysql_password=SECRET,
            mysql_database="shop",
        )
        with pytest.raises(StoreRefusedError, match=plugin):
            await store.__aenter__()

    assert SECRET.encode() not in server.heard


async def test_nor_from_a_command():
    async with Rogue("mysql_clear_password", None) as server:
        url = f"mysql://shop:{SECRET}@127.0.0.1:{server.port}/shop"
        code, output = called("tasks", PYNCETTE_BACKEND=url)

    assert code
    assert "mysql_clear_password" in output
    assert SECRET.encode() not in server.heard


@pytest.mark.parametrize("plugin", CLEAR_TEXT)
@pytest.mark.parametrize(
    ("mode", "verified"), [("required", False), ("verify-ca", False), ("verify-identity", True)]
)
async def test_it_gets_it_by_tls_only_if_chain_and_host_name_are_verified(
    tmp_path: Path, plugin, mode, verified
):
    certificate = make_certificate(tmp_path)
    async with Rogue(plugin, certificate) as server:
        url = f"mysql://shop:{SECRET}@localhost:{server.port}/shop"
        with pytest.raises(StoreError):
            await MysqlConnections(read_address(f"{url}?ssl-mode={mode}&ssl-ca={certificate.file}")).rows(
                "SELECT 1"
            )

    assert (SECRET.encode() in server.heard) is verified
