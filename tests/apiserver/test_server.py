"""What a test may expect of the API server that it asks for."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.apiserver import task
from tests.servers import ApiError, MissingServerError, kubernetes, open_apiserver

ROOT = Path(__file__).resolve().parents[2]


def test_a_namespace_is_empty_and_gone_after_its_test_with_all_that_was_in_it(apiserver):
    with apiserver.fresh_namespace() as one, apiserver.fresh_namespace() as other:
        apiserver.admin.create(task(one))

        assert apiserver.admin.list("pyncette.dev/v1alpha1", "PyncetteTask", other) == []

    assert not apiserver.admin.exists({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}})
    assert apiserver.admin.list("pyncette.dev/v1alpha1", "PyncetteTask") == []


def test_an_account_may_do_what_it_was_given_the_rights_for_and_nothing_else(apiserver, namespace):
    reading = {"apiGroups": ["pyncette.dev"], "resources": ["pyncettetasks"], "verbs": ["get", "list"]}
    apiserver.admin.create(task(namespace))

    here = apiserver.account(namespace, rules=[reading])
    everywhere = apiserver.account(namespace, cluster_rules=[reading])
    viewer = apiserver.account(namespace, cluster_roles=["system:aggregate-to-view"])

    assert here.client.read(task(namespace))["spec"]["handler"] == "send"
    assert everywhere.client.list("pyncette.dev/v1alpha1", "PyncetteTask")
    assert viewer.client.list("v1", "ConfigMap", namespace) == []
    for asked in (
        lambda: here.client.list("pyncette.dev/v1alpha1", "PyncetteTask"),
        lambda: here.client.delete(task(namespace)),
        lambda: everywhere.client.delete(task(namespace)),
        lambda: viewer.client.list("v1", "Node"),
    ):
        with pytest.raises(ApiError, match="Forbidden") as refused:
            asked()
        assert refused.value.status == 403


def test_the_administrator_can_ask_in_the_place_of_any_user_of_any_groups(apiserver):
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}

    told = apiserver.admin.impersonating("ann", "developers", "night-shift").create(review)

    assert told["status"]["userInfo"]["username"] == "ann"
    assert {"developers", "night-shift"} <= set(told["status"]["userInfo"]["groups"])


def test_kubectl_is_the_administrator_and_any_account_by_its_file(apiserver, namespace):
    account = apiserver.account(namespace)

    assert (
        apiserver.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}") == "administrator"
    )
    assert apiserver.kubectl("--kubeconfig", str(account.kubeconfig), "auth", "whoami").split()[-1]
    assert "cannot list" in apiserver.kubectl(
        "--kubeconfig", str(account.kubeconfig), "get", "secrets", succeeds=False
    )


def test_a_stopped_server_comes_back_on_its_port_with_its_data_and_its_accounts(own_apiserver):
    with own_apiserver.fresh_namespace() as namespace:
        account = own_apiserver.account(namespace, cluster_roles=["system:aggregate-to-view"])
        own_apiserver.admin.create(task(namespace))

        with own_apiserver.stopped(), pytest.raises(ConnectionRefusedError):
            account.client.list("v1", "ConfigMap", namespace)

        assert account.client.list("v1", "ConfigMap", namespace) == []
        assert own_apiserver.admin.exists(task(namespace))


def test_a_frozen_server_takes_connections_and_says_nothing(own_apiserver):
    address = ("127.0.0.1", own_apiserver.port)

    with own_apiserver.frozen(), socket.create_connection(address) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)

    assert own_apiserver.admin.list("v1", "Namespace")


def test_a_server_without_its_storage_says_that_it_is_not_ready_and_recovers(own_apiserver):
    with own_apiserver.fresh_namespace() as namespace:
        own_apiserver.admin.create(task(namespace))

        with own_apiserver.without_storage(), pytest.raises(ApiError) as refused:
            own_apiserver.admin.request("GET", "/readyz")

        assert refused.value.status == 500
        assert own_apiserver.admin.exists(task(namespace))
        assert own_apiserver.admin.create(task(namespace, "other"))


def test_a_list_that_is_half_read_and_an_old_watch_expire_once_the_past_is_forgotten(own_apiserver):
    with own_apiserver.fresh_namespace() as namespace:
        for name in ("a", "b", "c"):
            own_apiserver.admin.create(task(namespace, name))
        path = f"/apis/pyncette.dev/v1alpha1/namespaces/{namespace}/pyncettetasks"
        first = own_apiserver.admin.request("GET", path, limit=1)
        own_apiserver.admin.create(task(namespace, "d"))

        own_apiserver.forget_the_past()

        with pytest.raises(ApiError) as expired:
            own_apiserver.admin.request("GET", path, limit=1, **{"continue": first["metadata"]["continue"]})
        assert (expired.value.status, expired.value.reason) == (410, "Expired")
        version = first["metadata"]["resourceVersion"]
        told = own_apiserver.admin.request("GET", path, watch="1", resourceVersion=version, timeoutSeconds=1)
        assert (told["type"], told["object"]["code"]) == ("ERROR", 410)


def test_the_audit_log_reports_who_asked_for_what_and_how_it_ended(own_apiserver):
    with own_apiserver.fresh_namespace() as namespace:
        account = own_apiserver.account(namespace)
        with pytest.raises(ApiError):
            account.client.read(task(namespace))

        [event] = [
            event for event in own_apiserver.audit() if event["user"]["username"].endswith(account.name)
        ]

    assert (event["verb"], event["objectRef"]["resource"], event["objectRef"]["namespace"]) == (
        "get", "pyncettetasks", namespace
    )  # fmt: skip
    assert event["responseStatus"]["code"] == 403


def test_crds_can_be_removed_and_put_back(own_apiserver):
    with own_apiserver.fresh_namespace() as namespace:
        own_apiserver.admin.create(task(namespace))

        own_apiserver.remove()
        with pytest.raises(ApiError) as gone:
            own_apiserver.admin.read(task(namespace))
        own_apiserver.install()

        assert gone.value.status == 404
        assert not own_apiserver.admin.exists(task(namespace))
        assert own_apiserver.admin.create(task(namespace))


def test_it_ends_with_the_tests_even_if_they_are_killed(apiserver):
    program = (
        "import sys, tests.servers as servers\n"
        "server = servers.open_apiserver()\n"
        "print(server.port, server._folder, flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    port, folder = tests.stdout.readline().split()
    connection = socket.create_connection(("127.0.0.1", int(port)))

    os.kill(tests.pid, signal.SIGKILL)
    tests.communicate()

    connection.settimeout(30)
    assert connection.recv(1) == b""
    connection.close()
    end = time.monotonic() + 30
    while Path(folder).exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def nothing_found(monkeypatch):
    kubernetes.find_programs.cache_clear()
    yield monkeypatch
    kubernetes.find_programs.cache_clear()


def test_a_folder_without_the_programs_is_a_failure_that_says_what_to_do(nothing_found, tmp_path):
    nothing_found.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    with pytest.raises(MissingServerError) as missing:
        open_apiserver()

    assert "https://go.dev/dl" in str(missing.value)
    assert str(tmp_path) in str(missing.value)


def test_a_build_that_fails_is_tried_once_and_reports_what_it_said(nothing_found, tmp_path):
    nothing_found.delenv("KUBEBUILDER_ASSETS", raising=False)
    nothing_found.setenv("NODE_CACHE", str(tmp_path / "file" / "node"))
    (tmp_path / "file").touch()

    said = []
    for _ in range(2):
        with pytest.raises(MissingServerError) as missing:
            open_apiserver()
        said.append(missing.value)

    assert said[0] is said[1]
    assert "Not a directory" in str(said[0])


def test_the_programs_of_a_folder_are_used_as_they_are(nothing_found, apiserver):
    nothing_found.setenv("KUBEBUILDER_ASSETS", str(apiserver.programs))

    assert kubernetes.find_programs() == apiserver.programs


def test_a_missing_server_fails_the_test_that_asks_for_it_and_skips_nothing(
    nothing_found, tmp_path, pytester
):
    nothing_found.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers = cluster")
    pytester.makeconftest(
        "from tests.conftest import apiserver, pytest_collection_finish, pytest_collection_modifyitems"
    )
    pytester.makepyfile("def test_asks(apiserver): pass")

    run = pytester.runpytest("-p", "no:cacheprovider")

    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines("*https://go.dev/dl*")
    run.stdout.no_fnmatch_line("*tests/servers/kubernetes.py*")


def test_a_test_that_asks_for_a_server_is_one_of_the_cluster_and_of_one_process(request, apiserver):
    marks = {mark.name: mark.args for mark in request.node.iter_markers()}

    assert marks["cluster"] == ()
    assert marks["xdist_group"] == ("apiserver",)
