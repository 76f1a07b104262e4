"""Each check of checkov that is left out has a reason next to it."""

import re

import pytest
import yaml

from tests.pages import ROOT

SETTINGS = (ROOT / ".checkov.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

REASON = re.compile(r"\S+( \S+){5,}")
"""A sentence, and not the name of the check again."""


@pytest.mark.parametrize("check", yaml.safe_load(SETTINGS)["skip-check"])
def test_a_check_that_is_left_out_of_the_chart_has_a_reason(check):
    reasons = {name: text for text, name in re.findall(r"((?:^ +#.*\n)+) +- (\w+)$", SETTINGS, re.MULTILINE)}

    assert REASON.search(reasons[check])


@pytest.mark.parametrize("skip", re.findall(r"checkov:skip=(.*)", DOCKERFILE))
def test_a_check_that_is_left_out_of_the_dockerfile_has_a_reason(skip):
    check, _, reason = skip.partition(":")

    assert check.startswith("CKV_DOCKER_")
    assert REASON.search(reason)
