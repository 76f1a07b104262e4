"""The values that the documentation shows are the chart's, and the commands of Helm in it are Helm's."""

import re

import pytest
import yaml

from tests.chart.rendering import ONE_BACKEND, merged, render
from tests.pages import PAGES, blocks, commands
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

VALUES = [block for page in PAGES for block in blocks(page, "yaml") if block.title == "values.yaml"]


@pytest.mark.parametrize("block", VALUES, ids=str)
def test_values_of_a_page_are_taken_by_the_chart(helm: Helm, block):
    values = yaml.safe_load(block.text)

    rendering = render(helm, values if "backends" in values else merged(ONE_BACKEND, values))

    told = rendering.settings
    assert [one["name"] for one in told["backends"]] == [
        one["name"] for one in values.get("backends", ONE_BACKEND["backends"])
    ]
    assert told["clusterId"] == values.get("clusterId", "")


def test_helm_has_each_option_that_a_page_gives_it(helm: Helm):
    lines = [words for page in PAGES for words in commands(page) if words[0] == "helm"]

    assert {words[1] for words in lines} == {"upgrade", "rollback", "uninstall"}
    for words in lines:
        known = set(re.findall(r"--[a-z-]+", helm.run(words[1], "--help")))
        assert {word.partition("=")[0] for word in words if word.startswith("--")} - known == set()
