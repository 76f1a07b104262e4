"""Two who apply one object each own what they gave: lists are merged by their keys, conditions by their types."""

from tests.apiserver import OPERATOR, pool, refusal, said, status_of, task


def test_two_managers_of_one_task_own_what_each_gave(apiserver, namespace):
    apiserver.admin.apply(task(namespace, args={"audience": "finance", "format": "pdf"}), "git")

    suspension = {**task(namespace), "spec": {"suspend": True, "args": {"dryRun": True}}}
    apiserver.admin.apply(suspension, "console")
    apiserver.admin.apply(task(namespace, args={"audience": "sales"}), "git")

    spec = apiserver.admin.read(task(namespace))["spec"]
    assert spec["args"] == {"audience": "sales", "dryRun": True}
    assert spec["suspend"] is True


def test_a_manager_that_says_otherwise_than_another_gets_a_conflict(apiserver, namespace):
    apiserver.admin.apply(task(namespace, jitterSeconds=5), "git")

    conflict = refusal(lambda: apiserver.admin.apply(task(namespace, jitterSeconds=7), "console"))

    assert (conflict.status, conflict.reason) == (409, "Conflict")
    assert conflict.causes == [(".spec.jitterSeconds", 'conflict with "git"')]


def test_secrets_of_two_managers_are_merged_by_name(apiserver, namespace):
    apiserver.admin.apply(pool(namespace, imagePullSecrets=[{"name": "ours"}, {"name": "both"}]), "git")
    theirs = {**pool(namespace), "spec": {"imagePullSecrets": [{"name": "theirs"}, {"name": "both"}]}}
    apiserver.admin.apply(theirs, "console")
    apiserver.admin.apply(pool(namespace), "git")

    secrets = apiserver.admin.read(pool(namespace))["spec"]["imagePullSecrets"]

    assert {secret["name"] for secret in secrets} == {"theirs", "both"}


def test_conditions_of_two_managers_are_merged_by_type(apiserver, namespace):
    apiserver.admin.create(task(namespace))

    apiserver.admin.apply(
        status_of(task(namespace), conditions=[said("Ready"), said("Scheduled")]), OPERATOR, "status"
    )
    apiserver.admin.apply(status_of(task(namespace), conditions=[said("Audited")]), "auditor", "status")
    apiserver.admin.apply(status_of(task(namespace), conditions=[said("Ready", "False")]), OPERATOR, "status")

    conditions = apiserver.admin.read(task(namespace))["status"]["conditions"]
    assert {condition["type"]: condition["status"] for condition in conditions} == {
        "Ready": "False",
        "Audited": "True",
    }


def test_the_first_pass_of_the_operator_takes_the_place_of_the_default(apiserver, namespace):
    """Nobody owns what the schema fills in, so the first who says something of it needs no force."""
    apiserver.admin.create(task(namespace))

    apiserver.admin.apply(
        status_of(task(namespace), observedGeneration=1, conditions=[said("Ready")]), OPERATOR, "status"
    )

    status = apiserver.admin.read(task(namespace))["status"]
    assert status["observedGeneration"] == 1
    assert [condition["reason"] for condition in status["conditions"]] == ["AsExpected"]
