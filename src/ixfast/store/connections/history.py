"""The history of the database that a worker follows: a system identifier and a timeline.

A failover to a standby that lagged, or a restore, starts another history, in which the same ids and generations are given
out again with other meanings. Everything that a worker caches is valid in one history only. The catalogue's change follower
decides which history is followed and clears the caches when it changes; ledger sessions are used only if they lead to it.

A worker never goes back to an earlier timeline of the same system. A failed primary that returns at its old address still
accepts writes, but lacks the passes and deactivations since the failover.
"""

from __future__ import annotations

from collections.abc import Callable

from ixfast.errors import IxfastError


class HistoryChangedError(IxfastError):
    """The connection leads to another history of the database than the followed one."""


class History:
    """`followed` is "system identifier/timeline"; None until the database was first read."""

    def __init__(self) -> None:
        self.followed: str | None = None
        self._look: Callable[[], None] = lambda: None
        self._followers: list[Callable[[str], None]] = []

    def on_suspicion(self, look: Callable[[], None]) -> None:
        """Call `look` when something contradicts the followed history."""
        self._look = look

    def on_change(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with each history that is followed from now on."""
        self._followers.append(changed)

    def suspect(self) -> None:
        """Have the follower check the history at once."""
        self._look()

    def follow(self, history: str) -> None:
        """Follow `history`, and notify everyone registered by `on_change`."""
        self.followed = history
        for changed in self._followers:
            changed(history)

    def check(self, history: str) -> None:
        """Raise HistoryChangedError if `history` is not the followed one, and have the follower check at once."""
        if self.followed is not None and history != self.followed:
            self._look()
            raise HistoryChangedError

    def check_not_behind(self, history: str) -> None:
        """Raise HistoryChangedError if `history` is an earlier timeline of the followed system."""
        if self.followed is None:
            return
        system, _, timeline = history.partition("/")
        followed_system, _, followed_timeline = self.followed.partition("/")
        if system == followed_system and timeline < followed_timeline:  # eight hexadecimal digits each
            raise HistoryChangedError(
                f"A server on the earlier timeline {timeline} accepts writes, but ixfast follows timeline {followed_timeline}. "
                "Stop that server. If an old backup was restored on purpose, restart ixfast."
            )
