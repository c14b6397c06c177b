"""When the follower discards everything cached, and how long the catalogue counts as fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from support import eventually

from ixfast.meters import Meters
from ixfast.store.catalogue.change_follower import STALE_AFTER_S, ChangeFollower
from ixfast.store.catalogue.change_source import ChangeRow, Reading
from ixfast.store.queries import load

FIRST = Reading(generation=4, newest="four", known=None, history="7/1", flushed=100, started=1000.0, clock=2000.0, unsafe=None)


class Source:
    """A database with a scripted reading."""

    def __init__(self) -> None:
        self.reading = FIRST
        self.read_count = 0

    async def check(self) -> None:
        pass

    async def read(self, known: int | None) -> Reading:
        self.read_count += 1
        return self.reading._replace(known="four" if known == 4 else None)

    async def changes(self, after: int, limit: int) -> Sequence[ChangeRow]:
        return []

    async def listen(self, wake: Callable[[], None]) -> None:
        await asyncio.Event().wait()

    async def forget_connections(self) -> None:
        pass


class Catalogue:
    """Counts how often it is emptied."""

    def __init__(self) -> None:
        self.stale: str | None = "starting"
        self.fresh_until = float("inf")
        self.forgotten = 0

    async def forget(self) -> None:
        self.forgotten += 1


class Followed:
    def __init__(self) -> None:
        self.source, self.catalogue = Source(), Catalogue()
        catalogue: Any = self.catalogue
        self.follower = ChangeFollower(self.source, catalogue, Meters(), poll_interval_s=3600.0)

    async def start(self) -> None:
        self.follower.start()
        await eventually(lambda: self.catalogue.stale is None)

    async def look(self) -> None:
        """Make the follower read again, and wait until it has."""
        known = self.source.read_count
        self.follower.look()
        await eventually(lambda: self.source.read_count > known and self.catalogue.stale is None)


async def test_what_was_looked_up_before_the_first_reading_is_forgotten() -> None:
    """A key looked up before its revocation would otherwise stay cached for good if the first reading came after both."""
    followed = Followed()
    await followed.start()
    assert followed.catalogue.forgotten == 1
    await followed.look()
    assert followed.catalogue.forgotten == 1
    await followed.follower.stop()


async def test_a_database_that_was_started_again_is_read_anew() -> None:
    followed = Followed()
    await followed.start()
    followed.source.reading = FIRST._replace(started=1500.0)
    await followed.look()
    assert followed.catalogue.forgotten == 2
    await followed.look()
    assert followed.catalogue.forgotten == 2
    await followed.follower.stop()


async def test_what_is_cached_is_fresh_for_a_while_from_the_question_on() -> None:
    followed = Followed()
    loop = asyncio.get_running_loop()
    before = loop.time()
    await followed.start()
    assert before + STALE_AFTER_S <= followed.catalogue.fresh_until <= loop.time() + STALE_AFTER_S
    await followed.follower.stop()


def test_followers_and_sessions_read_the_history_by_one_expression() -> None:
    """If a session formed the name of its history differently, it would never match the one that is followed."""
    text = load("session")["history"]
    expression = text[text.index("SELECT ") + len("SELECT ") :].rstrip(";")
    assert f"{expression} AS history," in load("catalogue")["read_history"]
