import time

import pytest

from tests.cli import MODULE, TaskFolder


@pytest.fixture
def folder(tmp_path):
    """A folder with a module that has one handler, greet."""
    made = TaskFolder(tmp_path / "jobs")
    made.path.mkdir()
    return made.write("tasks.py", MODULE)


@pytest.fixture
def in_dublin(monkeypatch):
    """The time of Dublin as local time."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Dublin")
        time.tzset()
        yield
    time.tzset()
