"""
Writes the files that are made from the code, or with --check says which of them are not current.

A file that is made stands in GENERATED with the function that makes its text; nothing else needs to know of it.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cli_reference() -> str:
    from tools import cli_reference as page

    return page.cli_reference()


def manifest_reference() -> str:
    from tools import manifest_reference as page

    return page.manifest_reference()


def custom_resource(plural: str) -> Callable[[], str]:
    def make() -> str:
        from tools import custom_resources

        return custom_resources.documents()[plural]

    return make


def kustomization() -> str:
    from tools import custom_resources

    return custom_resources.kustomization()


def conditions_reference() -> str:
    from tools import conditions_reference as page

    return page.conditions_reference()


def operator_permissions() -> str:
    from tools import operator_permissions as rules

    return rules.operator_permissions()


def values_schema() -> str:
    from tools import chart_values

    return chart_values.values_schema()


def chart_readme() -> str:
    from tools import chart_values

    return chart_values.chart_readme()


def metrics_reference() -> str:
    from tools import metrics_reference as page

    return page.metrics_reference()


GENERATED: dict[str, Callable[[], str]] = {
    "charts/pyncette-operator/README.md": chart_readme,
    "charts/pyncette-operator/files/crds/pyncettetasks.yaml": custom_resource("pyncettetasks"),
    "charts/pyncette-operator/files/crds/pyncetteworkerpools.yaml": custom_resource("pyncetteworkerpools"),
    "charts/pyncette-operator/files/permissions.yaml": operator_permissions,
    "charts/pyncette-operator/values.schema.json": values_schema,
    "crds/Kustomization": kustomization,
    "crds/pyncettetasks.yaml": custom_resource("pyncettetasks"),
    "crds/pyncetteworkerpools.yaml": custom_resource("pyncetteworkerpools"),
    "docs/reference/cli.md": cli_reference,
    "docs/reference/conditions.md": conditions_reference,
    "docs/reference/manifests.md": manifest_reference,
    "docs/reference/metrics-operator.md": metrics_reference,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the files that are made from the code.")
    sys.path.insert(0, str(ROOT))  # what makes a file may stand beside this one
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not current")
    if parser.parse_args().check:
        sys.exit(check())
    write()


def write() -> None:
    for name, make in GENERATED.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")


def check() -> str | None:
    stale = [name for name, make in GENERATED.items() if current(ROOT / name) != make()]
    return f"not current: {', '.join(stale)}; run `make generate`" if stale else None


def current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    main()
