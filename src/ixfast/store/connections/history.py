"""Which history of the database a worker follows.

A failover to a standby that was behind, or a restore, makes another history: numbers that were given out come again and mean
something else. What a worker remembers is true in one history only. The catalogue's follower decides which one that is and
forgets everything when it changes; ledger sessions are used only if they lead to that one.

It is never followed back to an earlier timeline of the same system: a primary that was lost in a failover and comes back where
everybody looks for it still accepts writes, and knows nothing of what has passed and was switched off since.
"""

from __future__ import annotations

from collections.abc import Callable

from ixfast.errors import IxfastError


class HistoryChangedError(IxfastError):
    """The connection leads to another history of the database than the one that is followed."""


class History:
    """`followed` is a system identifier and a timeline; None before the database was first read."""

    def __init__(self) -> None:
        self.followed: str | None = None
        self._look: Callable[[], None] = lambda: None
        self._followers: list[Callable[[str], None]] = []

    def on_suspicion(self, look: Callable[[], None]) -> None:
        """Have `look` called when something does not fit the history that is followed."""
        self._look = look

    def on_change(self, changed: Callable[[str], None]) -> None:
        """Have `changed` called with each history that is followed from then on."""
        self._followers.append(changed)

    def suspect(self) -> None:
        self._look()

    def follow(self, history: str) -> None:
        self.followed = history
        for changed in self._followers:
            changed(history)

    def check(self, history: str) -> None:
        """Raise HistoryChangedError if `history` is not the one that is followed, and have the follower look at once."""
        if self.followed is not None and history != self.followed:
            self._look()
            raise HistoryChangedError

    def check_not_behind(self, history: str) -> None:
        """Raise HistoryChangedError if `history` is an earlier timeline of the system that is followed."""
        if self.followed is None:
            return
        system, _, timeline = history.partition("/")
        followed_system, _, followed_timeline = self.followed.partition("/")
        if system == followed_system and timeline < followed_timeline:  # eight hexadecimal digits each
            raise HistoryChangedError(
                f"A server with the earlier timeline {timeline} accepts writes, although {followed_timeline} is followed. "
                "Stop it; or, if an old backup was restored on purpose, restart ixfast."
            )
