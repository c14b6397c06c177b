"""The traffic: requests as bytes, made before the clock starts, with the expected verdict of each.

A plan belongs to one connection and no two plans share a tag. A plan's requests are sent one at a time, each after the response
to the previous one, so the counters of a tag rise in order and a replayed tap has certainly been accepted before. The choice of
tags follows Zipf's law within each plan: with 256 connections the 256 most popular tags are tapped equally often.

The seed, the number of tags and the number of plans determine everything.
"""

from __future__ import annotations

from array import array
from binascii import hexlify
from itertools import accumulate
from random import Random
from typing import NamedTuple

from ixfast.testing.virtual_tags import VirtualFleet

GENUINE, REPLAYED, FORGED, UNKNOWN = range(4)
KINDS = ("genuine", "replayed", "forged", "unknown")
COUNTER_STEPS_MAX = 0xFFFFFF
_MAC_BITS = 64
_REMEMBERED = 16  # Accepted taps of a connection that replays are drawn from, where requests are forgotten.


class Mix(NamedTuple):
    """Relative weights of the kinds of taps; they need not add up to 1."""

    genuine: float = 0.94
    replayed: float = 0.02
    forged: float = 0.02
    unknown: float = 0.02


class Traffic(NamedTuple):
    """What every process of the generator must agree on.

    `tags` tags are tapped: every `stride`-th of the fleet, starting at `offset` (below `stride`). Tags from `registered` on are
    unknown to the server (from `tags * stride` on if it is 0). The first tap of a tag has the counter after `first_counter`.
    """

    seed: int
    tags: int
    plans: int
    mix: Mix = Mix()
    zipf_exponent: float = 1.0
    stride: int = 1
    registered: int = 0
    first_counter: int = 0
    offset: int = 0

    @property
    def strangers_from(self) -> int:
        return max(self.registered, self.tags * self.stride)


class Plan:
    """The taps of one connection, and their outcome.

    `requests[i]` has kind `kinds[i]`, tag `tags[i]` (its index in the fleet) and counter `counters[i]`. The first `answered`
    requests were answered, all as expected except for the indexes in `failures`, which holds what came instead. The indexes in
    `uncertain` got no verdict at all: the tap may or may not have been accepted.
    """

    def __init__(self, traffic: Traffic, index: int, fleet: VirtualFleet) -> None:
        self._traffic = traffic
        self._fleet = fleet
        # Tags are dealt out in turns, so that the popular tags of all plans are adjacent in the database.
        step = traffic.stride
        self.own_tags = range(index * step + traffic.offset, traffic.tags * step, traffic.plans * step)
        if not self.own_tags:
            raise ValueError(f"{traffic.tags} tags are too few for {traffic.plans} connections; each needs at least one")
        self._dice = Random(f"ixfast plan {traffic.seed} {index}")
        self._weights = list(accumulate((rank + 1) ** -traffic.zipf_exponent for rank in range(len(self.own_tags))))
        self._counter = array("I", [traffic.first_counter]) * len(self.own_tags)
        self._heads: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._accepted: list[tuple[bytes, int, int]] = []  # genuine taps, from which replays are drawn
        self._forgets = False
        self._held: dict[int, tuple[int, int, int]] = {}
        self._unknown = traffic.strangers_from + index
        self.requests: list[bytes] = []
        self.kinds = bytearray()
        self.tags = array("I")
        self.counters = array("I")
        self.answered = 0
        self.failures: dict[int, str] = {}
        self.uncertain: set[int] = set()

    @property
    def left(self) -> int:
        return len(self.requests) - self.answered

    def append_each_tag_once(self, tail: bytes) -> None:
        """Append a genuine tap of every tag of the plan, in random order, which warms all caches."""
        ranks = list(range(len(self.own_tags)))
        self._dice.shuffle(ranks)
        for rank in ranks:
            self._append(rank, GENUINE, tail)

    def append(self, count: int, tail: bytes) -> None:
        """Append `count` taps of the mix; `tail` ends each request line and has the header fields."""
        ranks = self._dice.choices(range(len(self.own_tags)), cum_weights=self._weights, k=count)
        kinds = self._dice.choices(range(len(KINDS)), weights=self._traffic.mix, k=count)
        for rank, kind in zip(ranks, kinds, strict=True):
            self._append(rank, kind, tail)

    def renew(self, answered: int, count: int, tail: bytes) -> None:
        """Forget the first `answered` requests and append `count` others, so that memory use stays constant.

        What the database must hold of them is kept (`accepted`). From now on replays are drawn from the last taps that passed, so
        that none repeats a tap that was answered without a verdict.
        """
        if not self._forgets:
            self._forgets = True
            self._accepted.clear()
        self.settle(answered)
        self.append(count, tail)

    def settle(self, answered: int) -> None:
        """Record the outcome of the first `answered` requests and forget them."""
        self.answered = answered
        self._count(self._held)
        passed = [
            (self.requests[index], self.tags[index], self.counters[index])
            for index in range(answered)
            if self.kinds[index] == GENUINE and index not in self.failures
        ]
        self._accepted = (self._accepted + passed)[-_REMEMBERED:]
        del self.requests[:answered], self.kinds[:answered], self.tags[:answered], self.counters[:answered]
        self.answered = 0
        self.failures.clear()
        self.uncertain.clear()

    def _append(self, rank: int, kind: int, tail: bytes) -> None:
        if kind == REPLAYED:
            if self._accepted:
                self._put(kind, *self._dice.choice(self._accepted))
                return
            kind = GENUINE
        if kind == UNKNOWN:
            tag, counter = self._unknown, 1
            self._unknown += self._traffic.plans
            head, uid, key = self._make_head(tag)
        else:
            tag = self.own_tags[rank]
            counter = self._counter[rank] = self._counter[rank] + 1
            head_parts = self._heads.get(tag)
            if head_parts is None:
                head_parts = self._heads[tag] = self._make_head(tag)
            head, uid, key = head_parts
        mac = self._fleet.profile.scheme.simulated_mac(key, uid, counter, b"")
        if kind == FORGED:
            mac = (int.from_bytes(mac) ^ 1 << counter % _MAC_BITS).to_bytes(len(mac))
        request = b"%b%06X&e=%b%b" % (head, counter, hexlify(mac).upper(), tail)
        if kind == GENUINE and not self._forgets:
            self._accepted.append((request, tag, counter))
        self._put(kind, request, tag, counter)

    def _put(self, kind: int, request: bytes, tag: int, counter: int) -> None:
        self.requests.append(request)
        self.kinds.append(kind)
        self.tags.append(tag)
        self.counters.append(counter)

    def _make_head(self, tag: int) -> tuple[bytes, bytes, bytes]:
        uid = self._fleet.uid(tag) if self._fleet.profile.uid_in_session else b""
        return b"GET /v1/t?x=%b&n=" % self._fleet.xuid(tag).encode(), uid, self._fleet.file_key(tag)

    def accepted(self) -> dict[int, tuple[int, int, int]]:
        """What the database must hold, by tag: passes, the last accepted counter, and the taps of uncertain fate."""
        held = dict(self._held)
        self._count(held)
        return held

    def _count(self, held: dict[int, tuple[int, int, int]]) -> None:
        for index in range(self.answered):
            if self.kinds[index] != GENUINE:
                continue
            tag = self.tags[index]
            passes, last, uncertain = held.get(tag, (0, 0, 0))
            if index in self.uncertain:
                held[tag] = passes, last, uncertain + 1
            elif index not in self.failures:
                held[tag] = passes + 1, self.counters[index], uncertain


def fleet_of(traffic: Traffic) -> VirtualFleet:
    """The tags that are provisioned."""
    return VirtualFleet(traffic.seed, traffic.strangers_from, "ixkio-plain", account="bench")


def with_strangers(traffic: Traffic) -> VirtualFleet:
    """The same fleet, continued by tags that are not provisioned."""
    return VirtualFleet(traffic.seed, 1 << 40, "ixkio-plain", account="bench")


def tail_of(host: str, port: int, headers: bytes = b"") -> bytes:
    """The end of every request, with a typical back end's header fields and `headers`, which include their line ends."""
    common = b" HTTP/1.1\r\nHost: %b:%d\r\nUser-Agent: ixfast-benchmark\r\nAccept: */*\r\n" % (host.encode(), port)
    return common + headers + b"\r\n"
