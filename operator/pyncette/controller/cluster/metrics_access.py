"""Decides who may read the metrics: the API server says who has a token, and whether that account may."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from enum import Enum
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

from pyncette.controller.cluster.api import ApiError, Kind, Manifest

logger = logging.getLogger(__name__)

METRICS_PATH: Final = "/metrics"
"""The non-resource URL that a reader needs the verb `get` on, as for other components of a cluster."""

TOKEN_REVIEWS: Final = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
ACCESS_REVIEWS: Final = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")

ALLOWED_SECONDS: Final = 60.0
"""How long a decision to let somebody in holds. Prometheus asks twice a minute, and a right that is taken away is gone soon."""

DENIED_SECONDS: Final = 10.0
"""How long any other decision holds: a right that is given has an effect soon."""

DECISIONS_MAX: Final = 1_000
"""Remembered decisions of either sort. Beyond that, the oldest is forgotten."""

REVIEWS_PER_SECOND: Final = 5.0
REVIEWS_AT_ONCE: Final = 20
"""Limits of the reviews of tokens, so that a sender of endless new tokens does not load the API server."""

REVIEW_SECONDS: Final = 5.0
"""Time limit of the API server. Prometheus waits for ten seconds by default."""

WARNING_SECONDS: Final = 60.0
"""Time between two messages that no decision could be made."""

BEARER: Final = re.compile(r"bearer +([-A-Za-z0-9._~+/]+=*) *", re.IGNORECASE)
"""Credentials of RFC 6750."""


class Access(Enum):
    """A decision about one request."""

    ALLOWED = "allowed"
    UNAUTHENTICATED = "unauthenticated"
    """There is no token, or the API server does not know it."""
    FORBIDDEN = "forbidden"
    UNDECIDED = "undecided"
    """The API server has not answered, or too many tokens are under review."""


class Reviews(Protocol):
    """The part of the API server that answers questions about others."""

    async def review(self, kind: Kind, spec: Manifest) -> Manifest:
        """Return the status of a review. Raises ApiError."""
        ...


class Decision(NamedTuple):
    """What was decided, and until when that holds."""

    access: Access
    until: float


class MetricsAccess:
    """
    The decisions about readers of the metrics.

    `decide` is called from the threads of a server, and has the API server asked on *loop*. *clock* is monotonic.
    """

    def __init__(
        self,
        reviews: Reviews,
        loop: asyncio.AbstractEventLoop,
        *,
        seconds: float = REVIEW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviews = reviews
        self._loop = loop
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        # Apart, so that denials without end do not push out those who may read.
        self._allowed: dict[bytes, Decision] = {}
        self._denied: dict[bytes, Decision] = {}
        self._budget = float(REVIEWS_AT_ONCE)
        self._budget_at = clock()
        self._warn_at = clock()

    def decide(self, authorization: str | None) -> Access:
        """Return whether a request with the header *authorization* may read the metrics."""
        match = BEARER.fullmatch(authorization or "")
        if match is None:
            return Access.UNAUTHENTICATED
        token = match[1]
        name = sha256(token.encode()).digest()
        with self._lock:
            known = self._allowed.get(name) or self._denied.get(name)
            if known is not None and self._clock() < known.until:
                return known.access
            # Somebody who was let in before does not wait for those who try tokens.
            if name not in self._allowed and not self._may_review():
                return self._undecided("too many different tokens")
        try:
            access = self._wait(asyncio.run_coroutine_threadsafe(self._review(token), self._loop))
        except (ApiError, TimeoutError, CancelledError) as error:
            return self._undecided(str(error) or f"no response within {self._seconds:g} s")
        with self._lock:
            self._remember(name, access)
        return access

    def _wait(self, reviewed: Future[Access]) -> Access:
        try:
            return reviewed.result(self._seconds)
        finally:
            reviewed.cancel()

    async def _review(self, token: str) -> Access:
        told = await self._reviews.review(TOKEN_REVIEWS, {"token": token})
        if not told.get("authenticated"):
            return Access.UNAUTHENTICATED
        asked = {"path": METRICS_PATH, "verb": "get"}
        told = await self._reviews.review(
            ACCESS_REVIEWS, {**_subject(told.get("user") or {}), "nonResourceAttributes": asked}
        )
        return Access.ALLOWED if told.get("allowed") else Access.FORBIDDEN

    def _may_review(self) -> bool:
        now = self._clock()
        earned = (now - self._budget_at) * REVIEWS_PER_SECOND
        self._budget, self._budget_at = min(REVIEWS_AT_ONCE, self._budget + earned), now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _remember(self, name: bytes, access: Access) -> None:
        for decisions in (self._allowed, self._denied):
            decisions.pop(name, None)
        is_allowed = access is Access.ALLOWED
        decisions = self._allowed if is_allowed else self._denied
        if len(decisions) >= DECISIONS_MAX:
            del decisions[next(iter(decisions))]
        decisions[name] = Decision(
            access, self._clock() + (ALLOWED_SECONDS if is_allowed else DENIED_SECONDS)
        )

    def _undecided(self, reason: str) -> Access:
        if self._clock() >= self._warn_at:
            self._warn_at = self._clock() + WARNING_SECONDS
            logger.warning("could not decide who may read the metrics", extra={"error": reason})
        return Access.UNDECIDED


def _subject(user: Manifest) -> dict[str, Any]:
    """Return the *user* of a TokenReview as a SubjectAccessReview names it."""
    names = {"username": "user", "uid": "uid", "groups": "groups", "extra": "extra"}
    return {there: user[here] for here, there in names.items() if user.get(here)}
