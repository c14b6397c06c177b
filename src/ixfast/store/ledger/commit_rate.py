"""How fast the database commits, and how many scans may therefore wait for it.

A scan that joins a queue longer than the database empties in time only grows old there, so it is refused at once. The bound
follows the best rate of the last statements, which a committer reports here after each of them. This costs something once a
statement and nothing once a scan.
"""

from __future__ import annotations

from ixfast import limits

ROUND_CLOCK_S = 0.001
"""The resolution of the loop's clock: a statement may seem to have taken no time."""


class CommitRate:
    """The measured rate of one committer's connection.

    `capacity` is how many scans may wait: what is committed in `wait_max_s` at that rate, at least as many as keep the rate
    measurable, at most `queue_max`. `statement_s` is the duration of the last statement, 0 before the first.
    """

    def __init__(self, *, queue_max: int, deadline_s: float, wait_max_s: float) -> None:
        self.capacity = queue_max
        self.statement_s = 0.0
        self._queue_max = queue_max
        self._deadline_s = deadline_s
        self._wait_max_s = wait_max_s
        self._row_s = 0.0  # seconds per scan; 0: no large statement was measured yet
        self._lag_s = 0.0  # how late the loop's timers were at most since the last statement

    def note_lag(self, seconds: float) -> None:
        """A timer went off this late, so a reply may have waited for just as long."""
        self._lag_s = max(self._lag_s, seconds)

    def note_statement(self, rows: int, seconds: float) -> None:
        """Learn from a statement of this many rows.

        The longer a statement took, the more it lowers the rate: a brief stall does little, and a database that has become slow
        is recognised after a few statements.
        """
        lag_s, self._lag_s = self._lag_s, 0.0
        seconds = max(seconds - lag_s, ROUND_CLOCK_S)
        self.statement_s = seconds
        if rows < limits.LEDGER_RATE_ROWS_MIN:
            return
        row_s = seconds / rows
        decay = limits.LEDGER_RATE_DECAY + seconds / self._wait_max_s
        self._row_s = row_s if not self._row_s else min(row_s, self._row_s * decay)
        in_time = int(self._deadline_s * limits.LEDGER_CAPACITY_SHARE / self._row_s)
        always = min(limits.LEDGER_CAPACITY_MIN, max(limits.LEDGER_RATE_ROWS_MIN, in_time))
        self.capacity = min(self._queue_max, max(always, int(self._wait_max_s / self._row_s)))
