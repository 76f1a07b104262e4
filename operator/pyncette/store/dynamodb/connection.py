"""Requests to DynamoDB, retries while it defers them, and what its errors mean to the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, TypeVar

import aioboto3  # type: ignore[import-untyped]
import aiohttp

# These have no types. The stubs that exist describe clients of each service, which are not used here.
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)

from pyncette.core.backoff import Backoff
from pyncette.errors import ConfigurationError, SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.answers import is_too_large, too_large
from pyncette.store.dynamodb.limits import LIMITS, Limits
from pyncette.store.dynamodb.server_time import DateClock
from pyncette.store.dynamodb.session import Session
from pyncette.store.dynamodb.writes import Delete, Put, Update, Write, request, statement

CONNECTIONS_MAX: Final = 16
"""Requests in flight at once: enough to keep the network busy, and few enough for one process to handle."""

ATTEMPTS_MAX: Final = 12
"""About eight seconds with the pauses. DynamoDB takes longer to add capacity, but a worker tries again."""

PAUSE_SECONDS: Final = 0.025

STATEMENTS_MAX: Final = 25
KEYS_MAX: Final = 100
ITEMS_MAX: Final = 100
"""The limits of DynamoDB for one batch of statements, one batch of keys, and one transaction."""

_DRIVER_ERRORS: Final = (ClientError, BotoCoreError, aiohttp.ClientError, OSError, TimeoutError)

_LATER: Final = frozenset(
    {
        "ProvisionedThroughputExceeded",
        "Throttling",
        "ThrottlingError",
        "RequestLimitExceeded",
        "TransactionConflict",
        "TransactionInProgress",
        "ReplicatedWriteConflict",
        "LimitExceeded",
    }
)
"""The request was not carried out, and the same request may work in a moment."""

_LOST: Final = frozenset({"ConditionalCheckFailed", "DuplicateItem"})

_BROKEN: Final = frozenset({"InternalServerError", "InternalFailure", "ServiceUnavailable"})

_NO_ENTRY: Final = frozenset(
    {
        "UnrecognizedClient",
        "InvalidSignature",
        "InvalidClientTokenId",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "ExpiredToken",
        "SignatureDoesNotMatch",
    }
)

_T = TypeVar("_T")


class RequestError(StoreRefusedError):
    """DynamoDB cannot carry out a request: an item is too large, or the table has other keys."""


class _LaterError(Exception):
    """DynamoDB deferred a request."""


class Requests:
    """
    A client of one table, opened once. *on_lost* is called when a request was not answered.

    Requests that DynamoDB defers (throttling, a conflicting transaction) are repeated after pauses. All others are sent
    once: the result of a write that was not answered is unknown, and a repeated write would lose to the first one.

    With *tls_required*, it and the clients that get its credentials refuse an endpoint without TLS, wherever that is named.
    Without *batches* each write is a request of its own, for servers without PartiQL.
    """

    def __init__(
        self,
        table: str,
        region: str | None,
        endpoint: str | None,
        *,
        ca: str | None = None,
        tls_required: bool = False,
        batches: bool = True,
        on_lost: Callable[[], None] = lambda: None,
        limits: Limits = LIMITS,
    ) -> None:
        self.table = table
        self.clock = DateClock()
        self._region = region
        self._endpoint = endpoint
        self._ca = ca
        self._tls_required = tls_required
        self._batches = batches
        self._on_lost = on_lost
        self._limits = limits
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self.place = f"the DynamoDB table {table}" + (f" in {region}" if region else "")
        self.consumed: Callable[[str, Any], None] | None = None
        """Is called with the operation and the consumed capacity of each request."""

    async def open(self) -> None:
        config = AioConfig(
            connect_timeout=self._limits.connect,
            read_timeout=self._limits.answer,
            max_pool_connections=CONNECTIONS_MAX,
            parameter_validation=False,
            retries={"total_max_attempts": 1},
        )
        try:
            self._client = await self._stack.enter_async_context(
                aioboto3.Session(botocore_session=Session(tls_required=self._tls_required)).client(
                    "dynamodb",
                    region_name=self._region,
                    endpoint_url=self._endpoint,
                    verify=self._ca,
                    config=config,
                )
            )
        except (NoRegionError, ValueError) as error:
            raise ConfigurationError(f"{self.place}: invalid region or endpoint: {error}") from None
        except BotoCoreError as error:
            raise translate_error(error, self.place) from error

    async def close(self) -> None:
        await self._stack.aclose()

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: Any) -> Any:
        """Return an item, or None."""
        answer = await self.call("get_item", Key=key, ConsistentRead=True)
        return answer.get("Item")

    async def get_many(self, keys: Sequence[Any]) -> list[Any]:
        """Return the items that exist, in any order. No key may occur twice."""
        parts = [keys[at : at + KEYS_MAX] for at in range(0, len(keys), KEYS_MAX)]
        return [item for part in await together(map(self._get_part, parts)) for item in part]

    async def _get_part(self, keys: Sequence[Any]) -> list[Any]:
        found: list[Any] = []

        async def ask() -> None:
            nonlocal keys
            asked = {self.table: {"Keys": keys, "ConsistentRead": True}}
            answer = await self._send("batch_get_item", RequestItems=asked)
            found.extend(answer["Responses"].get(self.table, ()))
            left = answer.get("UnprocessedKeys") or {}
            if self.table in left:
                keys = left[self.table]["Keys"]
                raise _LaterError("it returned only some of the keys")

        await self._persist(ask)
        return found

    async def query(self, **parameters: Any) -> Any:
        """Return one page of a strongly consistent query."""
        return await self.call("query", ConsistentRead=True, **parameters)

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def write(self, writes: Sequence[Write]) -> list[bool | None]:
        """Make each of *writes* by itself, and return which were made; None: DynamoDB deferred it for too long."""
        made: list[bool | None] = [None] * len(writes)
        batched: list[int] = []
        jobs: list[Awaitable[None]] = []
        for at, write in enumerate(writes):
            if self._batches and (isinstance(write, Update) or (isinstance(write, Put) and write.new)):
                batched.append(at)
            else:
                jobs.append(self._write_alone(writes, at, made))
        jobs += [
            self._write_batch(writes, batched[at : at + STATEMENTS_MAX], made)
            for at in range(0, len(batched), STATEMENTS_MAX)
        ]
        await together(jobs)
        return made

    async def _write_alone(self, writes: Sequence[Write], at: int, made: list[bool | None]) -> None:
        action, parameters = request(self.table, writes[at])

        async def ask() -> None:
            try:
                await self._send(f"{action.lower()}_item", **parameters)
            except _ConditionError:
                made[at] = False
            else:
                made[at] = True

        await self._persist(ask, give_up=True)

    async def _write_batch(self, writes: Sequence[Write], ats: list[int], made: list[bool | None]) -> None:
        async def ask() -> None:
            nonlocal ats
            statements = [self._statement(writes[at]) for at in ats]
            answer = await self._send("batch_execute_statement", Statements=statements)
            later: list[int] = []
            refusal: Exception | None = None
            for at, response in zip(ats, answer["Responses"], strict=True):
                error = response.get("Error")
                if error is None:
                    made[at] = True
                    continue
                code = _short(error["Code"])
                if code in _LOST:
                    made[at] = False
                elif code in _LATER:
                    later.append(at)
                else:
                    refusal = translate_code(code, error.get("Message", ""), 400, self.place)
            if refusal is not None:
                raise refusal
            ats = later
            if later:
                raise _LaterError("it deferred some of the writes")

        await self._persist(ask, give_up=True)

    def _statement(self, write: Write) -> Any:
        assert not isinstance(write, Delete)
        return statement(self.table, write)

    async def transact(self, writes: Sequence[Write]) -> bool | None:
        """Make all of *writes* or none, and return which; None: DynamoDB deferred them for too long."""
        assert len(writes) <= ITEMS_MAX
        items = [
            {action: parameters} for action, parameters in (request(self.table, write) for write in writes)
        ]
        made: bool | None = None

        async def ask() -> None:
            nonlocal made
            try:
                await self._send("transact_write_items", TransactItems=items)
            except _ConditionError:
                made = False
            else:
                made = True

        await self._persist(ask, give_up=True)
        return made

    # --- The table ---------------------------------------------------------------------------------------------------

    async def describe(self) -> Any:
        """Return the description of the table; None if it does not exist."""
        try:
            return (await self.call("describe_table"))["Table"]
        except SchemaError:
            return None

    async def create(self, definition: dict[str, Any]) -> None:
        """Create the table, unless another process does."""
        with suppress(_ExistsError):
            await self._persist(lambda: self._send("create_table", **definition))

    # --- Requests ----------------------------------------------------------------------------------------------------

    async def call(self, operation: str, **parameters: Any) -> Any:
        """Return the answer to a request about the table, which is repeated while DynamoDB defers it."""

        async def ask() -> Any:
            return await self._send(operation, TableName=self.table, **parameters)

        return await self._persist(ask)

    async def _persist(self, ask: Callable[[], Awaitable[_T]], *, give_up: bool = False) -> _T | None:
        """Repeat *ask* while it is deferred. When that takes too long, return None with *give_up*, else raise StoreUnavailableError."""
        reason: Exception | None = None
        delays = Backoff(PAUSE_SECONDS, self._limits.pause_max, jitter=1).delays(random.random)
        for _ in range(ATTEMPTS_MAX):
            try:
                return await ask()
            except _LaterError as error:
                reason = error
            await asyncio.sleep(next(delays))
        if give_up:
            return None
        raise StoreUnavailableError(
            f"{self.place} cannot keep up: it deferred {ATTEMPTS_MAX} attempts: {reason}"
        )

    async def _send(self, operation: str, **parameters: Any) -> Any:
        if self.consumed is not None and operation not in {"describe_table", "create_table"}:
            parameters["ReturnConsumedCapacity"] = "INDEXES"
        async with self._slots:
            asked_at = self.clock.monotonic()
            try:
                async with asyncio.timeout(self._limits.connect + self._limits.answer):
                    answer = await getattr(self._client, operation)(**parameters)
            except _DRIVER_ERRORS as error:
                self._observe(getattr(error, "response", None), asked_at)
                translated = translate_error(error, self.place)
                if isinstance(translated, StoreUnavailableError):
                    self._on_lost()
                raise translated from error
            self._observe(answer, asked_at)
        if self.consumed is not None:
            self.consumed(operation, answer.get("ConsumedCapacity"))
        return answer

    def _observe(self, answer: Any, asked_at: int) -> None:
        if answer:
            headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            self.clock.observe(headers.get("date"), asked_at, self.clock.monotonic())


class _ConditionError(Exception):
    """A write was not made, since its condition failed."""


class _ExistsError(Exception):
    """The table exists, or is being created."""


async def together(jobs: Iterable[Awaitable[_T]]) -> list[_T]:
    """Return what all *jobs* return, once each has ended; then raise the first error, if there is one."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value] # the errors are gone


def translate_error(error: BaseException, place: str) -> Exception:
    """Return the error of the store that the driver's *error* stands for, as one sentence without a secret."""
    if is_too_large(error):
        return too_large(place)
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code = _short(str(details.get("Code", "")))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "TransactionCanceled":
            return _transaction_error(error.response.get("CancellationReasons", ()), place)
        return translate_code(
            code, str(details.get("Message") or details.get("message") or code), status, place
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreRefusedError(
            f"{place}: no credentials found: {error}. Set them up as for other AWS programs"
        )
    if isinstance(error, ParamValidationError):
        return StoreRefusedError(f"{place}: invalid request: {error}")
    if isinstance(error, SSLError) and "certificate verify failed" in str(error).lower():
        return StoreRefusedError(f"{place}: the certificate is not trusted: {_message_of(error)}")
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError | HTTPClientError):
        return StoreUnavailableError(f"{place} does not answer: {_message_of(error)}")
    if isinstance(error, TimeoutError):
        return StoreUnavailableError(f"{place} does not answer: timed out")
    return StoreUnavailableError(f"{place} does not answer: {_message_of(error)}")


def translate_code(code: str, message: str, status: int, place: str) -> Exception:
    """Return the error of the store that the error *code* stands for."""
    if code in _LATER:
        return _LaterError(message)
    if code in _LOST:
        return _ConditionError(message)
    if code == "ResourceInUse":
        return _ExistsError(message)
    if code == "ResourceNotFound":
        return SchemaError(f"{_capitalized(place)} is missing, or does not match this release: {message}")
    if code == "Validation":
        return RequestError(f"{place}: invalid request: {message}")
    if code in {"AccessDenied", "NotAuthorized"}:
        return StoreRefusedError(f"{place}: permission denied: {message}. Grant the right to this user")
    if code in _NO_ENTRY:
        return StoreRefusedError(f"{place}: authentication failed: {message}. Check the credentials")
    if code in _BROKEN or status >= 500:
        return StoreUnavailableError(f"{place} does not answer: {message}")
    return StoreRefusedError(f"{place} refused: {code}: {message}")


def _transaction_error(reasons: Iterable[Any], place: str) -> Exception:
    """Return the error of the store for a cancelled transaction. A reason that no retry resolves takes precedence."""
    later: Exception | None = None
    for reason in reasons:
        code = _short(reason.get("Code") or "None")
        if code == "None":
            continue
        error = translate_code(code, reason.get("Message") or code, 400, place)
        if not isinstance(error, _LaterError):
            return error
        later = error
    return later or StoreRefusedError(f"{place} refused a transaction without a reason")


def _short(code: str) -> str:
    return code.removesuffix("Exception")


def _capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _message_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
