"""Promises of `scan`: pages of records in the order of their keys, each of them once, whatever happens meanwhile."""

from __future__ import annotations

from pyncette.core.record import Change, Key
from pyncette.store.base import KEY_BYTES_MAX, Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    ODD_NAMES,
    T0,
    TRIES_MAX,
    a_record,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
    seen,
)


class Scanning(OnBackend):
    async def test_a_scan_returns_the_records_of_one_task_in_the_order_of_their_keys(
        self, store: Store
    ) -> None:
        keys = [
            Key(HERE, "task"),
            Key(HERE, "task", "", "1"),
            Key(HERE, "task", "", "2"),
            Key(HERE, "task", "a"),
            Key(HERE, "task", "a", "1"),
            Key(HERE, "task", "ab"),
            Key(HERE, "task", "b"),
        ]
        others = [
            Key(HERE, "tas", "k"),
            Key(HERE, "task2"),
            Key(HERE, "Task"),
            Key(ELSEWHERE, "task"),
            Key(HERE, "", "x"),
        ]
        await create(store, *(a_record(key=key) for key in (keys + others)[::-1]))

        found = await store.scan(HERE, "task", None, 100)

        assert [record.key for record in found] == keys
        assert [seen(record) for record in found] == [a_record(key=key) for key in keys]

    async def test_a_scan_without_a_task_goes_through_the_whole_partition(self, store: Store) -> None:
        keys = [Key(HERE, task, instance) for task in ("", "a", "ab", "b") for instance in ("", "x")]
        await create(store, a_record(key=Key(ELSEWHERE, "a")), *(a_record(key=key) for key in keys))

        first = await store.scan(HERE, None, None, 5)
        rest = await store.scan(HERE, None, first[-1].key, 100)

        assert [record.key for record in [*first, *rest]] == keys
        assert await store.scan(HERE, None, keys[-1], 5) == []

    async def test_the_pages_of_a_scan_hold_each_record_once(self, store: Store) -> None:
        await create(store, *(a_record(f"{number:03}") for number in range(25)))
        pages: list[list[str]] = []
        after = None

        for _ in range(TRIES_MAX):
            page = await store.scan(HERE, "task", after, 10)
            if not page:
                break
            pages.append(instances(page))
            after = page[-1].key

        assert [len(page) for page in pages] == [10, 10, 5]
        assert [name for page in pages for name in page] == [f"{number:03}" for number in range(25)]

    async def test_a_scan_goes_on_after_a_key_that_is_no_longer_there(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("c"))

        assert instances(await store.scan(HERE, "task", Key(HERE, "task", "b"), 10)) == ["c"]
        assert instances(await store.scan(HERE, "task", Key(HERE, "task", "c"), 10)) == []

    async def test_a_record_that_stays_is_in_one_page_while_others_come_and_go_and_move(
        self, open_another: OpenAnother
    ) -> None:
        store, other = await open_another(), await open_another()
        stay = [f"{number:03}" for number in range(0, 60, 2)]
        await create(store, *(a_record(name) for name in stay))
        found: list[str] = []
        after = None

        for number in range(TRIES_MAX):
            page = await store.scan(HERE, "task", after, 4)
            if not page:
                break
            found += instances(page)
            after = page[-1].key
            if number < 29:
                await create(other, a_record(f"{2 * number + 1:03}"))
                passing = await load(other, a_record(f"{2 * number + 1:03}"))
                if number % 2:
                    await other.swap([Change(passing, None)])
            befores = await load_all(other, [a_record(name) for name in stay])
            await other.swap(
                [
                    Change(before, completed(before, T0 + 97 * (number + index) % 1000))
                    for index, before in enumerate(befores)
                ]
            )

        assert [name for name in found if name in stay] == stay
        assert len(found) == len(set(found))

    async def test_a_scan_orders_names_by_code_points(self, store: Store) -> None:
        names = list(dict.fromkeys(ODD_NAMES))
        names = [name for name in names if len(name.encode()) <= KEY_BYTES_MAX - len("task")]
        await create(store, *(a_record(name) for name in names))
        found: list[str] = []

        for _ in range(len(names) + 1):
            after = Key(HERE, "task", found[-1]) if found else None
            found += instances(await store.scan(HERE, "task", after, 3))

        assert found == sorted(names)

    async def test_leased_records_are_scanned_as_they_are(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("b", at=T0 + 5))
        (held,) = await claim(store)

        found = await store.scan(HERE, "task", None, 10)

        assert [seen(record) for record in found] == [seen(held), a_record("b", at=T0 + 5)]
