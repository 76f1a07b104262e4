"""
Writes plain manifests from the chart; needs Helm.

charts/kustomize/operator.yaml is for those who have no Helm. charts/namespaced-policies.yaml is for the administrator of a
cluster on which others install the operator for some namespaces.

They are not among the files of tools/generate.py, since `make check` does without Helm. Tests of the chart compare them.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "pyncette-operator"
TARGET = ROOT / "charts" / "kustomize" / "operator.yaml"

POLICIES = ROOT / "charts" / "namespaced-policies.yaml"

VALUES: dict[str, Any] = {
    "crds": {"enabled": False},
    "backends": [
        {
            "name": "default",
            "secretName": "pyncette-backend",
            "namespaceSelector": {"matchLabels": {"pyncette.dev/backend": "default"}},
        }
    ],
}
"""The chart's defaults and one backend, for namespaces with a label. The CRDs are those of crds/, which charts/kustomize takes in."""

NAMESPACED: dict[str, Any] = {
    "crds": {"enabled": False},
    "clusterId": "production",
    "namespaces": ["shop"],
    "backends": [{"name": "default", "secretName": "pyncette-backend", "namespaces": ["shop"]}],
    "admissionPolicies": {"withNamespaces": True},
}
"""An operator for one namespace. Of this, only the policies are written."""

NAME = "pyncette"
"""Of the release and of its namespace."""

OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""Labels that would not be true."""

HEAD = """\
# Made from charts/pyncette-operator by `make plain`: its defaults, and a backend whose URL stands in the Secret
# pyncette-backend. It is open to namespaces with the label pyncette.dev/backend=default.
"""

HEAD_OF_POLICIES = """\
# Made from charts/pyncette-operator by `make plain`, for the administrator of a cluster: the admission policies of an
# operator that serves the namespace shop, and is the release pyncette in the namespace pyncette. For other names, render
# them with the values of the release:
#
#   helm template RELEASE charts/pyncette-operator --namespace NAMESPACE --values values.yaml \\
#     --set admissionPolicies.withNamespaces=true --show-only templates/admission-policies.yaml
"""


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.servers.tools import open_helm

    with open_helm() as helm:
        TARGET.write_text(plain(helm.template(CHART, VALUES, release=NAME)), "utf-8")
        POLICIES.write_text(policies(helm.template(CHART, NAMESPACED, release=NAME)), "utf-8")


def policies(objects: list[dict[str, Any]]) -> str:
    """Return the manifests of the admission policies among *objects*."""
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    return plain([one for one in objects if one["kind"] in kinds], HEAD_OF_POLICIES)


def plain(objects: list[dict[str, Any]], head: str = HEAD) -> str:
    """Return the manifests of *objects*, which Helm has rendered, without what only Helm has a use for."""
    return head + "".join(
        f"---\n{yaml.dump(_plain(one), Dumper=_Dumper, sort_keys=False, width=120)}" for one in objects
    )


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it reads."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _plain(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _plain(inner) for name, inner in part.items() if name not in OF_HELM}
    return [_plain(inner) for inner in part] if isinstance(part, list) else part


if __name__ == "__main__":
    main()
