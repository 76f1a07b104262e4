"""The settings of the operator: one file, that the chart writes, checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from pyncette.errors import ConfigurationError
from pyncette.resources.documents import Document, documents
from pyncette.resources.modelling import Count, Label, Model, Rule, Subdomain
from pyncette.resources.quantity import Quantity, number_of
from pyncette.resources.reading import Refusal, read_settings
from pyncette.store.backend import Administrator, Backend, Roles
from pyncette.store.backend_file import read_backend_file
from pyncette.store.tls import Tls

ALL_NAMESPACES: Final = "*"

Port = Annotated[int, Field(ge=0, le=65_535)]


LABEL_KEY: Final = r"^([-a-z0-9.]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


class NamespaceSelector(Model):
    """Namespaces, by their labels."""

    match_labels: dict[
        Annotated[str, Field(max_length=317, pattern=LABEL_KEY)],
        Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)],
    ] = Field(min_length=1, max_length=100)
    """Labels that a namespace has, all of them."""

    @property
    def text(self) -> str:
        """The selector in the syntax of a request to the API server."""
        return ",".join(f"{key}={value}" for key, value in self.match_labels.items())


class RoleSettings(Model):
    """Roles of a database of its own that the operator creates: that of its URL owns the tables, and workers have another."""

    administrator: str = Field(default="postgres", min_length=1, max_length=63)
    """The superuser who creates them."""
    password_file: str = Field(min_length=1, max_length=4096)
    """The file with the superuser's password, as it is mounted for the operator."""
    worker_url_file: str = Field(min_length=1, max_length=4096)
    """The file with the URL of the workers, as it is mounted for the operator."""

    def of(self, backend: Backend) -> Roles:
        """Return the roles, to be created in the database of *backend*. Raises ConfigurationError."""
        try:
            password = Path(self.password_file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self.password_file} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        return backend.roles(
            read_backend_file(self.worker_url_file), Administrator(self.administrator, password)
        )


class BackendSettings(Model):
    """A backend that pools may name."""

    name: Label = "default"
    """The name that `backendRef.name` of a pool refers to."""
    secret_name: Subdomain = "pyncette-backend"  # noqa: S105 - the name of a Secret, not one
    """The Secret with the URL: in the namespace of each pool, where its workers mount it, and mounted for the operator."""
    worker_secret_name: Annotated[str, Field(max_length=253)] = ""
    """The Secret that workers mount instead, with the same key; empty: one of the same name."""
    secret_key: str = Field(default="url", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """The key in that Secret."""
    url_file: str = Field(default="", max_length=4096)
    """The file with the URL, as it is mounted for the operator; by default after the name of the backend."""
    tls: Literal["Required", "Preferred", "Disabled"] = "Required"
    """Encryption of its connections. Required: verify certificate and host name, by ca.crt of the Secret if it is there."""
    namespaces: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=10_000, strict=False)
    ] = ()
    """Namespaces whose pools may use it; "*": all."""
    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose pools may use it, by their labels, instead of a list."""
    migrate: Literal["Auto", "Manual"] = "Auto"
    """Whether the operator migrates its tables to the schema of this release at startup."""
    roles: RoleSettings | None = None
    """The roles that the operator creates, of the embedded database; None: they exist."""

    @property
    def secret_of_workers(self) -> str:
        """The Secret that workers mount, in the namespace of their pool."""
        return self.worker_secret_name or self.secret_name

    @property
    def path(self) -> Path:
        """Where the URL stands."""
        return Path(self.url_file or f"/etc/pyncette/backends/{self.name}/{self.secret_key}")

    @property
    def places(self) -> set[Path]:
        """The files of its URLs, that of the workers included, without symbolic links."""
        files = [self.path, *([Path(self.roles.worker_url_file)] if self.roles else ())]
        return {file.resolve() for file in files}

    def read(self) -> Backend:
        """Return the backend, whose file is read again for each connection. Raises ConfigurationError."""
        return read_backend_file(str(self.path), Tls(self.tls))

    rules: ClassVar = (
        Rule(
            cel="",
            message='is required: list the namespaces whose pools may use the backend ("*" for all), or write a '
            "namespaceSelector instead",
            holds=lambda self: bool(self.namespaces or self.namespace_selector),
            blames=("namespaces",),
        ),
        Rule(
            cel="",
            message="stands instead of namespaces; remove one of them",
            holds=lambda self: not (self.namespaces and self.namespace_selector),
            blames=("namespace_selector",),
        ),
    )


class SweepSettings(Model):
    """When tasks that are gone are too many at once to be believed, and what is said beforehand about that."""

    confirm: Count = 0
    """As many removals as were held back, to let them happen at this start."""
    share_percent: int = Field(default=20, ge=0, le=100)
    """Percentage of a namespace's tasks that may be removed within an hour without confirmation."""
    least: Count = 5
    """Number of tasks of a namespace that may be removed within an hour in any case."""


class NamespaceSettings(Model):
    """The limits of one namespace."""

    passes: int = Field(default=8, ge=1, le=32)
    """Maximum concurrent passes of a namespace, of 32 in all, so that a slow backend of one team does not block the others."""


Quantities = dict[Annotated[str, Field(min_length=1, max_length=317)], Quantity]


class ResourceSettings(Model):
    """Requests and limits of a container, by the name of the resource."""

    requests: Quantities = Field(default={}, max_length=20)
    """What the scheduler reserves on a node."""
    limits: Quantities = Field(default={}, max_length=20)
    """What the container may use at most."""

    rules: ClassVar = (
        Rule(
            cel="",
            message="must not exceed the limits",
            holds=lambda self: all(
                number_of(request) <= number_of(self.limits.get(name, request))
                for name, request in self.requests.items()
            ),
            blames=("requests",),
        ),
    )


class WorkerSettings(Model):
    """Defaults of the workers' pods, which the template of a pool overrides."""

    resources: ResourceSettings = ResourceSettings(
        # A worker whose handlers do nothing takes 40 to 80 MiB and less than a hundredth of a core.
        requests={"cpu": "100m", "memory": "128Mi"},
        # No limit of CPU: a worker that is throttled renews its leases late, and others then run the same occurrences.
        limits={"memory": "512Mi"},
    )
    """Resources of the container of the worker."""
    tmp_size_limit: Quantity = "1Gi"
    """Size of /tmp, which is the node's disk. The kubelet evicts a pod that writes more."""


DEFAULT_WORKERS: Final = WorkerSettings()


class OperatorSettings(Model):
    """All of them."""

    cluster_id: str = Field(default="", max_length=128, pattern=r"^[-A-Za-z0-9_.]*$")
    """Name of this cluster in the backends; by default the uid of the namespace kube-system, which a rebuilt cluster does not have."""
    namespaces: Annotated[tuple[Label, ...], Field(max_length=1000, strict=False)] = ()
    """Namespaces to watch; none: all of the cluster."""
    release_namespace: Label = "default"
    """Namespace that the operator runs in."""
    allow_pools_in_release_namespace: bool = False
    """Whether pools there may have workers, though without the operator's ServiceAccount and without its Secrets."""
    own_secrets: Annotated[tuple[Subdomain, ...], Field(max_length=1000, strict=False)] = ()
    """Secrets that the operator's pod reads, besides those of the backends."""
    pod_service_account: str = Field(default="", max_length=253)
    """ServiceAccount of the operator's own pod."""
    pod_name: str = Field(default="", max_length=253)
    """Name of the operator's own pod, which Events about it are shown at."""
    pod_uid: str = Field(default="", max_length=128)
    """And its uid."""
    backends: Annotated[tuple[BackendSettings, ...], Field(min_length=1, max_length=100, strict=False)]
    """Backends that pools may name."""
    resync_seconds: int = Field(default=300, ge=5, le=86_400)
    """How often all resources are listed, and compared with what was seen and with the backends."""
    withdrawal_grace_seconds: int = Field(default=86_400, ge=0, le=366 * 86_400)
    """How long the record of a resource that is gone is kept, stopped: one that returns within it loses nothing."""
    status_writes_per_second: int = Field(default=50, ge=1, le=10_000)
    """Writes of statuses, of all resources together."""
    per_namespace: NamespaceSettings = NamespaceSettings()
    """Limits of each namespace. For everything else, namespaces take turns."""
    record_mebibytes_per_namespace: int = Field(default=64, ge=1, le=65_536)
    """Approximate memory for the records of a namespace on a backend, in MiB. Beyond it, its tasks are not reconciled."""
    record_mebibytes_per_backend: int = Field(default=192, ge=1, le=65_536)
    """Approximate memory for all records of a backend, in MiB."""
    record_mebibytes: int = Field(default=192, ge=1, le=65_536)
    """Approximate memory for the records of all backends, in MiB. The namespace with the most gives way to one with fewer."""
    workers: WorkerSettings = DEFAULT_WORKERS
    """Defaults of the pods of all pools. A change restarts the workers that it concerns."""
    sweep: SweepSettings = SweepSettings()
    """About resources that are gone, and were not seen to go."""
    health: Port = 8080
    """Port of /healthz and /readyz."""
    metrics: Port = 9090
    """Port of /metrics; 0: none."""
    metrics_certificate: str = Field(default="", max_length=4096)
    """Folder with tls.crt and tls.key, as they are mounted, for metrics over TLS; empty: without TLS."""
    metrics_authentication: bool = False
    """Whether to show metrics only to accounts that may get the non-resource URL /metrics, by their bearer tokens."""
    log_format: Literal["text", "json"] = "json"
    """How lines of the log are written."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least that is logged."""

    rules: ClassVar = (
        Rule(
            cel="",
            message="clusterId is required where namespaces are listed: to read the uid of kube-system takes a right "
            "beyond them. Any name that no other cluster on the same backends has will do, and it must stay",
            holds=lambda self: bool(self.cluster_id) or not self.namespaces,
            blames=("cluster_id",),
        ),
        Rule(
            cel="",
            message="is required with allowPoolsInReleaseNamespace, so that no pool runs as the operator's ServiceAccount",
            holds=lambda self: bool(self.pod_service_account) or not self.allow_pools_in_release_namespace,
            blames=("pod_service_account",),
        ),
        Rule(
            cel="",
            message="requires metricsCertificate: without TLS, the tokens of readers could be read on the network",
            holds=lambda self: bool(self.metrics_certificate) or not self.metrics_authentication,
            blames=("metrics_authentication",),
        ),
        Rule(
            cel="",
            message="a namespaceSelector takes the right to list the namespaces of the cluster, which the operator does "
            "not have where namespaces are listed: list those of the backend, too",
            holds=lambda self: (
                not (self.namespaces and any(backend.namespace_selector for backend in self.backends))
            ),
            blames=("backends",),
        ),
        Rule(
            cel="",
            message="two backends have the same name",
            holds=lambda self: len({backend.name for backend in self.backends}) == len(self.backends),
            blames=("backends",),
        ),
    )

    def backend(self, name: str) -> BackendSettings | None:
        """Return the backend of this name, if there is one."""
        return next((backend for backend in self.backends if backend.name == name), None)

    def tls_of(self, file: Path) -> Tls | None:
        """Return the encryption of the backend whose URL is in *file*; None: no backend has that file."""
        place = file.resolve()
        return next((Tls(backend.tls) for backend in self.backends if place in backend.places), None)

    def watches(self, namespace: str) -> bool:
        """Return whether resources in *namespace* are this operator's business."""
        return not self.namespaces or namespace in self.namespaces


def load_settings(path: Path, environment: Mapping[str, str]) -> OperatorSettings:
    """
    Return the settings in the file at *path*. POD_NAME, POD_UID, POD_SERVICE_ACCOUNT and POD_NAMESPACE describe the pod,
    unless the file does.

    Raises ConfigurationError with all problems.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read the operator's settings: {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    given = {**_from(environment), **_mapping(text, path)}
    settings = read_settings(OperatorSettings, given)
    if isinstance(settings, Refusal):
        raise ConfigurationError("; ".join(f"{path}: {problem}" for problem in settings.problems))
    return settings


def _from(environment: Mapping[str, str]) -> dict[str, str]:
    variables = {
        "podName": "POD_NAME",
        "podUid": "POD_UID",
        "podServiceAccount": "POD_SERVICE_ACCOUNT",
        "releaseNamespace": "POD_NAMESPACE",
    }
    return {field: environment[name] for field, name in variables.items() if environment.get(name)}


def _mapping(text: str, path: Path) -> dict[str, Any]:
    found = list(documents(text))
    if not found:
        return {}
    (first, *more) = found
    if not isinstance(first, Document):
        raise ConfigurationError(f"{path}:{first.spot.line}: {first.message}")
    if more or not isinstance(first.value, dict):
        raise ConfigurationError(f"{path}: must be a mapping of names to values")
    if first.faults:
        fault = first.faults[0]
        raise ConfigurationError(f"{path}:{fault.spot.line}: {fault.message}")
    return first.value
