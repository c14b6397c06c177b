"""Verify many logged taps at once: one verdict for each line, with replays found by the order of the taps.

    python examples/verify_batch.py                 # simulated taps
    python examples/verify_batch.py TAPS TAGS       # CSV files of yours

TAPS has the column `url`, oldest tap first. TAGS has the columns `uid` and `file_key`, in hex digits. For millions of taps, use
`ixfast audit`.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import ixfast

PROFILE = ixfast.find_profile("plain-uid-counter")


def verdicts(urls: Iterable[str], keys_by_uid: Mapping[str, ixfast.TagKeys]) -> Iterable[str]:
    """A verdict for each URL, in order."""
    last: dict[str, int] = {}  # the position of the last accepted tap of each tag
    for url in urls:
        try:
            (claim,) = ixfast.identify(url, profile=PROFILE)
            uid = claim.uid.hex() if claim.uid is not None else ""
            keys = keys_by_uid.get(uid)
            if keys is None:
                yield "unknown"
                continue
            evidence = ixfast.verify(url, profile=PROFILE, keys=keys)
        except ixfast.InputError:
            yield "malformed"
            continue
        if not evidence.authentic or evidence.position is None:
            yield "forged"
        elif evidence.position <= last.get(uid, 0):
            yield "replayed"
        else:
            last[uid] = evidence.position
            yield "genuine"


def simulated() -> tuple[list[str], dict[str, ixfast.TagKeys]]:
    first, second, unregistered = ixfast.testing.VirtualFleet(1, 3, PROFILE)
    urls = [first.tap(), first.tap(), second.tap(), first.tap_at(2), second.forged(), unregistered.tap(), second.tap()[:-1]]
    return urls, {tag.uid.hex(): tag.keys for tag in (first, second)}


def main(arguments: list[str]) -> None:
    if arguments:
        with Path(arguments[0]).open(newline="") as taps, Path(arguments[1]).open(newline="") as tags:
            urls = [row["url"] for row in csv.DictReader(taps)]
            keys = {row["uid"].lower(): ixfast.TagKeys(file=row["file_key"]) for row in csv.DictReader(tags)}
    else:
        urls, keys = simulated()
    found = list(verdicts(urls, keys))
    for verdict, url in zip(found, urls, strict=True):
        print(f"{verdict:9}  {url}")
    print(", ".join(f"{verdict} {count}" for verdict, count in sorted(Counter(found).items())))


if __name__ == "__main__":
    main(sys.argv[1:])
