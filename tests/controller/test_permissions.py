"""The table of what the operator may do."""

from pyncette.controller.permissions import PERMISSIONS, Scope


def test_nothing_is_granted_twice_and_each_row_says_why():
    granted = [
        (row.scope, row.group, resource, verb)
        for row in PERMISSIONS
        for resource in row.resources
        for verb in row.verbs
    ]

    assert len(granted) == len(set(granted))
    assert all(row.why.endswith(".") for row in PERMISSIONS)


def test_there_is_no_wildcard_and_nothing_that_leads_to_more_rights():
    for row in PERMISSIONS:
        assert "*" not in "".join((row.group, *row.resources, *row.verbs))
        assert {"secrets", "pods", "roles", "rolebindings", "customresourcedefinitions"}.isdisjoint(
            row.resources
        )
        assert row.group not in {"rbac.authorization.k8s.io", "apiextensions.k8s.io"}


def test_our_own_kinds_are_written_in_their_status_alone():
    written = {
        resource
        for row in PERMISSIONS
        if row.group == "pyncette.dev" and not {"get", "list", "watch"}.issuperset(row.verbs)
        for resource in row.resources
    }

    assert written == {"pyncettetasks/status", "pyncetteworkerpools/status"}


def test_what_only_a_cluster_role_can_give_is_never_in_a_role():
    for row in PERMISSIONS:
        assert (row.scope in {Scope.CLUSTER, Scope.SELECTOR}) == ("namespaces" in row.resources)


def test_namespaces_are_read_by_name_and_listed_only_for_a_selector():
    rows = {row.scope: row.verbs for row in PERMISSIONS if "namespaces" in row.resources}

    assert rows == {Scope.CLUSTER: ("get",), Scope.SELECTOR: ("list",)}
