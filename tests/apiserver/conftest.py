"""Where these tests put their objects."""

import pytest


@pytest.fixture(scope="module")
def place(apiserver):
    """One namespace for all tests of a module, which ask what would become of an object, and write nothing."""
    with apiserver.fresh_namespace() as namespace:
        yield namespace
