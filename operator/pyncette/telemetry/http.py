"""Serves HTTP requests from threads, so that a process answers while its event loop is blocked."""

from __future__ import annotations

import logging
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, has_dualstack_ipv6, socket
from types import TracebackType
from typing import Any, Final, Self

from pyncette.errors import ConfigurationError

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 5.0
"""Time limit of each read and write: a silent client must not keep a thread."""

Handler = Callable[[Any, Any, Any], BaseHTTPRequestHandler]
"""A request handler class, or a function with the parameters of one."""


class HttpServer:
    """
    An HTTP server with a thread for each request; a context manager.

    It listens on *port* of *host*, or of all addresses if *host* is None or empty; port 0 takes a free one. *content*
    says in errors what could not be served. Raises ConfigurationError if it cannot listen there.
    """

    def __init__(self, content: str, host: str | None, port: int, handler: Handler) -> None:
        self._content = content
        self._address = (host or "", port)
        self._handler = handler
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen, and answer from now on."""
        host, port = self._address
        try:
            self._server = _listen(host or all_addresses(), port, self._handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ConfigurationError(
                f"{self._content} cannot be served on {host}:{port}: {reason or error}"
            ) from error
        name = f"pyncette-{self._content}"
        threading.Thread(target=self._server.serve_forever, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop listening, which takes up to half a second. Requests in progress are not waited for."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def all_addresses() -> str:
    """Return the wildcard address: of IPv6 and IPv4 together where the machine has both, since pods may have either."""
    if not has_dualstack_ipv6():
        return "0.0.0.0"  # noqa: S104 - the caller wants all addresses
    try:
        with socket(AF_INET6) as probe:
            probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:  # the kernel supports IPv6, but it is disabled
        return "0.0.0.0"  # noqa: S104
    return "::"


def _listen(host: str, port: int, handler: Handler) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = AF_INET6 if ":" in host else AF_INET

        def server_bind(self) -> None:
            if host == "::":
                self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            # Not HTTPServer's, which asks DNS for the name of the host.
            socketserver.TCPServer.server_bind(self)

        def get_request(self) -> tuple[socket, Any]:
            connection, client = super().get_request()
            connection.settimeout(REQUEST_SECONDS)
            return connection, client

        def handle_error(self, *_: Any) -> None:
            error = sys.exception()
            if not isinstance(error, OSError):  # which is a client that disconnected
                logger.error("could not answer an HTTP request", exc_info=error)

    return Server((host, port), handler)
