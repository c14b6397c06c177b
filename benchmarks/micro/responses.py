"""From a decided scan to bytes: the body, and the whole response."""

from __future__ import annotations

from benchmarks.micro.sample_scans import Bench
from benchmarks.micro.step_timer import Step, Work
from ixfast.http.raw_response import v1_response
from ixfast.responses.bodies import v1_body, v2_scan

TITLE = "answer to bytes"


def _bodies(count: int) -> Work:
    scans = Bench().decided(count)
    return lambda: [v1_body(scan) for scan in scans]


def _responses(count: int) -> Work:
    scans = Bench().decided(count)
    return lambda: [v1_response(scan) for scan in scans]


def _v2(count: int) -> Work:
    scans = Bench().decided(count)
    return lambda: [v2_scan(scan) for scan in scans]


STEPS = (
    Step("body of /v1/t", _bodies),
    Step("whole response to a hot request", _responses),
    Step("plain values of /v2/scans", _v2),
)
