"""Promises of a store about records that cannot be read: they hurt only themselves."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pyncette.core.record import Change, Key
from pyncette.store.base import Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import (
    HERE,
    T0,
    TRIES_MAX,
    a_record,
    claim,
    completed,
    create,
    instances,
    load,
    seen,
)


class Unreadable(OnBackend):
    async def test_a_poisoned_row_hurts_only_itself(
        self, backend: Any, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        await create(store, a_record("bad"), a_record("good"), a_record("worse"), a_record("fine"))
        await self.poison(backend, a_record("bad").key)
        await self.poison(backend, a_record("worse").key)

        with caplog.at_level(logging.ERROR):
            found = await store.load([a_record(name).key for name in ("bad", "good", "worse", "fine")])

        assert [seen(record) for record in found] == [None, a_record("good"), None, a_record("fine")]
        assert sum("cannot be read" in entry.getMessage() for entry in caplog.records) == 2
        assert instances(await store.scan(HERE, "task", None, 10)) == ["fine", "good"]
        assert sorted(instances(await claim(store))) == ["fine", "good"]
        held = await load(store, a_record("good"))
        assert await store.swap([Change(held, completed(held, T0 + 5))]) == [True]

    async def test_a_page_of_poisoned_rows_does_not_end_a_scan(self, backend: Any, store: Store) -> None:
        await create(store, *(a_record(f"{number:02}") for number in range(12)))
        for number in range(2, 10):
            await self.poison(backend, a_record(f"{number:02}").key)
        found: list[str] = []

        for _ in range(TRIES_MAX):
            page = await store.scan(HERE, "task", Key(HERE, "task", found[-1]) if found else None, 2)
            if not page:
                break
            found += instances(page)

        assert found == ["00", "01", "10", "11"]

    async def test_poisoned_rows_at_the_head_do_not_fill_every_claim(
        self, backend: Any, store: Store
    ) -> None:
        await create(store, *(a_record(str(number), at=T0 + number) for number in range(6)))
        for number in range(5):
            await self.poison(backend, a_record(str(number)).key)
        found: list[str] = []
        calls = 0

        while not found and calls < 10:
            calls += 1
            claimed = await store.claim({HERE: 1}, f"lease-{calls}", "worker", T0 + 9, T0 + 9)
            found += instances(list(claimed.records))
            assert found or (claimed.next_claimable_at or T0 + 99) <= T0 + 9

        assert found == ["5"]
