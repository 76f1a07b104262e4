"""Parts of pod templates as users may write them: some by hand, for what each check looks at, and any number at random."""

from hypothesis import strategies as st

CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def beside(name="sidecar", where="containers", **fields):
    """A container beside the worker, which is up to the standard but for *fields*."""
    return {where: [{"name": name, "image": "example.org/sidecar:1", "securityContext": CONFINED, **fields}]}


def worker(**fields):
    return {"containers": [{"name": "worker", **fields}]}


def context(**fields):
    return worker(securityContext=fields)


UP_TO_STANDARD = {
    "nothing": {},
    "a sidecar that is confined": beside(),
    "a container that comes first": beside("first", "initContainers"),
    "a port that may be low": context(capabilities={"add": ["NET_BIND_SERVICE"]}),
    "a user that is not root": {"securityContext": {"runAsUser": 1000, "fsGroup": 0}},
    "profiles of the node": {
        "securityContext": {
            "seccompProfile": {"type": "Localhost", "localhostProfile": "p"},
            "appArmorProfile": {"type": "RuntimeDefault"},
        }
    },
    "a container that confines itself": {
        "securityContext": {"$patch": "delete"},
        **context(runAsNonRoot=True, seccompProfile={"type": "RuntimeDefault"}),
    },
    "a label of SELinux": context(seLinuxOptions={"type": "container_t", "level": "s0:c1"}),
    "a safe sysctl": {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
    "volumes that are the pod's": {
        "volumes": [
            {"name": "a", "configMap": {"name": "x"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "x"}},
            {"name": "c", "projected": {"sources": [{"secret": {"name": "x"}}]}},
            {"name": "d", "csi": {"driver": "x"}},
            {
                "name": "e",
                "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]},
            },
            {"name": "f"},
        ]
    },
    "a probe of a sidecar": beside(livenessProbe={"tcpSocket": {"port": 5}}),
}

BELOW = {
    "windowsHostProcess": [
        {"securityContext": {"windowsOptions": {"hostProcess": True}}},
        context(windowsOptions={"hostProcess": True}),
    ],
    "hostNamespaces": [{"hostNetwork": True}, {"hostPID": True}, {"hostIPC": True}],
    "privileged": [
        beside(securityContext={**CONFINED, "allowPrivilegeEscalation": True, "privileged": True})
    ],
    "hostPorts": [
        worker(ports=[{"containerPort": 5, "hostPort": 5}]),
        beside("first", "initContainers", ports=[{"containerPort": 5, "hostPort": 5}]),
    ],
    "hostProbesAndHostLifecycle": [
        beside(livenessProbe={"httpGet": {"port": 5, "host": "example.org"}}),
        beside(readinessProbe={"tcpSocket": {"port": 5, "host": "example.org"}}),
        beside(lifecycle={"preStop": {"httpGet": {"port": 5, "host": "example.org"}}}),
        worker(lifecycle={"postStart": {"httpGet": {"port": 5, "host": "example.org"}}}),
    ],
    "appArmorProfile": [
        {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
        beside(securityContext={**CONFINED, "appArmorProfile": {"type": "Unconfined"}}),
    ],
    "seLinuxOptions": [
        {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}},
        context(seLinuxOptions={"user": "system_u"}),
        context(seLinuxOptions={"role": "system_r"}),
    ],
    "procMount": [{"hostUsers": False, **context(procMount="Unmasked")}],
    "sysctls": [{"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}],
    "restrictedVolumes": [
        {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]},
        {"volumes": [{"name": "x", "nfs": {"server": "x", "path": "/"}}]},
        {
            "volumes": [
                {"name": "x", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.a:b", "lun": 0}}
            ]
        },
    ],
    "allowPrivilegeEscalation": [
        context(allowPrivilegeEscalation=True),
        context(allowPrivilegeEscalation=None),
        beside(securityContext={"capabilities": {"drop": ["ALL"]}}),
        beside("first", "initContainers", securityContext=None),
    ],
    "runAsNonRoot": [
        {"securityContext": {"runAsNonRoot": None}},
        {"securityContext": {"runAsNonRoot": False}},
        {"securityContext": {"runAsNonRoot": False}, **context(runAsNonRoot=True)},
        context(runAsNonRoot=False),
        {
            "securityContext": {"runAsNonRoot": None},
            **beside(securityContext={**CONFINED, "runAsNonRoot": True}),
        },
    ],
    "runAsUser": [{"securityContext": {"runAsUser": 0}}, context(runAsUser=0)],
    "seccompProfile_restricted": [
        {"securityContext": {"seccompProfile": None}},
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
        context(seccompProfile={"type": "Unconfined"}),
        {
            "securityContext": {"seccompProfile": {"type": "Unconfined"}},
            **context(seccompProfile={"type": "RuntimeDefault"}),
        },
    ],
    "capabilities_restricted": [
        context(capabilities={"drop": ["NET_RAW"]}),
        context(capabilities=None),
        context(capabilities={"add": ["SYS_ADMIN"]}),
        beside(securityContext={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["all"]}}),
    ],
}
"""By the name of the check that is to notice. An annotation of AppArmor has its own test."""


# --- At random -------------------------------------------------------------------------------------------------------


def _some(**fields):
    """A mapping with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def _named(names, key="name", *, fields, patches=False):
    """A list whose items have different names, each with some of *fields*; with *patches*, some are deleted."""
    items = st.builds(lambda name, rest: {key: name} | rest, names, _some(**fields))
    if patches:
        items |= names.map(lambda name: {key: name, "$patch": "delete"})
    return st.lists(items, max_size=3, unique_by=lambda item: item[key])


def _or_null(value, patches):
    return value | st.none() if patches else value


words = st.sampled_from(["a", "b", "c"])
switches = st.booleans()
users = st.sampled_from([0, 1, 1000])
quantities = st.sampled_from(["100m", "0.1", "1", "1.5Gi", "64Mi", "1e3", "2k"])
profiles = st.sampled_from(
    [{"type": "RuntimeDefault"}, {"type": "Unconfined"}, {"type": "Localhost", "localhostProfile": "p"}]
)


def contexts(*, patches):
    own = {
        "allowPrivilegeEscalation": st.just(False) | switches,
        "capabilities": _some(
            drop=st.sampled_from([["ALL"], ["ALL", "NET_RAW"], ["NET_RAW"]]),
            add=st.sampled_from([[], ["NET_BIND_SERVICE"], ["CHOWN"]]),
        ),
        "privileged": st.just(False) | switches,
        "procMount": st.sampled_from(["Default", "Unmasked"]),
        "readOnlyRootFilesystem": switches,
        **_of_any_context(),
    }
    return _some(**{name: _or_null(value, patches) for name, value in own.items()})


def _of_any_context():
    return {
        "runAsNonRoot": st.just(True) | switches,
        "runAsUser": users,
        "runAsGroup": users,
        "seccompProfile": profiles,
        "appArmorProfile": profiles,
        "seLinuxOptions": _some(type=st.sampled_from(["container_t", "spc_t"]), level=st.just("s0")),
    }


def container_fields(*, patches):
    """Fields that a container may have, and the template of a worker too."""
    fields = {
        "env": _named(words.map(str.upper), fields={"value": words}, patches=patches),
        "ports": _named(
            st.sampled_from([5000, 5001]),
            "containerPort",
            fields={"name": words, "hostPort": st.sampled_from([0, 5000])},
            patches=patches,
        ),
        "volumeMounts": _named(
            st.sampled_from(["/a", "/b"]),
            "mountPath",
            fields={"readOnly": switches, "subPath": words},
            patches=patches,
        ).map(lambda mounts: [{"name": "tmp"} | mount for mount in mounts]),
        "resources": _some(
            requests=_some(cpu=quantities, memory=quantities),
            limits=_some(**{"ephemeral-storage": quantities}),
        ),
        "securityContext": contexts(patches=patches),
        "workingDir": words,
        "tty": switches,
        "lifecycle": _some(
            postStart=st.sampled_from([{"sleep": {"seconds": 1}}, {"httpGet": {"port": 5, "host": "a"}}])
        ),
    }
    return {name: _or_null(value, patches) for name, value in fields.items()}


def _containers(*, patches):
    fields = container_fields(patches=patches)
    workers = _some(**fields).map(lambda rest: {"name": "worker"} | rest)
    others = st.builds(
        lambda name, rest: {"name": name, "image": "example.org/x:1", "securityContext": CONFINED} | rest,
        words,
        _some(**container_fields(patches=False)),
    )
    return st.lists(workers | others, max_size=3, unique_by=lambda item: item["name"])


def parts(*, patches=False):
    """Parts of PodTemplateSpecs; with *patches* also nulls and directives, where there is something to patch."""
    pod_contexts = _some(
        **{name: _or_null(value, patches) for name, value in _of_any_context().items()},
        sysctls=st.just([{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
        fsGroup=users,
    )
    if patches:
        pod_contexts |= st.sampled_from(
            [{"$patch": "delete"}, {"$patch": "replace", "runAsUser": 5}, {"$retainKeys": ["runAsNonRoot"]}]
        )
    sources = st.sampled_from(
        [
            {"emptyDir": {"sizeLimit": "1.5Gi"}},
            {"configMap": {"name": "a", "items": [{"key": "a", "path": "b"}]}},
            {"hostPath": {"path": "/"}},
            {"projected": {"sources": [{"configMap": {"name": "a"}}]}},
        ]
    )
    volumes = st.lists(
        st.builds(lambda name, source: {"name": name} | source, words, sources),
        max_size=3,
        unique_by=lambda volume: volume["name"],
    )
    if patches:
        volumes |= st.just([{"name": "tmp", "$retainKeys": ["name", "image"], "image": {"reference": "x"}}])
        volumes |= st.just([{"$patch": "replace"}, {"name": "a", "emptyDir": {}}])
    fields = {
        "containers": _containers(patches=patches),
        "initContainers": _containers(patches=False).map(
            lambda listed: [each for each in listed if each["name"] != "worker"]
        ),
        "securityContext": pod_contexts,
        "volumes": volumes,
        "nodeSelector": st.dictionaries(words, words, max_size=2),
        "tolerations": st.lists(st.just({"key": "a", "operator": "Exists"}), max_size=1),
        "hostAliases": _named(
            st.sampled_from(["10.0.0.1", "10.0.0.2"]),
            "ip",
            fields={"hostnames": st.just(["a"])},
            patches=patches,
        ),
        "imagePullSecrets": _named(words, fields={}, patches=patches),
        "topologySpreadConstraints": _named(
            st.sampled_from(["kubernetes.io/hostname", "kubernetes.io/os"]),
            "topologyKey",
            fields={},
        ).map(
            lambda listed: [{"maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"} | each for each in listed]
        ),
        "affinity": st.just(
            {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
                        ]
                    }
                }
            }
        ),
        "hostNetwork": st.just(False) | switches,
        "hostUsers": switches,
        "priorityClassName": st.just(""),
        "automountServiceAccountToken": switches,
        "enableServiceLinks": switches,
        "shareProcessNamespace": switches,
    }
    spec = _some(**{name: _or_null(value, patches) for name, value in fields.items()})
    texts = st.dictionaries(words, words, max_size=2)
    return _some(metadata=_some(labels=texts, annotations=texts), spec=spec)
