"""The cluster that these tests share, what is installed on it, and a namespace for each test."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyncette.store.base import MIN_READER, SCHEMA_VERSION
from tests.cluster.cluster import (
    IMAGES,
    ROOT,
    BreakableCluster,
    Cluster,
    find_kubectl,
    is_given,
    open_kubernetes,
    prepare,
)
from tests.cluster.installation import Installation
from tests.cluster.kubectl import Kubectl
from tests.cluster.quick_start import Shell
from tests.cluster.team import BEFORE, OtherReleases, Team
from tests.servers.errors import MissingServerError
from tests.servers.tools import Helm, find_helm

HERE = Path(__file__).parent
EXAMPLE = ROOT / "examples" / "kubernetes"
EXAMPLE_IMAGE = "docker.io/library/shop-tasks:1"

RELEASES = ("1", "2")
"""Of the image whose handlers keep an account: a rollout goes from the first to the second."""

BRING_UP_SECONDS = 900
"""The first test of a session waits until the cluster is up and all images are built."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Play these one after the other, on one cluster; a given one is not broken, so what would break it is left out."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(BRING_UP_SECONDS))
        item.add_marker(pytest.mark.xdist_group("cluster"))
    # What the operator did is looked at once it has done all.
    items.sort(key=lambda item: item.path == HERE / "test_rights.py")
    if is_given():
        breaking = {item for item in ours if "breakable_cluster" in getattr(item, "fixturenames", ())}
        config.hook.pytest_deselected(items=list(breaking))
        items[:] = [item for item in items if item not in breaking]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the node now, where one is to be built: that takes longer than any one test may."""
    asked = any("cluster" in getattr(item, "fixturenames", ()) for item in session.items)
    if asked and not session.config.option.collectonly:
        prepare()


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
    cluster.build(EXAMPLE, image, PYNCETTE=operator_image)
    return image


@pytest.fixture(scope="session")
def example(example_image: str) -> list[str]:
    """The manifests of examples/kubernetes, with the image's name as the cluster knows it."""
    texts = [(EXAMPLE / name).read_text() for name in ("pool.yaml", "tasks.yaml")]
    assert EXAMPLE_IMAGE in texts[0]
    return [text.replace(EXAMPLE_IMAGE, example_image) for text in texts]


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
    with namespace_for(cluster, request.node.name.partition("[")[0]) as kubectl:
        yield kubectl


@contextmanager
def namespace_for(cluster: Cluster, test: str) -> Iterator[Kubectl]:
    words = test.removeprefix("test_").replace("_", "-")
    name = f"{words[:50].strip('-')}-{secrets.token_hex(2)}"
    kubectl = Kubectl(cluster.kubeconfig, name)
    kubectl.run("create", "namespace", name)
    kubectl.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    # No pod can be made before; after an outage that takes a while.
    kubectl.wait_until("its account is there", lambda: kubectl.get("serviceaccount", "default"))
    yield kubectl
    kubectl.run("delete", "namespace", name, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="session")
def accounted_images(cluster: Cluster, operator_image: str) -> list[str]:
    """Images of handlers that keep an account, in two releases."""
    images = [cluster.image("accounted", release) for release in RELEASES]
    for release, image in zip(RELEASES, images, strict=True):
        cluster.build(IMAGES / "accounted", image, PYNCETTE=operator_image, RELEASE=release)
    return images


@pytest.fixture(scope="session")
def other_releases(cluster: Cluster, accounted_images: list[str]) -> OtherReleases:
    """Images of the same handlers on libraries of other releases than the operator's."""

    def image(version: str, schema: int) -> str:
        name = cluster.image("accounted", version)
        arguments = {"ACCOUNTED": accounted_images[0], "VERSION": version, "SCHEMA": str(schema)}
        cluster.build(IMAGES / "other_release", name, **arguments)
        return name

    return OtherReleases(
        before=image(BEFORE, MIN_READER),
        too_old=image("0.0.1", MIN_READER - 1),
        too_new=image("99.0.0", SCHEMA_VERSION + 1),
    )


@pytest.fixture(scope="session")
def release(cluster: Cluster, helm: Helm, operator_image: str, postgres_image: str) -> Installation:
    """The session's release of the chart, which may not be installed yet, or not any more."""
    return Installation(cluster, helm, operator_image, postgres_image)


@pytest.fixture
def operator(release: Installation) -> Installation:
    """The operator, installed for all namespaces, and ready. What a test does to it the next one does not see."""
    release.ensure()
    return release


@pytest.fixture
def team(cluster: Cluster, operator: Installation, kubectl: Kubectl, accounted_images: list[str]) -> Team:
    """A namespace in which an application team has a database to use, and no pool yet."""
    return Team(cluster, operator, kubectl, accounted_images)


@pytest.fixture(scope="module")
def module_team(cluster: Cluster, release: Installation, accounted_images: list[str]) -> Iterator[Team]:
    """A team with a pool that is Ready, for all tests of a module: their tasks have different names."""
    release.ensure()
    with namespace_for(cluster, "shared") as kubectl:
        team = Team(cluster, release, kubectl, accounted_images)
        team.start_pool()
        yield team


@pytest.fixture
def shell(breakable_cluster: BreakableCluster, tmp_path: Path) -> Iterator[Shell]:
    """
    A shell in the folder of the repository, with the programs that README asks for; the cluster is its current one.

    Not on a cluster that is given: it pulls from a registry, and the images of README have none in their names.
    """
    for name, program in (("kubectl", find_kubectl()), ("helm", find_helm())):
        (tmp_path / name).symlink_to(program)
    environment = {
        "PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(breakable_cluster.kubeconfig),
    }
    with Shell(ROOT, environment) as shell:
        yield shell
