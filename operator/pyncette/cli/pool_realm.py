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
from pyncette.core.suggestions import nearest
from pyncette.mirror.conversion import realm_of
from pyncette.store.backend import Backend

IN_THE_POD = "kubectl exec deployment/pyncette-operator -- pyncette …"


def realm_of_pool(namespace: str, pool: str) -> tuple[Backend, str]:
    """
    Return the backend and the realm of *pool* in *namespace*, by the operator's settings and the API server.

    The realm is computed as in the operator, not read from the status of the pool. Raises Failure if there are no
    settings or no such pool, or if the API server does not answer; ConfigurationError if the settings are invalid.
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

    async def read() -> tuple[str, Manifest]:
        async with Kubernetes(Credentials()) as api:
            found = await _pool(api, namespace, pool)
            return settings.cluster_id or await api.uid_of_namespace(KUBE_SYSTEM), found

    try:
        cluster_id, manifest = asyncio.run(read())
    except ApiError as error:
        raise Failure(f"could not read the pool from the API server: {error}", ExitCode.FAILED) from error
    return _backend(settings, manifest), realm_of(cluster_id, namespace, pool)


async def _pool(api: Api, namespace: str, name: str) -> Manifest:
    found = {
        item["metadata"]["name"]: item async for page in api.list(POOLS, namespace) for item in page.items
    }
    if name not in found:
        raise Failure(f"pool {name} not found in the namespace {namespace}{_hint(name, sorted(found))}")
    return found[name]


def _hint(name: str, pools: Sequence[str]) -> str:
    if not pools:
        return ", which has no pools"
    close = nearest(name, pools)
    return f"; did you mean --pool {close}?" if close else f"; choose one with --pool: {', '.join(pools)}"


def _backend(settings: OperatorSettings, manifest: Manifest) -> Backend:
    reference = manifest["spec"].get("backendRef") or {}
    name = reference.get("name") or "default"
    backend = settings.backend(name)
    if backend is None:
        raise Failure(f"the backend {name} of the pool is not in the operator's settings")
    return backend.read()
