"""Checks pools in the namespace of the operator, whose ServiceAccount and Secrets no worker may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

from pyncette.controller.cluster.api import Manifest
from pyncette.controller.reasons import Reason
from pyncette.controller.settings import OperatorSettings
from pyncette.controller.workloads.pod_security import Part, containers
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Path, Problem, Refusal


class ReleaseNamespace(NamedTuple):
    """The namespace of the operator."""

    name: str
    allows_pools: bool
    service_account: str
    """The ServiceAccount of the operator, which is empty only if no pools are allowed."""
    secrets: frozenset[str]
    """The Secrets that the operator reads."""

    @classmethod
    def of(cls, settings: OperatorSettings) -> Self:
        """Return the namespace as the *settings* describe it."""
        secrets = {backend.secret_name for backend in settings.backends}
        return cls(
            settings.release_namespace,
            settings.allow_pools_in_release_namespace,
            settings.pod_service_account,
            frozenset(secrets.union(settings.own_secrets)),
        )

    def refusal(self, pool: PyncetteWorkerPool) -> Refusal | None:
        """Return the reason why *pool* may not have workers in its namespace; None if it may."""
        if pool.metadata.namespace != self.name or pool.spec.external or self.allows_pools:
            return None
        message = (
            f"{self.name} is the namespace of the operator, where a pool could use its ServiceAccount and its Secrets; "
            "create the pool in another namespace, or set allowPoolsInReleaseNamespace in the operator's settings"
        )
        return _refusal(("metadata", "namespace"), message)

    def refusal_of(self, deployment: Manifest) -> Refusal | None:
        """Return the problem if workers of *deployment* would use the operator's ServiceAccount or Secrets; None if they would not."""
        if deployment["metadata"]["namespace"] != self.name:
            return None
        pod = Part((), deployment["spec"]["template"])
        if pod.within("spec").fields.get("serviceAccountName") == self.service_account:
            message = f"{self.service_account} is the ServiceAccount of the operator; name another one"
            return _refusal(("spec", "serviceAccountName"), message)
        for path, secret in _secrets(pod):
            if secret in self.secrets:
                message = (
                    f"{secret} is a Secret of the operator, which workers may not read. Name another one; for the URL of "
                    "a backend, by its workerSecretName in the operator's settings"
                )
                return _refusal(("spec", "template", *path), message)
        return None


def _secrets(pod: Part) -> Iterator[tuple[Path, object]]:
    """Yield the name of each Secret that a template gives to its containers, and where it stands."""
    for volume in pod.within("spec").items("volumes"):
        references = [
            (volume.within("secret"), "secretName"),
            (volume.within("csi", "nodePublishSecretRef"), "name"),
            *((source.within("secret"), "name") for source in volume.within("projected").items("sources")),
        ]
        yield from (((*part.path, name), part.fields.get(name)) for part, name in references)
    for container in containers(pod):
        references = [
            *((each.within("valueFrom", "secretKeyRef"), "name") for each in container.items("env")),
            *((each.within("secretRef"), "name") for each in container.items("envFrom")),
        ]
        yield from (((*part.path, name), part.fields.get(name)) for part, name in references)


def _refusal(path: Path, message: str) -> Refusal:
    return Refusal((Problem(path, message, Reason.NAMESPACE_REFUSED.value),))
