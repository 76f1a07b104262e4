"""Connections to Redis: few, opened when needed, closed when they do not answer; and what its errors mean to the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from pyncette.errors import StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.store.answers import is_too_large, too_large
from pyncette.store.cancellation import reraise_lost_cancellation
from pyncette.store.redis.limited import limit_client
from pyncette.store.redis.scripts import Script
from pyncette.store.redis.url import Address, Kind

logger = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 4
"""A worker claims, completes, starts and answers calls at the same time. More connections would wait for each other."""

GRACE_SECONDS: Final = 1.0
"""How much longer than one answer a call may take: it may have to find the server, or the node that has the slot."""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A connection that waits for its server learns within half a minute that the server is gone."""

Argument: TypeAlias = str | bytes | int
Client: TypeAlias = "Redis | RedisCluster"

_DRIVER_ERRORS: Final = (RedisError, RedisClusterException, OSError, TimeoutError)

_OUTAGE: Final = re.compile(
    r"\b(BUSY|UNKILLABLE|READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|MISCONF|OOM|MOVED|ASK)\b"
)
"""Codes of errors about the server's state, which may pass."""

_NOT_ALLOWED: Final = re.compile(r"\bNOPERM\b|has no permissions to|The user executing the script can't")
"""Messages about a right that a script lacks."""

_OUTAGE_ERRORS: Final = (ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError, AskError)
"""Classes of the driver for some of these codes, whose messages omit them. MovedError is a subclass of AskError."""


class Call(NamedTuple):
    """One call of a script. Its keys are in one slot, unless `Connections.together` is true."""

    keys: Sequence[str | bytes]
    arguments: Sequence[Argument]


class Connections:
    """
    At most `CONNECTIONS_MAX` calls at once to the server or servers at *address*.

    *on_lost* is called when a connection is new, or broke. Each connection uses the credentials of the address that
    *current_address* returns by then, if it is given. No call is repeated: without an answer it is unknown whether the
    call was carried out.
    """

    def __init__(
        self,
        address: Address,
        on_lost: Callable[[], None] = lambda: None,
        current_address: Callable[[], Address] | None = None,
    ) -> None:
        self._address = address
        self._current_address = current_address or (lambda: address)
        self._on_lost = on_lost
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._client, self._others = _clients(address, self._current_address, self._on_connect)
        for client in (self._client, *self._others):
            limit_client(client)
        self.place: Final = str(address)

    @property
    def together(self) -> bool:
        """True if one script may write to keys in several slots."""
        return self._address.kind is not Kind.CLUSTER

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """
        Run *script* once for each of *calls*, each of which is carried out whole or not at all.

        Raises StoreUnavailableError, StoreRefusedError.
        """
        return await self._all([self._run(script, call) for call in calls])

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run *commands*, in any order. Raises StoreUnavailableError, StoreRefusedError."""
        if not self.together or len(commands) == 1:
            return await self._all([self._one(*command) for command in commands])
        assert isinstance(self._client, Redis)
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with self._slots:
            answers: list[Any] = await self._answered(pipeline.execute())
        return answers

    async def ask_each(self, *command: Argument) -> list[Any]:
        """Run one command on each primary. Raises StoreUnavailableError, StoreRefusedError."""
        if isinstance(self._client, Redis):
            return [await self._one(*command)]
        answers = await self._one(*command, target_nodes=RedisCluster.PRIMARIES)
        return (
            list(answers.values())
            if isinstance(answers, dict) and len(self._client.get_primaries()) > 1
            else [answers]
        )

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        """Yield what is published on *channel*, from now on. Raises StoreUnavailableError when the connection is lost."""
        async with contextlib.AsyncExitStack() as stack:
            client = await self._listening_client(stack)
            pubsub = await stack.enter_async_context(client.pubsub(ignore_subscribe_messages=True))
            await self._answered(pubsub.subscribe(channel))
            while True:
                try:
                    message = await pubsub.get_message(timeout=None)
                except _DRIVER_ERRORS as error:
                    raise translate_error(error, self.place) from error
                if message is not None:
                    pubsub.connection.answer.begin()
                    yield message["data"]

    async def close(self) -> None:
        """Close all connections. A call in flight fails."""
        for client in (self._client, *self._others):
            with contextlib.suppress(*_DRIVER_ERRORS):
                await client.aclose()

    async def _listening_client(self, stack: contextlib.AsyncExitStack) -> Redis:
        """Return a client to subscribe with. Any node of a cluster will do, since nodes pass messages on."""
        if isinstance(self._client, Redis):
            return self._client
        await self._answered(self._client.initialize())
        node: ClusterNode = random.choice(self._client.get_primaries())
        options = _options(self._address, self._current_address, self._on_connect)
        client = await stack.enter_async_context(Redis(host=node.host, port=int(node.port), **options))
        limit_client(client)
        return client

    async def _on_connect(self, connection: Any) -> None:
        """Set up a new connection. Its server may be another one than before, or have lost its data."""
        await connection.on_connect()
        self._on_lost()

    async def _all(self, calls: Sequence[Any]) -> list[Any]:
        if len(calls) == 1:
            return [await calls[0]]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def _run(self, script: Script, call: Call) -> Any:
        try:
            return await self._one("EVALSHA", script.sha, len(call.keys), *call.keys, *call.arguments)
        except _NoScriptError:
            # The server was restarted, or is another one. EVAL caches the script again.
            return await self._one("EVAL", script.source, len(call.keys), *call.keys, *call.arguments)

    async def _one(self, *command: Argument, **options: Any) -> Any:
        async with self._slots:
            return await self._answered(self._client.execute_command(*command, **options))

    async def _answered(self, call: Any) -> Any:
        with reraise_lost_cancellation():
            return await self._answered_in_time(call)

    async def _answered_in_time(self, call: Any) -> Any:
        seconds = self._address.timeout_seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                return await call
        except NoScriptError as error:
            raise _NoScriptError from error
        except AttributeError as error:
            # Another call to a cluster has closed the connection that this one was about to write to.
            if not _is_of_the_driver(error):
                raise
            raise StoreUnavailableError(f"{self.place} does not answer: the connection was closed") from error
        except _DRIVER_ERRORS as error:
            translated = translate_error(error, self.place)
            if isinstance(translated, StoreUnavailableError):
                await self._drop_idle()
            raise translated from error

    async def _drop_idle(self) -> None:
        """Close the idle connections, which are likely broken too."""
        self._on_lost()
        if isinstance(self._client, Redis):
            with contextlib.suppress(*_DRIVER_ERRORS):
                await self._client.connection_pool.disconnect(inuse_connections=False)


class _NoScriptError(Exception):
    """The server has not cached the script."""


def _is_of_the_driver(error: BaseException) -> bool:
    """Return whether *error* was raised by code of the driver itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("redis.")


def translate_error(error: BaseException, place: str) -> StoreError:
    """Return the error of the store that the driver's *error* stands for, as one sentence without a password."""
    causes = list(_causes(error))
    if is_too_large(error):
        return too_large(place)
    message = " ".join(str(causes[-1] if isinstance(error, RedisClusterException) else error).split())
    message = message or type(error).__name__
    if any(isinstance(cause, AuthenticationError | AuthorizationError) for cause in causes):
        return StoreRefusedError(
            f"{place}: authentication failed: {message}. Check the user and the password in redis_url"
        )
    if any(isinstance(cause, NoPermissionError) for cause in causes) or _NOT_ALLOWED.search(message):
        return StoreRefusedError(f"{place}: permission denied: {message}. Grant the right to this user")
    if any("certificate verify failed" in str(cause).lower() for cause in causes):
        return StoreRefusedError(f"{place}: the certificate is not trusted: {message}")
    if isinstance(error, TimeoutError) and not str(error):
        message = "timed out"
    if (
        isinstance(error, ResponseError)
        and not isinstance(error, _OUTAGE_ERRORS)
        and not _OUTAGE.search(message)
    ):
        return StoreRefusedError(f"{place} refused: {message}")
    return StoreUnavailableError(f"{place} does not answer: {message}")


def _causes(error: BaseException) -> Sequence[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return causes


class _Credentials(CredentialProvider):
    """Gives the driver the user and the password that are valid now, for each connection."""

    def __init__(self, current: Callable[[], tuple[str | None, str | None]]) -> None:
        self._current = current

    def get_credentials(self) -> Any:
        user, password = self._current()
        if not user and not password:
            return ()
        return (user, password or "") if user else (password,)

    async def get_credentials_async(self) -> Any:
        return self.get_credentials()


def _clients(
    address: Address, current_address: Callable[[], Address], greet: Any
) -> tuple[Client, Sequence[Redis]]:
    """Return the client, and the clients of the sentinels that it finds its server with."""
    options = _options(address, current_address, greet)
    if address.kind is Kind.SERVER:
        ((host, port),) = address.hosts
        return Redis(host=host, port=port, **options), ()
    if address.kind is Kind.SENTINEL:
        of_sentinel = _options(address, current_address, None) | {
            "credential_provider": _Credentials(
                lambda: ((now := current_address()).sentinel_username, now.sentinel_password)
            ),
            "db": 0,
        }
        sentinel = Sentinel(address.hosts, sentinel_kwargs=of_sentinel, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.service), sentinel.sentinels
    for name in ("db", "redis_connect_func"):
        del options[name]
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    return RedisCluster(startup_nodes=nodes, **options), ()


def _options(address: Address, current_address: Callable[[], Address], greet: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "credential_provider": _Credentials(lambda: ((now := current_address()).username, now.password)),
        "db": address.database,
        "socket_timeout": address.timeout_seconds,
        "socket_connect_timeout": address.timeout_seconds,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)
        },
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": greet,
    }
    if address.tls:
        options |= {"ssl": True, **_tls_options(address.tls_options)}
    return options


def _tls_options(options: dict[str, str]) -> dict[str, Any]:
    options_of_driver: dict[str, Any] = dict(options)
    if "ssl_check_hostname" in options_of_driver:
        options_of_driver["ssl_check_hostname"] = options_of_driver["ssl_check_hostname"].lower() not in {
            "0",
            "false",
            "no",
        }
    return options_of_driver
