"""Watches the cluster with kopf and reports each object that changed. It ends with an error rather than go stale."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import kopf

from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    OWN_KINDS,
    Api,
    ApiError,
    Kind,
    Manifest,
)
from pyncette.controller.cluster.credentials import Credentials, authorization_of
from pyncette.controller.cluster.objects import Change
from pyncette.controller.cluster.watch_session import WATCHED_KINDS, KeptSession, session_of
from pyncette.errors import ConfigurationError, PyncetteException
from pyncette.resources.resource import GROUP

logger = logging.getLogger(__name__)

NOT_FOUND: Final = 404

MANAGED: Final = "app.kubernetes.io/managed-by=pyncette-operator"
"""Selects the operator's own Deployments."""

STREAM_SECONDS: Final = 300
"""After which the API server ends a stream, and kopf takes it up again where it ended."""

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 30.0

LISTED_AT_ONCE: Final = 25
"""Number of objects on a page of kopf's lists, which it reads as a whole: 40 MB with the largest possible objects."""

IDENTITY: Final = "pyncette-operator"

RECONNECT_SECONDS: Final = 0.25
"""Time for watchers that kopf left running to connect again. If they were cancelled earlier, they would log an error."""

GOODBYE_SECONDS: Final = 0.25
"""How long TLS connections may take to close: aiohttp does not wait for that."""

STOP_SECONDS: Final = 5.0
"""How long kopf may take to stop before the process ends without it."""


class WatchEndedError(PyncetteException):
    """The watch has ended. The process would miss all changes, so it has to end and restart."""


class Seen(Protocol):
    """A callback for watch events, in order for each object. It must not block."""

    def __call__(self, kind: Kind, change: Change, body: Manifest, /) -> object: ...


class WatchTiming(NamedTuple):
    """Seconds that the watch waits."""

    discovery: float = 2.0
    """Between checks for CRDs that are not served yet."""
    silence: float = 75.0
    """The API server sends a bookmark every minute. A stream that is silent for longer is dead, whatever TCP says."""
    retries: Sequence[float] = (0.2, 0.5, 1, 2, *(5,) * 24)
    """
    Between the retries of kopf after 403, 429, 5xx and broken connections: about two minutes in all.

    After that, 403 and 5xx are fatal; a broken connection or 429 starts again. So the API server may be unavailable for any
    time, and may refuse requests for a while during its upgrade.
    """


USUAL: Final = WatchTiming()


class Watch:
    """
    A watch on tasks, pools and the Deployments of pools, in *namespaces*, or in the whole cluster if that is empty.

    kopf runs on a thread with a loop of its own, as its authors advise. It takes the signals of a main thread for itself, and
    when it ends it cancels every task of its loop, ours too. *seen* is called in the loop of `run`.

    What we rely on, each of it tested: handlers of events alone make kopf write nothing, neither annotations nor finalizers.
    After 410 in a stream it lists again, and tells all there is with the change None; what was deleted meanwhile it does not
    tell. A broken or silent stream goes on where it was. 401 makes it read the credentials again, and end if they are the
    same. Without the CRD (404), with any other error in a stream, with half a line, with a 403 that stays, even in one of
    several namespaces, it ends; and so do we.
    """

    def __init__(
        self,
        credentials: Credentials,
        seen: Seen,
        namespaces: Sequence[str] = (),
        timing: WatchTiming = USUAL,
    ) -> None:
        self._credentials = credentials
        self._timing = timing
        self._seen = seen
        self._namespaces = tuple(namespaces)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stopping = threading.Event()
        self._stop_now: Callable[[], None] = lambda: None
        self._login: kopf.ConnectionInfo | None = None
        self._session: KeptSession | None = None
        self._kopf_session: kopf.AiohttpSession | None = None
        """The result of kopf's last login."""

    async def run(self, api: Api, begins: Callable[[], object] = lambda: None) -> NoReturn:
        """
        Watch until cancelled, from when both kinds are served on, and call *begins* then. Raises WatchEndedError.

        kopf looks for kinds once: a CRD that comes later it would never watch.
        """
        await self._wait_for_kinds(api)
        begins()
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        thread = threading.Thread(target=self._main, name="pyncette-watch", daemon=True)
        thread.start()
        try:
            await self._ended
        except Exception as error:
            raise WatchEndedError(f"the watch has ended: {error}") from error
        finally:
            self._stopping.set()
            self._stop_now()
            # It may hang, as whatever has failed may; then it ends with the process.
            await asyncio.to_thread(thread.join, STOP_SECONDS)
        raise WatchEndedError("the watch has ended")

    async def _wait_for_kinds(self, api: Api) -> None:
        is_logged = False
        while True:
            try:
                missing = {kind.plural for kind in OWN_KINDS} - await api.served()
                reason = f"no CRDs for {', '.join(sorted(missing))}"
            except ApiError as error:
                missing, reason = {"all"}, str(error)
            if not missing:
                logger.info("the API server serves the CRDs; starting the watch")
                return
            if not is_logged:
                logger.warning("cannot watch yet", extra={"reason": reason})
                is_logged = True
            await asyncio.sleep(self._timing.discovery)

    # --- In the loop of the caller -------------------------------------------------------------------------------

    def _deliver(self, kind: Kind, change: Change, body: Manifest) -> None:
        try:
            self._seen(kind, change, body)
        except Exception:
            # A bug. The next resync shows what was not seen now, so it costs time and nothing else.
            logger.exception("could not handle a watch event", extra={"kind": kind.name, "change": change})

    def _end(self, error: BaseException | None) -> None:
        assert self._ended is not None
        if self._ended.done():
            return
        if isinstance(error, Exception):
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    # --- On the thread of kopf -----------------------------------------------------------------------------------

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the other thread must learn of it
            error = failure
        self._call(self._end, error)

    async def _serve(self) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop_now = lambda: _call_in(loop, stopped.set)
        if self._stopping.is_set():
            return
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(self._timing),
            # Else kopf reads the user's name, which an arbitrary uid in a container does not have.
            identity=IDENTITY,  # type: ignore[arg-type]
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        stop = asyncio.create_task(stopped.wait())
        done, _ = await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        # Told at once, and not when kopf has stopped: there were times when it never did.
        for task in done - {stop}:
            self._call(self._end, None if task.cancelled() else task.exception())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
        # If one watcher fails, kopf leaves the others running, but ends their streams. So they connect once more.
        await asyncio.sleep(RECONNECT_SECONDS)
        await _cancel_others()
        await self._close_session()
        await asyncio.sleep(GOODBYE_SECONDS)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        _call_in(self._loop, callback, *args)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        # Its own handlers log in, if there are none, with whatever they find.
        kopf.on.login(id="credentials", registry=registry)(self._log_in)
        for kind in WATCHED_KINDS:
            watched = kopf.on.event(
                group=kind.group, version=kind.version, plural=kind.plural, id=kind.plural, registry=registry
            )
            watched(self._handler_of(kind))
        return registry

    def _handler_of(self, kind: Kind) -> Any:
        async def handle(event: Any, **_: Any) -> None:
            # What a handler returns is written into the object: nothing.
            self._call(self._deliver, kind, event["type"], event["object"])

        return handle

    async def _log_in(self, **_: Any) -> kopf.AiohttpSession | None:
        """
        Return a session for kopf, or None if the credentials cannot be read.

        For the same credentials it is the same session, which kopf treats as a refusal after a 401. This must not raise,
        since kopf would wait forever for another login handler.
        """
        try:
            configuration = await self._credentials.read()
        except ConfigurationError as error:
            logger.error("the watch could not authenticate", extra={"error": str(error)})  # noqa: TRY400 - no bug of ours
            return None
        scheme, _space, token = (authorization_of(configuration) or "").partition(" ")
        login = kopf.ConnectionInfo(
            server=str(configuration.host),
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme=scheme or None,
            token=token or None,
            proxy_url=configuration.proxy,
            trust_env=True,
        )
        if self._session is None or login != self._login:
            await self._close_session()
            self._login, self._session = login, session_of(login)
            session: Any = self._session
            self._kopf_session = kopf.AiohttpSession(server=login.server, aiohttp_session=session)
        return self._kopf_session

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.end()


async def _cancel_others() -> None:
    """Cancel all other tasks of this event loop, and wait for them for at most `STOP_SECONDS`."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=STOP_SECONDS)


def _settings(timing: WatchTiming) -> kopf.OperatorSettings:
    """Return the settings of kopf. All that matter are set, even to today's defaults."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # it kills the process; we end it ourselves
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    # We have no right to watch CRDs and namespaces; what changes there makes us start again.
    settings.scanning.disabled = True
    # Idle, since nothing is written: but should that ever change, it must be under our name.
    settings.persistence.finalizer = f"{GROUP}/watch"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.watching.label_selectors[DEPLOYMENTS.group, DEPLOYMENTS.version, DEPLOYMENTS.plural] = MANAGED
    settings.watching.server_timeout = STREAM_SECONDS
    settings.watching.client_timeout = STREAM_SECONDS + REQUEST_SECONDS
    settings.watching.inactivity_timeout = timing.silence
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.chunk_size = LISTED_AT_ONCE
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.error_backoffs = timing.retries
    settings.networking.trust_env = True
    # Each object has a task of kopf's while something happens to it; ten thousand objects come at once at the start.
    settings.queueing.idle_timeout = 0.1
    settings.queueing.exit_timeout = 1.0
    return settings


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        # That loop is closed, so nothing waits for the event.
        logger.debug("dropped an event: the event loop has closed")


def _without_traceback(record: logging.LogRecord) -> bool:
    """
    Log kopf's errors about a kind that is gone at INFO, and without a traceback.

    A deleted CRD is not a bug: the process ends, says why, and waits for the CRD after its restart.
    """
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if getattr(error, "status", None) == NOT_FOUND:
            record.exc_info = None
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
            break
        error = error.__cause__ or error.__context__
    return True


# A line for each event that went well is a line for each object, at each start.
logging.getLogger("kopf.objects").setLevel(logging.WARNING)
# That signals are not its business is what we want.
logging.getLogger("kopf._core.reactor.running").addFilter(
    lambda record: not record.getMessage().startswith("OS signals are ignored")
)
for _name in ("orchestration", "running", "queueing", "observation"):
    logging.getLogger(f"kopf._core.reactor.{_name}").addFilter(_without_traceback)
