"""Serves health checks, such as /healthz and /readyz, for probes and load balancers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from pyncette.telemetry.http import HttpServer, Request, Response

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
NOT_ALLOWED: Final = Answer(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed")


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
        def answer(request: Request) -> Response:
            if request.method not in protocol.methods:
                return _response(NOT_ALLOWED, ("Allow", ", ".join(protocol.methods)))
            check = checks.get(request.path, otherwise)
            if check is None:
                return _response(NOT_FOUND)
            return _response(protocol.healthy if _passes(check) else protocol.unhealthy)

        super().__init__("health", host, port, answer)


def _response(answer: Answer, *headers: tuple[str, str]) -> Response:
    return Response.of_text(answer.status, answer.text, ("Cache-Control", "no-store"), *headers)


def _passes(check: Check) -> bool:
    try:
        return check()
    except Exception:
        logger.exception("the health check raised an exception")
        return False
