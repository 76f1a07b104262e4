"""The fixture that most tests of mirroring ask for."""

import pytest

from tests.mirror.folder import Folder


@pytest.fixture
def folder():
    return Folder()
