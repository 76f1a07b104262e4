"""Makes Events, as `kubectl describe` shows them under an object, without repetitions and cut to what the API accepts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import TASKS, Kind, Manifest
from pyncette.controller.reasons import EventType, Reason
from pyncette.core.printable import one_line
from pyncette.core.times import datetime_of

REPORTER: Final = "pyncette.dev/operator"
"""The reporter that `kubectl describe` shows."""

MESSAGE_BYTES_MAX: Final = 1024
"""The API server refuses Events that say more."""

NAME_MAX: Final = 253
"""Characters of a name in the API."""

WINDOW: Final[Duration] = 600 * SECOND
"""
An Event is not repeated for up to this time: it would have the same name. So a task that fails every
other minute makes two Events in ten minutes, and an operator that restarts in the middle of a write makes none twice.
"""


NAMED_MAX: Final = 10
"""Maximum number of tasks in the message of an Event about held-back removals; `pyncette sweep` lists all."""


class Regarding(NamedTuple):
    """The object that Events are about."""

    namespace: str
    name: str
    uid: str
    kind: Kind = TASKS


class EventContent(NamedTuple):
    """The reason, type and message of an Event."""

    reason: Reason
    type: EventType
    message: str
    key: str = ""
    """Distinguishes it from other Events of the same reason."""


def event(
    regarding: Regarding, content: EventContent, generation: int, now: Instant, instance: str
) -> Manifest:
    """
    Return the Event of *content*; *instance* is the operator's pod.

    It has the same name as one that means the same of the same *generation*, within `WINDOW`.
    """
    at = f"{datetime_of(now - now % SECOND):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": _name(regarding, content, generation, now),
            "namespace": regarding.namespace,
        },
        "involvedObject": {
            "apiVersion": regarding.kind.api_version,
            "kind": regarding.kind.name,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
        "reason": content.reason.value,
        "message": _cut(one_line(content.message)),
        "type": content.type,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": REPORTER},
        "reportingComponent": REPORTER,
        "reportingInstance": instance,
    }


def held_back_message(backend: str, namespace: str, tasks: Sequence[str]) -> str:
    """Return the message of the Event in *namespace* about its held-back *tasks*."""
    more = len(tasks) - NAMED_MAX
    named = ", ".join(tasks[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{len(tasks)} deleted tasks of this namespace keep running on the backend {backend}, since too many were "
        f"deleted within an hour. If this was a mistake, apply them again. If it was intended, have it confirmed in the "
        f"operator's pod: pyncette sweep --namespace {namespace} --confirm {len(tasks)}. The tasks are {named}"
    )


def held_back_in_all_message(backend: str, count: int) -> str:
    """Return the message of the Event at the operator's pod about *count* held-back tasks on *backend*."""
    return (
        f"{count} deleted tasks keep running on the backend {backend}, since too many were deleted within an hour. "
        f"pyncette sweep in this pod lists them, and pyncette sweep --confirm {count} stops them"
    )


def _name(regarding: Regarding, content: EventContent, generation: int, now: Instant) -> str:
    """Return the name of an Event, which is the same for what means the same."""
    meaning = (regarding.uid, content.reason.value, content.key, str(generation), str(now // WINDOW))
    digest = blake2b("\0".join(meaning).encode("utf-8", "replace"), digest_size=8).hexdigest()
    return f"{regarding.name[: NAME_MAX - len(digest) - 1].rstrip('-.')}.{digest}"


def _cut(message: str) -> str:
    """Cut *message* to what an Event may hold, between two characters."""
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES_MAX:
        return encoded.decode()
    return encoded[: MESSAGE_BYTES_MAX - len("…".encode())].decode("utf-8", "ignore") + "…"
