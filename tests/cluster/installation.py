"""The operator as a platform team installs it: by Helm, with the embedded PostgreSQL, in a namespace of its own."""

import json
import secrets
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.kubectl import Kubectl
from tests.servers.certificates import Certificate, make_certificate
from tests.servers.tools import Helm, HelmRefusedError

CHART: Final = ROOT / "charts" / "pyncette-operator"

NAMESPACE: Final = "pyncette"
RELEASE: Final = "pyncette"
SECRET: Final = "pyncette-postgresql"
DATABASE: Final = "pyncette-operator-postgresql"
"""Name of the StatefulSet, the Service and the claim of the embedded PostgreSQL."""

OWNER: Final = "pyncette_operator"
WORKER: Final = "pyncette_worker"
"""The roles that the operator creates in the embedded PostgreSQL, for itself and for workers."""

CRDS: Final = ("pyncettetasks.pyncette.dev", "pyncetteworkerpools.pyncette.dev")

OPERATOR: Final = "deployment/pyncette-operator"

URL_FILE: Final = "/etc/pyncette/backends/default/url"
"""Where the operator finds the URL of its backend."""

SCRATCH: Final = {"data": "/data", "run": "/var/run/postgresql", "tmp": "/tmp"}

INSTALL_SECONDS_MAX: Final = 180
"""It takes twenty seconds, of which half go into the first start of PostgreSQL; a laden machine takes longer."""

Values = Mapping[str, Any]


class OtherDatabase(NamedTuple):
    """A database that no chart has installed."""

    url: str
    authority: Path
    """What vouches for its certificate."""


class Installation:
    """One release of the chart, and what it leaves behind when it is gone."""

    def __init__(self, cluster: Cluster, helm: Helm, image: str, postgres: str) -> None:
        self.kubectl = Kubectl(cluster.kubeconfig, NAMESPACE)
        self._passwords = {role: secrets.token_hex(8) for role in ("postgres", OWNER, WORKER)}
        self._host = DATABASE
        self._cluster = cluster
        self._helm = helm
        self._images = (image, postgres)
        self._session = secrets.token_hex(4)
        self._installed: dict[str, Any] | None = None

    # --- Helm ----------------------------------------------------------------------------------------------------

    def values(self, settings: Values | None = None, **more: Any) -> dict[str, Any]:
        """
        Return the values of the tests, with more *settings* of the operator, and *more* at the top level.

        All namespaces may use the embedded database, and may go with their tasks: each test's does.
        """
        (repository, tag), (database, database_tag) = (image.rsplit(":", 1) for image in self._images)
        embedded = {
            "enabled": True,
            "secretName": SECRET,
            "namespaces": ["*"],
            "image": {"repository": database, "tag": database_tag},
        }
        return {
            "image": {"repository": repository, "tag": tag},
            "backend": {"embedded": embedded},
            "settings": {"sweep": {"least": 10_000}, **(settings or {})},
            # The same tag may be another image than in the session before, on a cluster that outlives them.
            "podAnnotations": {"pyncette.dev/tests-session": self._session},
            # Another database of the server, which is open to no namespace of a test.
            "backends": [
                {
                    "name": "private",
                    "secretName": SECRET,
                    "secretKey": "private",
                    "tls": "Disabled",
                    "namespaces": ["private"],
                }
            ],
            **more,
        }

    def ensure(self, values: Values | None = None) -> None:
        """Have the release installed with these values (else `values()`), and the operator ready. A second call costs little."""
        wanted = dict(values if values is not None else self.values())
        if self._installed != wanted:
            self.prepare()
            self.install(RELEASE, wanted)
            self._installed = wanted
        else:
            self.wait_until_ready()

    def prepare(self) -> None:
        """Make what the chart asks for: the namespace, the Secret, and a volume where there is no StorageClass."""
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.kubectl.run(
            "label", "--overwrite", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"
        )
        kept = self.kubectl.get("secret", SECRET)
        if kept:
            # So is the volume, from a session before on a cluster that outlives them.
            for role, key in {"postgres": "password", OWNER: "url", WORKER: "worker-url"}.items():
                value = b64decode(kept["data"][key]).decode()
                self._passwords[role] = urlsplit(value).password or value
        self.kubectl.apply(self.own_secret())
        self._cluster.provide_volume(NAMESPACE, DATABASE)

    @property
    def url(self) -> str:
        """The URL of the database for the operator, which owns the tables."""
        return self._url(OWNER)

    @property
    def worker_url(self) -> str:
        """The URL of the database for workers."""
        return self._url(WORKER)

    def _url(self, role: str, database: str = "pyncette") -> str:
        return f"postgresql://{role}:{self._passwords[role]}@{self._host}.{NAMESPACE}.svc:5432/{database}"

    def own_secret(self) -> dict[str, Any]:
        """Return the Secret that the operator and the embedded database read here."""
        return _secret(
            {
                "url": self.url,
                "worker-url": self.worker_url,
                "password": self._passwords["postgres"],
                "private": self._url("postgres", "postgres"),
            }
        )

    def secret(self) -> dict[str, Any]:
        """Return the Secret that workers read in the namespace of their pool."""
        return _secret({"url": self.worker_url})

    def install(self, release: str, values: Values, chart: Path = CHART) -> str:
        """Install or upgrade a release, and return once all of it is ready, with what Helm printed."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(values), file)
            file.flush()
            return self._run(
                "upgrade", release, chart, "--install", "--values", file.name,
                "--wait", "--timeout", f"{INSTALL_SECONDS_MAX}s",
            )  # fmt: skip

    def rollback(self, release: str = RELEASE) -> None:
        """Go back to the revision before."""
        self._installed = None
        self._run("rollback", release, "--wait", "--timeout", f"{INSTALL_SECONDS_MAX}s")

    def uninstall(self, release: str = RELEASE) -> None:
        self._installed = None
        self._run("uninstall", release, "--wait", "--timeout", f"{INSTALL_SECONDS_MAX}s")

    def _run(self, *arguments: str | Path) -> str:
        try:
            return self._helm.run(
                *arguments, "--namespace", self.kubectl.namespace,
                kubeconfig=self.kubectl.kubeconfig, seconds=INSTALL_SECONDS_MAX + 60,
            )  # fmt: skip
        except HelmRefusedError as error:
            raise AssertionError(f"{error}\n\n{self.kubectl.picture()}") from None

    def clear(self) -> None:
        """Remove all that was ever installed, and what it has left behind: the cluster is as a new user finds it."""
        self._installed = None
        self._helm.run(
            "uninstall", RELEASE, "--namespace", self.kubectl.namespace, "--wait", "--ignore-not-found",
            kubeconfig=self.kubectl.kubeconfig,
        )  # fmt: skip
        self.kubectl.run("delete", "--ignore-not-found", "crd", *CRDS)
        self.kubectl.run("delete", "--ignore-not-found", "namespace", NAMESPACE)
        # Where tests make the volume, it is bound to the claim that has just gone, and to no other of its name.
        self.kubectl.run("delete", "--ignore-not-found", "persistentvolume", f"{NAMESPACE}-{DATABASE}")

    # --- The operator --------------------------------------------------------------------------------------------

    def wait_until_ready(self, seconds: float = 120) -> None:
        self.kubectl.run("rollout", "status", OPERATOR, f"--timeout={seconds:g}s", seconds=seconds + 10)

    @contextmanager
    def away(self) -> Iterator[None]:
        """No operator inside the context; afterwards it is ready again."""
        self.kubectl.run("scale", OPERATOR, "--replicas=0")
        self.kubectl.wait_until("the operator is gone", lambda: not self.operator_pods(), 60)
        try:
            yield
        finally:
            self.kubectl.run("scale", OPERATOR, "--replicas=1")
            self.wait_until_ready()

    def operator_pods(self) -> list[dict[str, Any]]:
        return self.kubectl.objects(
            "pods", "app.kubernetes.io/name=pyncette-operator,app.kubernetes.io/component=operator"
        )

    def restarts(self) -> int:
        """Return how often the operator's container was started again, by itself or by its probes."""
        return sum(
            container["restartCount"]
            for pod in self.operator_pods()
            for container in pod["status"].get("containerStatuses", [])
        )

    def log(self) -> str:
        return self.kubectl.logs(OPERATOR, "--tail=-1")

    def cluster_id(self) -> str:
        """Return what the cluster is called by default in the backend."""
        uid: str = self.kubectl.get("namespace", "kube-system")["metadata"]["uid"]
        return uid

    def stored(self, realm: str) -> set[str]:
        """Return the names of what is kept in the backend, stopped tasks and templates of modules too, as the command line tells them."""
        told = self.command("tasks", "--backend-file", URL_FILE, "--realm", realm, "--output", "json")
        return {task["name"] for task in json.loads(told)}

    def held_back(self, namespace: str) -> int:
        """Return how many tasks of *namespace* that are gone it does not stop, as the command line tells it."""
        told = self.command("sweep", "--namespace", namespace, "--output", "json")
        return sum(held["tasks"] for held in json.loads(told))

    def command(self, *arguments: str) -> str:
        """Run `pyncette …` in the operator's pod, and return what it printed."""
        return self.kubectl.run("exec", OPERATOR, "--", "pyncette", *arguments)

    # --- The database --------------------------------------------------------------------------------------------

    def query(self, statement: str) -> list[str]:
        """Run a statement in the database, and return its rows, columns separated by `|`."""
        rows = self.kubectl.run(
            "exec", f"{DATABASE}-0", "--",
            "psql", "--host=/var/run/postgresql", "--username=postgres", "--dbname=pyncette", "--tuples-only", "--no-align",
            "--command", statement,
        )  # fmt: skip
        return [row for row in rows.splitlines() if row]

    def change_password(self) -> None:
        """Give the operator and the workers other passwords, and write them into the Secret here."""
        for role in (OWNER, WORKER):
            self._passwords[role] = secrets.token_hex(8)
            self.query(f"ALTER ROLE {role} PASSWORD '{self._passwords[role]}'")
        self.kubectl.apply(self.own_secret())

    def lock_out(self) -> None:
        """Give the operator and the workers other passwords, which nobody is told."""
        for role in (OWNER, WORKER):
            self.query(f"ALTER ROLE {role} PASSWORD '{secrets.token_hex(8)}'")
        self.disconnect_everybody()

    def disconnect_everybody(self) -> None:
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'pyncette' AND pid <> pg_backend_pid()"
        )

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """No database inside the context; afterwards it is there again, with all that it had."""
        self.kubectl.run("scale", f"statefulset/{DATABASE}", "--replicas=0")
        self.kubectl.wait_until("the database is gone", lambda: not self.kubectl.get("pod", f"{DATABASE}-0"))
        try:
            yield
        finally:
            self.kubectl.run("scale", f"statefulset/{DATABASE}", "--replicas=1")
            self.kubectl.run("rollout", "status", f"statefulset/{DATABASE}", "--timeout=90s")

    @contextmanager
    def database_at(self, host: str) -> Iterator[None]:
        """Have the Secret name another host inside the context."""
        before, self._host = self._host, host
        self.kubectl.apply(self.own_secret())
        try:
            yield
        finally:
            self._host = before
            self.kubectl.apply(self.own_secret())

    @contextmanager
    def other_database(self) -> Iterator[OtherDatabase]:
        """A database that no chart has installed, and that can encrypt, for as long as the context."""
        password, host = secrets.token_hex(8), f"database.{NAMESPACE}.svc"
        with tempfile.TemporaryDirectory() as folder:
            certificate = make_certificate(Path(folder), host)
            try:
                self.kubectl.apply(*_database(self._images[1], password, certificate))
                self.kubectl.run("rollout", "status", "deployment/database", "--timeout=90s")
                yield OtherDatabase(
                    f"postgresql://postgres:{password}@{host}:5432/postgres", certificate.file
                )
            finally:
                self.kubectl.run("delete", "--ignore-not-found", "deployment,service,secret", "database")


def _secret(data: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": dict(data)}


def _database(image: str, password: str, certificate: Certificate) -> tuple[dict[str, Any], ...]:
    labels = {"app": "database"}
    encrypting = {"ssl": "on", "ssl_cert_file": "/tls/tls.crt", "ssl_key_file": "/tls/tls.key"}
    container = {
        "name": "postgresql",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["postgres", *(f"--{name}={value}" for name, value in encrypting.items())],
        "env": [
            {"name": "POSTGRES_PASSWORD", "value": password},
            {"name": "PGDATA", "value": "/data/pgdata"},
        ],
        "readinessProbe": {"exec": {"command": ["pg_isready", "--host=127.0.0.1"]}, "periodSeconds": 1},
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, path in SCRATCH.items()),
            {"name": "tls", "mountPath": "/tls", "readOnly": True},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "containers": [container],
        "volumes": [
            *({"name": name, "emptyDir": {}} for name in SCRATCH),
            {"name": "tls", "secret": {"secretName": "database", "defaultMode": 0o440}},
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 999,
            "fsGroup": 999,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return (
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "database"},
            "stringData": {"tls.crt": certificate.file.read_text(), "tls.key": certificate.key.read_text()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "database"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "database"},
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        },
    )
