"""Renders the chart, and looks things up in what came out."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.servers.tools import Helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "pyncette-operator"

Object = dict[str, Any]

ONE_BACKEND: Object = {
    "backends": [{"name": "default", "secretName": "pyncette-backend", "namespaces": ["shop"]}]
}
"""The least that the chart has to be told."""

EMBEDDED: Object = {
    "backend": {"embedded": {"enabled": True, "secretName": "pyncette-postgresql", "namespaces": ["shop"]}}
}

SELECTED: Object = {
    "backends": [
        {
            "name": "default",
            "secretName": "pyncette-backend",
            "namespaceSelector": {"matchLabels": {"example.org/tenant": "true"}},
        }
    ]
}
"""A backend that is open to the namespaces with a label."""

TWO_NAMESPACES: Object = {
    "clusterId": "blue",
    "namespaces": ["orders", "reports"],
    "backends": [{"name": "default", "secretName": "pyncette-backend", "namespaces": ["orders", "reports"]}],
}


class Rendering:
    """The objects of a release."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, component: str | None = None) -> Object:
        found = [
            one
            for one in self.all(kind)
            if component is None or one["metadata"]["labels"]["app.kubernetes.io/component"] == component
        ]
        assert len(found) == 1, f"{len(found)} of {kind} {component or ''}"
        return found[0]

    @property
    def kinds(self) -> set[str]:
        return {one["kind"] for one in self.objects}

    @property
    def pod(self) -> Object:
        """The pod template of the operator."""
        return self.one("Deployment")["spec"]["template"]

    @property
    def container(self) -> Object:
        (container,) = self.pod["spec"]["containers"]
        return container

    @property
    def settings(self) -> Object:
        return yaml.safe_load(self.one("ConfigMap", "operator")["data"]["operator.yaml"])

    def rules(self) -> Iterator[Object]:
        """All rules of RBAC that are given to anybody."""
        for kind in ("Role", "ClusterRole"):
            for role in self.all(kind):
                yield from role["rules"]


def render(helm: Helm, *values: Object, release: str = "pyncette", namespace: str = "pyncette") -> Rendering:
    """Render the chart with *values*, of which later ones are merged over earlier ones."""
    return Rendering(deepcopy(_rendered(helm, json.dumps(merged(*values)), release, namespace)))


@cache
def _rendered(helm: Helm, values: str, release: str, namespace: str) -> list[Object]:
    """Return the objects as they were rendered before: several tests look at the same ones."""
    return helm.template(CHART, json.loads(values), release=release, namespace=namespace)


def merged(*values: Object) -> Object:
    """Return *values* as Helm merges several files."""
    whole: Object = {}
    for part in values:
        for name, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(name), dict)
            whole[name] = merged(whole[name], value) if both else value
    return whole
