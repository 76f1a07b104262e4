"""PyncetteWorkerPool: the workers of a task module, with their image, their backend and their scale."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from pyncette.resources.modelling import (
    COUNT_MAX,
    INT32_MAX,
    PATTERNS,
    Count,
    Label,
    Model,
    Rule,
    Subdomain,
    Transition,
    refusal,
)
from pyncette.resources.resource import (
    AGE,
    API_VERSION,
    AWAITED,
    UNOBSERVED,
    Column,
    Conditions,
    Resource,
    Scale,
    condition_column,
)
from pyncette.resources.task import HandlerName

MODULE: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(:[A-Za-z_][A-Za-z0-9_]*)?$"
IMAGE: Final = "^[!-~]+$"

PATTERNS[MODULE] = "a Python module, or a module and a name in it, such as tasks or tasks:app"
PATTERNS[IMAGE] = "the reference of an image: letters, digits and punctuation of ASCII, without white space"

REPLICAS_MAX: Final = 1000
HANDLERS_MAX: Final = 1000
"""Handlers listed in a status; a module with more of them is listed in part."""

Workers = Annotated[int, Field(ge=0, le=INT32_MAX)]
"""As many as the scale subresource can count."""

PodTemplatePart = Annotated[
    dict[str, Any],
    Field(max_length=64),
    WithJsonSchema({"type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": True}),
]


class SecretRef(Model):
    """Names a Secret in the namespace of the pool."""

    name: Subdomain
    """Name of a Secret in the same namespace."""


def _named_once(secrets: tuple[SecretRef, ...]) -> tuple[SecretRef, ...]:
    # The API server holds the list to its key, without a rule that could say so.
    names = [secret.name for secret in secrets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise refusal(f"names {twice} twice: remove one of them")
    return secrets


class BackendRef(Model):
    """Names a backend in the operator's settings."""

    name: Label = "default"
    """Name of one of the backends in the operator's settings."""


class PodTemplate(Model):
    """A PodTemplateSpec of Kubernetes, of which any part may be left out."""

    metadata: PodTemplatePart = Field(default={})
    """Labels and annotations of the pods, beside the operator's own."""
    spec: PodTemplatePart = Field(default={})
    """Parts of a PodSpec. The container of the operator has the name worker."""


class PoolSpec(Model):
    """What is wanted: which image runs the handlers, on which backend, and how many workers there are."""

    image: str | None = Field(
        default=None, min_length=1, max_length=1024, pattern=IMAGE, examples=["example.org/tasks:1.0"]
    )
    """Image with the task module and the library. Required, unless external."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; as Kubernetes decides it, if it is not set."""
    image_pull_secrets: Annotated[
        tuple[SecretRef, ...],
        Field(
            max_length=16,
            strict=False,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
        AfterValidator(_named_once),
    ] = ()
    """Secrets to pull the image with."""
    module: str | None = Field(default=None, min_length=1, max_length=253, pattern=MODULE, examples=["tasks"])
    """Python module in the image that registers the handlers, or a module and a name in it: tasks:app. Required, unless external."""
    external: bool = False
    """
    Leaves the workers to the user: they run anywhere, started by any means, and the operator makes no Deployment for
    them. What then describes pods is not used. Immutable.
    """
    backend_ref: BackendRef = BackendRef()
    """Backend where the tasks of this pool are kept. It has to be open to this namespace."""
    replicas: int = Field(default=1, ge=0, le=REPLICAS_MAX)
    """Workers to run; 0 stops them all. Leave it out where an autoscaler sets it."""
    concurrency: int = Field(default=100, ge=1, le=10_000)
    """Runs that one worker has under way at a time."""
    drain_seconds: int = Field(default=30, ge=0, le=86_400)
    """Seconds that a worker which stops gives to its runs. What is not over then is released, or lost with AtMostOnce."""
    template: PodTemplate = PodTemplate()
    """
    What the pods have beyond that, as a PodTemplateSpec that is merged into the operator's as kubectl patch would do it.
    What would take them below the restricted Pod Security Standard is refused.
    """
    service_account_name: Subdomain | None = Field(default=None, examples=["reports-worker"])
    """
    An existing ServiceAccount to run as, for workload identity. By default the operator creates one without rights. An
    admission policy of the chart requires that the operator has the verb `use` on the ServiceAccount.
    """
    progress_deadline_seconds: int = Field(default=600, ge=1, le=86_400)
    """Seconds that a rollout may take until it counts as stalled."""

    rules: ClassVar = (
        Rule(
            cel="self.external || (has(self.image) && has(self.module))",
            message="image and module are required, or external: true where the workers are run by other means",
            holds=lambda self: self.external or (self.image is not None and self.module is not None),
        ),
    )
    transitions: ClassVar = (
        Transition(
            cel="self.external == oldSelf.external",
            message="external cannot be changed: create a new pool, and refer the tasks to it",
            holds=lambda before, after: before.external == after.external,
            blames=("external",),
        ),
    )


class PoolStatus(Model):
    """What the operator saw last: in the cluster, and in the backend."""

    observed_generation: int = Field(default=UNOBSERVED, ge=UNOBSERVED, le=COUNT_MAX)
    """Generation of the spec that this status is about; -1 before the operator looked for the first time."""
    conditions: Conditions = (AWAITED,)
    """Ready, Reconciling and Stalled as Flux and Argo CD read them; Available, BackendReachable."""
    realm: str | None = Field(default=None, max_length=253)
    """Name under which the backend keeps the tasks of this pool apart from all others."""
    replicas: Workers | None = None
    """Workers that there are."""
    ready_replicas: Workers | None = None
    """Workers that are ready."""
    selector: str | None = Field(default=None, max_length=1024)
    """Selector of the pods, for autoscalers."""
    handlers: Annotated[
        tuple[HandlerName, ...],
        Field(max_length=HANDLERS_MAX, strict=False, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ()
    """Handlers that the running workers have registered."""
    tasks: Count | None = None
    """Tasks that refer to this pool."""
    due: Count | None = None
    """Occurrences that wait for a worker, counted up to 10,000."""


class PyncetteWorkerPool(Resource):
    """Workers that run the handlers of one task module, with their image, their backend and their scale."""

    plural: ClassVar = "pyncetteworkerpools"
    short_name: ClassVar = "pyp"
    columns: ClassVar = (
        Column("Module", ".spec.module"),
        Column("Replicas", ".spec.replicas", "integer"),
        Column("Running", ".status.readyReplicas", "integer"),
        condition_column("Ready", "status"),
        Column("Tasks", ".status.tasks", "integer"),
        Column("Due", ".status.due", "integer"),
        AGE,
        Column("Image", ".spec.image", wide=True),
        Column("Backend", ".spec.backendRef.name", wide=True),
        condition_column("Reason", "reason", wide=True),
    )
    selectable: ClassVar = (".spec.backendRef.name",)
    scale: ClassVar = Scale(".spec.replicas", ".status.replicas", ".status.selector")

    api_version: Literal["pyncette.dev/v1alpha1"] = API_VERSION
    """Version of the API that the object is written for."""
    kind: Literal["PyncetteWorkerPool"] = "PyncetteWorkerPool"
    """Kind of the object."""
    spec: PoolSpec
    """What is wanted: which image runs the handlers, on which backend, and how many workers there are."""
    status: PoolStatus = PoolStatus()
    """What the operator saw last: in the cluster, and in the backend. Nobody else writes it."""

    rules: ClassVar = (
        Rule(
            cel="size(self.metadata.name) <= 63",
            message="the name of a pool may have 63 characters, so that it fits into a label of its pods",
            holds=lambda self: len(self.metadata.name) <= 63,
            blames=("metadata.name",),
        ),
    )
