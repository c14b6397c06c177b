"""Do response times reveal what a caller may not know? `python -m benchmarks timing`

The caller has a token of one account and sends `POST /v2/scans` for codes that are not its own:

- `unknown`: a code that no tag has;
- `foreign`: another account's tag, with a genuine tap of it; its owner's customers use it, so the worker has it cached;
- `bad MAC`: another such tag, with a wrong MAC.

For this caller none of them exists: one verdict, `unknown`, byte for byte. (About a tag of its own account it may know
everything, and gets `forged` for a bad MAC.) Each is sent twice in a row, because the first response needs the database and the
second does not. The time is from before the request is written until its last byte is read, over one persistent connection to
one worker; a round sends all kinds in random order, so that disturbances of the machine affect them alike.

Welch's t compares the kinds in pairs, over all samples and over those below a percentile of all (cropped), which reveals small
differences that rare delays would hide. Above 4.5 a difference counts as real. The exit status is 1 if there is one, if the
responses differ in a byte, or if none is found in the control, a server that refuses a foreign tag as soon as it sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import random
import re
import socket
import statistics
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import orjson

from benchmarks import disturbance, environment
from benchmarks.contenders import ixfast_with
from benchmarks.load.traffic import Traffic
from benchmarks.testbed import Testbed
from ixfast import limits
from ixfast.embedded import free_port
from ixfast.keys import KeyEncryptionKeys
from ixfast.store.admin import edits
from ixfast.store.migrate import migrate
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

PAIRS = 100_000
CONTROL_PAIRS = 20_000
SMOKE_PAIRS = 20
CODES_MAX = 10_000
"""Of each kind. They are repeated after as many rounds, when their absence is no longer cached (`limits.NEGATIVE_TTL_S`)."""

_FLAGS = ("--log-level", "error", "--deadline-ms", "10000")
THRESHOLD = 4.5
CROPS = (100, 99, 95, 90, 75, 50)  # percentiles of all samples of both kinds
KINDS = ("unknown", "foreign", "bad MAC")
ASKED = ("first", "again")
_VARYING = re.compile(rb'"scan_id":"[^"]*"|\r\n(?:[Dd]ate|[Xx]-[Rr]equest-[Ii]d): [^\r]*')
_NO_ANSWER = b"HTTP/1.1 503 "
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)

Samples = dict[tuple[str, str], "array[int]"]
"""Nanoseconds by repetition (`ASKED`) and by kind."""


class Accounts(NamedTuple):
    """A database with two accounts and their tokens; the second one's tags are foreign to the first."""

    dsn: str
    token: str
    owners_token: str


class Client:
    """One persistent connection; `ask` returns nanoseconds and the response without its variable parts."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        read = self._socket.recv
        started = time.perf_counter_ns()
        self._socket.sendall(request)
        answer = read(65536)
        spent = time.perf_counter_ns() - started
        while (length := _whole(answer)) is None or len(answer) < length:
            more = read(65536)
            spent = time.perf_counter_ns() - started
            if not more:
                raise ConnectionError("the server closed the connection")
            answer += more
        return spent, _VARYING.sub(b"", answer)


def _whole(answer: bytes) -> int | None:
    head = answer.find(b"\r\n\r\n")
    found = _LENGTH.search(answer, 0, head + 2) if head >= 0 else None
    return head + 4 + int(found[1]) if found is not None else None


def request_of(token: str, code: str, mac: str) -> bytes:
    body = orjson.dumps({"xuid": code, "counter": 1, "code": mac})
    return (
        b"POST /v2/scans HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)
    )


def requests_of(accounts: Accounts, fleet: VirtualFleet, seed: int) -> dict[str, list[bytes]]:
    """The requests by kind. MACs of bad taps and of unknown codes are random, like correct ones look."""
    dice, count = random.Random(seed), len(fleet) // 2
    strangers = VirtualFleet(seed + 1, count, account="nobody")
    bad = [request_of(accounts.token, fleet.xuid(count + i), dice.randbytes(8).hex().upper()) for i in range(count)]
    return {
        "unknown": [request_of(accounts.token, strangers.xuid(i), strangers.plain_tap(i, 1)[2]) for i in range(count)],
        "foreign": [request_of(accounts.token, fleet.xuid(i), fleet.plain_tap(i, 1)[2]) for i in range(count)],
        "bad MAC": bad,
    }


def measure(client: Client, requests: dict[str, list[bytes]], rounds: int, seed: int) -> tuple[Samples, set[bytes]]:
    """The samples, and the set of distinct responses, which should have one element."""
    dice, order = random.Random(seed), list(KINDS)
    samples: Samples = {(asked, kind): array("q") for asked in ASKED for kind in KINDS}
    answers: set[bytes] = set()
    for number in range(rounds):
        for asked in ASKED:
            dice.shuffle(order)
            for kind in order:
                spent, answer = client.ask(requests[kind][number % len(requests[kind])])
                if answer.startswith(_NO_ANSWER):
                    continue  # the machine was too busy: no verdict about the tag
                samples[asked, kind].append(spent)
                answers.add(answer)
    return samples, answers


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t; 0 for samples without any variance or with less than two values."""
    if min(len(one), len(other)) < 2:
        return 0.0
    error = math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))
    return (statistics.fmean(one) - statistics.fmean(other)) / error if error else 0.0


def cropped(one: array[int], other: array[int], percentile: int) -> tuple[list[float], list[float]]:
    """Both samples, without values above this percentile of their union."""
    together = sorted([*one, *other])
    limit = together[min(len(together) - 1, len(together) * percentile // 100)]
    return [float(value) for value in one if value <= limit], [float(value) for value in other if value <= limit]


def compare(samples: Samples) -> float:
    """Print the comparison; returns the largest |t|."""
    worst = 0.0
    for asked in ASKED:
        medians = ", ".join(f"{kind} {statistics.median(samples[asked, kind]) / 1000:.1f}" for kind in KINDS)
        print(f"\nasked {asked:<20} medians in us: {medians}")
        print(f"  {'t of samples up to':<22}" + "".join(f"{percentile:>6} %" for percentile in CROPS))
        for one, other in itertools.combinations(KINDS, 2):
            ts = [welch(*cropped(samples[asked, one], samples[asked, other], percentile)) for percentile in CROPS]
            print(f"  {f'{one} / {other}':<22}" + "".join(f"{t:>8.2f}" for t in ts))
            worst = max(worst, *map(abs, ts))
    print(f"\nlargest |t| {worst:.2f}", flush=True)
    return worst


def with_two_accounts(testbed: Testbed, fleet: VirtualFleet) -> Accounts:
    tokens: list[str] = []

    def fill(dsn: str) -> None:
        tokens.extend(asyncio.run(_provision(dsn, testbed.keks, fleet)))

    dsn, _ = testbed.make("timing", fill)
    return Accounts(dsn, *tokens)


async def _provision(dsn: str, keks: KeyEncryptionKeys, fleet: VirtualFleet) -> list[str]:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        tokens = []
        for own in (VirtualFleet(1, 1, account="caller"), fleet):
            await provision(connection, keks, [own], is_open=False)
            account_id = await edits.account_id_of(connection, own.account)
            tokens.append(await edits.create_api_key(connection, account_id, ("scan",)))
        return tokens
    finally:
        await connection.close()


def run(testbed: Testbed, accounts: Accounts, fleet: VirtualFleet, module: str, pairs: int, seed: int) -> tuple[float, bool]:
    """The largest |t|, and whether all responses were identical."""
    requests, port = requests_of(accounts, fleet, seed), free_port()
    with ixfast_with(_FLAGS, module)(testbed, accounts.dsn, port, 1), Client(port) as client:
        for index in range(len(fleet)):
            _, answer = client.ask(request_of(accounts.owners_token, fleet.xuid(index), "0" * 16))
            assert b'"verdict":"forged"' in answer, answer
        samples, answers = measure(client, requests, pairs, seed)
    same = len(answers) == 1 and b'"verdict":"unknown"' in next(iter(answers))
    print(f"responses: {'identical' if same else f'{len(answers)} different ones'}")
    lost = len(ASKED) * len(KINDS) * pairs - sum(map(len, samples.values()))
    if lost:
        print(f"{lost} requests got a 503 and do not count: the machine was too busy")
    return compare(samples), same


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"samples of each kind; default {PAIRS:,}")
    parser.add_argument("--control-pairs", type=int, default=CONTROL_PAIRS, help="of the control; 0 skips it")
    parser.add_argument("--seed", type=int, default=20_240)
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works; t is not evaluated")
    disturbance.add_flag(parser)
    asked = parser.parse_args(arguments)
    watch = disturbance.watch(asked)
    pairs, control_pairs = (SMOKE_PAIRS, SMOKE_PAIRS) if asked.smoke else (asked.pairs, asked.control_pairs)
    fleet = VirtualFleet(asked.seed, 2 * min(CODES_MAX, max(pairs, control_pairs)), account="other")
    about: dict[str, Any] = environment.describe()
    print(f"{about['cpu']}, {about['cpus']} cores, {about['core']}, commit {about['commit']}, seed {asked.seed}")
    print(f"load before: {environment.load_average()} (other load hides small differences)")
    print(f"absence is cached for {limits.NEGATIVE_TTL_S:g} s")
    with Testbed(Traffic(asked.seed, 1, 1)) as testbed:
        accounts = with_two_accounts(testbed, fleet)
        print(f"\n== the server, {pairs:,} of each kind")
        worst, same = run(testbed, accounts, fleet, "ixfast", pairs, asked.seed)
        caught = True
        if control_pairs:
            print(f"\n== the control, {control_pairs:,} of each kind")
            caught = run(testbed, accounts, fleet, "benchmarks.early_server", control_pairs, asked.seed)[0] >= THRESHOLD
    print(f"\n{watch.summary()}")
    if asked.smoke:
        return 0 if same else 1
    print(f"\n{'no difference found' if same and worst < THRESHOLD else 'THE KINDS CAN BE DISTINGUISHED'}")
    print(f"control: {'not run' if not control_pairs else 'detected' if caught else 'NOT DETECTED'}")
    return watch.status(same and worst < THRESHOLD and caught)
