"""The API server decides who may read the metrics, and is asked no more than it takes."""

import asyncio
import logging

import pytest

from pyncette.cli.operator_metrics import guarded
from pyncette.controller.cluster import metrics_access
from pyncette.controller.cluster.api import ApiUnavailableError, ForbiddenError
from pyncette.controller.cluster.metrics_access import ACCESS_REVIEWS, TOKEN_REVIEWS, Access, MetricsAccess
from pyncette.telemetry.http import Request

PROMETHEUS = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "uid": "0-0-1",
    "groups": ["system:serviceaccounts", "system:authenticated"],
    "extra": {"authentication.kubernetes.io/pod-name": ["prometheus-0"]},
}


class Cluster:
    """An API server that knows some tokens, and the readers among their accounts."""

    def __init__(self):
        self.tokens = {"known": {"username": "ann"}, "prometheus": PROMETHEUS}
        self.readers = {PROMETHEUS["username"]}
        self.asked = []
        self.error = None
        self.hangs = False

    async def review(self, kind, spec):
        self.asked.append((kind, spec))
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        if kind is TOKEN_REVIEWS:
            user = self.tokens.get(spec["token"])
            return {"authenticated": True, "user": user} if user else {"error": "unknown"}
        assert kind is ACCESS_REVIEWS
        return {"allowed": spec["user"] in self.readers}

    @property
    def tokens_asked(self):
        return [spec["token"] for kind, spec in self.asked if kind is TOKEN_REVIEWS]


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def decide(cluster, clock):
    """A function that decides in a thread, as a server does."""
    access = MetricsAccess(cluster, asyncio.get_running_loop(), seconds=0.2, clock=clock)

    async def decide(token):
        return await asyncio.to_thread(access.decide, None if token is None else f"Bearer {token}")

    decide.access = access
    return decide


async def test_an_account_that_may_get_the_metrics_reads_them(cluster, decide):
    assert await decide("prometheus") is Access.ALLOWED

    assert cluster.asked == [
        (TOKEN_REVIEWS, {"token": "prometheus"}),
        (
            ACCESS_REVIEWS,
            {
                "user": PROMETHEUS["username"],
                "uid": PROMETHEUS["uid"],
                "groups": PROMETHEUS["groups"],
                "extra": PROMETHEUS["extra"],
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
            },
        ),
    ]


async def test_an_account_without_the_right_is_forbidden(decide):
    assert await decide("known") is Access.FORBIDDEN


async def test_a_token_that_the_api_server_does_not_know_is_no_login(cluster, decide):
    assert await decide("guessed") is Access.UNAUTHENTICATED
    assert [kind for kind, _ in cluster.asked] == [TOKEN_REVIEWS]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic cHJvbQ==", "Bearer a b", "Bearer ü", "known"]
)
async def test_the_api_server_is_not_asked_about_what_is_no_bearer_token(cluster, decide, header):
    assert await asyncio.to_thread(decide.access.decide, header) is Access.UNAUTHENTICATED
    assert cluster.asked == []


async def test_the_scheme_is_read_in_any_case(decide):
    assert await asyncio.to_thread(decide.access.decide, "bearer  prometheus ") is Access.ALLOWED


# --- What is remembered ----------------------------------------------------------------------------------------------


async def test_a_decision_holds_for_a_minute_and_a_right_that_is_taken_away_is_gone_then(
    cluster, decide, clock
):
    await decide("prometheus")
    cluster.readers.clear()
    clock.now += 59

    assert await decide("prometheus") is Access.ALLOWED
    assert cluster.tokens_asked == ["prometheus"]

    clock.now += 2
    assert await decide("prometheus") is Access.FORBIDDEN


async def test_a_right_that_is_given_has_an_effect_within_seconds(cluster, decide, clock):
    await decide("known")
    cluster.readers.add("ann")
    clock.now += 9
    assert await decide("known") is Access.FORBIDDEN

    clock.now += 2
    assert await decide("known") is Access.ALLOWED


async def test_a_decision_is_about_one_token(cluster, decide):
    await decide("prometheus")

    assert await decide("prometheus2") is Access.UNAUTHENTICATED


async def test_any_number_of_tokens_is_remembered_in_bounded_memory(monkeypatch, decide, clock):
    monkeypatch.setattr(metrics_access, "DECISIONS_MAX", 10)
    await decide("prometheus")
    for number in range(30):
        clock.now += 1
        await decide(f"guess-{number}")

    assert len(decide.access._denied) == 10
    assert len(decide.access._allowed) == 1


async def test_new_tokens_without_end_are_not_all_reviewed_and_do_not_keep_out_prometheus(
    cluster, decide, clock
):
    await decide("prometheus")
    clock.now += 120

    decisions = [await decide(f"guess-{number}") for number in range(100)]

    assert decisions.count(Access.UNAUTHENTICATED) == 20
    assert decisions.count(Access.UNDECIDED) == 80
    assert await decide("prometheus") is Access.ALLOWED

    clock.now += 1
    assert [await decide(f"again-{number}") for number in range(6)].count(Access.UNAUTHENTICATED) == 5


# --- When the API server does not decide -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ApiUnavailableError("503"), ForbiddenError("tokenreviews is forbidden")])
async def test_an_error_of_the_api_server_lets_nobody_in_and_is_not_remembered(cluster, decide, error):
    cluster.error = error
    assert await decide("prometheus") is Access.UNDECIDED

    cluster.error = None
    assert await decide("prometheus") is Access.ALLOWED


async def test_a_decision_that_is_no_longer_valid_lets_nobody_in_while_the_api_server_is_away(
    cluster, decide, clock
):
    await decide("prometheus")
    cluster.error = ApiUnavailableError("no response")
    assert await decide("prometheus") is Access.ALLOWED

    clock.now += 61
    assert await decide("prometheus") is Access.UNDECIDED


async def test_an_api_server_that_hangs_keeps_a_reader_for_a_bounded_time(cluster, decide):
    cluster.hangs = True

    async with asyncio.timeout(5):
        assert await decide("prometheus") is Access.UNDECIDED


async def test_it_is_logged_once_a_minute_why_nothing_is_decided_and_never_with_a_token(
    cluster, decide, clock, caplog
):
    cluster.error = ForbiddenError("tokenreviews is forbidden")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await decide("prometheus")
        clock.now += 61
        await decide("prometheus")

    assert [(record.message, record.error) for record in caplog.records] == [
        ("could not decide who may read the metrics", "tokenreviews is forbidden")
    ] * 2
    assert "prometheus" not in caplog.text


# --- As answers ------------------------------------------------------------------------------------------------------


def guard_of(access):
    """A guard whose every decision is *access*."""

    class Deciding:
        def decide(self, authorization):
            assert authorization == "Bearer x"
            return access

    return guarded(Deciding())


@pytest.mark.parametrize(
    ("access", "status"),
    [
        (Access.ALLOWED, None),
        (Access.UNAUTHENTICATED, 401),
        (Access.FORBIDDEN, 403),
        (Access.UNDECIDED, 503),
    ],
)
def test_a_request_gets_the_answer_of_the_decision(access, status):
    refusal = guard_of(access)(Request("GET", "/metrics", "", {"Authorization": "Bearer x"}))

    assert (None if refusal is None else refusal.status) == status


def test_who_has_no_token_is_told_which_one_to_send():
    refusal = guard_of(Access.UNAUTHENTICATED)(Request("GET", "/metrics", "", {"Authorization": "Bearer x"}))

    assert ("WWW-Authenticate", "Bearer") in refusal.headers
