"""Makes the rules of RBAC that the chart gives to the operator, from the table in the code."""

from collections.abc import Iterator
from textwrap import indent

import yaml

from pyncette.controller.permissions import PERMISSIONS, Permission, Scope

HEAD = """\
# Made from operator/pyncette/controller/permissions.py by `make generate`.
#
# namespace: in each namespace that is watched. release: in that of the release. cluster: in the cluster, if all of its
# namespaces are watched. selector: the same, if a backend has a selector of namespaces. metrics: in the cluster, if
# readers of the metrics have to show a token.
"""


def operator_permissions() -> str:
    """Return the file, in which each rule has its reason above it."""
    return HEAD + "".join(f"{scope}:\n{indent(''.join(_rules(scope)), '  ')}" for scope in Scope)


def _rules(scope: Scope) -> Iterator[str]:
    for permission in PERMISSIONS:
        if permission.scope is scope:
            yield f"# {permission.why}\n" + yaml.safe_dump([_rule(permission)], sort_keys=False)


def _rule(permission: Permission) -> dict[str, list[str]]:
    return {
        "apiGroups": [permission.group],
        "resources": list(permission.resources),
        "verbs": list(permission.verbs),
    }
