"""Serves health checks, such as /healthz and /readyz, for probes and load balancers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, NamedTuple

from pyncette.telemetry.http import HttpServer

logger = logging.getLogger(__name__)

Check = Callable[[], bool]


class Answer(NamedTuple):
    """A status and a line of text."""

    status: HTTPStatus
    text: str


class Protocol(NamedTuple):
    """The answers of a health server, and the methods that it allows."""

    healthy: Answer = Answer(HTTPStatus.OK, "ok")
    unhealthy: Answer = Answer(HTTPStatus.SERVICE_UNAVAILABLE, "not ok")
    methods: tuple[str, ...] = ("GET", "HEAD")


PROTOCOL: Final = Protocol()

NOT_FOUND: Final = Answer(HTTPStatus.NOT_FOUND, "not found")


class HealthServer(HttpServer):
    """
    An HTTP server of health checks, which it calls from its own threads.

    *checks* are by path; other paths go to the check *otherwise*, or are not found if there is none. A check that raises
    has failed.
    """

    def __init__(
        self,
        host: str | None,
        port: int,
        checks: Mapping[str, Check],
        otherwise: Check | None = None,
        protocol: Protocol = PROTOCOL,
    ) -> None:
        def answer(path: str) -> Answer:
            check = checks.get(path, otherwise)
            if check is None:
                return NOT_FOUND
            return protocol.healthy if _passes(check) else protocol.unhealthy

        super().__init__("health", host, port, partial(_Request, answer, protocol.methods))


def _passes(check: Check) -> bool:
    try:
        return check()
    except Exception:
        logger.exception("the health check raised an exception")
        return False


class _Request(BaseHTTPRequestHandler):
    """One request, and the end of its connection."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # of what is no HTTP at all, which gets a status line too

    def __init__(self, answer: Callable[[str], Answer], methods: tuple[str, ...], *server: Any) -> None:
        self._answer = answer
        self._methods = methods
        super().__init__(*server)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.headers.defects:
            self.send_error(HTTPStatus.BAD_REQUEST)
        elif self.command not in self._methods:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)
        else:
            return True
        return False

    def do_GET(self) -> None:
        self._send(self._answer(self.path.partition("?")[0]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that the base class or `parse_request` refused."""
        del message, explain
        refused = (
            HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus.BAD_REQUEST
        )
        self._send(Answer(refused, refused.phrase))

    def _send(self, answer: Answer) -> None:
        body = answer.text.encode()
        self.send_response(answer.status)
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(self._methods))
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Probes are too frequent to log."""
