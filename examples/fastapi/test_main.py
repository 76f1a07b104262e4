"""The service in simulated time: without a server and a database, and days take milliseconds."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from httpx2 import ASGITransport, AsyncClient

import tasks
from main import api, scheduler
from pyncette.testing import World

EIGHT = {"text": "run", "schedule": "0 8 * * *", "timezone": "Europe/Dublin"}


@pytest.fixture
def pyncette_start() -> datetime:
    return datetime(2030, 3, 30, tzinfo=UTC)  # a night later, the clocks in Dublin go forward


@pytest.fixture
async def users(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    monkeypatch.setitem(api.dependency_overrides, scheduler, lambda: world.context)
    async with AsyncClient(transport=ASGITransport(api), base_url="http://test/users") as client:
        yield client


@pytest.fixture
def sent(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent = []

    async def send(user: str, text: str) -> None:
        sent.append(f"{world.now:%d %H:%M} {user}: {text}")
        if text == "fail":
            raise ConnectionError

    monkeypatch.setattr(tasks, "send", send)
    return sent


async def test_users_are_reminded_by_their_clocks(users: AsyncClient, world: World, sent: list[str]) -> None:
    await users.post("/ada/reminders", json=EIGHT)
    await users.post("/yui/reminders", json={**EIGHT, "timezone": "Asia/Tokyo"})
    await world.advance(days=2)
    assert sent == ["30 08:00 ada: run", "30 23:00 yui: run", "31 07:00 ada: run", "31 23:00 yui: run"]


async def test_a_reminder_is_changed_and_deleted(users: AsyncClient, world: World, sent: list[str]) -> None:
    created = (await users.post("/ada/reminders", json=EIGHT)).json()
    assert created["next_times"][:2] == ["2030-03-30T08:00:00Z", "2030-03-31T08:00:00+01:00"]
    url = f"/ada/reminders/{created['id']}"
    changed = (await users.put(url, json={**EIGHT, "text": "swim", "schedule": "30 9 * * *"})).json()
    assert changed["next_times"][0] == "2030-03-30T09:30:00Z"
    await world.advance(days=1)
    assert (await users.delete(url)).status_code == 204
    await world.advance(days=1)
    assert sent == ["30 09:30 ada: swim"]
    assert {(await users.request(way, url, json=EIGHT)).status_code for way in ("PUT", "DELETE")} == {404}


async def test_a_failure_is_tried_again(users: AsyncClient, world: World, sent: list[str]) -> None:
    await users.post("/ada/reminders", json={**EIGHT, "text": "fail"})
    await world.advance(hours=9)
    assert len(sent) == 4


async def test_a_user_lists_their_own_reminders_page_by_page(users: AsyncClient) -> None:
    for user, text in (("ada", "run"), ("ada", "swim"), ("ada2", "row")):
        await users.post(f"/{user}/reminders", json={**EIGHT, "text": text})
    first = (await users.get("/ada/reminders?limit=1")).json()
    rest = (await users.get("/ada/reminders", params={"page": first["next_page"]})).json()
    assert (len(first["reminders"]), rest["next_page"]) == (1, None)
    assert {one["text"] for one in first["reminders"] + rest["reminders"]} == {"run", "swim"}
    assert (await users.get("/ada/reminders?page=invented")).status_code == 422


async def test_an_invalid_schedule_is_refused_with_the_reason(users: AsyncClient) -> None:
    hour = await users.post("/ada/reminders", json={**EIGHT, "schedule": "0 25 * * *"})
    zone = await users.post("/ada/reminders", json={**EIGHT, "timezone": "Europe/Dubln"})
    assert (hour.status_code, zone.status_code) == (422, 422)
    assert "look at the hour" in hour.text
    assert "Did you mean Europe/Dublin?" in zone.text
    assert (await users.get("/ada/reminders")).json()["reminders"] == []
