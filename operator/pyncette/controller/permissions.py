"""
What the operator may do on a cluster: one table, from which the Roles of the chart are made.

Whatever is not here is refused by the API server. So there is no wildcard, nothing on Secrets or Pods, and no write to
CustomResourceDefinitions: what the operator needs of a Secret is mounted, and what it needs of a pod is in the backend.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.resource import GROUP
from pyncette.resources.task import PyncetteTask

CORE: Final = ""
"""The group of what Kubernetes had before there were groups."""


class Scope(StrEnum):
    """Where a permission is given."""

    NAMESPACE = "namespace"
    """In each namespace that is watched: by a Role there, or by the ClusterRole if that is all of them."""
    RELEASE = "release"
    """In the namespace that the operator itself runs in, whether it is watched or not."""
    CLUSTER = "cluster"
    """In the whole cluster. Granted only if all namespaces are watched."""
    SELECTOR = "selector"
    """In the whole cluster, too. Granted only if a backend has a selector of namespaces."""
    METRICS = "metrics"
    """In the cluster, whichever namespaces are watched, and only if readers of the metrics have to show a token."""


class Permission(NamedTuple):
    """One rule of RBAC, with its reason."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    scope: Scope = Scope.NAMESPACE


_TASKS: Final = PyncetteTask.plural
_POOLS: Final = PyncetteWorkerPool.plural
_OURS: Final = ("get", "create", "patch")
"""Desired objects are compared with existing ones and applied, which creates those that do not exist."""

PERMISSIONS: Final = (
    Permission(
        GROUP,
        (_TASKS,),
        ("get", "list", "watch"),
        "Tasks are read and never written. One that seems to be deleted is read once more by its name.",
    ),
    Permission(GROUP, (_POOLS,), ("list", "watch"), "Pools are read and never written."),
    Permission(
        GROUP,
        (f"{_TASKS}/status", f"{_POOLS}/status"),
        ("patch",),
        "The status is written, by server-side apply.",
    ),
    Permission(CORE, ("events",), ("create",), "Events report what changes for a task or a pool."),
    Permission(
        "apps",
        ("deployments",),
        (*_OURS, "list", "watch"),
        "The workers of a pool. Its status reports their rollout.",
    ),
    Permission(
        CORE,
        ("serviceaccounts",),
        _OURS,
        "The account of a pool's workers, which has no rights and no token.",
    ),
    Permission("policy", ("poddisruptionbudgets",), _OURS, "The workers of a pool are evicted one by one."),
    Permission(
        CORE,
        ("events",),
        ("create",),
        "Events about the operator itself, such as held-back removals, are attached to its own pod.",
        Scope.RELEASE,
    ),
    Permission(
        CORE,
        ("namespaces",),
        ("get",),
        "Many tasks that are deleted at once are stopped without confirmation only if their namespace is deleted. "
        "The uid of kube-system is the cluster id, unless the settings name another.",
        Scope.CLUSTER,
    ),
    Permission(
        CORE,
        ("namespaces",),
        ("list",),
        "The namespaces that the selector of a backend selects.",
        Scope.SELECTOR,
    ),
    Permission(
        "authentication.k8s.io",
        ("tokenreviews",),
        ("create",),
        "The API server tells whose token a reader of the metrics shows.",
        Scope.METRICS,
    ),
    Permission(
        "authorization.k8s.io",
        ("subjectaccessreviews",),
        ("create",),
        "The API server tells whether that account may read them.",
        Scope.METRICS,
    ),
)
"""
That an account may ask what itself may do (SelfSubjectAccessReview) is not among them: Kubernetes lets everybody ask, and
no Role could give it. Nothing is deleted: what a pool consists of is owned by it, and goes with it.
"""
