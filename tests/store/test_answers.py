"""The objects of an answer are those of its own connection, wherever its driver parses."""

import asyncio
from contextlib import asynccontextmanager, closing, suppress

import pytest

from pyncette.store.answers import LimitedLoop
from pyncette.store.base import ANSWER_OBJECTS_MAX

CHUNK = bytes(2**16)
CHUNKS = 6 * 2**20 // len(CHUNK)
OBJECTS_OF_CHUNK = 3 * ANSWER_OBJECTS_MAX // CHUNKS
"""Each third of an answer alone has as many as an answer may have."""


def objects(number):
    return [object() for _ in range(number)]


class Parsing(asyncio.Protocol):
    """A driver that keeps *number* objects of each chunk, which it parses as soon as it arrives."""

    def __init__(self, number=0):
        self.number = number
        self.kept = []
        self.received = 0
        self.changed = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.received += len(data)
        self.kept.append(objects(self.number))
        self.changed.set()

    def connection_lost(self, error):
        self.lost.set_result(error)
        self.changed.set()

    async def answer(self):
        """Return why the connection was lost, or None once an answer is complete."""
        while self.received < CHUNKS * len(CHUNK) and not self.lost.done():
            await self.changed.wait()
            self.changed.clear()
        return self.lost.result() if self.lost.done() else None


class ParsingBuffers(Parsing, asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    def __init__(self, number=0):
        super().__init__(number)
        self.buffer = bytearray(len(CHUNK))

    def get_buffer(self, size):
        return self.buffer

    def buffer_updated(self, size):
        self.data_received(self.buffer[:size])


class Waking(Parsing):
    """A driver that parses in the task that waits for the answer."""

    def data_received(self, data):
        self.received += len(data)
        self.changed.set()

    async def answer(self):
        while self.received < CHUNKS * len(CHUNK) and not self.lost.done():
            await self.changed.wait()
            self.changed.clear()
            self.kept.append(objects(self.number))
        return self.lost.result() if self.lost.done() else None


@asynccontextmanager
async def answering(driver, between=lambda: None):
    """Connect *driver* to a server that sends an answer in chunks, after each of which something happens *between*."""
    served = asyncio.Event()

    async def serve(reader, writer):
        with suppress(ConnectionError), closing(writer):
            for _ in range(CHUNKS):
                writer.write(CHUNK)
                await writer.drain()
                await asyncio.sleep(0.002)  # so that chunks arrive one by one
                between()
            await reader.read()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        loop = LimitedLoop(asyncio.get_running_loop())
        transport, _ = await loop.create_connection(lambda: driver, *server.sockets[0].getsockname())
        try:
            yield
        finally:
            transport.abort()
            await served.wait()


@pytest.mark.parametrize("driver", [Parsing, ParsingBuffers, Waking])
async def test_an_answer_survives_the_objects_that_other_code_makes_meanwhile(driver):
    others = []
    receiving = driver(10)
    async with answering(receiving, lambda: others.append(objects(OBJECTS_OF_CHUNK))):
        async with asyncio.timeout(30):
            assert await receiving.answer() is None

    assert sum(map(len, others)) > ANSWER_OBJECTS_MAX


@pytest.mark.parametrize("driver", [Parsing, ParsingBuffers, Waking])
async def test_an_answer_of_too_many_objects_ends_wherever_the_driver_makes_them(driver):
    receiving = driver(OBJECTS_OF_CHUNK)
    async with answering(receiving):
        async with asyncio.timeout(30):
            error = await receiving.answer()

    assert "2,000,000 values in one answer" in str(error)
