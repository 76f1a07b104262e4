"""A Kubernetes cluster for tests: given, in Docker by kind, or a bare node; images get into it without a registry."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.servers import machine
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.tools import node_cache

ROOT: Final = Path(__file__).resolve().parents[2]
NODE: Final = Path(__file__).parent / "node"
IMAGES: Final = Path(__file__).parent / "images"

KUBECONFIG_VARIABLE: Final = "PYNCETTE_TEST_KUBECONFIG"
REGISTRY_VARIABLE: Final = "PYNCETTE_TEST_REGISTRY"

NODE_VARIABLE: Final = "PYNCETTE_TEST_NODE"
"""The folder of a bare node that is up (NODE_STATE), to be used and left as it is: saves time to who writes tests."""

TAG: Final = "test"

COMPONENT_SECONDS_MAX: Final = 120
"""Until the API server answers again; a laden machine takes longer than the ten seconds that it needs."""

DOWN_SECONDS_MAX: Final = 180
"""Until a node is down; a laden machine takes more than a minute to stop its pods and its components."""

MISSING: Final = f"""\
These tests run on a real Kubernetes cluster, and none could be had. Any one of these brings it:

  kind         start Docker's engine, and have kind on PATH (https://kind.sigs.k8s.io)
  a bare node  as root on Debian or Ubuntu, with Go on PATH: the tests build one, once, in some twenty minutes
               (tests/cluster/node/README.md)
  a cluster    {KUBECONFIG_VARIABLE}=/path/to/kubeconfig {REGISTRY_VARIABLE}=registry.example.org/tests make test-cluster
               (with Docker, which pushes there the images that the cluster pulls; the tests own that cluster meanwhile)"""


class Cluster(ABC):
    """A cluster as tests see it, whoever runs it. All methods block."""

    kubeconfig: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Leave no trace of what we brought."""

    def image(self, name: str, tag: str = TAG) -> str:
        """The name under which the cluster knows an image of ours."""
        return f"docker.io/library/{name}:{tag}"

    @abstractmethod
    def build(self, context: Path, image: str, file: str = "Dockerfile", **arguments: str) -> None:
        """Build *file* in *context* under the name *image*, and let the cluster have it."""

    @abstractmethod
    def provide_volume(self, namespace: str, claim: str) -> None:
        """Make what a claim is going to be bound to, where no StorageClass does so by itself."""


class BreakableCluster(Cluster):
    """A cluster of our own, whose components may be stopped, and which says what it was asked."""

    @abstractmethod
    def stop(self, component: str) -> None:
        """End a component as a crash does: kube-apiserver, etcd, kube-controller-manager or kube-scheduler."""

    @abstractmethod
    def start(self, component: str) -> None:
        """Start it again as it was; for the API server, wait until it answers."""

    @contextmanager
    def stopped(self, component: str) -> Iterator[None]:
        """Out of order inside the context."""
        self.stop(component)
        try:
            yield
        finally:
            self.start(component)

    @abstractmethod
    def run(self, script: str) -> str:
        """Run a shell script on the node, which sees the processes of all pods, and return what it printed."""

    def kill_pod(self, uid: str) -> None:
        """End all processes of a pod as a power cut does: none is told, and the API server is not asked."""
        # Cgroups by systemd write _ for -.
        name = uid.replace("-", ".")
        self.run(
            f"for process in /proc/[0-9]*; do if grep -q {name} $process/cgroup 2>/dev/null;"
            " then kill -KILL ${process#/proc/}; fi; done"
        )

    @abstractmethod
    def audit(self) -> list[dict[str, Any]]:
        """What the API server was asked by others than the system and the administrator, in order."""

    def _wait_until_it_answers(self) -> None:
        kubectl = [find_kubectl(), "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz"]
        end = time.monotonic() + COMPONENT_SECONDS_MAX
        while (done := subprocess.run(kubectl, capture_output=True, text=True)).returncode != 0:
            if time.monotonic() > end:
                raise ServerDidNotStartError(f"the API server does not answer: {done.stderr}")
            time.sleep(0.2)


class BareNode(BreakableCluster):
    """
    Kubernetes in namespaces of its own, by tests/cluster/node; it ends with this process, also if that is killed.

    Given the *folder* of a node that is up, it uses that, and leaves it as it is then.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # The paths of its sockets may have 107 characters.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pyncette-node-", dir="/tmp"))
        self.kubeconfig = self.folder / "kubeconfig"
        self._environment = {**os.environ, "NODE_STATE": str(self.folder)}
        self._watchdog: machine.Watchdog | None = None
        if folder:
            return
        self._environment["NODE_PORT"] = str(machine.free_port())
        self._watchdog = machine.Watchdog(
            'NODE_STATE="$1" "$2" down', self.folder, NODE / "node", account=machine.our_account()
        )
        try:
            self._node("up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.fire(DOWN_SECONDS_MAX)

    def build(self, context: Path, image: str, file: str = "Dockerfile", **arguments: str) -> None:
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self._node("image", context, image, f"--file={context / file}", *options)

    def stop(self, component: str) -> None:
        self._node("stop", component)

    def start(self, component: str) -> None:
        self._node("start", component)
        if component in {"kube-apiserver", "etcd"}:
            self._wait_until_it_answers()
            # Elsewhere these lose their election and begin anew; else they would wait for a minute or two before they look again.
            for follower in ("kube-controller-manager", "kube-scheduler"):
                self._node("stop", follower)
                self._node("start", follower)

    def run(self, script: str) -> str:
        return self._node("run", "sh", "-c", script)

    def audit(self) -> list[dict[str, Any]]:
        log = self.folder / "log"
        # The newest part has the plain name; rotated ones have a time in theirs, and sort by it.
        parts = [*sorted(log.glob("audit-*.json")), log / "audit.json"]
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    def provide_volume(self, namespace: str, claim: str) -> None:
        name = f"{namespace}-{claim}"
        if self._kubectl("get", "persistentvolume", name, "--ignore-not-found"):
            return
        # A new one each time: what a volume before it has left is not this one's.
        folder = self.folder / "volumes" / f"{name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        # Of a folder of the node, the kubelet changes no owner.
        folder.chmod(0o777)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "claimRef": {"namespace": namespace, "name": claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        }
        self._kubectl("create", "--filename", "-", given=json.dumps(volume))

    def _kubectl(self, *arguments: str, given: str = "") -> str:
        command = [find_kubectl(), "--kubeconfig", self.kubeconfig, *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout

    def _node(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [NODE / "node", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise ServerDidNotStartError(f"node {arguments[0]}: {done.stdout[-4000:]}")
        return done.stdout


class Kind(BreakableCluster):
    """Kubernetes in a container, by kind; it is deleted with this process."""

    _policy = "/etc/kubernetes/pyncette/audit.yaml"
    _log = "/var/log/kubernetes/audit.json"

    def __init__(self) -> None:
        self._name = f"pyncette-{secrets.token_hex(4)}"
        self._container = f"{self._name}-control-plane"
        self._folder = Path(tempfile.mkdtemp(prefix="pyncette-kind-"))
        self.kubeconfig = self._folder / "kubeconfig"
        self._watchdog = machine.Watchdog(
            'kind delete cluster --name "$1"; rm -rf "$2"',
            self._name, self._folder,
            account=machine.our_account(),
        )  # fmt: skip
        try:
            configuration = self._folder / "kind.yaml"
            configuration.write_text(yaml.safe_dump(self._configuration()))
            _run(
                "kind", "create", "cluster", "--name", self._name, "--wait", "120s",
                "--config", configuration, "--kubeconfig", self.kubeconfig,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._watchdog.fire()

    def build(self, context: Path, image: str, file: str = "Dockerfile", **arguments: str) -> None:
        _docker_build(context, image, file, arguments)
        _run("kind", "load", "docker-image", image, "--name", self._name)

    def provide_volume(self, namespace: str, claim: str) -> None:
        """Nothing: kind brings a default StorageClass."""

    def stop(self, component: str) -> None:
        # Before the kubelet could bring it back, it must not want it any more.
        manifest = f"/etc/kubernetes/manifests/{component}.yaml"
        self.run(
            f"mv {manifest} /etc/kubernetes/ && pkill -KILL -x {component};"
            f" while pgrep -x {component}; do sleep 0.1; done"
        )

    def start(self, component: str) -> None:
        self.run(f"mv /etc/kubernetes/{component}.yaml /etc/kubernetes/manifests/")
        if component in {"kube-apiserver", "etcd"}:
            self._wait_until_it_answers()

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(f"cat {self._log}").splitlines()]

    def run(self, script: str) -> str:
        return _run("docker", "exec", self._container, "sh", "-c", script)

    def _configuration(self) -> Mapping[str, Any]:
        folder = Path(self._policy).parent
        mounts = [
            {"name": "audit-policy", "hostPath": str(folder), "mountPath": str(folder), "readOnly": True},
            {
                "name": "audit-log",
                "hostPath": str(Path(self._log).parent),
                "mountPath": str(Path(self._log).parent),
            },
        ]
        patch = {
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": {"audit-policy-file": self._policy, "audit-log-path": self._log},
                "extraVolumes": [{**mount, "pathType": "DirectoryOrCreate"} for mount in mounts],
            },
        }
        node = {
            "role": "control-plane",
            "kubeadmConfigPatches": [yaml.safe_dump(patch)],
            "extraMounts": [
                {
                    "hostPath": str(NODE / "files" / "audit.yaml"),
                    "containerPath": self._policy,
                    "readOnly": True,
                }
            ],
        }
        return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}


class GivenCluster(Cluster):
    """A cluster that somebody else runs. Its images are pushed to a registry, and its components are not ours to stop."""

    def __init__(self, kubeconfig: Path, registry: str) -> None:
        self.kubeconfig = kubeconfig
        self._registry = registry.rstrip("/")

    def close(self) -> None:
        """Nothing: it was there before, and goes on."""

    def image(self, name: str, tag: str = TAG) -> str:
        return f"{self._registry}/{name}:{tag}"

    def build(self, context: Path, image: str, file: str = "Dockerfile", **arguments: str) -> None:
        _docker_build(context, image, file, arguments)
        _run("docker", "push", "--quiet", image)

    def provide_volume(self, namespace: str, claim: str) -> None:
        """Nothing: it has to have a default StorageClass."""


def is_given() -> bool:
    """Say whether the environment names a cluster, of which the tests do not stop any component."""
    return bool(os.environ.get(KUBECONFIG_VARIABLE))


def open_kubernetes() -> Cluster:
    """Return the cluster that the environment names; else a new one, in Docker or bare. Raises MissingServerError."""
    if is_given():
        registry = os.environ.get(REGISTRY_VARIABLE)
        if not registry or not machine.docker_runs():
            raise MissingServerError(MISSING)
        return GivenCluster(Path(os.environ[KUBECONFIG_VARIABLE]), registry)
    folder = os.environ.get(NODE_VARIABLE)
    if folder:
        return BareNode(Path(folder))
    if _kind_runs():
        return Kind()
    if _node_runs():
        return BareNode()
    raise MissingServerError(MISSING)


def prepare() -> None:
    """Build what takes long, if it is missing. What cannot be had is told by open_kubernetes()."""
    if not is_given() and not _kind_runs() and _node_runs():
        _build()


def _kind_runs() -> bool:
    return shutil.which("kind") is not None and machine.docker_runs()


def _node_runs() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _build(*parts: str) -> None:
    """Let the node's build say on the terminal how far it is."""
    if subprocess.run([NODE / "build", *parts], stdin=subprocess.DEVNULL).returncode != 0:
        raise MissingServerError(MISSING)


@cache
def find_kubectl() -> Path:
    """Return kubectl: the one on PATH, else the node's, which is built if it has to be."""
    found = shutil.which("kubectl")
    if found:
        return Path(found)
    _build("apiserver")
    return node_cache() / "bin" / "kubectl"


def _docker_build(context: Path, image: str, file: str, arguments: Mapping[str, str]) -> None:
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    _run("docker", "build", "--quiet", "--tag", image, "--file", context / file, *options, context)


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerDidNotStartError(f"{command[0]} {command[1]}: {done.stderr[-4000:]}")
    return done.stdout
