"""The input of the status of a PyncetteWorkerPool: its spec, its last status, its Deployment and its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pyncette._version import __version__
from pyncette.clock import Instant
from pyncette.controller.cluster.api import Manifest, ObjectName
from pyncette.controller.status.conditions import (
    StatusContext,
    as_sentence,
    cut,
)
from pyncette.controller.status.observed import Access
from pyncette.controller.status.rollout import Scale
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.coordination.members import Member
from pyncette.core.times import instant_of
from pyncette.resources.modelling import whole_second
from pyncette.resources.pool import PoolStatus, PyncetteWorkerPool
from pyncette.resources.reading import Refusal

AVAILABLE: Final = "Available"
BACKEND_REACHABLE: Final = "BackendReachable"
DATABASE_COPIED: Final = "DatabaseCopied"

RELEASES_NAMED_MAX: Final = 3
"""Releases of the library that a message names; a pool has two during a rollout."""

RELEASE_CHARACTERS_MAX: Final = 40
"""Workers register their release, and a row can hold any text."""


class StoredPool(NamedTuple):
    """A PyncetteWorkerPool as the API server stores it, without its spec."""

    name: ObjectName
    generation: int
    status: PoolStatus = PoolStatus()
    """The last written status; the initial one if that cannot be read."""
    deleting: bool = False
    """It has a deletionTimestamp, and a finalizer of another controller keeps it."""


class PoolEnvironment(NamedTuple):
    """The environment of a pool: all input of its status but the spec."""

    now: Instant
    access: Access = Access.OPEN
    fault: str = ""
    """Why the backend is not reachable, as in the log, without secrets; empty if it is reachable, or if that is unknown."""
    backend: PoolBackend | None = None
    """The backend that it names; None if the settings have none of that name."""
    is_copy: bool = False
    """The database of that backend has the identity of another backend's, so that one of them is a copy."""
    realm: str | None = None
    deployment: Manifest | None = None
    """The Deployment after it was applied; None if there is none, or if it belongs to someone else."""
    refused: str | None = None
    """The message of the API server that refused an object of this generation."""
    members: Sequence[Member] | None = None
    """Running workers that are registered in the backend; None if it could not be read."""
    tasks: int = 0
    due: int | None = None


@dataclass(frozen=True)
class PoolContext(StatusContext):
    """The input of a pool's status, and what follows directly from it."""

    pool: PyncetteWorkerPool | Refusal
    seen: StoredPool
    environment: PoolEnvironment

    @property
    def external(self) -> bool:
        return not isinstance(self.pool, Refusal) and self.pool.spec.external

    @property
    def scale(self) -> Scale | None:
        deployment = self.environment.deployment
        return None if self.external or deployment is None else Scale.of(deployment)

    @property
    def ready(self) -> int:
        """The number of ready workers, as far as that is known."""
        if self.external:
            return len(self.environment.members or ())
        return 0 if self.scale is None else self.scale.ready

    @property
    def now(self) -> Instant:
        """The time in whole seconds, as in Kubernetes: what is measured from a condition is then equal in each pass."""
        return whole_second(self.environment.now)

    def since(self, kind: str) -> Instant:
        """Return since when a condition of this generation is True; now, if it was not in the last status."""
        before = self.this_generation(kind)
        if before is None or before.status != "True":
            return self.now
        return instant_of(before.last_transition_time)


def until_then(context: PoolContext) -> str:
    there = 0 if context.environment.deployment is None else Scale.of(context.environment.deployment).there
    return " Until then its current workers keep running." if there else " Until then there are no workers."


def registered_workers(members: Sequence[Member]) -> str:
    return f"Registered workers: {len(members)}.{_of_other_releases(members)}"


def _of_other_releases(members: Sequence[Member]) -> str:
    """Return a sentence about workers that may be refused after the next upgrade; empty if there are none."""
    releases = Counter(member.version for member in members if member.version != __version__)
    if not releases:
        return ""
    named = [
        f"{count} of {cut(release, RELEASE_CHARACTERS_MAX)}"
        for release, count in sorted(releases.items())[:RELEASES_NAMED_MAX]
    ]
    more = ", …" if len(releases) > len(named) else ""
    return (
        f" Running another release of the library than the operator's {__version__}: {', '.join(named)}{more}. Releases next to "
        "each other work together: rebuild the image before the next upgrade of the operator, or upgrade the operator if "
        "it is the older one."
    )


def unavailable_backend(context: PoolContext) -> str:
    name = "" if context.environment.backend is None else f' "{context.environment.backend.name}"'
    fault = context.environment.fault
    why = (
        f"cannot be used by the operator: {as_sentence(fault)}" if fault else "does not answer the operator."
    )
    return f"The backend{name} {why} Workers that can reach it keep running."
