"""
Writes charts/kustomize/operator.yaml, the plain manifests for those who have no Helm, from the chart; needs Helm.

It is not among the files of tools/generate.py, since `make check` does without Helm. A test of the chart compares it.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "charts" / "kustomize" / "operator.yaml"

VALUES: dict[str, Any] = {
    "crds": {"enabled": False},
    "backends": [{"name": "default", "secretName": "pyncette-backend"}],
}
"""The chart's defaults and one backend. The CRDs are those of crds/, which charts/kustomize takes in."""

NAME = "pyncette"
"""Of the release and of its namespace."""

OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""Labels that would not be true."""

HEAD = """\
# Made from charts/pyncette-operator by `make plain`: its defaults, and a backend whose URL stands in the Secret
# pyncette-backend.
"""


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.servers.tools import open_helm

    with open_helm() as helm:
        TARGET.write_text(
            plain(helm.template(ROOT / "charts/pyncette-operator", VALUES, release=NAME)), "utf-8"
        )


def plain(objects: list[dict[str, Any]]) -> str:
    """Return the manifests of *objects*, which Helm has rendered, without what only Helm has a use for."""
    return HEAD + "".join(
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
