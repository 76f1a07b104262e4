"""
An API server in memory, for what a real one cannot be made to show: it fails, forgets, repeats and goes back in time on demand.

It is the controller's port `Api`, and beside it what users, other controllers and fate do. It keeps the promises that the
controller lives on: resource versions that grow, generations that count changes of the spec, uids that are never used
twice, a status that is written by itself, conflicts, and events to whoever watches.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyncette.controller.cluster.api import (
    ALL_KINDS,
    DEPLOYMENTS,
    PAGE,
    POOLS,
    TASKS,
    ApiUnavailableError,
    ConflictError,
    ForbiddenError,
    Kind,
    Manifest,
    NoSuchKindError,
    NoSuchObjectError,
    ObjectName,
    Page,
    RefusedError,
    kind_of,
)
from pyncette.resources.pool import PoolStatus
from pyncette.resources.resource import GROUP
from pyncette.resources.task_status import TaskStatus
from tests.controller.merging import applied

WRITES = frozenset({"apply", "apply_status", "create_event"})

CREATED_AT = "2026-01-01T00:00:00Z"

Event = tuple[Kind, str | None, Manifest]
"""Kind, what happened (None: it was there before the watch began), and the object after that, or before it was deleted."""


class Call(NamedTuple):
    """What was asked for."""

    verb: str
    kind: Kind | None = None
    namespace: str | None = None
    name: str = ""
    manifest: Manifest | None = None
    dry_run: bool = False

    def __str__(self) -> str:
        return " ".join(filter(None, (self.verb, self.kind and self.kind.name, self.namespace, self.name)))


class CrashError(BaseException):
    """The process ends here; no `except Exception` of it may go on living."""


@dataclass
class Fault:
    """What goes wrong with the next calls of a verb."""

    error: BaseException
    matches: Callable[[Call], bool]
    times: float = 1
    after_pages: int = 0
    done: bool = False
    """Whether it is done all the same, and the answer is lost."""


@dataclass
class _Stored:
    body: dict[str, Any]
    applied: dict[str, Any] = field(default_factory=dict)
    """What our field manager last said of the object, and of its status."""
    applied_status: dict[str, Any] = field(default_factory=dict)


class FakeApi:
    """The API server. What it stores is handed out as copies, so nobody changes it by accident."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """All that was asked for, in order, whether it succeeded or not."""
        self.events: list[Manifest] = []
        """The core/v1 Events that were created."""
        self.namespaces: dict[str, str] = {}
        self.namespace_labels: dict[str, dict[str, str]] = {}
        """The labels of namespaces that have some."""
        self.terminating: set[str] = set()
        """Namespaces that are being deleted, and still hold something."""
        self.served_kinds = {*ALL_KINDS}
        self.forbidden: set[tuple[str, str, str | None]] = set()
        """What the operator may not do: verb, plural, namespace (None: anywhere)."""
        self.refuses: Callable[[Manifest], str | None] = lambda _: None
        """Says why an applied object is not acceptable, as CEL or admission would; None if it is."""
        self.crash_after: int | None = None
        """How many further writes take effect before the process ends, right after the last of them."""
        self._objects: dict[Kind, dict[ObjectName, _Stored]] = defaultdict(dict)
        self._version = 100
        self._uids = itertools.count(1)
        self._faults: list[Fault] = []
        self._watchers: list[Callable[[Kind, str | None, Manifest], object]] = []
        self._held: list[Event] | None = None
        self._past: dict[Kind, list[dict[str, Any]]] | None = None
        self._past_version = ""
        self.history: list[Event] = []
        """All that happened so far, for replays."""
        for name in ("kube-system", "default"):
            self.create_namespace(name)

    # --- The port ------------------------------------------------------------------------------------------------

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> AsyncIterator[Page]:
        call = Call("list", kind, namespace)
        fault = await self._ask(call)
        if fault is not None and not fault.after_pages:
            raise fault.error
        self._check_served(kind)
        bodies = (
            [stored.body for stored in self._objects[kind].values()]
            if self._past is None
            else self._past.get(kind, [])
        )
        version = str(self._version) if self._past is None else self._past_version
        found = [
            deepcopy(body)
            for body in bodies
            if namespace in {None, body["metadata"]["namespace"]} and _matches(body, labels)
        ]
        for number, start in enumerate(range(0, max(len(found), 1), PAGE)):
            if fault is not None and number >= fault.after_pages:
                raise fault.error
            yield Page(found[start : start + PAGE], version)
            await asyncio.sleep(0)

    async def get(self, kind: Kind, name: ObjectName) -> Manifest:
        await self._ask_or_fail(Call("get", kind, *name))
        return deepcopy(self._find(kind, name).body)

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        kind, name = kind_of(manifest), name_of(manifest)
        call = Call("apply", kind, *name, deepcopy(manifest), dry_run)
        fault = await self._ask(call)
        if fault is not None and not fault.done:
            raise fault.error
        self._check_served(kind)
        self._check_namespace(name.namespace)
        self._check_acceptable(manifest)
        stored = self._objects[kind].get(name)
        said = _without_status(manifest)
        if stored is None:
            answer = self._new_body(kind, said) if dry_run else self._create(kind, said, said)
        else:
            self._check_version(stored, manifest)
            body = applied(stored.body, stored.applied, _without_identity(said))
            if dry_run:
                answer = body
            else:
                stored.applied = deepcopy(said)
                answer = self._update(kind, stored, body)
        answer = deepcopy(answer)
        self._after_write(fault, dry_run=dry_run)
        return answer

    async def apply_status(self, manifest: Manifest) -> Manifest:
        kind, name = kind_of(manifest), name_of(manifest)
        fault = await self._ask(Call("apply_status", kind, *name, deepcopy(manifest)))
        if fault is not None and not fault.done:
            raise fault.error
        stored = self._find(kind, name)
        self._check_version(stored, manifest)
        said = {"status": deepcopy(manifest.get("status", {}))}
        body = applied(stored.body, stored.applied_status, said)
        stored.applied_status = said
        answer = deepcopy(self._update(kind, stored, {**stored.body, "status": body.get("status", {})}))
        self._after_write(fault)
        return answer

    async def create_event(self, namespace: str, event: Manifest) -> None:
        fault = await self._ask(Call("create_event", None, namespace, "", deepcopy(event)))
        if fault is not None and not fault.done:
            raise fault.error
        self._check_namespace(namespace)
        self.events.append(deepcopy(event))
        self._after_write(fault)

    async def may(self, verb: str, kind: Kind, namespace: str | None) -> bool:
        await self._ask_or_fail(Call("may", kind, namespace, verb))
        return not self._is_forbidden(verb, kind, namespace)

    async def uid_of_namespace(self, name: str) -> str:
        await self._ask_or_fail(Call("uid_of_namespace", None, None, name))
        if name not in self.namespaces:
            raise NoSuchObjectError(f'namespaces "{name}" not found')
        return self.namespaces[name]

    async def namespaces_with(self, labels: str) -> frozenset[str]:
        await self._ask_or_fail(Call("namespaces_with", None, None, labels))
        return frozenset(
            name
            for name in self.namespaces
            if _matches({"metadata": {"labels": self.namespace_labels.get(name, {})}}, labels)
        )

    async def is_namespace_ending(self, name: str) -> bool:
        await self._ask_or_fail(Call("is_namespace_ending", None, None, name))
        return name in self.terminating or name not in self.namespaces

    async def served(self) -> frozenset[str]:
        await self._ask_or_fail(Call("served"))
        return frozenset(kind.plural for kind in self.served_kinds if kind.group == GROUP)

    # --- What users and other controllers do ---------------------------------------------------------------------

    def create_namespace(self, name: str) -> str:
        """Create a namespace, and return its uid."""
        self.namespaces[name] = self._uid()
        return self.namespaces[name]

    def remove_namespace(self, name: str) -> None:
        """Delete a namespace and all that is in it."""
        for kind in ALL_KINDS:
            for found in [found for found in self._objects[kind] if found.namespace == name]:
                self._remove(kind, found)
        del self.namespaces[name]

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object as a user does: its status is what the schema says. The namespace is made if there is none."""
        kind, name = kind_of(manifest), name_of(manifest)
        if name in self._objects[kind]:
            raise ConflictError(f"{name} already exists")
        if name.namespace not in self.namespaces:
            self.create_namespace(name.namespace)
        return deepcopy(self._create(kind, _without_status(manifest), {}))

    def put(self, manifest: Manifest) -> Manifest:
        """Create the object, or make its spec, labels and annotations what *manifest* says, as `kubectl replace` does."""
        kind, name = kind_of(manifest), name_of(manifest)
        if name not in self._objects[kind]:
            return self.create(manifest)
        stored = self._objects[kind][name]
        body = deepcopy(stored.body)
        for part in {*body, *manifest} - {"apiVersion", "kind", "metadata", "status"}:
            body.pop(part, None)
            if part in manifest:
                body[part] = deepcopy(manifest[part])
        for part in ("labels", "annotations", "finalizers", "ownerReferences"):
            body["metadata"].pop(part, None)
            if part in manifest["metadata"]:
                body["metadata"][part] = deepcopy(manifest["metadata"][part])
        return deepcopy(self._update(kind, stored, body))

    def edit(self, kind: Kind, name: ObjectName | str, **spec: Any) -> Manifest:
        """Set fields of the spec; None removes one."""
        stored = self._find(kind, name_in(name))
        body = deepcopy(stored.body)
        body["spec"] = {
            key: value for key, value in {**body.get("spec", {}), **spec}.items() if value is not None
        }
        return deepcopy(self._update(kind, stored, body))

    def annotate(self, kind: Kind, name: ObjectName | str, **annotations: str | None) -> Manifest:
        """Set annotations of ours, given without the prefix and with _ for -; None removes one."""
        stored = self._find(kind, name_in(name))
        body = deepcopy(stored.body)
        present = body["metadata"].get("annotations", {})
        given = {f"{GROUP}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        body["metadata"]["annotations"] = {
            key: value for key, value in {**present, **given}.items() if value is not None
        }
        return deepcopy(self._update(kind, stored, body))

    def label(self, kind: Kind, name: ObjectName | str, **labels: str) -> Manifest:
        stored = self._find(kind, name_in(name))
        body = deepcopy(stored.body)
        body["metadata"]["labels"] = {**body["metadata"].get("labels", {}), **labels}
        return deepcopy(self._update(kind, stored, body))

    def set_status(self, kind: Kind, name: ObjectName | str, **status: Any) -> Manifest:
        """Set fields of the status, as another manager does, the Deployment's controller for example."""
        stored = self._find(kind, name_in(name))
        body = {**stored.body, "status": {**stored.body.get("status", {}), **deepcopy(status)}}
        return deepcopy(self._update(kind, stored, body))

    def remove(self, kind: Kind, name: ObjectName | str) -> None:
        """Delete an object as a user does: it stays, marked, while it has finalizers; what it owns goes with it."""
        found = name_in(name)
        stored = self._find(kind, found)
        if stored.body["metadata"].get("finalizers"):
            body = deepcopy(stored.body)
            body["metadata"].setdefault("deletionTimestamp", CREATED_AT)
            self._update(kind, stored, body, counts=True)
            return
        self._remove(kind, found)

    def remove_crd(self, kind: Kind) -> None:
        """Delete the CRD of *kind*, and with it all its objects."""
        for found in list(self._objects[kind]):
            self._remove(kind, found)
        self.served_kinds.discard(kind)

    def restore_crd(self, kind: Kind) -> None:
        self.served_kinds.add(kind)

    def stored(self, kind: Kind, name: ObjectName | str) -> Manifest | None:
        """Return an object as it is now, without asking for it; None if there is none."""
        found = self._objects[kind].get(name_in(name))
        return None if found is None else deepcopy(found.body)

    def names(self, kind: Kind) -> Sequence[ObjectName]:
        return sorted(self._objects[kind])

    # --- Who watches ---------------------------------------------------------------------------------------------

    def watch(self, seen: Callable[[Kind, str | None, Manifest], object]) -> None:
        """Tell *seen* of all that is there, with the change None, and from now on of each change, as the watch does."""
        self._watchers.append(seen)
        self.list_again()

    def unwatch(self) -> None:
        """Tell nobody anything any more: the process is gone."""
        self._watchers.clear()

    def list_again(self) -> None:
        """Tell of all that is there once more, as a watch that began anew; what is gone is not told."""
        for kind in (TASKS, POOLS, DEPLOYMENTS):
            for stored in list(self._objects[kind].values()):
                self._tell((kind, None, deepcopy(stored.body)))

    def hold_events(self) -> None:
        """Keep events back, as a watch that went silent does."""
        self._held = []

    def release_events(self, *, lost: bool = False) -> None:
        """Deliver what was held, and no longer hold; or lose it, as a watch that began anew does with what is gone."""
        held, self._held = self._held or [], None
        for event in () if lost else held:
            self._tell(event)

    def replay(self, *events: Event) -> None:
        """Deliver earlier events once more, as they were then."""
        for event in events:
            self._tell(event)

    # --- What goes wrong -----------------------------------------------------------------------------------------

    def fail(
        self,
        verb: str,
        error: BaseException | None = None,
        *,
        times: float = 1,
        kind: Kind | None = None,
        name: str | None = None,
        after_pages: int = 0,
        done: bool = False,
    ) -> Fault:
        """
        Let the next calls of *verb* ("*": of any) fail with *error*, which is ApiUnavailableError unless given.

        With *done*, what was asked for happens, and only its answer is lost. With *after_pages*, a list yields that many
        pages first. The result can be handed to `heal`.
        """
        fault = Fault(
            error if error is not None else ApiUnavailableError("the API server does not answer"),
            lambda call: (
                verb in {"*", call.verb} and kind in {None, call.kind} and (name is None or name == call.name)
            ),
            times,
            after_pages,
            done,
        )
        self._faults.append(fault)
        return fault

    def heal(self, fault: Fault | None = None) -> None:
        """Let *fault*, or all faults, befall no further call."""
        self._faults = [] if fault is None else [other for other in self._faults if other is not fault]

    @contextmanager
    def down(self) -> Iterator[None]:
        """No call succeeds, and no event is told meanwhile; those that were missed are lost, as after a long outage."""
        fault = self.fail("*", times=float("inf"))
        self.hold_events()
        try:
            yield
        finally:
            self.heal(fault)
            self.release_events(lost=True)
            self.list_again()

    def backup(self) -> Any:
        """Return all that there is, for `restore`: what a snapshot of etcd has."""
        return deepcopy((self._objects, self._version, self.namespaces))

    def restore(self, backup: Any) -> None:
        """Let all be as it was, and versions and generations count on from there; no watch tells of it."""
        self._objects, self._version, self.namespaces = deepcopy(backup)

    def freeze_lists(self) -> None:
        """Let lists show what is there now, however long it is past, until `thaw_lists`."""
        self._past = {
            kind: [deepcopy(stored.body) for stored in objects.values()]
            for kind, objects in self._objects.items()
        }
        self._past_version = str(self._version)

    def thaw_lists(self) -> None:
        self._past = None

    # --- What was done -------------------------------------------------------------------------------------------

    def count(self, verb: str, kind: Kind | None = None) -> int:
        return sum(call.verb == verb and kind in {None, call.kind} for call in self.calls)

    def counts(self) -> Counter[str]:
        """How often each verb was called."""
        return Counter(call.verb for call in self.calls)

    @property
    def writes(self) -> Sequence[Call]:
        return [call for call in self.calls if call.verb in WRITES and not call.dry_run]

    def forget_calls(self) -> None:
        self.calls.clear()

    # --- Inside --------------------------------------------------------------------------------------------------

    async def _ask(self, call: Call) -> Fault | None:
        """Note *call*, let others run, and return what is to go wrong with it."""
        self.calls.append(call)
        await asyncio.sleep(0)
        if call.kind is not None and call.verb != "may":
            verb = "patch" if call.verb.startswith("apply") else call.verb
            if self._is_forbidden(verb, call.kind, call.namespace):
                raise ForbiddenError(f"{call} is forbidden")
        for fault in self._faults:
            if fault.times > 0 and fault.matches(call):
                fault.times -= 1
                return fault
        return None

    async def _ask_or_fail(self, call: Call) -> None:
        fault = await self._ask(call)
        if fault is not None:
            raise fault.error

    def _after_write(self, fault: Fault | None, *, dry_run: bool = False) -> None:
        if self.crash_after is not None and not dry_run:
            self.crash_after -= 1
            if self.crash_after <= 0:
                self.crash_after = None
                raise CrashError
        if fault is not None:
            raise fault.error

    def _is_forbidden(self, verb: str, kind: Kind, namespace: str | None) -> bool:
        places = {None, namespace}
        if namespace is None:  # all of the cluster may not be read where a part of it may not
            places = {where for _, _, where in self.forbidden}
        return any((verb, kind.plural, where) in self.forbidden for where in places)

    def _check_served(self, kind: Kind) -> None:
        if kind not in self.served_kinds:
            raise NoSuchKindError(f"{kind.plural} are not served")

    def _check_namespace(self, name: str) -> None:
        if name not in self.namespaces:
            raise NoSuchObjectError(f'namespaces "{name}" not found')

    def _check_acceptable(self, manifest: Manifest) -> None:
        reason = self.refuses(manifest)
        if reason is not None:
            raise RefusedError(reason)

    @staticmethod
    def _check_version(stored: _Stored, manifest: Manifest) -> None:
        given, held = manifest["metadata"], stored.body["metadata"]
        for part in ("resourceVersion", "uid"):
            if given.get(part) not in {None, held[part]}:
                raise ConflictError(f"{part} is {held[part]}, not {given[part]}")

    def _find(self, kind: Kind, name: ObjectName) -> _Stored:
        self._check_served(kind)
        stored = self._objects[kind].get(name)
        if stored is None:
            raise NoSuchObjectError(f'{kind.plural} "{name.name}" not found')
        return stored

    def _create(self, kind: Kind, manifest: Manifest, said: Manifest) -> dict[str, Any]:
        stored = _Stored(self._new_body(kind, manifest), applied=deepcopy(dict(said)))
        self._objects[kind][name_of(manifest)] = stored
        self._stamp(stored.body)
        self._happened((kind, "ADDED", deepcopy(stored.body)))
        return stored.body

    def _new_body(self, kind: Kind, manifest: Manifest) -> dict[str, Any]:
        body = deepcopy(dict(manifest))
        body["metadata"] |= {"uid": self._uid(), "generation": 1}
        body["metadata"].setdefault("namespace", "default")
        body["metadata"].setdefault("creationTimestamp", CREATED_AT)
        status = {TASKS: TaskStatus, POOLS: PoolStatus}.get(kind)
        body["status"] = (
            {} if status is None else status().model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        return body

    def _update(
        self, kind: Kind, stored: _Stored, body: dict[str, Any], *, counts: bool = False
    ) -> dict[str, Any]:
        """Store *body*, which tells nobody anything where nothing is different."""
        if body == stored.body:
            return stored.body
        if counts or _desired(body) != _desired(stored.body):
            body["metadata"] = {
                **body["metadata"],
                "generation": stored.body["metadata"]["generation"] + 1,
            }
        stored.body = deepcopy(body)
        self._stamp(stored.body)
        metadata = stored.body["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self._remove(kind, name_of(stored.body))
        else:
            self._happened((kind, "MODIFIED", deepcopy(stored.body)))
        return stored.body

    def _remove(self, kind: Kind, name: ObjectName) -> None:
        body = self._objects[kind].pop(name).body
        self._stamp(body)
        self._happened((kind, "DELETED", deepcopy(body)))
        uid = body["metadata"]["uid"]
        for other, objects in list(self._objects.items()):
            for found, stored in list(objects.items()):
                owners = stored.body["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == uid for owner in owners) and found in objects:
                    self._remove(other, found)

    def _stamp(self, body: dict[str, Any]) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)

    def _happened(self, event: Event) -> None:
        self.history.append(event)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        kind, change, body = event
        if kind == DEPLOYMENTS and not _matches(body, "app.kubernetes.io/managed-by=pyncette-operator"):
            return
        if self._held is not None:
            self._held.append(event)
            return
        for seen in self._watchers:
            seen(kind, change, deepcopy(body))

    def _uid(self) -> str:
        return f"00000000-0000-4000-8000-{next(self._uids):012}"


def name_of(manifest: Manifest) -> ObjectName:
    metadata = manifest["metadata"]
    return ObjectName(metadata.get("namespace", "default"), metadata["name"])


def name_in(name: ObjectName | str) -> ObjectName:
    """Return the name that *name* says, in the namespace default unless it has another: NAMESPACE/NAME."""
    if isinstance(name, ObjectName):
        return name
    namespace, slash, rest = name.partition("/")
    return ObjectName(namespace, rest) if slash else ObjectName("default", name)


def task(name: str = "report", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A task that is wanted, hourly unless *spec* says otherwise."""
    return {
        "apiVersion": TASKS.api_version,
        "kind": TASKS.name,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"handler": "send", "schedule": "0 * * * *", **spec},
    }


def pool(name: str = "default", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A pool that is wanted."""
    return {
        "apiVersion": POOLS.api_version,
        "kind": POOLS.name,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"image": "registry.example/tasks:1", "module": "tasks", **spec},
    }


def _matches(body: Manifest, labels: str) -> bool:
    have = body["metadata"].get("labels", {})
    wanted = [part.split("=", 1) for part in labels.split(",") if part]
    return all(have.get(key) == value for key, value in wanted)


def _desired(body: Manifest) -> dict[str, Any]:
    """All but what has no part in the generation."""
    return {part: value for part, value in body.items() if part not in {"metadata", "status"}}


def _without_status(manifest: Manifest) -> dict[str, Any]:
    return {part: value for part, value in manifest.items() if part != "status"}


def _without_identity(manifest: Manifest) -> dict[str, Any]:
    """What a write may change of an object that is there: not who it is."""
    fixed = {"uid", "resourceVersion", "generation", "creationTimestamp"}
    metadata = {part: value for part, value in manifest["metadata"].items() if part not in fixed}
    return {**manifest, "metadata": metadata}
