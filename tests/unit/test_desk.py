"""How the workers of one run of the tests come to share its servers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client

import pytest

from tests.servers.desk import Desk, asked
from tests.servers.fetch import Missing


class Counted:
    """A server that counts."""

    def __init__(self) -> None:
        self.started = 0
        self.closed = 0

    def __call__(self) -> "Counted":
        return self

    def start(self) -> None:
        self.started += 1
        threading.Event().wait(0.1)

    def close(self) -> None:
        self.closed += 1

    @property
    def url(self) -> str:
        return f"http://number-{self.started}"


class Broken(Counted):
    def start(self) -> None:
        super().start()
        raise Missing("it does not come up")


def absent() -> Counted:
    raise Missing("it is not installed")


def test_a_server_starts_at_the_first_wish_and_ends_with_the_run() -> None:
    wanted, unwanted = Counted(), Counted()
    desk = Desk({"wanted": wanted, "unwanted": unwanted})
    try:
        with ThreadPoolExecutor(8) as workers:
            told = list(workers.map(lambda _: asked(desk.address, "wanted"), range(16)))
        assert told == ["http://number-1"] * 16
        assert (wanted.started, wanted.closed) == (1, 0)
    finally:
        desk.close()
    assert (wanted.closed, unwanted.started, unwanted.closed) == (1, 0, 0)
    with pytest.raises(OSError, match="No such file"):
        asked(desk.address, "wanted")


def test_a_server_that_cannot_be_had_is_tried_once_and_every_worker_told_why() -> None:
    broken = Broken()
    desk = Desk({"broken": broken, "absent": absent, "whole": Counted()})
    try:
        for _ in range(2):
            with pytest.raises(Missing, match="it does not come up"):
                asked(desk.address, "broken")
            with pytest.raises(Missing, match="it is not installed"):
                asked(desk.address, "absent")
        assert (broken.started, broken.closed) == (1, 1)
        assert asked(desk.address, "whole") == "http://number-1"
    finally:
        desk.close()


def test_an_unknown_name_and_a_worker_that_is_gone_end_nothing() -> None:
    desk = Desk({"whole": Counted()})
    try:
        with pytest.raises(Missing, match="'unknown'"):
            asked(desk.address, "unknown")
        Client(desk.address, "AF_UNIX").close()
        assert asked(desk.address, "whole") == "http://number-1"
    finally:
        desk.close()
