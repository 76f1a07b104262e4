"""The port to the API server: a few verbs on a few kinds, and the errors of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from pyncette.errors import PyncetteException
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.resource import GROUP, VERSION
from pyncette.resources.task import PyncetteTask

FIELD_MANAGER: Final = "pyncette-operator"
"""The owner of applied fields in `metadata.managedFields`."""

PAGE: Final = 500
"""Maximum number of objects on a page of a list, as in the API server's own clients."""

Manifest: TypeAlias = Mapping[str, Any]
"""An object as JSON."""


class Kind(NamedTuple):
    """A kind of objects, as its place in the API names it."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


TASKS: Final = Kind(GROUP, VERSION, PyncetteTask.plural, PyncetteTask.__name__)
POOLS: Final = Kind(GROUP, VERSION, PyncetteWorkerPool.plural, PyncetteWorkerPool.__name__)
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
SERVICE_ACCOUNTS: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
DISRUPTION_BUDGETS: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")

KUBE_SYSTEM: Final = "kube-system"
"""The namespace whose uid identifies a cluster: it is created with the cluster and lives as long."""

PODS: Final = Kind("", "v1", "pods", "Pod")
"""Only the subject of Events about the operator itself; nothing is read of it."""

NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace")

OWN_KINDS: Final = (TASKS, POOLS)
"""Those of the CRDs: without them there is nothing to do."""

ALL_KINDS: Final = (TASKS, POOLS, DEPLOYMENTS, SERVICE_ACCOUNTS, DISRUPTION_BUDGETS)
"""All that the operator reads or writes, Events aside."""

_KINDS: Final = {(kind.api_version, kind.name): kind for kind in ALL_KINDS}


def kind_of(manifest: Manifest) -> Kind:
    """Return the kind that *manifest* says it is of, which is one of ours."""
    return _KINDS[manifest["apiVersion"], manifest["kind"]]


class ObjectName(NamedTuple):
    """Which object of a kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Reference(NamedTuple):
    """Which object of which kind."""

    kind: Kind
    namespace: str
    name: str

    @property
    def object_name(self) -> ObjectName:
        return ObjectName(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"


class Page(NamedTuple):
    """A part of a list."""

    items: Sequence[Manifest]
    resource_version: str
    """Of the list as a whole, the same on each of its pages."""


class ApiError(PyncetteException):
    """The API server did not carry out a request."""


class ApiUnavailableError(ApiError):
    """The API server did not answer, or cannot now. The outcome of the request is unknown; it is retried later."""


class ConflictError(ApiError):
    """The object is another by now: begin again from what there is."""


class NoSuchObjectError(ApiError):
    """There is no object of that name: the answer names it, so its kind is served."""


class NoSuchKindError(ApiError):
    """The kind itself is not served: its CRD is gone, and nothing is known of the objects."""


class ForbiddenError(ApiError):
    """The operator may not do this here."""


class RefusedError(ApiError):
    """The object itself is not acceptable, and will not be when it is sent again. The message is the API server's."""


class Api(Protocol):
    """
    The API server. Every verb raises ApiError of one of the kinds above, and no error of a client library.

    Each request has a timeout and is tried once: the caller decides when to retry.
    """

    def list(self, kind: Kind, namespace: str | None, labels: str = "") -> AsyncIterator[Page]:
        """
        Yield the objects of *kind* in *namespace*, or in all, page by page; *labels* is a selector.

        All verbs return objects of our own kinds reduced (see `reduction`).

        The list is as new as the API server can make it (no cached one). A list whose pages expire half way raises
        ApiUnavailableError: it is no list.
        """
        ...

    async def get(self, kind: Kind, name: ObjectName) -> Manifest:
        """Return an object. NoSuchObjectError only if the answer says that this object is not there, not just "404"."""
        ...

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply an object server-side, as `FIELD_MANAGER` and by force, and return what became of it."""
        ...

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """
        Apply the status alone. With `metadata.resourceVersion`, ConflictError if the object has another by now.

        Raises NoSuchObjectError if it is gone: a status never makes an object.
        """
        ...

    async def create_event(self, namespace: str, event: Manifest) -> None:
        """Create a core/v1 Event."""
        ...

    async def may(self, verb: str, kind: Kind, namespace: str | None) -> bool:
        """Return whether the operator may do *verb* there (a SelfSubjectAccessReview)."""
        ...

    async def uid_of_namespace(self, name: str) -> str:
        """Return the uid of a namespace."""
        ...

    async def is_namespace_ending(self, name: str) -> bool:
        """Return whether a namespace is terminating or does not exist. Needs the right to read namespaces."""
        ...

    async def namespaces_with(self, labels: str) -> frozenset[str]:
        """Return the names of all namespaces with *labels*, which is a selector. Needs the right to list namespaces."""
        ...

    async def served(self) -> frozenset[str]:
        """Return the plurals of our group that the API server serves now; empty without our CRDs."""
        ...
