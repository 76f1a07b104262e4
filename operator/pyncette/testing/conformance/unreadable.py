"""Promises of a store about records that cannot be read: they hurt only themselves."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from pyncette.core.record import (
    MESSAGE_CHARACTERS_MAX,
    Change,
    Key,
    Owner,
    Requests,
    State,
    Summary,
    replace,
)
from pyncette.core.schedule import Cron
from pyncette.core.spec import Policies, Retry, Spec
from pyncette.store.base import ARGS_BYTES_MAX, KEY_BYTES_MAX, SPEC_BYTES_MAX, Store
from pyncette.store.codec import encode_spec
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import (
    HERE,
    T0,
    TRIES_MAX,
    a_record,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
    seen,
)


def spec_of(size: int) -> str:
    """Return a valid spec of *size* bytes, most of which are its arguments."""
    text = encode_spec(replace(a_record().spec, args=msgspec.Raw(b'""')))
    return text.replace('""', f'"{"x" * (size - len(text))}"')


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

    async def test_a_record_that_is_too_large_is_not_read(
        self, backend: Any, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        await create(store, a_record("fine"), a_record("full"), a_record("large"), a_record("more"))
        await self.overwrite(backend, a_record("full").key, spec_of(SPEC_BYTES_MAX))
        await self.overwrite(backend, a_record("large").key, spec_of(SPEC_BYTES_MAX + 1))

        with caplog.at_level(logging.ERROR):
            found = await store.load([a_record(name).key for name in ("full", "large", "more")])

        assert [record is None for record in found] == [False, True, False]
        assert sum("cannot be read" in entry.getMessage() for entry in caplog.records) == 1
        assert instances(await store.scan(HERE, "task", None, 10)) == ["fine", "full", "more"]
        assert instances(await store.scan(HERE, None, None, 10)) == ["fine", "full", "more"]
        assert sorted(instances(await claim(store))) == ["fine", "full", "more"]

    async def test_a_record_that_is_nested_too_deeply_hurts_only_itself(
        self, backend: Any, store: Store
    ) -> None:
        await create(store, a_record("bad"), a_record("good"))
        levels = 20_000
        await self.overwrite(backend, a_record("bad").key, f'{{"args":{"[" * levels}{"]" * levels}}}')

        found = await store.load([a_record(name).key for name in ("bad", "good")])

        assert [record is None for record in found] == [True, False]
        assert instances(await store.scan(HERE, "task", None, 10)) == ["good"]
        assert instances(await claim(store)) == ["good"]

    async def test_a_page_of_records_that_are_far_too_large_does_not_end_a_scan(
        self, backend: Any, store: Store
    ) -> None:
        await create(store, *(a_record(f"{number:02}") for number in range(6)))
        for number in range(1, 5):
            await self.overwrite(backend, a_record(f"{number:02}").key, spec_of(300_000))

        page = instances(await store.scan(HERE, "task", None, 2))
        if page == ["00"]:
            page += instances(await store.scan(HERE, "task", Key(HERE, "task", "00"), 2))

        assert page == ["00", "05"]

    async def test_a_record_that_could_not_be_read_again_is_not_written(self, store: Store) -> None:
        await create(store, a_record("before"))
        before = await load(store, a_record("before"))
        large = replace(before.spec, args=msgspec.Raw(b'"' + b"x" * ARGS_BYTES_MAX + b'"'))

        for change in (
            Change(None, a_record("large", spec=large)),
            Change(before, changed(before, spec=large)),
        ):
            with pytest.raises(ValueError, match=f"at most {ARGS_BYTES_MAX:,} are allowed"):
                await store.swap([Change(None, a_record("other")), change])

        assert instances(await store.scan(HERE, None, None, 10)) == ["before"]
        assert seen(await load(store, before)) == seen(before)

    async def test_the_largest_record_is_written_and_read(self, store: Store) -> None:
        minutes = ",".join(map(str, range(60)))
        schedule = Cron(f"{minutes} * * * *", "America/Argentina/ComodRivadavia", "x" * 2 * KEY_BYTES_MAX)
        args = msgspec.Raw(b'"' + b"x" * (ARGS_BYTES_MAX - 2) + b'"')
        policies = Policies(retry=Retry(7, 1, 2), not_before=T0, not_after=T0 + 1, active_deadline=3)
        summary = Summary(last_message="\x01" * MESSAGE_CHARACTERS_MAX, last_worker="w" * 255)
        owner = Owner("u" * 36, 2**62, "h" * 64, "n" * 253, created_at=T0)
        state = State(owner=owner, summary=summary, handled=Requests(*["\x01" * 256] * 3))
        largest = a_record("largest", spec=Spec(schedule, args, policies), state=state)

        await create(store, largest)

        assert seen(await load(store, largest)) == largest
        (held,) = await claim(store)
        assert held.state == state
