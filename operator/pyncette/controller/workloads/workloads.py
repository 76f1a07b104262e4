"""Makes the objects that a pool consists of in the cluster, ready to be applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    Kind,
    Manifest,
    ObjectName,
)
from pyncette.controller.reasons import Reason
from pyncette.controller.settings import DEFAULT_WORKERS, WorkerSettings
from pyncette.controller.workloads.drift import marked
from pyncette.controller.workloads.pod_template import (
    PoolBackend,
    object_name,
    pod_template,
    pool_labels,
    selector,
)
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Problem, Refusal

REVISIONS_KEPT: Final = 2
"""Old ReplicaSets, to look at. Nobody goes back to them: a rollback is an edit of the pool, which we would apply again."""

STRATEGY: Final = {
    "type": "RollingUpdate",
    # A new worker shows that it runs before an old one goes: an image that crashes stops nothing, a pool of one has no
    # gap, and there are never fewer slots than are wanted. The price is room for a quarter more, one pod at least; where
    # a quota has none, the rollout stalls with the quota's own message. Pods that drain, for hours maybe, do not count.
    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
}


class Workloads(NamedTuple):
    """The objects of a pool. All None for an external one."""

    service_account: Manifest | None = None
    """None also where the pool names one that exists. Ours then stays as it is: workers of before may run as it."""
    budget: Manifest | None = None
    deployment: Manifest | None = None

    def manifests(self) -> Iterator[Manifest]:
        """Yield what is to be applied, in order: pods cannot be made before their ServiceAccount is there."""
        for manifest in self:
            if manifest is not None:
                yield manifest


def workloads_of(
    pool: PyncetteWorkerPool, backend: PoolBackend, realm: str, workers: WorkerSettings = DEFAULT_WORKERS
) -> Workloads | Refusal:
    """
    Return what *pool* consists of, the same for the same arguments whichever release of the operator is asked, or what
    is wrong with its template.
    """
    if pool.spec.external:
        return Workloads()
    template = pod_template(pool, backend, realm, workers)
    if isinstance(template, Refusal):
        return template
    return Workloads(
        service_account=None if pool.spec.service_account_name else marked(_service_account(pool)),
        budget=marked(_budget(pool)),
        deployment=marked(_deployment(pool, template)),
    )


def deployment_name(pool: PyncetteWorkerPool) -> ObjectName:
    """Return where the Deployment of *pool* is."""
    return ObjectName(pool.metadata.namespace, object_name(pool))


def claimed_elsewhere(actual: Manifest, pool: PyncetteWorkerPool) -> Refusal | None:
    """
    Return why *actual*, an object of a name that *pool* needs, must be left alone; None: it is the pool's.

    To be asked of what is there before anything is applied by force: in the namespace of the operator, a pool of the name
    operator would otherwise take over, and with itself delete, what the operator runs as. An object of a pool that had
    another uid, before a restore or a replacement, is the pool's.
    """
    metadata = actual.get("metadata", {})
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    if [owner.get("uid") for owner in owners] == [pool.metadata.uid]:
        return None
    # It is called ours, by us: then no other kind, and no pool of another name, may control it.
    labels, ours = metadata.get("labels") or {}, _identity_of(pool)
    is_labelled = all(labels.get(name) == value for name, value in pool_labels(pool).items())
    if is_labelled and all({name: owner.get(name) for name in ours} == ours for owner in owners):
        return None
    message = (
        f"the {actual.get('kind', 'object')} {object_name(pool)} of this namespace belongs to someone else; give the pool another "
        "name, or delete that object"
    )
    return Refusal((Problem(("metadata", "name"), message, Reason.NAME_TAKEN.value),))


def _identity_of(pool: PyncetteWorkerPool) -> dict[str, Any]:
    return {"apiVersion": pool.api_version, "kind": pool.kind, "name": pool.metadata.name}


def _service_account(pool: PyncetteWorkerPool) -> dict[str, Any]:
    return _object(SERVICE_ACCOUNTS, pool) | {"automountServiceAccountToken": False}


def _budget(pool: PyncetteWorkerPool) -> dict[str, Any]:
    spec = {
        # Not minAvailable: that of a pool of one would block the drain of its node for good.
        "maxUnavailable": 1,
        # Workers that are not ready, because the backend is away or the image is broken, do not hold a node either.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector(pool)},
    }
    return _object(DISRUPTION_BUDGETS, pool) | {"spec": spec}


def _deployment(pool: PyncetteWorkerPool, template: Manifest) -> dict[str, Any]:
    spec = {
        "replicas": pool.spec.replicas,
        "selector": {"matchLabels": selector(pool)},
        "strategy": STRATEGY,
        "progressDeadlineSeconds": pool.spec.progress_deadline_seconds,
        "revisionHistoryLimit": REVISIONS_KEPT,
        "template": template,
    }
    return _object(DEPLOYMENTS, pool) | {"spec": spec}


def _object(kind: Kind, pool: PyncetteWorkerPool) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": object_name(pool),
            "namespace": pool.metadata.namespace,
            "labels": pool_labels(pool),
            "ownerReferences": [_owner(pool)],
        },
    }


def _owner(pool: PyncetteWorkerPool) -> dict[str, Any]:
    # Without blockOwnerDeletion, for which the operator would need a right on finalizers of pools.
    return {
        **_identity_of(pool),
        "uid": pool.metadata.uid or "",
        "controller": True,
    }
