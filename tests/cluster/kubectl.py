"""What a user does to a cluster, by kubectl, and what tests wait for there."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from tests.cluster.cluster import find_kubectl

LOOK_SECONDS: Final = 0.2
"""How often a condition is looked at. kubectl itself takes a tenth of a second."""

KUBECTL_SECONDS_MAX: Final = 120

LOG_LINES_SHOWN: Final = 25
EVENTS_SHOWN: Final = 25

Object = dict[str, Any]

T = TypeVar("T")


class KubectlRefusedError(Exception):
    """kubectl did not do it; the message is kubectl's own."""


class Kubectl:
    """kubectl on one cluster, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def in_namespace(self, namespace: str) -> "Kubectl":
        return Kubectl(self.kubeconfig, namespace)

    # --- Doing ---------------------------------------------------------------------------------------------------

    def run(
        self, *arguments: str | Path, given: str | None = None, seconds: float = KUBECTL_SECONDS_MAX
    ) -> str:
        """Run kubectl with *given* as its input, and return what it printed. Raises KubectlRefusedError."""
        done = subprocess.run(
            [find_kubectl(), "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments],
            input=given or "",
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode != 0:
            raise KubectlRefusedError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: str | Path | Mapping[str, Any]) -> None:
        """Apply files (or folders), texts, and objects."""
        for manifest in manifests:
            if isinstance(manifest, Path):
                self.run("apply", "--filename", manifest)
            else:
                text = manifest if isinstance(manifest, str) else yaml.safe_dump(dict(manifest))
                self.run("apply", "--filename", "-", given=text)

    def delete(self, kind: str, name: str, *options: str) -> None:
        self.run("delete", kind, name, *options)

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        self.run("patch", kind, name, "--type=merge", "--patch", json.dumps(patch))

    def annotate(self, kind: str, name: str, **annotations: str) -> None:
        """Set annotations of our group: run_requested_at="1" is pyncette.dev/run-requested-at."""
        words = [f"pyncette.dev/{key.replace('_', '-')}={value}" for key, value in annotations.items()]
        self.run("annotate", "--overwrite", kind, name, *words)

    # --- Seeing --------------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Object:
        """Return an object; an empty one if it is not there."""
        text = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        return json.loads(text) if text else {}

    def objects(self, kind: str, selector: str = "") -> list[Object]:
        found: list[Object] = json.loads(
            self.run("get", kind, "--output=json", *([f"--selector={selector}"] if selector else []))
        )["items"]
        return found

    def task(self, name: str) -> "Seen":
        return Seen(self.get("pyncettetask", name))

    def pool(self, name: str = "default") -> "Seen":
        return Seen(self.get("pyncetteworkerpool", name))

    def worker_pods(self, pool: str = "default") -> list[Object]:
        """Pods of a pool that are not on their way out."""
        pods = self.objects("pods", f"pyncette.dev/pool={pool}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def logs(self, target: str, *options: str) -> str:
        """Return what a pod (or `deployment/NAME`) has written; empty if it has none, or is gone."""
        try:
            return self.run("logs", target, "--all-containers", *options)
        except KubectlRefusedError:
            return ""

    def reasons(self, name: str) -> list[str]:
        """Return the reasons of all Events about an object of this name."""
        events = self.objects("events")
        return [event["reason"] for event in events if event["involvedObject"]["name"] == name]

    @contextmanager
    def watching(self, kind: str, name: str) -> Iterator[Callable[[], "list[Seen]"]]:
        """
        Have every version of an object seen inside the context, which polling may miss.

        What is given returns those seen so far, in order.
        """
        with tempfile.TemporaryFile("w+") as file:
            watch = subprocess.Popen(
                [
                    find_kubectl(), "--kubeconfig", self.kubeconfig, "--namespace", self.namespace,
                    "get", kind, f"--field-selector=metadata.name={name}", "--watch", "--output=json",
                ],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL,
            )  # fmt: skip

            def seen() -> list[Seen]:
                # Through another description of the file, since kubectl writes where this one stands.
                with Path(f"/proc/self/fd/{file.fileno()}").open() as again:
                    return [Seen(found) for found in _documents(again.read())]

            try:
                yield seen
            finally:
                watch.kill()
                watch.wait()

    # --- Waiting -------------------------------------------------------------------------------------------------

    def wait_until(
        self, what: str, holds: Callable[[], T], seconds: float = 60, *, shown: Sequence[tuple[str, str]] = ()
    ) -> T:
        """
        Return what *holds* returns as soon as that is true.

        Fails after *seconds*, with what there is to be seen then, and first of all the objects that are to be *shown*.
        """
        began_at = time.monotonic()
        while True:
            looked_at = time.monotonic()
            found = holds()
            if found:
                # pytest shows it if the test fails.
                print(f"{looked_at - began_at:.1f} s: {what}")
                return found
            if looked_at > began_at + seconds:
                raise AssertionError(f"not within {seconds:g} s: {what}\n\n{self.picture(*shown)}")
            time.sleep(LOOK_SECONDS)

    def wait_for_task(
        self, name: str, what: str, holds: Callable[["Seen"], object], seconds: float = 60
    ) -> "Seen":
        """Return a task as it was seen once *holds* said yes of it."""
        return self._wait_for("pyncettetask", name, what, holds, seconds)

    def wait_until_ready(self, *tasks: str, seconds: float = 60) -> None:
        for name in tasks:
            self.wait_for_task(name, "is Ready", lambda task: task.is_true("Ready"), seconds)

    def wait_for_pool(
        self, what: str, holds: Callable[["Seen"], object], name: str = "default", seconds: float = 90
    ) -> "Seen":
        """Return a pool as it was seen once *holds* said yes of it."""
        return self._wait_for("pyncetteworkerpool", name, what, holds, seconds)

    def _wait_for(
        self, kind: str, name: str, what: str, holds: Callable[["Seen"], object], seconds: float
    ) -> "Seen":
        def seen() -> Seen | None:
            found = Seen(self.get(kind, name))
            return found if found and holds(found) else None

        found = self.wait_until(f"{kind} {name} {what}", seen, seconds, shown=[(kind, name)])
        assert found is not None
        return found

    def picture(self, *objects: tuple[str, str]) -> str:
        """What somebody would look at who wonders why something does not happen; first of all at *objects*."""
        looks: Iterable[tuple[str, tuple[str, ...]]] = (
            *((f"{kind} {name}", ("get", kind, name, "--output=yaml")) for kind, name in objects),
            ("tasks and pools", ("get", "pyncettetasks,pyncetteworkerpools", "--output=wide")),
            ("objects", ("get", "pods,deployments", "--output=wide")),
            ("events", ("get", "events", "--sort-by=.lastTimestamp")),
        )
        parts = [f"--- {title} of {self.namespace}\n{self._said(*look)}" for title, look in looks]
        logs = (
            ("operator", "--all-namespaces", "app.kubernetes.io/component=operator"),
            ("workers", f"--namespace={self.namespace}", "app.kubernetes.io/name=pyncette-worker"),
        )
        for title, where, selector in logs:
            pods = self._said(
                "get", "pods", where, f"--selector={selector}",
                "--output=jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}",
            )  # fmt: skip
            for pod in pods.split():
                namespace, _, name = pod.partition("/")
                said = self.in_namespace(namespace).logs(name, f"--tail={LOG_LINES_SHOWN}")
                parts.append(f"--- log of the {title}, {pod}\n{said}")
        return "\n".join(parts)

    def _said(self, *arguments: str) -> str:
        try:
            lines = self.run(*arguments).splitlines()
        except (KubectlRefusedError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "\n".join(lines[-EVENTS_SHOWN:] if "events" in arguments else lines)


def _documents(text: str) -> Iterator[Object]:
    """Yield the JSON documents that stand one after the other; what is written of the last one may be a part of it."""
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        try:
            found, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return
        yield found
        at += len(text[at:]) - len(text[at:].lstrip())


class Seen:
    """A PyncetteTask or PyncetteWorkerPool as it was at one moment."""

    def __init__(self, seen: Object) -> None:
        self.object = seen

    def __bool__(self) -> bool:
        return bool(self.object)

    def __repr__(self) -> str:
        return yaml.safe_dump(self.object)

    @property
    def status(self) -> Object:
        found: Object = self.object.get("status", {})
        return found

    @property
    def is_current(self) -> bool:
        """Whether the status is about the spec as it stands."""
        return bool(self.status.get("observedGeneration") == self.object["metadata"]["generation"])

    def condition(self, kind: str) -> Object:
        """Return a condition; an empty one if there is none of that type."""
        conditions = self.status.get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def is_true(self, kind: str) -> bool:
        return self.is_current and self.condition(kind).get("status") == "True"

    def is_false(self, kind: str) -> bool:
        return self.is_current and self.condition(kind).get("status") == "False"

    def reason(self, kind: str = "Ready") -> str:
        reason: str = self.condition(kind).get("reason", "")
        return reason

    def time(self, field: str) -> datetime | None:
        """Return an instant of the status, such as nextScheduleTime."""
        text = self.status.get(field)
        return datetime.fromisoformat(text) if text else None

    def last_run_seconds(self) -> float:
        """Return how long the last run took."""
        run = self.status["lastRun"]
        took = datetime.fromisoformat(run["completionTime"]) - datetime.fromisoformat(run["startTime"])
        return took.total_seconds()

    def count(self, outcome: str) -> int:
        """Return how many occurrences ended so: succeeded, failed, missed, …."""
        return int(self.status.get("runCounts", {}).get(outcome, 0))


def task(name: str, handler: str, /, **spec: Any) -> Object:
    """Return the manifest of a PyncetteTask."""
    return {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "metadata": {"name": name},
        "spec": {"handler": handler, **spec},
    }


def pool(image: str, name: str = "default", /, **spec: Any) -> Object:
    """Return the manifest of a PyncetteWorkerPool."""
    return {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteWorkerPool",
        "metadata": {"name": name},
        "spec": {"image": image, "module": "tasks", "imagePullPolicy": "IfNotPresent", **spec},
    }
