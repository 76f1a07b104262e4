"""The base of every custom resource: its place in the API, its metadata, and its conditions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from pyncette.resources.modelling import COUNT_MAX, Instant3339, Label, Model, Subdomain

GROUP: Final = "pyncette.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "pyncette.dev/v1alpha1"

DEFAULT_NAMESPACE: Final = "default"
"""Where an object goes that names no namespace, as with a kubectl that was told nothing else."""

UNOBSERVED: Final = -1
"""The observed generation of an object that the operator has not seen yet."""

LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=262_144)]


class Metadata(Model):
    """The part of the metadata of Kubernetes objects that has a meaning here; the rest is accepted, and left alone."""

    elsewhere: ClassVar[frozenset[str]] = frozenset(
        {
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
        }
    )
    """Fields that are Kubernetes' business alone."""

    name: Subdomain
    """Name of the object, unique among its kind in its namespace."""
    namespace: Label = DEFAULT_NAMESPACE
    """Namespace of the object."""
    labels: dict[str, LabelValue] = Field(default={}, max_length=1024)
    """Labels, for selectors."""
    annotations: dict[str, AnnotationValue] = Field(default={}, max_length=1024)
    """Annotations; some ask the operator for something once."""
    uid: str | None = Field(default=None, max_length=128)
    """Given by the API server; another object of the same name has another one."""
    generation: int | None = Field(default=None, ge=0, le=COUNT_MAX)
    """Counted up by the API server at each change of the spec."""
    creation_timestamp: Instant3339 | None = None
    """When the API server created the object."""

    @model_validator(mode="before")
    @classmethod
    def _leave_alone(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if name not in cls.elsewhere}
        return given


class Column(NamedTuple):
    """A column of `kubectl get`."""

    name: str
    path: str
    """Where its value is, as a JSONPath of Kubernetes; of several the first that there is."""
    type: Literal["string", "integer", "boolean", "date"] = "string"
    """A date is shown as the time that has passed since, so one that may lie in the future is a string."""
    wide: bool = False
    """Shown by `kubectl get -o wide` only."""


def condition_column(name: str, part: str, *, wide: bool = False) -> Column:
    """Return a column that shows a *part* of the condition Ready."""
    return Column(name, f'.status.conditions[?(@.type=="Ready")].{part}', wide=wide)


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")


class Scale(NamedTuple):
    """Where `kubectl scale` and autoscalers find what they read and write."""

    wanted: str
    running: str
    selector: str


class Resource(Model):
    """An object of the group."""

    plural: ClassVar[str]
    short_name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    selectable: ClassVar[tuple[str, ...]]
    """Fields that `--field-selector` knows."""
    scale: ClassVar[Scale | None] = None

    metadata: Metadata
    """Standard metadata of Kubernetes objects."""

    @property
    def full_name(self) -> str:
        """Namespace and name: what an object keeps, whatever is edited, restored or replaced."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


CONDITION_CHARACTERS_MAX: Final = 4096
"""Of what a condition says for people."""


class Condition(Model):
    """One aspect of the state of an object, as the operator saw it last."""

    type: str = Field(max_length=63, pattern="^[A-Z][A-Za-z]*$")
    """Aspect that this is about, for example Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(min_length=1, max_length=128, pattern="^[A-Z][A-Za-z]*$")
    """Why, in one word for programs."""
    message: str = Field(default="", max_length=CONDITION_CHARACTERS_MAX)
    """Why, in a sentence for people."""
    last_transition_time: Instant3339
    """When the status last changed."""
    observed_generation: int | None = Field(default=None, ge=0, le=COUNT_MAX)
    """Generation of the spec that this was said of."""


AWAITED: Final = Condition(
    type="Ready",
    status="Unknown",
    reason="Pending",
    message="The operator has not looked at this object yet.",
    last_transition_time=datetime(1970, 1, 1, tzinfo=UTC),
)
"""The condition of an object that was just created: a default of the schema, as only the API server is there yet."""

CONDITIONS_MAX: Final = 16

Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=CONDITIONS_MAX,
        strict=False,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
