"""Scans for the micro-benchmarks: simulated tags with a catalogue and a ledger in memory, taps as requests and as values."""

from __future__ import annotations

from benchmarks.load.traffic import Mix, Plan, Traffic, fleet_of, tail_of, with_strangers
from benchmarks.micro.step_timer import SEED
from ixfast.domain.scan import Scan
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger

TAGS = 200


class Bench:
    """An engine over memory. Every tag has been looked up once, so that the catalogue has it cached."""

    def __init__(self, tags: int = TAGS) -> None:
        self.catalogue = MemoryCatalogue()
        self.engine = Engine(self.catalogue, Meters())
        self.ledger = MemoryLedger(self.engine.settled)
        self.engine.use(self.ledger)
        fleet = fleet_of(Traffic(SEED, tags, 1))
        group = self.catalogue.add_group("bench", fleet.profile)
        self.records = {}
        for tag in fleet:
            record = self.catalogue.add_tag(group, tag.xuid, uid=tag.uid, cuid=f"own-{tag.xuid}", keys=tag.file_keys())
            self.ledger.add(record)
            self.records[record.xuid] = record
            self.catalogue.fetch(Scan(_ignore, record.xuid, -1, None, None, 0, 0.0), record.xuid, _ignore_record)

    def decided(self, count: int) -> list[Scan]:
        """Scans of all kinds, decided by the real engine."""
        answered: list[Scan] = []
        for scan_id, (ref, counter, mac) in enumerate(taps(count), start=1):
            self.engine.submit(Scan(answered.append, ref, counter, mac, None, scan_id, 0.0))
        return answered


def requests(count: int, mix: Mix | None = None, tags: int = TAGS) -> list[bytes]:
    """HTTP requests of `/v1/t` as the load generator sends them."""
    traffic = Traffic(SEED, tags, 1, mix or Mix(0.7, 0.1, 0.1, 0.1))
    plan = Plan(traffic, 0, with_strangers(traffic))
    plan.append(count, tail_of("127.0.0.1", 8480))
    return plan.requests


def taps(count: int, mix: Mix | None = None) -> list[tuple[bytes, int, bytes]]:
    """The same taps as reference, counter and MAC."""
    found = []
    for request in requests(count, mix):
        x, n, e = (part.partition(b"=")[2] for part in request.split(b" ")[1].partition(b"?")[2].split(b"&"))
        found.append((x, int(n, 16), bytes.fromhex(e.decode())))
    return found


def _ignore(_scan: Scan) -> None:
    return


def _ignore_record(_scan: Scan, _record: object) -> None:
    return
