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
    CLUSTER = "cluster"
    """In the cluster as a whole; not if namespaces are listed, since only a ClusterRole could give it."""
    CLUSTER_ID = "clusterId"
    """Likewise, and only as long as the settings name no cluster id."""


class Permission(NamedTuple):
    """One rule of RBAC, with its reason."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    scope: Scope = Scope.NAMESPACE
    names: tuple[str, ...] = ()
    """The only objects that it is given for; empty: all."""


_KINDS: Final = (PyncetteTask.plural, PyncetteWorkerPool.plural)
_OWN: Final = ("get", "list", "watch", "create", "patch", "delete")
"""Server-side apply is a patch, and a create where the object is not there yet."""

PERMISSIONS: Final = (
    Permission(
        GROUP,
        _KINDS,
        ("get", "list", "watch"),
        "Tasks and pools are read and never written: what they say is mirrored into the backend.",
    ),
    Permission(
        GROUP,
        tuple(f"{kind}/status" for kind in _KINDS),
        ("patch",),
        "The status is written by server-side apply.",
    ),
    Permission(
        CORE, ("events",), ("create", "patch"), "Transitions are told as Events; repeated ones are counted."
    ),
    Permission("apps", ("deployments",), _OWN, "The workers of a pool."),
    Permission(
        CORE, ("serviceaccounts",), _OWN, "The account of a pool's workers, which has no rights and no token."
    ),
    Permission("policy", ("poddisruptionbudgets",), _OWN, "The workers of a pool are evicted one by one."),
    Permission(
        "authorization.k8s.io",
        ("selfsubjectaccessreviews",),
        ("create",),
        "The operator asks what it may do before it watches.",
        Scope.CLUSTER,
    ),
    Permission(
        CORE,
        ("namespaces",),
        ("get",),
        "The uid of this one namespace is the cluster id, as long as the settings name no other.",
        Scope.CLUSTER_ID,
        names=("kube-system",),
    ),
)
