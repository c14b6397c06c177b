"""A whole scan without network and database: the real engine and core, with a catalogue and a ledger in memory.

The ledger in memory settles inside the call, so there is no batch: what is missing is exactly what `ledger_sql` measures.
"""

from __future__ import annotations

from benchmarks.load.traffic import Mix
from benchmarks.micro.sample_scans import Bench, requests, taps
from benchmarks.micro.step_timer import Step, Work
from ixfast.domain.scan import Scan
from ixfast.http.hot_request import Recogniser
from ixfast.http.raw_response import v1_response

TITLE = "a scan without network and database"
GENUINE = Mix(1, 0, 0, 0)
FORGED = Mix(0, 0, 1, 0)


def _engine(mix: Mix) -> Step:
    def prepare(count: int) -> Work:
        bench, made = Bench(), taps(count, mix)
        answered: list[Scan] = []
        answer, submit = answered.append, bench.engine.submit

        def work() -> list[str]:
            for scan_id, (ref, counter, mac) in enumerate(made, start=1):
                submit(Scan(answer, ref, counter, mac, None, scan_id, 0.0))
            return [str(scan.verdict) for scan in answered]

        return work

    return Step(f"engine, {_mix_name(mix)} taps", prepare, fresh=True)


def _whole(mix: Mix) -> Step:
    def prepare(count: int) -> Work:
        bench, made = Bench(), requests(count, mix)
        recognise, submit, sent = Recogniser().recognise, bench.engine.submit, []

        def answer(scan: Scan) -> None:
            sent.append(v1_response(scan))

        def work() -> list[bytes]:
            for scan_id, received in enumerate(made, start=1):
                hot = recognise(received)
                assert hot is not None and not isinstance(hot[0], str)
                (ref, counter, mac), _, _ = hot
                submit(Scan(answer, ref, counter, mac, None, scan_id, 0.0))
            return sent

        return work

    return Step(f"request bytes to response bytes, {_mix_name(mix)} taps", prepare, fresh=True)


def _mix_name(mix: Mix) -> str:
    return "genuine" if mix is GENUINE else "forged" if mix is FORGED else "mixed"


STEPS = (_engine(GENUINE), _engine(FORGED), _whole(GENUINE), _whole(FORGED), _whole(Mix()))
