"""Reads how far the rollout of a Deployment is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.cluster.api import Manifest
from pyncette.core.times import instant_of


def rolling_out(deployment: Manifest | None) -> bool:
    """
    Return whether workers of a pool are being started, replaced or stopped, or are not available yet.

    These are the criteria of `kubectl rollout status`. None: the Deployment is about to be created.
    """
    if deployment is None:
        return True
    scale = Scale.of(deployment)
    return (
        not scale.observed
        or scale.progress == DEADLINE_EXCEEDED
        or scale.updated < scale.wanted
        or scale.there > scale.updated
        or scale.available < scale.updated
    )


DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"
COMPLETE: Final = "NewReplicaSetAvailable"


class Scale(NamedTuple):
    """The pods of a Deployment, by its status."""

    wanted: int
    there: int
    """Pods of any template, without those that are terminating."""
    updated: int
    """Of this template."""
    ready: int
    available: int
    observed: bool
    """Whether the status is about the newest spec."""
    progress: str
    """Reason of its condition Progressing; empty if it has none."""
    progressed_at: Instant | None
    """When the rollout last made progress, by the API server's clock; None if that is unknown."""
    trouble: str
    """Why pods cannot be created, such as a quota; empty if they can."""

    @classmethod
    def of(cls, deployment: Manifest) -> Scale:
        status = mapping(deployment.get("status"))
        wanted = mapping(deployment.get("spec")).get("replicas")
        generation = number(mapping(deployment.get("metadata")), "generation")
        conditions = {item.get("type"): item for item in _mappings(status.get("conditions"))}
        failure = conditions.get("ReplicaFailure", {})
        return cls(
            wanted=wanted if isinstance(wanted, int) else 1,
            there=number(status, "replicas"),
            updated=number(status, "updatedReplicas"),
            ready=number(status, "readyReplicas"),
            available=number(status, "availableReplicas"),
            observed=generation <= number(status, "observedGeneration"),
            progress=str(conditions.get("Progressing", {}).get("reason", "")),
            progressed_at=_instant(conditions.get("Progressing", {}).get("lastUpdateTime")),
            trouble=str(failure.get("message", "")) if failure.get("status") == "True" else "",
        )


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (item for item in (value or ()) if isinstance(item, Mapping))


def _instant(value: Any) -> Instant | None:
    try:
        return instant_of(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return None


def number(fields: Mapping[str, Any], name: str) -> int:
    """Return a count; the API server omits those that are 0."""
    value = fields.get(name)
    return value if isinstance(value, int) else 0
