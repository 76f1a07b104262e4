"""Stands between a program and its DynamoDB, and does what only the real one does: throttles, denies, has a clock of its own."""

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Self

import aiohttp
from aiohttp import web

START_SECONDS = 10

ERROR_TYPE = "com.amazonaws.dynamodb.v20120810#"

COMMON_ERROR_TYPE = "com.amazon.coral.service#"
"""Of errors that any service may tell, not DynamoDB alone."""

WRITES = {"BatchExecuteStatement", "TransactWriteItems", "PutItem", "UpdateItem", "DeleteItem"}

PUT_OFF = ("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded")
"""The errors of throttled requests, all with the status 400."""

PUT_OFF_IN_A_BATCH = ("ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict")
"""The errors of parts of a batch or of a transaction."""

WORDS = {
    "INSERT": "PartiQLInsert",
    "UPDATE": "PartiQLUpdate",
    "DELETE": "PartiQLDelete",
    "SELECT": "PartiQLSelect",
}


class Gate:
    """
    Listens on a loopback port, and passes requests on to *endpoint*; a context manager.

    It runs on a thread with a loop of its own.
    """

    def __init__(self, endpoint: str, seed: int = 1) -> None:
        self._endpoint = endpoint
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0
        self.endpoint = ""
        self.throttling = 0.0
        """How likely a request, or a part of a batch, is put off."""
        self.denied: Collection[str] = ()
        """Actions that are denied."""
        self.allowed: Collection[str] | None = None
        """Actions that alone may be done, unless it is None."""
        self.is_stranger = False
        """Whether nobody knows the user."""
        self.ahead = timedelta(0)
        """Of what the clock of the server is ahead of ours."""
        self.requests: Counter[str] = Counter()
        """Requests that came, by their operation."""
        self.defer = 0
        self._writing = asyncio.Event()
        self._under_way = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._transports())

    @property
    def is_at_rest(self) -> bool:
        """Whether each request has got its answer, as far as it could be passed on."""
        return self._under_way == 0

    def kill_connections(self) -> int:
        """End every connection, as a load balancer does; how many there were."""
        killed: int = self._call(self._kill())
        return killed

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Inside the context writes wait, and those whose connection ends meanwhile are not made."""
        self._call(self._let_write(writing=False))
        try:
            yield
        finally:
            self._call(self._let_write(writing=True))

    async def _let_write(self, *, writing: bool) -> None:
        if writing:
            self._writing.set()
        else:
            self._writing.clear()

    async def _kill(self) -> int:
        transports = self._transports()
        for transport in transports:
            transport.abort()
        return len(transports)

    def _transports(self) -> list[Any]:
        assert self._runner is not None
        assert self._runner.server is not None
        found = (handler.transport for handler in list(self._runner.server.connections))
        return [transport for transport in found if transport is not None]

    def _call(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(START_SECONDS)

    async def _listen(self) -> None:
        self._writing.set()
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    async def _close(self) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.Response:
        self._under_way += 1
        try:
            return await self._answer_to(request)
        except aiohttp.ClientError:
            # The server is gone, so it hangs up.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            self._under_way -= 1

    async def _answer_to(self, request: web.Request) -> web.Response:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        body = json.loads(await request.read())
        self.requests[operation] += 1
        if self.is_stranger:
            said = "The security token included in the request is invalid."
            return self._answer(
                400, {"__type": f"{COMMON_ERROR_TYPE}UnrecognizedClientException", "message": said}
            )
        for action in sorted(_actions(operation, body)):
            if action in self.denied or (self.allowed is not None and action not in self.allowed):
                said = f"User: worker is not authorized to perform: dynamodb:{action}"
                if operation == "BatchExecuteStatement":
                    error = {"Error": {"Code": "AccessDenied", "Message": said}}
                    return self._answer(200, {"Responses": [error] * len(body["Statements"])})
                return self._answer(400, {"__type": f"{ERROR_TYPE}AccessDeniedException", "Message": said})
        if self.throttling and self._is_unlucky():
            return await self._put_off(operation, body, request)
        if operation in WRITES:
            await self._writing.wait()
            if request.transport is None:
                return web.Response()  # nobody is there to get it
        status, answer = await self._pass_on(body, request)
        return self._answer(status, answer)

    def _is_unlucky(self) -> bool:
        return self._chance.random() < self.throttling

    async def _put_off(self, operation: str, body: Any, request: web.Request) -> web.Response:
        self.defer += 1
        if operation == "BatchGetItem" and self._chance.random() < 0.7:
            return await self._answer_for_some_keys(body, request)
        if operation == "BatchExecuteStatement" and self._chance.random() < 0.7:
            return await self._answer_for_some_statements(body, request)
        if operation == "TransactWriteItems":
            reasons = [{"Code": "None"} for _ in body["TransactItems"]]
            reasons[-1] = {"Code": self._chance.choice(PUT_OFF_IN_A_BATCH), "Message": "later"}
            answer = {
                "__type": f"{ERROR_TYPE}TransactionCanceledException",
                "Message": "Transaction cancelled",
            }
            return self._answer(400, {**answer, "CancellationReasons": reasons})
        return self._answer(
            400, {"__type": f"{ERROR_TYPE}{self._chance.choice(PUT_OFF)}", "message": "later"}
        )

    async def _answer_for_some_keys(self, body: Any, request: web.Request) -> web.Response:
        ((table, asked),) = body["RequestItems"].items()
        some, rest = _split(asked["Keys"], self._chance)
        answer: Any = {"Responses": {table: []}, "UnprocessedKeys": {table: {**asked, "Keys": rest}}}
        if some:
            body["RequestItems"][table]["Keys"] = some
            _, answer = await self._pass_on(body, request)
            answer["UnprocessedKeys"] = {table: {**asked, "Keys": rest}}
        return self._answer(200, answer)

    async def _answer_for_some_statements(self, body: Any, request: web.Request) -> web.Response:
        statements = body["Statements"]
        lucky = [not self._is_unlucky() for _ in statements]
        responses: list[Any] = []
        if any(lucky):
            body["Statements"] = [one for one, luck in zip(statements, lucky, strict=True) if luck]
            _, answer = await self._pass_on(body, request)
            responses = answer["Responses"]
        remaining = iter(responses)
        error = {"Error": {"Code": self._chance.choice(PUT_OFF_IN_A_BATCH), "Message": "later"}}
        return self._answer(200, {"Responses": [next(remaining) if luck else error for luck in lucky]})

    async def _pass_on(self, body: Any, request: web.Request) -> tuple[int, Any]:
        assert self._session is not None
        kept = ("X-Amz-Target", "Authorization", "X-Amz-Date", "Content-Type")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with self._session.post(self._endpoint, data=json.dumps(body), headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    def _answer(self, status: int, body: Any) -> web.Response:
        date = format_datetime(datetime.now(UTC).replace(microsecond=0) + self.ahead, usegmt=True)
        return web.Response(
            status=status,
            body=json.dumps(body).encode(),
            headers={"Date": date, "Content-Type": "application/x-amz-json-1.0"},
        )


def _actions(operation: str, body: Any) -> set[str]:
    """What a policy has to allow for a request."""
    if operation == "BatchExecuteStatement":
        return {WORDS[one["Statement"].partition(" ")[0]] for one in body["Statements"]}
    if operation == "TransactWriteItems":
        return {f"{kind}Item" for item in body["TransactItems"] for kind in item}
    return {operation}


def _split(items: list[Any], chance: random.Random) -> tuple[list[Any], list[Any]]:
    at = chance.randrange(len(items))
    return items[:at], items[at:]
