"""A store of somebody else's is tested as docs/reference/stores.md says."""

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "stores.md"

MY_STORE = """
import msgspec

from pyncette.core.record import replace
from pyncette.core.spec import Spec
from pyncette.store.memory import MemoryBackend, MemoryStore

backends = {}


class MyStore(MemoryStore):
    def __init__(self, path):
        super().__init__(backends.setdefault(path, MemoryBackend()))


async def spoil(path, key, spec):
    shelf = backends[path].shelf(key.partition)
    try:
        shelf.put(replace(shelf.records[key], spec=msgspec.json.decode(spec, type=Spec)))
    except (msgspec.DecodeError, RecursionError):
        backends[path].poison(key)
"""

FORGETFUL_STORE = (
    MY_STORE
    + """

async def _renew_nothing(self, renewals, now):
    return (await MemoryStore.renew(self, [], now))._replace(held=[True] * len(renewals))


MyStore.renew = _renew_nothing
"""
)


def prepare(pytester, monkeypatch, my_store):
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    files = re.findall(r'```python title="([\w.]+)"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert {name for name, _ in files} == {"conftest.py", "test_my_store.py"}
    for name, text in [*files, ("my_store.py", my_store)]:
        pytester.path.joinpath(name).write_text(text)


def test_a_store_that_keeps_its_promises_passes(pytester, monkeypatch):
    prepare(pytester, monkeypatch, MY_STORE)

    outcomes = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").parseoutcomes()

    assert outcomes["passed"] > 100
    assert "failed" not in outcomes
    assert "skipped" not in outcomes


def test_a_store_that_breaks_a_promise_fails_the_test_of_that_promise(pytester, monkeypatch):
    prepare(pytester, monkeypatch, FORGETFUL_STORE)

    run = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-k", "renew")

    run.stdout.fnmatch_lines(["FAILED *::test_a_renewal_moves_the_end_of_the_lease*"])
