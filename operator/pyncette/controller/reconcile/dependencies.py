"""Names the dependencies that objects wait for while these are unavailable."""

from __future__ import annotations

from typing import Final

from pyncette.controller.cluster.api import ApiUnavailableError
from pyncette.controller.reconcile.circuit_breaker import Dependency
from pyncette.controller.reconcile.task_records import BackendUnavailableError

API_SERVER: Final = "the API server"


def dependency_of(error: Exception) -> Dependency | None:
    """Return the unavailable dependency that caused *error*; None for any other error."""
    if isinstance(error, ApiUnavailableError):
        return API_SERVER
    return dependency_on(error.backend) if isinstance(error, BackendUnavailableError) else None


def dependency_on(backend: str) -> Dependency:
    """Return the dependency on one *backend*, so that an unavailable backend delays only its own objects."""
    return f"the backend {backend}"
