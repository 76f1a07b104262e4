"""A release names its base image by digest, and the image says which one it was made from."""

import re
import shlex

from tests.pages import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


def build_arguments() -> dict[str, str]:
    """The arguments that the steps of a release give to the build."""
    text = re.sub(r"^ {3}", "", CONTRIBUTING.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    (line,) = re.findall(r"^docker build .+$", text, re.MULTILINE)
    words = shlex.split(line)
    given = [words[position + 1] for position, word in enumerate(words) if word == "--build-arg"]
    return dict(argument.split("=", 1) for argument in given)


def test_the_steps_of_a_release_give_each_argument_of_the_image():
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))

    assert build_arguments().keys() == arguments


def test_a_release_is_built_from_a_digest_which_the_image_says_in_its_labels():
    given = build_arguments()
    labels = dict(re.findall(r"(org\.opencontainers\.image\.base\.\w+)=\"\$\{(\w+)\}\"", DOCKERFILE))

    assert given["BASE"].endswith(f"@{given['BASE_DIGEST']}")
    assert labels == {
        "org.opencontainers.image.base.name": "BASE",
        "org.opencontainers.image.base.digest": "BASE_DIGEST",
    }


def test_the_base_image_of_a_release_has_the_name_that_the_dockerfile_has():
    (default,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)

    assert f"BASE={default}\n" in CONTRIBUTING.read_text()
