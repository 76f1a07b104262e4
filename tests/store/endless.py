"""
A process in which a server answers without an end, and a store asks it. Prints the error and how much memory it took.

The servers speak as much of their protocol as the driver needs to come to the answer in question.
"""

import asyncio
import contextlib
import json
import os
import resource
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import count, repeat

from pyncette.errors import StoreError

CHUNK = b"1" * 2**20

BYTES_MAX = 400 * 2**20
"""Without a limit, a client keeps about twice as much: more than its process may take in a cluster."""

SECONDS_MAX = 20

CERTIFICATE = sys.argv[2] if len(sys.argv) > 2 else ""
"""The file with key and certificate of a server that speaks TLS."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


async def endlessly(writer: asyncio.StreamWriter, begin: bytes, chunks: Iterable[bytes] = ()) -> None:
    """Write *begin*, then *chunks*, or else a text, until the client hangs up."""
    writer.write(begin)
    left = BYTES_MAX
    for chunk in chunks or repeat(CHUNK):
        writer.write(chunk)
        await writer.drain()
        left -= len(chunk)
        if left < 0:
            raise AssertionError("The client has read all of it.")


# --- Redis -----------------------------------------------------------------------------------------------------------


async def redis_command(reader: asyncio.StreamReader) -> list[bytes]:
    number = int((await reader.readuntil())[1:])
    arguments = []
    for _ in range(number):
        size = int((await reader.readuntil())[1:])
        arguments.append((await reader.readexactly(size + 2))[:-2])
    return arguments


def redis_server(word: bytes, begin: bytes, chunks: Iterable[bytes] = ()) -> Serve:
    """A server that answers OK, and without an end to commands that begin with *word*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command, *arguments = await redis_command(reader)
            if command == word:
                await endlessly(writer, begin, chunks)
            elif command == b"SUBSCRIBE":
                channel = arguments[0]
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(channel), channel))
                head = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n" % (len(channel), channel)
                await endlessly(writer, head + BULK)
            else:
                writer.write(b"+OK\r\n")

    return serve


BULK = b"$536870000\r\n"
"""The beginning of a text of half a gigabyte."""


async def ask_redis(url: str, commands: list[list[str]]) -> None:
    from pyncette.store.redis.connection import Connections
    from pyncette.store.redis.url import read_url

    connections = Connections(read_url(url))
    try:
        await connections.ask(commands)
    finally:
        await connections.close()


async def listen_to_redis(url: str) -> None:
    from pyncette.store.redis.connection import Connections
    from pyncette.store.redis.url import read_url

    connections = Connections(read_url(url))
    try:
        async for _ in connections.listen("channel"):
            pass
    finally:
        await connections.close()


async def redis_answer(port: int) -> None:
    await ask_redis(f"redis://127.0.0.1:{port}", [["GET", "key"]])


async def redis_pipeline(port: int) -> None:
    await ask_redis(f"redis://127.0.0.1:{port}", [["GET", "key"] for _ in range(400)])


async def redis_login(port: int) -> None:
    await ask_redis(f"redis://user:password@127.0.0.1:{port}", [["GET", "key"]])


async def redis_sentinel(port: int) -> None:
    await ask_redis(f"redis+sentinel://127.0.0.1:{port}/service", [["GET", "key"]])


async def redis_cluster(port: int) -> None:
    await ask_redis(f"redis+cluster://127.0.0.1:{port}", [["GET", "key"]])


async def redis_notification(port: int) -> None:
    await listen_to_redis(f"redis://127.0.0.1:{port}")


async def redis_tls(port: int) -> None:
    await ask_redis(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none", [["GET", "key"]])


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def postgres_message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body


READY = postgres_message(b"Z", b"I")
POSTGRES_ROWS = postgres_message(b"2", b"")
POSTGRES_ROW = postgres_message(b"D", bytes(2))
"""A row without a column."""

DONE = postgres_message(b"C", b"SET\0") + READY
HUGE = struct.pack("!i", 2**29)
"""The length of a message of half a gigabyte."""


def postgres_server(word: bytes, begin: bytes, chunks: Iterable[bytes] = ()) -> Serve:
    """A server that carries out all statements, and answers without an end to the message *word*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            start = await reader.readexactly(size - 4)
            if start != struct.pack("!i", 80877103):
                break
            writer.write(b"S" if CERTIFICATE else b"N")
            if CERTIFICATE:
                await writer.drain()
                await writer.start_tls(context())
        if word == b"start":
            await endlessly(writer, begin, chunks)
        version = postgres_message(b"S", b"server_version\x0016.0\x00")
        writer.write(postgres_message(b"R", bytes(4)) + version + postgres_message(b"K", bytes(8)) + READY)
        while True:
            kind, size = struct.unpack("!ci", await reader.readexactly(5))
            text = await reader.readexactly(size - 4)
            if kind == word or text.startswith(word):
                await endlessly(writer, begin, chunks)
            elif kind == b"Q":
                writer.write(DONE)
            elif kind == b"P":
                parsed = (
                    postgres_message(b"1", b""),
                    postgres_message(b"t", bytes(2)),
                    postgres_message(b"T", bytes(2)),
                )
                writer.write(b"".join(parsed))

    return serve


async def ask_postgres(url: str) -> None:
    from pyncette.store.postgres.connection import PostgresConnections

    connections = PostgresConnections(url, "SET x = 1")
    try:
        await connections.rows(("SELECT 1",))
    finally:
        await connections.close()


async def postgres_answer(port: int) -> None:
    await ask_postgres(f"postgresql://user:password@127.0.0.1:{port}/database")


async def postgres_without_tls(port: int) -> None:
    await ask_postgres(f"postgresql://user:password@127.0.0.1:{port}/database?sslmode=disable")


async def postgres_tls(port: int) -> None:
    await ask_postgres(f"postgresql://user:password@127.0.0.1:{port}/database?sslmode=require")


async def postgres_notification(port: int) -> None:
    from pyncette.store.postgres.connection import PostgresConnections

    connections = PostgresConnections(f"postgresql://user:password@127.0.0.1:{port}/database", "SET x = 1")
    async for _ in connections.listen("channel"):
        pass


# --- MySQL -----------------------------------------------------------------------------------------------------------

PACKET_BYTES_MAX = 2**24 - 1
"""A longer packet is several, of which all but the last have this size."""

SALT = b"12345678"
ABILITIES = 0x1 | 0x200 | 0x8000 | 0x10000 | 0x20000 | 0x80000
"""Long passwords, the present protocol, scripts with several results, and ways to log in by their names."""


def mysql_packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number % 256]) + body


def mysql_greeting() -> bytes:
    abilities = struct.pack("<I", ABILITIES)
    return (
        b"\x0a8.0.0\0" + bytes(4) + SALT + b"\0" + abilities[:2] + b"\xff" + bytes(2) + abilities[2:]
        + bytes([21]) + bytes(10) + b"abcdefghijkl\0" + b"mysql_native_password\0"
    )  # fmt: skip


MYSQL_DONE = bytes(3) + b"\x02\0" + bytes(2)
MYSQL_COLUMN = b"\x03def" + bytes(3) + b"\x01a\0" + b"\x0c\xff\0" + bytes(4) + b"\xfd" + bytes(5)
MYSQL_END = b"\xfe" + bytes(4)
MYSQL_ROW = b"\xfc" + struct.pack("<H", 4000) + b"1" * 4000

MYSQL_RESULT = b"".join(mysql_packet(*packet) for packet in enumerate([b"\x01", MYSQL_COLUMN, MYSQL_END], 1))
MYSQL_ROWS = b"".join(mysql_packet(number, MYSQL_ROW) for number in range(4, 260))

MYSQL_EMPTY_ROWS = b"".join(mysql_packet(number, b"\xfb") for number in range(4, 260)) * 2**9


def mysql_server(word: bytes, begin: bytes, chunks: Iterable[bytes]) -> Serve:
    """A server that carries out all statements, and answers without an end to those with *word*."""

    async def packet(reader: asyncio.StreamReader) -> bytes:
        size = int.from_bytes((await reader.readexactly(4))[:3], "little")
        return await reader.readexactly(size)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if word == b"":
            await endlessly(writer, begin, chunks)
        writer.write(mysql_packet(0, mysql_greeting()))
        await packet(reader)
        writer.write(mysql_packet(2, MYSQL_DONE))
        while True:
            command = await packet(reader)
            if word in command:
                await endlessly(writer, begin, chunks)
            else:
                writer.write(mysql_packet(1, MYSQL_DONE))

    return serve


async def ask_mysql(port: int) -> None:
    from pyncette.store.mysql.address import read_address
    from pyncette.store.mysql.connection import MysqlConnections

    connections = MysqlConnections(read_address(f"mysql://user:password@127.0.0.1:{port}/database"))
    try:
        await connections.rows("SELECT 1")
    finally:
        await connections.close()


# --- DynamoDB --------------------------------------------------------------------------------------------------------


async def dynamodb_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await endlessly(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")


async def dynamodb_server_of_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    chunk = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
    await endlessly(writer, b"HTTP/1.1 400 no\r\nTransfer-Encoding: chunked\r\n\r\n", repeat(chunk))


async def dynamodb_server_of_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    header = b"x: " + b"1" * 1000 + b"\r\n"
    await endlessly(writer, b"HTTP/1.1 200 OK\r\n", repeat(header * 1000))


async def ask_dynamodb(port: int) -> None:
    from pyncette.store.dynamodb.connection import Requests

    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    requests = Requests("table", "region", f"http://127.0.0.1:{port}")
    await requests.open()
    try:
        await requests.describe()
    finally:
        await requests.close()


CASES: dict[str, tuple[Serve, Callable[[int], Awaitable[None]]]] = {
    "redis-answer": (redis_server(b"GET", BULK), redis_answer),
    "redis-pipeline": (
        redis_server(b"GET", b"", repeat(b"$%d\r\n%b\r\n" % (len(CHUNK), CHUNK))),
        redis_pipeline,
    ),
    "redis-elements": (redis_server(b"GET", b"*3000000\r\n", repeat(b"*0\r\n" * 2**18)), redis_answer),
    "redis-login": (redis_server(b"AUTH", BULK), redis_login),
    "redis-sentinel": (redis_server(b"SENTINEL", BULK), redis_sentinel),
    "redis-cluster": (redis_server(b"CLUSTER", BULK), redis_cluster),
    "redis-notification": (redis_server(b"", b""), redis_notification),
    "redis-tls": (redis_server(b"GET", BULK), redis_tls),
    "postgres-answer": (postgres_server(b"P", b"T" + HUGE), postgres_answer),
    "postgres-without-tls": (postgres_server(b"P", b"T" + HUGE), postgres_without_tls),
    "postgres-tls": (postgres_server(b"P", b"T" + HUGE), postgres_tls),
    "postgres-rows": (postgres_server(b"B", POSTGRES_ROWS, repeat(POSTGRES_ROW * 2**17)), postgres_answer),
    "postgres-login": (postgres_server(b"start", b"R" + HUGE), postgres_answer),
    "postgres-session": (postgres_server(b"SET", b"N" + HUGE), postgres_answer),
    "postgres-notification": (
        postgres_server(b"B", postgres_message(b"2", b"") + DONE + b"A" + HUGE),
        postgres_notification,
    ),
    "mysql-answer": (mysql_server(b"sql_mode", MYSQL_RESULT, repeat(MYSQL_ROWS)), ask_mysql),
    "mysql-rows": (mysql_server(b"sql_mode", MYSQL_RESULT, repeat(MYSQL_EMPTY_ROWS)), ask_mysql),
    "mysql-login": (
        mysql_server(b"", b"", (mysql_packet(number, b"1" * PACKET_BYTES_MAX) for number in count())),
        ask_mysql,
    ),
    "dynamodb-answer": (dynamodb_server, ask_dynamodb),
    "dynamodb-chunks": (dynamodb_server_of_chunks, ask_dynamodb),
    "dynamodb-headers": (dynamodb_server_of_headers, ask_dynamodb),
}


@contextlib.asynccontextmanager
async def served(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server on which *serve* runs for each connection."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError), contextlib.closing(writer):
            await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def main(case: str, *_: str) -> None:
    serve, ask = CASES[case]
    error = ""
    async with served(serve, context() if CERTIFICATE and case == "redis-tls" else None) as port:
        with contextlib.suppress(StoreError):
            await ask(1)  # loads the driver: there is no server
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await ask(port)
        except Exception as raised:  # noqa: BLE001 - the test judges it
            error = f"{type(raised).__name__}: {raised}"
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"error": error.replace(str(port), "PORT"), "mebibytes": (after - before) // 1024}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
