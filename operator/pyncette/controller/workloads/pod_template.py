"""Builds the pod template of a pool: one worker per pod, compliant with the restricted Pod Security Standard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pyncette.controller.cluster.api import Manifest
from pyncette.controller.reasons import Reason
from pyncette.controller.settings import DEFAULT_WORKERS, WorkerSettings
from pyncette.controller.workloads.pod_security import PROBES, Part, Violation, violations
from pyncette.controller.workloads.strategic_merge import MergeRefusedError, item_named, merge
from pyncette.controller.workloads.worker_resources import default_resources
from pyncette.resources.pool import PoolSpec, PyncetteWorkerPool
from pyncette.resources.reading import Path, Problem, Refusal
from pyncette.resources.resource import GROUP
from pyncette.store.tls import CA_FILE, Tls

CONTAINER: Final = "worker"
BACKEND_VOLUME: Final = "pyncette-backend"
BACKEND_FOLDER: Final = "/etc/pyncette/backend"
BACKEND_FILE: Final = "url"
HEALTH_PORT: Final = 8080
METRICS_PORT: Final = 9090

POOL_LABEL: Final = f"{GROUP}/pool"
NAME: Final = "pyncette-worker"

EXTRA_GRACE_SECONDS: Final = 10
"""The time of a worker after its drain: to cancel, to release, to write the last completions, to deregister."""

STUCK_GRACE_SECONDS: Final = 30
"""For a worker that failed its probes: its loop is stuck, so it will not drain, and waiting as long gains nothing."""

STARTUP_SECONDS: Final = 300
"""Health is served once the task module is imported, which on a cold node that throttles may take minutes."""

STARTUP_PERIOD_SECONDS: Final = 2
"""Often, as a new worker counts only from the first success."""

READ_ONLY: Final = 0o444
"""Of the file with the backend's URL. Readable by any user: an image, or a platform, chooses which one it runs as."""

TEMPLATE: Final[Path] = ("spec", "template")
"""Where the user's part stands in the pool."""


class PoolBackend(NamedTuple):
    """A backend, as the pods of a pool get it."""

    name: str
    secret_name: str
    """A Secret in the pool's namespace."""
    secret_key: str
    """The one of its keys that holds the URL; pods see no other but that with the authorities to trust."""
    tls: str = Tls.REQUIRED.value


def pool_labels(pool: PyncetteWorkerPool) -> dict[str, str]:
    """Return the labels of all objects of a pool. The operator's version is none: an upgrade must not restart workers."""
    return {
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/instance": pool.metadata.name,
        "app.kubernetes.io/managed-by": "pyncette-operator",
        POOL_LABEL: pool.metadata.name,
    }


def selector(pool: PyncetteWorkerPool) -> dict[str, str]:
    """Return what the pods of a pool, and no others in its namespace, are labelled with. A Deployment never changes it."""
    return {POOL_LABEL: pool.metadata.name}


def pod_template(
    pool: PyncetteWorkerPool, backend: PoolBackend, realm: str, workers: WorkerSettings = DEFAULT_WORKERS
) -> dict[str, Any] | Refusal:
    """Return the PodTemplateSpec of a pool, the user's part merged in, or what is wrong with that part."""
    ours = own_template(pool, backend, realm, workers)
    theirs = {
        name: part
        for name, part in (("metadata", pool.spec.template.metadata), ("spec", pool.spec.template.spec))
        if part
    }
    try:
        merged = merge(ours, theirs)
    except MergeRefusedError as error:
        return Refusal((_problem(error.path, error.message),))
    problems = (*_overreaching(ours, merged), *map(_below_restricted, violations(merged)))
    return Refusal(problems) if problems else merged


# --- Ours ------------------------------------------------------------------------------------------------------------


def own_template(
    pool: PyncetteWorkerPool, backend: PoolBackend, realm: str, workers: WorkerSettings = DEFAULT_WORKERS
) -> dict[str, Any]:
    """
    Return the PodTemplateSpec without the user's part.

    Nothing in it depends on anything but the pool, its backend, its realm and the settings for *workers*: what changes
    here restarts every worker of every pool when the operator is upgraded.
    """
    spec = pool.spec
    return {
        "metadata": {
            "labels": pool_labels(pool),
            # Containers that a template adds go before ours, and kubectl logs is to show the worker still.
            "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
        },
        "spec": {
            "serviceAccountName": spec.service_account_name or object_name(pool),
            # Said here as well as at the account, so that it also holds for an account that the pool names.
            "automountServiceAccountToken": False,
            # Hundreds of Services in a namespace would become as many variables of the environment.
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": spec.drain_seconds + EXTRA_GRACE_SECONDS,
            "topologySpreadConstraints": [
                _spread(pool, key) for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
            ],
            "containers": [_worker(spec, backend, realm, workers)],
            "volumes": [
                {
                    "name": BACKEND_VOLUME,
                    "projected": {
                        "sources": [
                            {"secret": _key(backend, backend.secret_key, BACKEND_FILE)},
                            {"secret": _key(backend, CA_FILE, CA_FILE) | {"optional": True}},
                        ],
                        "defaultMode": READ_ONLY,
                    },
                },
                {"name": "tmp", "emptyDir": {"sizeLimit": workers.tmp_size_limit}},
            ],
        }
        | _pull_secrets(spec),
    }


def object_name(pool: PyncetteWorkerPool) -> str:
    """Return the name of the Deployment, the ServiceAccount and the PodDisruptionBudget of a pool."""
    return f"pyncette-{pool.metadata.name}"


def _key(backend: PoolBackend, key: str, path: str) -> dict[str, Any]:
    return {"name": backend.secret_name, "items": [{"key": key, "path": path}]}


def _pull_secrets(spec: PoolSpec) -> dict[str, Any]:
    secrets = [{"name": secret.name} for secret in spec.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def _spread(pool: PyncetteWorkerPool, topology_key: str) -> dict[str, Any]:
    """Spread workers where that can be had. A template that names the same topology decides what else."""
    return {
        "topologyKey": topology_key,
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(pool)},
        # Workers that a rollout is about to replace do not count.
        "matchLabelKeys": ["pod-template-hash"],
    }


def _worker(spec: PoolSpec, backend: PoolBackend, realm: str, workers: WorkerSettings) -> dict[str, Any]:
    assert spec.image is not None
    assert spec.module is not None
    pull = {} if spec.image_pull_policy is None else {"imagePullPolicy": spec.image_pull_policy}
    given = _worker_of(Part((), {"spec": spec.template.spec}))
    resources = default_resources(workers, given.within("resources"))
    return {
        "name": CONTAINER,
        "image": spec.image,
        **pull,
        "args": ["worker", spec.module],
        "env": [{"name": name, "value": value} for name, value in _environment(spec, backend, realm).items()],
        "ports": [
            {"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": "health"},
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "failureThreshold": STARTUP_SECONDS // STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "terminationGracePeriodSeconds": STUCK_GRACE_SECONDS,
        },
        # Unlive is a worker that is stuck for good, as it says itself or shows by two minutes of silence. A shorter
        # time would kill one whose handlers hold the interpreter, or whose node is busy, and lose what it runs.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "health"},
            "periodSeconds": 20,
            "failureThreshold": 6,
            "timeoutSeconds": 10,
            "terminationGracePeriodSeconds": STUCK_GRACE_SECONDS,
        },
        # No traffic depends on it: it shows rollouts and people whether this worker reaches its backend.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "health"},
            "periodSeconds": 5,
            "failureThreshold": 3,
            "timeoutSeconds": 5,
        },
        **({"resources": resources} if resources else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": BACKEND_VOLUME, "mountPath": BACKEND_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - of the pod alone
        ],
    }


def _environment(spec: PoolSpec, backend: PoolBackend, realm: str) -> dict[str, str]:
    return {
        "PYNCETTE_BACKEND_FILE": f"{BACKEND_FOLDER}/{BACKEND_FILE}",
        "PYNCETTE_BACKEND_TLS": backend.tls,
        # A $ would begin the name of another variable, if the cluster's id had one.
        "PYNCETTE_REALM": realm.replace("$", "$$"),
        "PYNCETTE_CONCURRENCY": str(spec.concurrency),
        "PYNCETTE_DRAIN_SECONDS": str(spec.drain_seconds),
        "PYNCETTE_HEALTH": str(HEALTH_PORT),
        "PYNCETTE_METRICS": str(METRICS_PORT),
        "PYNCETTE_LOG_FORMAT": "json",
    }


# --- What a template may not say -------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """Something in our template that stays as it is."""

    path: Path
    """Below the PodTemplateSpec."""
    hint: str
    of: Callable[[Part], Any]
    """The value in a template."""


def _worker_of(pod: Part) -> Part:
    found = [item for item in pod.within("spec").items("containers") if item.fields.get("name") == CONTAINER]
    return found[0] if found else Part((), {})


def _named(part: Part, listing: str, key: str, value: str | int) -> Mapping[str, Any] | None:
    found = [item.fields for item in part.items(listing, key) if item.fields.get(key) == value]
    return found[0] if found else None


_WORKER_PATH: Final[Path] = ("spec", "containers", item_named("name", CONTAINER))


def _of_worker(name: str, hint: str) -> Claim:
    return Claim((*_WORKER_PATH, name), hint, lambda pod: _worker_of(pod).fields.get(name))


def _variable(name: str, hint: str) -> Claim:
    path = (*_WORKER_PATH, "env", item_named("name", name))
    return Claim(path, hint, lambda pod: _named(_worker_of(pod), "env", "name", name))


def _port(number: int, hint: str) -> Claim:
    path = (*_WORKER_PATH, "ports", item_named("containerPort", number))
    return Claim(path, hint, lambda pod: _named(_worker_of(pod), "ports", "containerPort", number))


def _of_pod(name: str, hint: str) -> Claim:
    return Claim(("spec", name), hint, lambda pod: pod.within("spec").fields.get(name))


def _label(name: str) -> Claim:
    path = ("metadata", "labels", name)
    hint = "is set by the operator, which finds the pods of a pool by it; leave it out"
    return Claim(path, hint, lambda pod: pod.within("metadata", "labels").fields.get(name))


_PROBED = "is set by the operator, which knows what a worker answers; leave it out"
_MOUNTED = "holds the URL of the backend; take another name and another path, or write spec.backendRef"

CLAIMS: Final = (
    *map(_label, ("app.kubernetes.io/name", "app.kubernetes.io/instance")),
    *map(_label, ("app.kubernetes.io/managed-by", POOL_LABEL)),
    _of_worker("image", "write it to spec.image"),
    _of_worker("imagePullPolicy", "write it to spec.imagePullPolicy"),
    _of_worker("command", "is the image's ENTRYPOINT, which is pyncette; leave it out"),
    _of_worker("args", "write the task module to spec.module, and settings to env"),
    *(_of_worker(probe, _PROBED) for probe in PROBES),
    _of_pod("serviceAccountName", "write it to spec.serviceAccountName"),
    _of_pod("serviceAccount", "write it to spec.serviceAccountName"),
    _of_pod("terminationGracePeriodSeconds", "follows from spec.drainSeconds; write it there"),
    _variable("PYNCETTE_BACKEND", "the URL comes from a Secret; write spec.backendRef"),
    _variable("PYNCETTE_BACKEND_FILE", "the URL comes from a Secret; write spec.backendRef"),
    _variable("PYNCETTE_BACKEND_TLS", "the operator's settings say it for the backend; leave it out"),
    _variable("PYNCETTE_REALM", "the realm is that of the pool; leave it out"),
    _variable("PYNCETTE_CONCURRENCY", "write it to spec.concurrency"),
    _variable("PYNCETTE_DRAIN_SECONDS", "write it to spec.drainSeconds"),
    _variable("PYNCETTE_HEALTH", "the probes ask there; leave it out"),
    _variable("PYNCETTE_METRICS", "metrics are collected there; leave it out"),
    _port(HEALTH_PORT, "the probes ask there; leave it out"),
    _port(METRICS_PORT, "metrics are collected there; leave it out"),
    Claim(
        ("spec", "volumes", item_named("name", BACKEND_VOLUME)),
        _MOUNTED,
        lambda pod: _named(pod.within("spec"), "volumes", "name", BACKEND_VOLUME),
    ),
    Claim(
        (*_WORKER_PATH, "volumeMounts", item_named("mountPath", BACKEND_FOLDER)),
        _MOUNTED,
        lambda pod: _named(_worker_of(pod), "volumeMounts", "mountPath", BACKEND_FOLDER),
    ),
)
"""Fields whose value, or absence, the merge must not change."""


def _overreaching(ours: Manifest, merged: Manifest) -> Iterator[Problem]:
    """Yield what a template changes, or removes, that is not its to decide."""
    if not _worker_of(Part((), merged)).fields:
        yield _problem(_WORKER_PATH, "is the worker itself; it cannot be removed")
        return
    for claim in CLAIMS:
        if claim.of(Part((), ours)) != claim.of(Part((), merged)):
            yield _problem(claim.path, claim.hint)
    for hook in ("preStop", "stopSignal"):
        if _worker_of(Part((), merged)).within("lifecycle").has(hook):
            yield _problem(
                (*_WORKER_PATH, "lifecycle", hook),
                "would take the time that spec.drainSeconds gives to runs; leave it out",
            )


def _below_restricted(found: Violation) -> Problem:
    return _problem(found.path, f"{found.message} ({found.check} of the restricted Pod Security Standard)")


def _problem(path: Path, message: str) -> Problem:
    return Problem((*TEMPLATE, *path), message, Reason.TEMPLATE_REFUSED.value)
