"""
An operator among as many of the largest tasks as a test says, in a process of its own: it prints the memory that it took.

The API server in memory keeps small tasks, and hands each out as large as the schema lets it be, in raw JSON as the
client reads it. So this process has what an operator has, and not the objects themselves.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from functools import partial

import msgspec

from pyncette.controller.cluster.api import TASKS
from pyncette.resources.arguments import ARGS_BYTES_MAX, ARGS_KEYS_MAX
from tests.apiserver.operating import memory_mib
from tests.controller.fake_api import FakeApi, pool, task
from tests.controller.test_many import Memory, operating

LARGEST_ARGS = msgspec.Raw(
    json.dumps({f"{number:02}": "x" * ARGS_BYTES_MAX for number in range(ARGS_KEYS_MAX)}).encode()
)
"""A megabyte. Labels, annotations of others and managed fields may fill what the API server takes beyond that."""

NESTED_ARGS = msgspec.Raw(b'{"k":[' + b"[],[]," * 230_000 + b"[]]}")
"""1.4 MB of small values, which take thirty times as much once they are decoded: as an older CRD accepted them."""

LABELS = {f"pyncette.dev/{number:060}": "y" * 63 for number in range(300)}

FORMS = {"largest": LARGEST_ARGS, "nested": NESTED_ARGS}


class LargeApi(FakeApi):
    """The API server, whose tasks have *args*, and hundreds of labels of our prefix."""

    def __init__(self, args):
        self._args = args
        super().__init__()

    def _enlarged(self, kind, body):
        if kind is not TASKS:
            return body
        metadata = {**body["metadata"], "labels": LABELS, "managedFields": LARGEST_ARGS}
        return {**body, "metadata": metadata, "spec": {**body["spec"], "args": self._args}}

    async def list(self, kind, namespace, labels=""):
        async for page in super().list(kind, namespace, labels):
            for start in range(0, len(page.items), 25):
                items = [self._enlarged(kind, item) for item in page.items[start : start + 25]]
                yield page._replace(items=items)

    async def get(self, kind, name):
        return self._enlarged(kind, await super().get(kind, name))

    async def apply_status(self, manifest):
        return self._enlarged(TASKS, await super().apply_status(manifest))

    def _tell(self, event):
        kind, change, body = event
        super()._tell((kind, change, self._enlarged(kind, body)))


async def among(form, count):
    """Run an operator among *count* tasks of this *form* until all are reported, and return what that took."""
    api = LargeApi(FORMS[form])
    api.create(pool(external=True))
    for number in range(count):
        api.create(task(f"report-{number:05}"))
    before = peak_mib()
    async with operating(api, Memory()):
        while (  # noqa: ASYNC110 - many things have to come together
            len(reasons := Counter(map(partial(reason_of, api), api.names(TASKS)))) > 1
            or "Pending" in reasons
        ):
            await asyncio.sleep(0.5)
    return {"before": before, "peak": peak_mib(), "reasons": sorted(reasons)}


def reason_of(api, name):
    return api.stored(TASKS, name)["status"]["conditions"][0]["reason"]


def peak_mib():
    return memory_mib(os.getpid(), "VmHWM")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(among(sys.argv[1], int(sys.argv[2])))))
