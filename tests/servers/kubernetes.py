"""A real API server of Kubernetes on an etcd of its own, without nodes and controllers: for all that is decided by it alone."""

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.request import Request, urlopen

import yaml

from tests.servers import machine
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.kubernetes_client import ApiError, Client, Object, path_of

ROOT: Final = Path(__file__).resolve().parents[2]

ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
"""A folder with the programs, as envtest's users have it."""

CACHE_VARIABLE: Final = "NODE_CACHE"

PROGRAMS: Final = ("etcd", "kube-apiserver", "kubectl")

START_ATTEMPTS_MAX: Final = 3
"""Attempts to start on a free port, which another process may take before the server does."""

START_SECONDS_MAX: Final = 90
"""It is ready in about five seconds; a laden machine takes longer."""

STOP_SECONDS_MAX: Final = 30

SERVED_SECONDS_MAX: Final = 30
"""A CRD is served within half a second after it was created."""

ETCD_BYTES_MAX: Final = str(8 * 2**30)
"""Quota of etcd, for tests with many large objects: each write of a status stores the object once more."""

LOOK_SECONDS: Final = 0.05

BUILD_LINES_SHOWN: Final = 20

ADMINISTRATORS: Final = "system:masters"
"""The group that may do anything, whatever RBAC says."""

MISSING: Final = f"""\
These tests run on a real API server of Kubernetes, and none could be had. Any one of these brings it:

  Go          install it (https://go.dev/dl) and have it on PATH: the tests build etcd, kube-apiserver and kubectl from
              their modules, once, which takes about a quarter of an hour (tests/cluster/node/build apiserver)
  a folder    {ASSETS_VARIABLE}=FOLDER make test-cluster, with {", ".join(PROGRAMS)} in it, as setup-envtest fetches them

Nothing needs to be running: the tests start their own, on free ports, in folders that they throw away."""

END_ALL: Final = """\
for file in "$1"/*.pid; do [ -f "$file" ] && kill -9 "$(cat "$file")"; done
rm -rf "$1"
"""

AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""

LEFT_BEHIND: Final = (
    ("pyncette.dev/v1alpha1", "PyncetteTask"),
    ("pyncette.dev/v1alpha1", "PyncetteWorkerPool"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ConfigMap"),
    ("v1", "Event"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
)
"""What tests put into namespaces. There is no controller that empties a namespace when it is deleted."""


class Account(NamedTuple):
    """A ServiceAccount that may do what it was given the rights for, as a pod of it would."""

    name: str
    namespace: str
    token: str
    client: Client
    kubeconfig: Path


class _Process:
    """A program that runs until it is killed, and is started again as it was."""

    def __init__(self, folder: Path, name: str, command: Sequence[str | Path]) -> None:
        self._command = command
        self._pid = folder / f"{name}.pid"
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid.write_text(str(self._process.pid))

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        self._pid.unlink(missing_ok=True)
        self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it, and return once all of its threads stand still: until then it can still answer."""
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raise ServerDidNotStartError if it has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise ServerDidNotStartError(self.end_of_log())

    def end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


class ApiServer:
    """
    A throwaway API server, of which every method blocks and none needs an event loop.

    There is nothing but etcd and the API server: no controller makes pods of a Deployment, collects what has lost its
    owner, empties a namespace, or gathers the rules of roles like `edit`. The port, the data and the accounts stay the same over a stop and a start. Both end
    with this process, also if that is killed. With *audit*, `audit()` returns its requests.
    """

    def __init__(self, programs: Path, *, audit: bool = False) -> None:
        self.programs = programs
        self._audit = audit
        self._account = machine.our_account()
        self._folder = machine.folder_of(self._account, "pyncette-kubernetes-")
        self._watchdog = machine.Watchdog(END_ALL, self._folder, account=self._account)
        self.token = secrets.token_urlsafe(24)
        """Of the administrator."""
        try:
            self._prepare()
            self._start_on_free_ports()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for process in getattr(self, "_processes", ()):
            process.kill()
        self._watchdog.fire()

    @property
    def pid(self) -> int:
        """Of the API server, while it runs."""
        return self._server.pid

    @property
    def etcd_pid(self) -> int:
        return self._etcd.pid

    # --- Who asks ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """The file of the certificate that vouches for the server."""
        return self._folder / "certificates" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """The file with which kubectl, Helm and client libraries are administrators."""
        return self._folder / "administrator.yaml"

    @property
    def admin(self) -> Client:
        """For whom everything is allowed."""
        return self.client(self.token)

    def client(self, token: str) -> Client:
        return Client(
            self.url,
            ssl.create_default_context(cafile=str(self.authority)),
            (("Authorization", f"Bearer {token}"),),
        )

    def account(
        self,
        namespace: str,
        *,
        rules: Sequence[Object] = (),
        cluster_rules: Sequence[Object] = (),
        cluster_roles: Sequence[str] = (),
        name: str = "",
    ) -> Account:
        """
        A new ServiceAccount with rights: *rules* in its namespace, *cluster_rules* in all; rules are those of an RBAC role.

        It also gets *cluster_roles*, by name, in its namespace. What is made for that in the cluster as a whole goes with the server.
        """
        name = name or f"account-{secrets.token_hex(4)}"
        metadata = {"name": name, "namespace": namespace}
        self.admin.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        if rules:
            self._grant("Role", rules, name, namespace)
            self._bind("Role", name, name, namespace)
        if cluster_rules:
            self._grant("ClusterRole", cluster_rules, f"{namespace}-{name}")
            self._bind("ClusterRole", f"{namespace}-{name}", name, namespace, everywhere=True)
        for role in cluster_roles:
            self._bind("ClusterRole", role, name, namespace)
        token = self.token_of(namespace, name)
        made = Account(name, namespace, token, self.client(token), self.kubeconfig_of(token, namespace))
        granted = [*rules, *cluster_rules, *(rule for role in cluster_roles for rule in self._rules_of(role))]
        wait_until(
            lambda: all(_is_in_force(made, rule) for rule in granted),
            lambda: f"{name} did not get the rights {granted}",
            SERVED_SECONDS_MAX,
        )
        return made

    def token_of(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """A new token of a ServiceAccount that is there; the API server gives none for less than ten minutes."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        like = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        }
        token: str = self.admin.request("POST", path_of(like, "token"), request)["status"]["token"]
        return token

    def kubeconfig_of(self, token: str, namespace: str = "default") -> Path:
        """A kubeconfig of the owner of *token*, for kubectl and client libraries."""
        path = self._folder / f"kubeconfig-{secrets.token_hex(4)}.yaml"
        path.write_text(self._kubeconfig(token, namespace))
        return path

    def _rules_of(self, cluster_role: str) -> list[Object]:
        like = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": cluster_role}}
        return self.admin.read(like).get("rules") or []

    def _grant(self, kind: str, rules: Sequence[Object], name: str, namespace: str = "") -> None:
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        self.admin.create({"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": list(rules)})

    def _bind(self, kind: str, role: str, account: str, namespace: str, *, everywhere: bool = False) -> None:
        metadata = {"name": f"{account}-{secrets.token_hex(4)}"}
        self.admin.create(
            {
                "apiVersion": RBAC,
                "kind": "ClusterRoleBinding" if everywhere else "RoleBinding",
                "metadata": metadata if everywhere else {**metadata, "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            }
        )

    # --- What there is -----------------------------------------------------------------------------------------------

    @contextmanager
    def fresh_namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A namespace with nothing in it, which is removed afterwards with all that tests usually put into it."""
        name = f"test-{secrets.token_hex(4)}"
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.admin.create({**namespace, "metadata": {"name": name, "labels": dict(labels or {})}})
        try:
            yield name
        finally:
            self._empty(name)
            self.admin.delete(namespace)
            # What a controller would say once nothing is left in it.
            self.admin.replace({**namespace, "spec": {"finalizers": []}}, "finalize")

    def _empty(self, namespace: str) -> None:
        for api_version, kind in LEFT_BEHIND:
            like = {"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}}
            # Without its CRD there is no such kind, and a test may have removed that.
            with suppress(ApiError):
                self.admin.request("DELETE", path_of(like, named=False), propagationPolicy="Background")

    def install(self, *definitions: Object) -> None:
        """Create CRDs, or change those that are there, and wait until new ones are served. Without any: those of crds/."""
        for definition in definitions or custom_resource_definitions():
            self.admin.apply(definition, force=True)
            wait_until(
                lambda made=definition: self.serves(made),  # type: ignore[misc]
                lambda made=definition: f"{made['metadata']['name']} is not served",  # type: ignore[misc]
                SERVED_SECONDS_MAX,
            )

    def remove(self, *definitions: Object) -> None:
        """Remove CRDs, with all objects of theirs, and wait until they are gone. Without any: those of crds/."""
        for definition in definitions or custom_resource_definitions():
            self.admin.delete(definition)
            wait_until(
                lambda gone=definition: not self.admin.exists(gone) and not self.serves(gone),  # type: ignore[misc]
                lambda gone=definition: f"{gone['metadata']['name']} is still there",  # type: ignore[misc]
                SERVED_SECONDS_MAX,
            )

    def serves(self, definition: Object) -> bool:
        """Whether objects of a CRD can be listed, and clients can find out that there is the kind."""
        spec = definition["spec"]
        group = f"/apis/{spec['group']}/{spec['versions'][0]['name']}"
        plural = spec["names"]["plural"]
        try:
            self.admin.request("GET", f"{group}/{plural}", limit=1)
            return any(
                resource["name"] == plural for resource in self.admin.request("GET", group)["resources"]
            )
        except ApiError:
            return False

    def kubectl(self, *arguments: str, stdin: str = "", succeeds: bool = True) -> str:
        """
        Run kubectl as the administrator, and return what it printed.

        It is a failure of the test if it fails; or, where it is to fail, if it does not: then its complaint is returned.
        """
        done = subprocess.run(
            [self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            env={**os.environ, "KUBECACHEDIR": str(self._folder / "cache"), "KUBERC": "off"},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) is succeeds, done.stderr or done.stdout
        return done.stdout if succeeds else done.stderr

    def audit(self) -> list[Object]:
        """What was asked since the server began, except by itself, as audit events: `verb`, `objectRef`, `user`, `responseStatus`."""
        assert self._audit, "this server keeps no account: open it with audit=True"
        events = map(json.loads, (self._folder / "audit.log").read_text().splitlines())
        return [event for event in events if event["user"]["username"] != "system:apiserver"]

    # --- Outages -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Kill the API server. etcd continues, so nothing is lost."""
        self._server.kill()

    def start(self) -> None:
        """Start it again, on its port, and wait until it is ready."""
        self._server.start()
        wait_until(self._is_ready, self._server.end_of_log, START_SECONDS_MAX)

    def restart(self) -> None:
        with self.stopped():
            pass

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Away inside the context: connections are refused. Afterwards it is ready again."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the API server in the block: connections open, but get no answer. Then it continues."""
        self._server.freeze()
        try:
            yield
        finally:
            self._server.send(signal.SIGCONT)
            wait_until(self._is_ready, self._server.end_of_log, START_SECONDS_MAX)

    @contextmanager
    def without_storage(self) -> Iterator[None]:
        """
        Without etcd inside the context: /readyz says so, and nearly all else hangs until it times out, for up to a minute.

        Afterwards all data are there again.
        """
        self._etcd.kill()
        try:
            yield
        finally:
            self._start_etcd()
            wait_until(self._is_ready, self._server.end_of_log, START_SECONDS_MAX)

    def forget_the_past(self) -> None:
        """
        Compact etcd, as happens each few minutes anyway, and restart, for the server keeps snapshots of its own.

        A list that is read page by page, and a watch from a version of before, expire by that (410).
        """
        revision = self._ask_etcd("kv/range", {"key": "AA==", "limit": "1"})["header"]["revision"]
        self._ask_etcd("kv/compaction", {"revision": revision, "physical": True})
        self.restart()

    def _ask_etcd(self, verb: str, asked: Object) -> Object:
        request = Request(f"http://127.0.0.1:{self._etcd_port}/v3/{verb}", json.dumps(asked).encode())
        with urlopen(request, timeout=START_SECONDS_MAX) as answer:
            said: Object = json.load(answer)
            return said

    # --- Beginning ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        (self._folder / "certificates").mkdir()
        (self._folder / "tokens.csv").write_text(
            f'{self.token},administrator,administrator,"{ADMINISTRATORS}"\n'
        )
        (self._folder / "audit-policy.yaml").write_text(AUDIT_POLICY)
        made = self._account.run("openssl", "genrsa", "-out", self._folder / "accounts.key", "2048")
        if made.returncode != 0:
            raise ServerDidNotStartError(made.stderr)

    def _start_on_free_ports(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = machine.free_port()
            self._etcd_port = machine.free_port()
            self._etcd = _Process(self._folder, "etcd", self._etcd_command())
            self._server = _Process(self._folder, "kube-apiserver", self._server_command())
            self._processes = (self._server, self._etcd)
            self.kubeconfig.write_text(self._kubeconfig(self.token))
            try:
                self._start_etcd()
                self.start()
            except ServerDidNotStartError:
                for process in self._processes:
                    process.kill()
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise
            else:
                return

    def _start_etcd(self) -> None:
        self._etcd.start()
        wait_until(self._etcd_answers, self._etcd.end_of_log, START_SECONDS_MAX)

    def _etcd_command(self) -> list[str | Path]:
        address = f"http://127.0.0.1:{self._etcd_port}"
        return [
            self.programs / "etcd", "--data-dir", self._folder / f"etcd-{self._etcd_port}", "--unsafe-no-fsync",
            "--listen-client-urls", address, "--advertise-client-urls", address,
            "--listen-peer-urls", "http://127.0.0.1:0", "--log-level", "warn",
            "--quota-backend-bytes", ETCD_BYTES_MAX,
        ]  # fmt: skip

    def _server_command(self) -> list[str | Path]:
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1",
            "secure-port": self.port,
            "cert-dir": self.authority.parent,
            "authorization-mode": "RBAC",
            # As every installer has it: admission decides about privileged pods.
            "allow-privileged": "true",
            "token-auth-file": self._folder / "tokens.csv",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._folder / "accounts.key",
            "service-account-signing-key-file": self._folder / "accounts.key",
            "service-cluster-ip-range": "10.0.0.0/24",
            # It would wait for a controller to make accounts, and refuse pods until then.
            "disable-admission-plugins": "ServiceAccount",
            # The address of the service `kubernetes`, which is none that others could reach.
            "endpoint-reconciler-type": "none",
        }
        if self._audit:
            flags["audit-policy-file"] = self._folder / "audit-policy.yaml"
            flags["audit-log-path"] = self._folder / "audit.log"
        return [self.programs / "kube-apiserver", *(f"--{name}={value}" for name, value in flags.items())]

    def _etcd_answers(self) -> bool:
        self._etcd.check()
        with suppress(OSError), urlopen(f"http://127.0.0.1:{self._etcd_port}/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
        return False

    def _is_ready(self) -> bool:
        self._server.check()
        with suppress(ApiError, OSError):
            return bool(self.admin.request("GET", "/readyz") == "ok")
        return False

    def _kubeconfig(self, token: str, namespace: str = "default") -> str:
        parts: Mapping[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "tests",
                    "cluster": {"server": self.url, "certificate-authority": str(self.authority)},
                }
            ],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [
                {"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}
            ],
            "current-context": "tests",
        }
        return yaml.safe_dump(parts)


RBAC: Final = "rbac.authorization.k8s.io/v1"


def _is_in_force(account: Account, rule: Object) -> bool:
    """Whether the server knows of a right already: it learns of roles as everybody does, by a watch."""
    if "resources" not in rule:
        return True
    resource, _, subresource = rule["resources"][0].partition("/")
    asked = {"verb": rule["verbs"][0], "group": rule["apiGroups"][0], "resource": resource}
    place = {
        "namespace": account.namespace,
        "subresource": subresource,
        "name": rule.get("resourceNames", [""])[0],
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": {**asked, **place}},
    }
    return bool(account.client.create(review)["status"]["allowed"])


def open_apiserver(*, audit: bool = False) -> ApiServer:
    """An API server of our own, from programs that are there or built now. Raises MissingServerError."""
    found = find_programs()
    if isinstance(found, MissingServerError):
        raise found
    return ApiServer(found, audit=audit)


def custom_resource_definitions() -> list[Object]:
    """Those of crds/, as `kubectl apply -f` finds them."""
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]


@cache
def find_programs() -> Path | MissingServerError:
    """
    The folder of the programs: the one that the environment names, else the one that they are built in, once.

    A failure is found once, too: building again would fail again, after minutes.
    """
    given = os.environ.get(ASSETS_VARIABLE)
    if given:
        return _complete(Path(given)) or MissingServerError(f"{MISSING}\n\n{ASSETS_VARIABLE} names {given}")
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyncette-tests"
    node = Path(os.environ.get(CACHE_VARIABLE) or cache_folder / "node")
    if _complete(node / "bin") is None:
        print("building an API server for the tests, once", file=sys.stderr, flush=True)
    built = subprocess.run(
        [ROOT / "tests/cluster/node/build", "apiserver"],
        env={**os.environ, CACHE_VARIABLE: str(node)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    found = _complete(node / "bin") if built.returncode == 0 else None
    if found is None:
        said = "\n".join(built.stderr.splitlines()[-BUILD_LINES_SHOWN:])
        return MissingServerError(f"{MISSING}\n\ntests/cluster/node/build apiserver said:\n{said}")
    return found


def wait_until(holds: Callable[[], bool], why: Callable[[], str], seconds: float) -> None:
    """Return as soon as it *holds*; ServerDidNotStartError, and *why*, if it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise ServerDidNotStartError(why())
        time.sleep(LOOK_SECONDS)


def _complete(folder: Path) -> Path | None:
    return folder if all(os.access(folder / name, os.X_OK) for name in PROGRAMS) else None
