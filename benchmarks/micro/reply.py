"""Decided scans to bytes: the body, and the whole response."""

from __future__ import annotations

import sys

from benchmarks.micro.scans import Bench
from benchmarks.micro.timing import Step, Work, run
from ixfast.http.raw_response import v1_response
from ixfast.responses.bodies import v1_body, v2_scan

TITLE = "answer to bytes"


def _bodies(count: int) -> Work:
    scans = Bench().judged(count)
    return lambda: [v1_body(scan) for scan in scans]


def _responses(count: int) -> Work:
    scans = Bench().judged(count)
    return lambda: [v1_response(scan) for scan in scans]


def _v2(count: int) -> Work:
    scans = Bench().judged(count)
    return lambda: [v2_scan(scan) for scan in scans]


STEPS = (
    Step("body of /v1/t", _bodies),
    Step("whole response to a hot request", _responses),
    Step("plain values of /v2/scans", _v2),
)

if __name__ == "__main__":
    sys.exit(run(TITLE, STEPS))
