"""From bytes to values: recognising the hot request, and parsing its query."""

from __future__ import annotations

from benchmarks.micro.sample_scans import requests
from benchmarks.micro.step_timer import Step, Work
from ixfast.http.hot_request import Recogniser
from ixfast.http.v1_query import read_query

TITLE = "request to values"


def _recognise(count: int) -> Work:
    received, recognise = requests(count), Recogniser().recognise

    def work() -> list[object]:
        return [hot and (hot[0], hot[2]) for hot in [recognise(each) for each in received]]

    return work


def _refuse(count: int) -> Work:
    """Requests that are nearly hot, but have to be handed over to aiohttp."""
    received = [each.replace(b"Accept: */*", b"Content-Length: 0") for each in requests(count)]
    recognise = Recogniser().recognise
    return lambda: [recognise(each) for each in received]


def _read(count: int) -> Work:
    queries = [each.partition(b"?")[2].partition(b" ")[0].decode() for each in requests(count)]
    return lambda: [read_query(query)[:5] for query in queries]


STEPS = (
    Step("recognise a hot request", _recognise),
    Step("leave one to aiohttp", _refuse),
    Step("read its query", _read),
)
