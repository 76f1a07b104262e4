"""Checks a pod template against the restricted Pod Security Standard, so that pods are not refused one by one later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pyncette.controller.cluster.api import Manifest
from pyncette.controller.workloads.strategic_merge import item_named
from pyncette.resources.modelling import listed
from pyncette.resources.reading import Path

CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")

VOLUME_TYPES: Final = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
"""Those that are safe since Kubernetes 1.32; later releases have more, which earlier ones would refuse."""

SELINUX_TYPES: Final = frozenset(
    {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
)
PROFILES: Final = ("RuntimeDefault", "Localhost")
"""Types of seccomp and AppArmor profiles that confine."""

CAPABILITY: Final = "NET_BIND_SERVICE"
"""The one that may be added."""

APPARMOR_ANNOTATION: Final = "container.apparmor.security.beta.kubernetes.io/"
PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS: Final = ("postStart", "preStop")


class Violation(NamedTuple):
    """One thing that takes a template below the standard."""

    check: str
    """Name of the control, as the standard and the messages of the API server have it."""
    path: Path
    message: str


class Part(NamedTuple):
    """Something in the template, and where it is."""

    path: Path
    fields: Mapping[str, Any]

    def within(self, *names: str) -> Part:
        """Return what is below, empty if it is not there or no mapping: the API server refuses what has no such form."""
        fields: Any = self.fields
        for name in names:
            fields = fields.get(name) if isinstance(fields, Mapping) else None
        return Part((*self.path, *names), fields if isinstance(fields, Mapping) else {})

    def has(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def items(self, name: str, key: str = "name") -> Iterator[Part]:
        """Yield the mappings in a list."""
        listing = self.fields.get(name)
        for position, item in enumerate(listing if isinstance(listing, list) else ()):
            if isinstance(item, Mapping):
                which = item_named(key, item[key]) if key in item else position
                yield Part((*self.path, name, which), item)

    def values(self, name: str) -> list[Any]:
        listing = self.fields.get(name)
        return listing if isinstance(listing, list) else []


def violations(template: Manifest) -> list[Violation]:
    """
    Return all that is below the standard, as the newest Kubernetes has it; pods of Windows and of user namespaces, which
    some releases let off some checks, are held to all of them.
    """
    pod = Part((), template)
    return [Violation(name, path, message) for name, check in CHECKS.items() for path, message in check(pod)]


Found = Iterator[tuple[Path, str]]


def containers(pod: Part) -> Iterator[Part]:
    """Yield all containers of the pod: those that start it, run in it, and look into it."""
    for name in CONTAINER_LISTS:
        yield from pod.within("spec").items(name)


def _contexts(pod: Part) -> Iterator[Part]:
    """Yield the security contexts of the pod and of all its containers."""
    yield pod.within("spec", "securityContext")
    for container in containers(pod):
        yield container.within("securityContext")


# --- The checks, in the order of the standard ------------------------------------------------------------------------


def _host_process(pod: Part) -> Found:
    for context in _contexts(pod):
        windows = context.within("windowsOptions")
        if windows.fields.get("hostProcess"):
            yield (*windows.path, "hostProcess"), "must not be true"


def _host_namespaces(pod: Part) -> Found:
    spec = pod.within("spec")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.fields.get(name):
            yield (*spec.path, name), "pods must not share the namespaces of their node; leave it out"


def _privileged(pod: Part) -> Found:
    for container in containers(pod):
        context = container.within("securityContext")
        if context.fields.get("privileged"):
            yield (*context.path, "privileged"), "must not be true"


def _host_ports(pod: Part) -> Found:
    for container in containers(pod):
        for port in container.items("ports", "containerPort"):
            if port.fields.get("hostPort"):
                yield (*port.path, "hostPort"), "pods must not take ports of their node; leave it out"


def _host_probes(pod: Part) -> Found:
    for container in containers(pod):
        actions = [container.within(name) for name in PROBES]
        actions += [container.within("lifecycle", name) for name in HOOKS]
        for action in actions:
            for kind in ("httpGet", "tcpSocket"):
                asked = action.within(kind)
                if asked.fields.get("host"):
                    yield (*asked.path, "host"), "must be left out, so that the pod itself is asked"


def _apparmor(pod: Part) -> Found:
    for context in _contexts(pod):
        profile = context.within("appArmorProfile")
        if context.has("appArmorProfile") and profile.fields.get("type") not in PROFILES:
            yield (*profile.path, "type"), f"must be {listed(PROFILES, 'or')}"
    annotations = pod.within("metadata", "annotations")
    for name, value in annotations.fields.items():
        if name.startswith(APPARMOR_ANNOTATION) and not _confines(value):
            yield (
                (*annotations.path, name),
                "must be runtime/default, or localhost/ and the name of a profile",
            )


def _confines(profile: Any) -> bool:
    return profile in ("", "runtime/default") or str(profile).startswith("localhost/")


def _selinux(pod: Part) -> Found:
    for context in _contexts(pod):
        options = context.within("seLinuxOptions")
        if options.fields.get("type", "") not in SELINUX_TYPES:
            yield (*options.path, "type"), f"must be {listed(sorted(SELINUX_TYPES - {''}), 'or')}"
        for name in ("user", "role"):
            if options.fields.get(name):
                yield (*options.path, name), "must be left out"


def _proc_mount(pod: Part) -> Found:
    for container in containers(pod):
        context = container.within("securityContext")
        if context.fields.get("procMount", "Default") != "Default":
            yield (*context.path, "procMount"), "must be Default, or left out"


def _sysctls(pod: Part) -> Found:
    for sysctl in pod.within("spec", "securityContext").items("sysctls"):
        if sysctl.fields.get("name") not in SYSCTLS:
            yield sysctl.path, f"is not one of the safe ones, which are {listed(sorted(SYSCTLS))}"


def _volumes(pod: Part) -> Found:
    for volume in pod.within("spec").items("volumes"):
        types = {name for name, value in volume.fields.items() if name != "name" and value is not None}
        if types and not types <= VOLUME_TYPES:
            beyond = min(types - VOLUME_TYPES)
            yield (*volume.path, beyond), f"volumes may be {listed(sorted(VOLUME_TYPES), 'or')}"


def _privilege_escalation(pod: Part) -> Found:
    for container in containers(pod):
        context = container.within("securityContext")
        if context.fields.get("allowPrivilegeEscalation") is not False:
            yield (*context.path, "allowPrivilegeEscalation"), "must be false"


def _non_root(pod: Part) -> Found:
    spec = pod.within("spec", "securityContext")
    of_pod = spec.fields.get("runAsNonRoot")
    if of_pod is not None and of_pod is not True:
        yield (*spec.path, "runAsNonRoot"), "must be true"
    for container in containers(pod):
        context = container.within("securityContext")
        if context.fields.get("runAsNonRoot", of_pod) is not True:
            yield (*context.path, "runAsNonRoot"), "must be true"


def _user(pod: Part) -> Found:
    for context in _contexts(pod):
        if context.fields.get("runAsUser") == 0:
            yield (*context.path, "runAsUser"), "must not be 0, which is root"


def _seccomp(pod: Part) -> Found:
    of_pod = pod.within("spec", "securityContext")
    if of_pod.has("seccompProfile") and not _is_confined(of_pod):
        yield (*of_pod.path, "seccompProfile", "type"), f"must be {listed(PROFILES, 'or')}"
    for container in containers(pod):
        context = container.within("securityContext")
        if not _is_confined(context if context.has("seccompProfile") else of_pod):
            yield (*context.path, "seccompProfile", "type"), f"must be {listed(PROFILES, 'or')}"


def _is_confined(context: Part) -> bool:
    return context.within("seccompProfile").fields.get("type") in PROFILES


def _capabilities(pod: Part) -> Found:
    for container in containers(pod):
        given = container.within("securityContext", "capabilities")
        if "ALL" not in given.values("drop"):
            yield (*given.path, "drop"), "must hold ALL"
        beyond = [str(name) for name in given.values("add") if name != CAPABILITY]
        if beyond:
            yield (*given.path, "add"), f"may hold {CAPABILITY} alone, not {listed(beyond)}"


CHECKS: Final[Mapping[str, Callable[[Part], Found]]] = {
    "windowsHostProcess": _host_process,
    "hostNamespaces": _host_namespaces,
    "privileged": _privileged,
    "hostPorts": _host_ports,
    "hostProbesAndHostLifecycle": _host_probes,
    "appArmorProfile": _apparmor,
    "seLinuxOptions": _selinux,
    "procMount": _proc_mount,
    "sysctls": _sysctls,
    "restrictedVolumes": _volumes,
    "allowPrivilegeEscalation": _privilege_escalation,
    "runAsNonRoot": _non_root,
    "runAsUser": _user,
    "seccompProfile_restricted": _seccomp,
    "capabilities_restricted": _capabilities,
}
"""By the names that the admission of the API server gives them. hostPath is one of the volumes that are not allowed."""
