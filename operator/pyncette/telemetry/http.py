"""Serves HTTP requests from threads, so that a process answers while its event loop is blocked."""

from __future__ import annotations

import logging
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from email.message import Message
from errno import EADDRNOTAVAIL, EAFNOSUPPORT
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from socket import (
    AF_INET6,
    AI_PASSIVE,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SHUT_WR,
    SOCK_STREAM,
    AddressFamily,
    getaddrinfo,
    has_dualstack_ipv6,
    socket,
)
from time import monotonic
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from pyncette.errors import ConfigurationError
from pyncette.telemetry.certificate import ServerCertificate

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 5.0
"""Time limit for a client to send its request, and for it to take the answer: it must not keep a thread."""

REQUEST_BYTES_MAX: Final = 64 * 1024
"""The size of a request. Probes and Prometheus send less than one thousand bytes."""

REQUESTS_MAX: Final = 100
"""Requests in progress, of which each has a thread. Connections beyond it are closed."""

REST_SECONDS: Final = 1.0
REST_BYTES_MAX: Final = 1024 * 1024
"""Limits of what is read after the answer. If some is left unread, the client may lose the answer to a reset."""

STOP_SECONDS: Final = 0.05
"""Time between the moments at which a server can stop."""

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")


class Request(NamedTuple):
    """A request without a body."""

    method: str
    path: str
    query: str
    headers: Message


class Response(NamedTuple):
    """An answer. Its length is sent with it."""

    status: HTTPStatus
    body: bytes
    headers: Sequence[tuple[str, str]] = ()

    @classmethod
    def of_text(cls, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Self:
        return cls(status, text.encode(), (("Content-Type", "text/plain; charset=utf-8"), *headers))


Answer = Callable[[Request], Response]


class HttpServer:
    """
    An HTTP server with a thread for each request; a context manager.

    It listens on *port* of *host*, or of all addresses if *host* is None or empty; port 0 takes a free one. *content*
    says in errors what could not be served. *answer* is called from the threads. To enter it raises ConfigurationError
    if it cannot listen there. With a *certificate*, it answers by TLS alone.
    """

    def __init__(
        self,
        content: str,
        host: str | None,
        port: int,
        answer: Answer,
        certificate: ServerCertificate | None = None,
    ) -> None:
        self._content = content
        self._certificate = certificate
        self._address = (host or "", port)
        self._answer = answer
        self._listeners: list[_Listener] = []

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return self._listeners[0].server_port

    def start(self) -> None:
        """Listen, and answer from now on. Raises OSError or OverflowError if it cannot listen."""
        host, port = self._address
        try:
            self._listeners = _listen(host or all_addresses(), port, self._answer, self._certificate)
        except OSError as error:
            raise type(error)(error.errno, self._message(error.strerror or str(error))) from error
        except OverflowError as error:
            raise OverflowError(self._message(str(error))) from error
        for listener in self._listeners:
            serve = partial(listener.serve_forever, STOP_SECONDS)
            threading.Thread(target=serve, name=f"pyncette-{self._content}", daemon=True).start()

    def close(self) -> None:
        """Stop listening. Requests in progress are not waited for."""
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except OSError as error:
            raise ConfigurationError(error.strerror) from error
        except OverflowError as error:
            raise ConfigurationError(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _message(self, reason: str) -> str:
        host, port = self._address
        return f"{self._content} cannot be served on {host}:{port}: {reason}"


ALL_OF_IPV4: Final = "0.0.0.0"  # noqa: S104 - pods are reached on any of their addresses


def all_addresses() -> str:
    """Return the wildcard address: of IPv6 and IPv4 together where the machine has both, since pods may have either."""
    if not has_dualstack_ipv6():
        return ALL_OF_IPV4
    try:
        with socket(AF_INET6) as probe:
            probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:  # the kernel supports IPv6, but it is disabled
        return ALL_OF_IPV4
    return "::"


# --- Connections -----------------------------------------------------------------------------------------------------


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, family: AddressFamily, address: Any, answer: Answer, certificate: ServerCertificate | None
    ) -> None:
        self.address_family = family
        self._certificate = certificate
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, partial(_Connection, answer))

    def server_bind(self) -> None:
        if self.server_address[0] == "::":
            self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        # Not HTTPServer's, which asks DNS for the name of the host.
        socketserver.TCPServer.server_bind(self)
        self.server_port = int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.close_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._certificate is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(REQUEST_SECONDS)  # of the handshake as a whole
        with self._certificate.context().wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, *_: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # which is a client that disconnected
            logger.error("could not answer an HTTP request", exc_info=error)


def _listen(host: str, port: int, answer: Answer, certificate: ServerCertificate | None) -> list[_Listener]:
    """Listen on all addresses of *host*, but for those that this machine does not have, unless it has none of them."""
    listeners: list[_Listener] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        for family, (name, _, *scope) in _addresses(host):
            try:
                listener = _Listener(family, (name, port, *scope), answer, certificate)
            except OSError as error:
                if error.errno not in (EADDRNOTAVAIL, EAFNOSUPPORT):
                    raise
                missing = error
            else:
                stack.callback(listener.server_close)
                listeners.append(listener)
                port = listener.server_port
        if missing is not None and not listeners:
            raise missing
        stack.pop_all()
    return listeners


def _addresses(host: str) -> Iterable[tuple[AddressFamily, tuple[Any, ...]]]:
    # Without the port, which getaddrinfo would reduce modulo 65536.
    found = getaddrinfo(host, None, type=SOCK_STREAM, flags=AI_PASSIVE)
    return dict.fromkeys((family, address) for family, *_, address in found)


class _Connection(BaseHTTPRequestHandler):
    """One request, and the end of its connection."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # of what is no HTTP at all, which gets a status line too

    def __init__(self, answer: Answer, *server: Any) -> None:
        self._answer = answer
        super().__init__(*server)

    def handle(self) -> None:
        try:
            head = _read_head(self.connection)
        except TimeoutError:
            return
        self.connection.settimeout(REQUEST_SECONDS)
        if head:
            self.rfile.close()
            self.rfile = BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            if self._parse(head):
                self._send(self._respond())

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
            self.connection.shutdown(SHUT_WR)
            _read_rest(self.connection)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that could not be parsed."""
        del code, message, explain
        self._send(Response.of_text(HTTPStatus.BAD_REQUEST, "Bad Request"))

    def log_message(self, *_: Any) -> None:
        """Probes are too frequent to log."""

    def _parse(self, head: bytes) -> bool:
        self.command = self.requestline = self.request_version = ""
        if _END_OF_HEAD.search(head) and self.raw_requestline.strip():
            if not self.parse_request():
                return False
            if not self.headers.defects:
                return True
        self.send_error(HTTPStatus.BAD_REQUEST)
        return False

    def _respond(self) -> Response:
        path, _, query = self.path.partition("?")
        try:
            return self._answer(Request(self.command, path, query, self.headers))
        except Exception:
            logger.exception("could not answer an HTTP request")
            return Response.of_text(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error")

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


def _read_head(connection: socket) -> bytes:
    """Read until the end of the head, of the stream, or of what is allowed. Raises TimeoutError."""
    deadline = monotonic() + REQUEST_SECONDS
    head = bytearray()
    while len(head) < REQUEST_BYTES_MAX:
        data = _read_by(deadline, connection)
        head += data
        if not data or _END_OF_HEAD.search(head, max(0, len(head) - len(data) - 2)):
            break
    return bytes(head)


def _read_rest(connection: socket) -> None:
    """Read what the client still sends, within limits. Raises TimeoutError."""
    deadline = monotonic() + REST_SECONDS
    left = REST_BYTES_MAX
    while left > 0 and (data := _read_by(deadline, connection)):
        left -= len(data)


def _read_by(deadline: float, connection: socket) -> bytes:
    seconds = deadline - monotonic()
    if seconds <= 0:
        raise TimeoutError
    connection.settimeout(seconds)
    return connection.recv(65536)
