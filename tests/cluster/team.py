"""An application team: a namespace with a pool of workers whose handlers keep an account, and what the team does there."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tests.cluster.account import Account, Run
from tests.cluster.cluster import Cluster
from tests.cluster.installation import Installation
from tests.cluster.kubectl import Kubectl, Seen, pool, task

CLAIM: Final = "account"
READER: Final = "reader"

TEMPLATE: Final = {
    "spec": {
        "volumes": [{"name": "account", "persistentVolumeClaim": {"claimName": CLAIM}}],
        "containers": [{"name": "worker", "volumeMounts": [{"name": "account", "mountPath": "/account"}]}],
    }
}
"""What a pool adds to the operator's pods, for handlers to write their account."""


BEFORE: Final = "0.0.9"
"""What the library of a team says that has not yet followed the operator's upgrade."""


class OtherReleases(NamedTuple):
    """Images of a team that has built them with another release of the library than the operator is of."""

    before: str
    """The oldest that may work on the tables; it is `BEFORE`."""
    too_old: str
    """The tables have moved on, and let it in no longer."""
    too_new: str
    """It needs tables that only the next release of the operator makes."""


class Team:
    """One application team's namespace."""

    def __init__(
        self, cluster: Cluster, installation: Installation, kubectl: Kubectl, images: Sequence[str]
    ) -> None:
        self.kubectl = kubectl
        self.images = images
        """Of the same handlers, in different releases: "1", "2", …"""
        kubectl.apply(installation.secret())
        cluster.provide_volume(kubectl.namespace, CLAIM)
        kubectl.apply(_claim(), _reader(images[0]))

    # --- Doing ---------------------------------------------------------------------------------------------------

    def start_pool(
        self, name: str = "default", /, *, image: str | None = None, wait: bool = True, **spec: Any
    ) -> None:
        """Apply a pool, and return once it is Ready."""
        spec = {"template": TEMPLATE, "drainSeconds": 5, **spec}
        self.kubectl.apply(pool(image or self.images[0], name, **spec))
        if wait:
            self.kubectl.wait_for_pool("is Ready", lambda pool: pool.is_true("Ready"), name, seconds=120)

    def schedule(self, name: str, handler: str = "tick", /, *, wait: bool = True, **spec: Any) -> None:
        """Apply a task, each second unless its schedule is said, and return once it is Ready."""
        if not {"schedule", "intervalSeconds", "executeAt", "dynamic"} & set(spec):
            spec["intervalSeconds"] = 1
        self.kubectl.apply(task(name, handler, **spec))
        if wait:
            self.kubectl.wait_until_ready(name)

    # --- Seeing --------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        return Account.read(
            self.kubectl.run("exec", READER, "--", "sh", "-c", "cat /account/*.jsonl 2>/dev/null; true")
        )

    def runs(self, name: str) -> list[Run]:
        return self.account().of(name)

    def pods(self, pool: str = "default") -> list[str]:
        """Return the names of a pool's pods that are not on their way out."""
        return [pod["metadata"]["name"] for pod in self.kubectl.worker_pods(pool)]

    def task(self, name: str) -> Seen:
        return self.kubectl.task(name)

    # --- Waiting -------------------------------------------------------------------------------------------------

    def wait_for_runs(
        self, name: str, more: int = 1, seconds: float = 60, *, than: int | None = None
    ) -> list[Run]:
        """Return all runs of a task once there are so many *more* than there were, which is now unless it is said."""
        wanted = (len(self.runs(name)) if than is None else than) + more

        def enough() -> list[Run] | None:
            runs = self.runs(name)
            return runs if len(runs) >= wanted else None

        found = self.kubectl.wait_until(
            f"{name} has {wanted} runs", enough, seconds, shown=[("pyncettetask", name)]
        )
        assert found is not None
        return found


def _claim() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def _reader(image: str) -> dict[str, Any]:
    """Return a pod through which the account is read, whatever becomes of the workers."""
    container = {
        "name": READER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "account", "mountPath": "/account"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": READER},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "account", "persistentVolumeClaim": {"claimName": CLAIM}}],
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        },
    }
