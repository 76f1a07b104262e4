"""The admission policies of the chart on a real API server, with the operator's account and its role."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import workloads_of
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from tests.apiserver import pool as manifest_of_pool
from tests.chart.rendering import Rendering, merged, render
from tests.resources import accepted
from tests.servers import ApiError, ApiServer
from tests.servers.kubernetes_client import Client, Object
from tests.servers.tools import Helm

KINDS = (
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)
"""The part of a release that decides what the operator and the writers of pools may do."""

IN_EFFECT_SECONDS_MAX = 60
"""A policy is in effect some seconds after it was created."""

VALUES: Object = {
    "backends": [{"name": "default", "secretName": "pyncette-backend", "namespaces": ["*"]}],
    "crds": {"enabled": False},
}


POOLS = [
    {
        "apiGroups": ["pyncette.dev"],
        "resources": ["pyncetteworkerpools", "pyncetteworkerpools/scale"],
        "verbs": ["get", "create", "update", "patch"],
    }
]
"""The right to write pools, and nothing else."""


class Installed(NamedTuple):
    """A release whose operator does not run."""

    namespace: str
    account: str
    operator: Client
    """With the token of the operator's ServiceAccount."""
    prefix: str
    """Of the names of the policies."""

    def denial(self, policy: str) -> str:
        """Return what each denial by one of its policies begins with."""
        return f"ValidatingAdmissionPolicy '{self.prefix}{self.account}-{policy}'"


@contextmanager
def installed(apiserver: ApiServer, helm: Helm, *values: Object) -> Iterator[Installed]:
    """Install that part of a release into a namespace of its own, until the end, and wait until it is in effect."""
    with apiserver.fresh_namespace() as namespace:
        release = f"r{secrets.token_hex(4)}"
        rendering = render(helm, merged(VALUES, *values), release=release, namespace=namespace)
        objects = [one for kind in KINDS for one in rendering.all(kind)]
        try:
            for one in objects:
                apiserver.admin.create(one)
            account = rendering.one("ServiceAccount")["metadata"]["name"]
            client = apiserver.client(apiserver.token_of(namespace, account))
            prefix = f"{namespace}-" if rendering.settings["namespaces"] else ""
            made = Installed(namespace, account, client, prefix)
            _wait(made, rendering)
            yield made
        finally:
            for one in reversed(objects):
                if apiserver.admin.exists(one):
                    apiserver.admin.delete(one)


def _wait(made: Installed, rendering: Rendering) -> None:
    """Wait until the role of the operator and its policy are in effect."""
    (where, *_) = rendering.settings["namespaces"] or ["kube-public"]
    deployment = objects_of_pool(where)["Deployment"]
    deployment["metadata"] |= {"name": "web"}
    until_refused(lambda: made.operator.apply(deployment, dryRun="All"), made.denial("writes"))


def until(ask: Callable[[], Any]) -> Any:
    """Ask until it is accepted, and return the answer."""
    end = time.monotonic() + IN_EFFECT_SECONDS_MAX
    while True:
        try:
            return ask()
        except ApiError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def until_refused(ask: Callable[[], Any], why: str) -> str:
    """Ask until it is refused with *why* in the message, and return the message."""
    end = time.monotonic() + IN_EFFECT_SECONDS_MAX
    answer = ""
    while time.monotonic() < end:
        try:
            answer = str(ask())
        except ApiError as error:
            answer = error.message
            if why in answer:
                return answer
        time.sleep(0.2)
    raise AssertionError(f"not refused with {why!r} but answered: {answer}")


def objects_of_pool(
    namespace: str, name: str = "default", *, secret: str = "pyncette-backend", **spec: Any
) -> dict[str, Object]:
    """Return what the operator applies for a pool, by kind, where the workers read the URL in *secret*."""
    given = manifest_of_pool(namespace, name, **spec)
    given["metadata"]["uid"] = "0-0-1"
    backend = PoolBackend("default", secret, "url")
    made = workloads_of(accepted(PyncetteWorkerPool, given), backend, f"abc/{namespace}/{name}")
    assert not isinstance(made, Refusal), [str(problem) for problem in made.problems]
    return {manifest["kind"]: dict(manifest) for manifest in made.manifests()}
