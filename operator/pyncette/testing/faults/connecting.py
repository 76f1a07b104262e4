"""Faults of a connection that cannot be made: they are reported in one sentence, and without a password."""

from __future__ import annotations

import socket
import time

import pytest

from pyncette.errors import StoreUnavailableError
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence

SECONDS_MAX = 5.0
"""Time limit for a store that waits for an answer for a third of a second."""


class Connecting(OnServer):
    @pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
    async def test_an_unreachable_server_is_reported(self, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]

        for url in self.urls_at(host, port):
            with pytest.raises(StoreUnavailableError) as caught:
                async with self.open_store(url):
                    pass

            assert_is_one_sentence(caught.value, "does not answer", self.place_at(host, port))

    async def test_a_server_that_accepts_and_never_answers_is_unavailable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for url in self.urls_at("127.0.0.1", silent.getsockname()[1]):
                began_at = time.monotonic()
                with pytest.raises(StoreUnavailableError) as caught:
                    async with self.open_impatient(url, 0.3):
                        pass

                assert time.monotonic() - began_at < SECONDS_MAX
                assert_is_one_sentence(caught.value, "does not answer")
