"""The embedded PostgreSQL: one pod of the official image's contract, whose data outlive the release."""

import pytest

from tests.chart.rendering import CHART, EMBEDDED, ONE_BACKEND, Object, merged, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster


def embedded(**values) -> Object:
    return merged(EMBEDDED, {"backend": {"embedded": values}})


def test_there_is_none_unless_it_is_asked_for(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    assert not {"StatefulSet", "PersistentVolumeClaim"} & rendering.kinds


def test_it_is_one_of_the_backends(helm: Helm):
    other = {"backends": [{"name": "default", "secretName": "db", "namespaces": ["orders"]}]}

    rendering = render(helm, embedded(name="trial", namespaces=["orders"]), other)

    assert rendering.settings["backends"][1] == {
        "name": "trial",
        "secretName": "pyncette-postgresql",
        "workerSecretName": "",
        "secretKey": "url",
        "urlFile": "/etc/pyncette/backends/trial/url",
        "tls": "Disabled",
        "roles": {
            "administrator": "postgres",
            "passwordFile": "/etc/pyncette/backends/trial/password",
            "workerUrlFile": "/etc/pyncette/backends/trial/worker-url",
        },
        "namespaces": ["orders"],
        "namespaceSelector": None,
        "migrate": "Auto",
    }


def test_it_keeps_the_contract_of_the_official_image(helm: Helm):
    spec = render(helm, embedded(database="cron")).one("StatefulSet")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}

    assert spec["replicas"] == 1
    assert {one["name"]: one["value"] for one in container["env"]} == {
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "cron",
        "POSTGRES_PASSWORD_FILE": f"{mounts['password']}/password",
        "PGDATA": f"{mounts['data']}/pgdata",
    }
    assert "args" not in container
    assert "command" not in container
    assert [port["containerPort"] for port in container["ports"]] == [5432]


def test_all_that_postgresql_writes_to_is_a_volume_since_its_root_is_read_only(helm: Helm):
    spec = render(helm, EMBEDDED).one("StatefulSet")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    places = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}

    assert {place for place, volume in places.items() if "secret" not in volume} == {
        "/data",
        "/dev/shm",
        "/tmp",
        "/var/run/postgresql",
    }


def test_its_password_is_read_from_the_users_secret_and_is_in_no_variable(helm: Helm):
    spec = render(helm, embedded(passwordKey="pw")).one("StatefulSet")["spec"]["template"]["spec"]

    (volume,) = [one for one in spec["volumes"] if "secret" in one]
    assert volume["secret"] == {
        "secretName": "pyncette-postgresql",
        "defaultMode": 0o440,
        "items": [{"key": "pw", "path": "password"}],
    }
    assert not [one for one in spec["containers"][0]["env"] if "valueFrom" in one]


def test_its_claim_is_kept_when_the_release_goes(helm: Helm):
    rendering = render(helm, EMBEDDED)
    claim = rendering.one("PersistentVolumeClaim")

    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "8Gi"}},
    }
    assert _data(rendering) == {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}


@pytest.mark.parametrize("name", ["fast", ""])
def test_a_storage_class_is_the_users_choice_also_that_of_none(helm: Helm, name):
    claim = render(helm, embedded(storageClass=name)).one("PersistentVolumeClaim")

    assert claim["spec"]["storageClassName"] == name


def test_a_claim_of_the_users_is_taken_and_none_is_made(helm: Helm):
    rendering = render(helm, embedded(existingClaim="mine"))

    assert not rendering.all("PersistentVolumeClaim")
    assert _data(rendering) == {"persistentVolumeClaim": {"claimName": "mine"}}


def test_data_in_the_pod_are_asked_for_and_warned_of(helm: Helm):
    values = embedded(emptyDir=True)

    assert not render(helm, values).all("PersistentVolumeClaim")
    assert _data(render(helm, values)) == {"emptyDir": {"sizeLimit": "8Gi"}}
    assert "WARNING: backend.embedded.emptyDir" in helm.notes(CHART, values)
    assert "WARNING" not in helm.notes(CHART, EMBEDDED)


def test_it_is_ready_only_for_connections_from_elsewhere(helm: Helm):
    (container,) = render(helm, EMBEDDED).one("StatefulSet")["spec"]["template"]["spec"]["containers"]

    command = container["readinessProbe"]["exec"]["command"]
    assert command[:2] == ["pg_isready", "--host=127.0.0.1"]


def _data(rendering) -> Object:
    volumes = rendering.one("StatefulSet")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [one for one in volumes if one["name"] == "data"]
    return {kind: what for kind, what in volume.items() if kind != "name"}
