"""Accept each tap at most once, in a program of one process: `ixfast.verify`, and one atomic statement of SQLite.

The ixfast server gives the same guarantee across processes, hosts, crashes and retries, and looks up tags and keys as well. Use
this where a server is too much, such as on a terminal that works offline.
"""

import sqlite3
import tempfile
from pathlib import Path

import ixfast

_ACCEPT = """
INSERT INTO accepted_tap (uid, position) VALUES (?, ?)
ON CONFLICT (uid) DO UPDATE SET position = excluded.position WHERE excluded.position > accepted_tap.position
"""


class TapChecker:
    """Decides about taps of a fleet whose keys are derived from one master key."""

    def __init__(self, database: Path, profile: str, keys: ixfast.TagKeys) -> None:
        self._profile = profile
        self._keys = keys
        self._database = sqlite3.connect(database, isolation_level=None)  # each statement is a transaction
        self._database.execute("PRAGMA synchronous = FULL")  # an accepted tap survives a power failure
        self._database.execute("CREATE TABLE IF NOT EXISTS accepted_tap (uid BLOB PRIMARY KEY, position INTEGER NOT NULL)")

    def decide(self, url: str) -> str:
        """`genuine`, `replayed`, `forged`, `undecided` or `malformed`."""
        try:
            evidence = ixfast.verify(url, profile=self._profile, keys=self._keys)
        except ixfast.InputError:
            return "malformed"
        if evidence.undecided:
            return "undecided"
        if not evidence.authentic or evidence.uid is None or evidence.position is None:
            return "forged"
        # Comparing and storing is one statement, so that of two requests with the same tap only one passes.
        changed = self._database.execute(_ACCEPT, (evidence.uid, evidence.position)).rowcount
        return "genuine" if changed == 1 else "replayed"

    def close(self) -> None:
        self._database.close()


def main() -> None:
    (tag,) = fleet = ixfast.testing.VirtualFleet(1, 1, "encrypted", derivation=ixfast.derivation("boltcard"))
    keys = ixfast.TagKeys(master=fleet.master, derivation="boltcard")
    first, second = tag.tap(), tag.tap()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "taps.sqlite"
        checker = TapChecker(database, "encrypted", keys)
        for url in (first, first, second, tag.forged()):
            print(f"{checker.decide(url):9}  {url}")
        checker.close()
        restarted = TapChecker(database, "encrypted", keys)
        print(f"{restarted.decide(second):9}  {second}  (after a restart)")
        restarted.close()


if __name__ == "__main__":
    main()
