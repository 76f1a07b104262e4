"""Finds the backend and the realm of a pool, from the operator's settings and the API server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from pyncette.cli.failures import ExitCode, Failure
from pyncette.cli.settings import OPERATOR_CONFIG, OPERATOR_FILE
from pyncette.controller.cluster.api import KUBE_SYSTEM, POOLS, Api, ApiError, Manifest
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.settings import OperatorSettings, load_settings
from pyncette.core.suggestions import did_you_mean, nearest
from pyncette.mirror.conversion import realm_of
from pyncette.store.backend import Backend

IN_THE_POD = "kubectl exec deployment/pyncette-operator -- pyncette …"


def realm_of_pool(namespace: str, pool: str, backend: str | None = None) -> tuple[Backend, str]:
    """
    Return the backend and the realm of *pool* in *namespace*, by the operator's settings and the API server.

    The realm is computed as in the operator, not read from the status of the pool. With the name of a *backend* of the
    settings, the pool need not exist any more. Raises Failure if there are no settings or no such pool or backend, or if
    the API server does not answer; ConfigurationError if the settings are invalid.
    """
    if not namespace or not pool:
        raise Failure("--namespace and --pool must not be empty")
    file = Path(os.environ.get(OPERATOR_CONFIG) or OPERATOR_FILE)
    if not file.exists():
        raise Failure(
            f"--namespace needs the operator's settings, but {file} was not found: run {IN_THE_POD}, "
            "or pass --backend-file and --realm"
        )
    settings = load_settings(file, os.environ)
    names = [each.name for each in settings.backends]
    if backend is not None and backend not in names:
        raise Failure(f"backend {backend} is not in {file}; {did_you_mean(backend, names, _choice(names))}")

    async def read() -> tuple[str, str]:
        async with Kubernetes(Credentials()) as api:
            name = backend or _backend_name(await _pool(api, namespace, pool, names))
            return settings.cluster_id or await api.uid_of_namespace(KUBE_SYSTEM), name

    if backend is not None and settings.cluster_id:
        return _backend(settings, backend), realm_of(settings.cluster_id, namespace, pool)
    try:
        cluster_id, name = asyncio.run(read())
    except ApiError as error:
        raise Failure(f"could not read the pool from the API server: {error}", ExitCode.FAILED) from error
    return _backend(settings, name), realm_of(cluster_id, namespace, pool)


async def _pool(api: Api, namespace: str, name: str, backends: Sequence[str]) -> Manifest:
    found = {
        item["metadata"]["name"]: item async for page in api.list(POOLS, namespace) for item in page.items
    }
    if name not in found:
        raise Failure(
            f"pool {name} not found in the namespace {namespace}{_hint(name, sorted(found))} "
            f"(if it was deleted, add --pool-backend {' or '.join(backends)})"
        )
    return found[name]


def _hint(name: str, pools: Sequence[str]) -> str:
    if not pools:
        return ", which has no pools"
    close = nearest(name, pools)
    return f"; did you mean --pool {close}?" if close else f"; choose one with --pool: {', '.join(pools)}"


def _choice(names: Sequence[str]) -> str:
    return f"choose one of {', '.join(names)}"


def _backend_name(manifest: Manifest) -> str:
    reference = manifest["spec"].get("backendRef") or {}
    return reference.get("name") or "default"


def _backend(settings: OperatorSettings, name: str) -> Backend:
    backend = settings.backend(name)
    if backend is None:
        raise Failure(f"the backend {name} of the pool is not in the operator's settings")
    return backend.read()
