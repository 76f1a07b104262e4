"""Serves /healthz and /readyz from a thread of its own, so that a handler which blocks the loop does not look like a dead process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, has_dualstack_ipv6, socket
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from pyncette.errors import ConfigurationError

REQUEST_SECONDS: Final = 5.0
"""How long a client may take to say what it wants."""

Check = Callable[[], bool]


def all_addresses() -> str:
    """Return what to listen on for all addresses of this machine, of both versions of IP where it has both: pods may have either."""
    if not has_dualstack_ipv6():
        return "0.0.0.0"  # noqa: S104 - it is what was asked for
    try:
        with socket(AF_INET6) as probe:
            probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:  # the kernel knows of it, and the machine has it switched off
        return "0.0.0.0"  # noqa: S104
    return "::"


class HealthServer:
    """
    Answers GET with 200 and "ok", or 503 and "not ok", as *checks* say by path; 404 for other paths. A context manager.

    On *port* of *host*, or of all addresses; port 0 takes a free one. Raises ConfigurationError if it is taken. Checks
    are called from other threads.
    """

    def __init__(self, host: str | None, port: int, checks: dict[str, Check]) -> None:
        self._place = f"{host or ''}:{port}"
        self._host, self._port = host, port
        self._checks = checks
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        try:
            self._server = _server(self._host or all_addresses(), self._port, self._checks)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ConfigurationError(
                f"health cannot be served on {self._place}: {reason or error}"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="pyncette-health", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


def _server(host: str, port: int, checks: dict[str, Check]) -> ThreadingHTTPServer:
    class Answering(_Answer):
        pass

    Answering.checks = checks

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = AF_INET6 if ":" in host else AF_INET

        def server_bind(self) -> None:
            if host == "::":
                self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            super().server_bind()

        def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
            """A client that goes away is no news."""

    return Server((host, port), Answering)


class _Answer(BaseHTTPRequestHandler):
    """One request."""

    checks: ClassVar[dict[str, Check]]
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        check = self.checks.get(self.path.partition("?")[0])
        if check is None:
            self._say(HTTPStatus.NOT_FOUND, "not found")
        elif check():
            self._say(HTTPStatus.OK, "ok")
        else:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "not ok")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _say(self, status: HTTPStatus, text: str) -> None:
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Probes come all the time."""
