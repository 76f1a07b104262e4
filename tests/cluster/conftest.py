"""The cluster that these tests share, what is installed on it, and a namespace for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import IMAGES, ROOT, Cluster, BreakableCluster, is_given, open_kubernetes
from tests.cluster.kubectl import Kubectl
from tests.servers.errors import MissingServerError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Play these one after the other, on one cluster; a given one is not broken, so what would break it is left out."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.xdist_group("cluster"))
    if is_given():
        breaking = {item for item in ours if "breakable_cluster" in getattr(item, "fixturenames", ())}
        config.hook.pytest_deselected(items=list(breaking))
        items[:] = [item for item in items if item not in breaking]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The session's cluster (a bare node: 15 seconds to bring up, once it is built)."""
    try:
        opened = open_kubernetes()
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)
    with opened as cluster:
        yield cluster


@pytest.fixture
def breakable_cluster(cluster: Cluster) -> BreakableCluster:
    """The session's cluster, for a test that stops parts of it. It has to start them again."""
    assert isinstance(cluster, BreakableCluster)
    return cluster


@pytest.fixture(scope="session")
def operator_image(cluster: Cluster) -> str:
    """The image of the operator and its workers, built from this working copy."""
    image = cluster.image("pyncette-operator")
    cluster.build(ROOT, image)
    return image


@pytest.fixture(scope="session")
def example_image(cluster: Cluster, operator_image: str) -> str:
    """The image of examples/kubernetes, by the name that its manifests give."""
    image = cluster.image("shop-tasks", "1")
    cluster.build(ROOT / "examples" / "kubernetes", image, PYNCETTE=operator_image)
    return image


@pytest.fixture(scope="session")
def postgres_image(cluster: Cluster) -> str:
    """A stand-in for the official image of PostgreSQL, by its name, where no registry can be reached."""
    image = cluster.image("postgres", "18")
    if not is_given():
        cluster.build(IMAGES / "postgres", image)
    return image


@pytest.fixture
def kubectl(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """A namespace for this test alone, with the *restricted* Pod Security Standard enforced."""
    words = request.node.name.removeprefix("test_").replace("_", "-").partition("[")[0]
    name = f"{words[:50].strip('-')}-{abs(hash(request.node.nodeid)) % 10_000}"
    kubectl = Kubectl(cluster.kubeconfig, name)
    kubectl.run("create", "namespace", name)
    kubectl.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield kubectl
    kubectl.run("delete", "namespace", name, "--wait=false")
