"""What is sent: requests as bytes, made before the clock starts, with the verdict that each must get.

A plan belongs to one connection and owns its tags alone. Its requests go out one after another, the next when the answer to the
one before is there, so the counters of a tag rise in order and a replayed tap was surely accepted before. Which tag is
tapped follows Zipf's law inside each plan: with 256 connections the 256 most tapped tags are tapped equally often.

Everything follows from the seed, the number of tags and the number of plans.
"""

from __future__ import annotations

from array import array
from binascii import hexlify
from itertools import accumulate
from random import Random
from typing import NamedTuple

from ixfast.testing import VirtualFleet

GENUINE, REPLAYED, FORGED, UNKNOWN = range(4)
KINDS = ("genuine", "replayed", "forged", "unknown")
COUNTER_STEPS_MAX = 0xFFFFFF
_MAC_BITS = 64


class Mix(NamedTuple):
    """Shares of the kinds of taps; they need not add up to 1."""

    genuine: float = 0.94
    replayed: float = 0.02
    forged: float = 0.02
    unknown: float = 0.02


class Traffic(NamedTuple):
    """What every process of the generator must agree on."""

    seed: int
    tags: int
    plans: int
    mix: Mix = Mix()
    zipf_exponent: float = 1.0


class Plan:
    """The taps of one connection, and how far they were answered.

    `requests[i]` has kind `kinds[i]`, tag `tags[i]` (its place in the fleet) and counter `counters[i]`; the first `answered`
    of them were answered, all as expected but those in `failures`, which says what came instead. Places in `uncertain`
    got no verdict at all: the tap may have been accepted or not.
    """

    def __init__(self, traffic: Traffic, index: int, fleet: VirtualFleet) -> None:
        self._traffic = traffic
        self._fleet = fleet
        # Tags are dealt out in turns, so that the plans' popular tags lie next to each other in the database.
        self.own_tags = range(index, traffic.tags, traffic.plans)
        if not self.own_tags:
            raise ValueError(f"{traffic.tags} tags are too few for {traffic.plans} connections; give each at least one")
        self._dice = Random(f"ixfast plan {traffic.seed} {index}")
        self._weights = list(accumulate((rank + 1) ** -traffic.zipf_exponent for rank in range(len(self.own_tags))))
        self._counter = array("I", bytes(4 * len(self.own_tags)))
        self._heads: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._accepted: list[int] = []  # places of genuine taps, from which replays are drawn
        self._unknown = traffic.tags + index
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
        """A genuine tap of every own tag, in random order: after it no cache is cold."""
        ranks = list(range(len(self.own_tags)))
        self._dice.shuffle(ranks)
        for rank in ranks:
            self._append(rank, GENUINE, tail)

    def append(self, count: int, tail: bytes) -> None:
        """`count` more taps of the mix; `tail` ends each request line and has the header fields."""
        ranks = self._dice.choices(range(len(self.own_tags)), cum_weights=self._weights, k=count)
        kinds = self._dice.choices(range(len(KINDS)), weights=self._traffic.mix, k=count)
        for rank, kind in zip(ranks, kinds, strict=True):
            self._append(rank, kind, tail)

    def _append(self, rank: int, kind: int, tail: bytes) -> None:
        if kind == REPLAYED:
            if self._accepted:
                self._repeat(self._dice.choice(self._accepted))
                return
            kind = GENUINE
        if kind == UNKNOWN:
            tag, counter = self._unknown, 1
            self._unknown += self._traffic.plans
            head, uid, key = self._make_head(tag)
        else:
            tag = self.own_tags[rank]
            counter = self._counter[rank] = self._counter[rank] + 1
            known = self._heads.get(tag)
            if known is None:
                known = self._heads[tag] = self._make_head(tag)
            head, uid, key = known
        mac = self._fleet.profile.scheme.simulated_mac(key, uid, counter, b"")
        if kind == FORGED:
            mac = (int.from_bytes(mac) ^ 1 << counter % _MAC_BITS).to_bytes(len(mac))
        elif kind == GENUINE:
            self._accepted.append(len(self.requests))
        self.requests.append(b"%b%06X&e=%b%b" % (head, counter, hexlify(mac).upper(), tail))
        self.kinds.append(kind)
        self.tags.append(tag)
        self.counters.append(counter)

    def _repeat(self, place: int) -> None:
        self.requests.append(self.requests[place])
        self.kinds.append(REPLAYED)
        self.tags.append(self.tags[place])
        self.counters.append(self.counters[place])

    def _make_head(self, tag: int) -> tuple[bytes, bytes, bytes]:
        uid = self._fleet.uid(tag) if self._fleet.profile.uid_in_session else b""
        return b"GET /v1/t?x=%b&n=" % self._fleet.xuid(tag).encode(), uid, self._fleet.file_key(tag)

    def accepted(self) -> dict[int, tuple[int, int, int]]:
        """What the database must hold: by tag the passes, the last accepted counter, and the taps of uncertain fate."""
        held: dict[int, tuple[int, int, int]] = {}
        for place in range(self.answered):
            if self.kinds[place] != GENUINE:
                continue
            tag = self.tags[place]
            passes, last, uncertain = held.get(tag, (0, 0, 0))
            if place in self.uncertain:
                held[tag] = passes, last, uncertain + 1
            elif place not in self.failures:
                held[tag] = passes + 1, self.counters[place], uncertain
        return held


def fleet_of(traffic: Traffic) -> VirtualFleet:
    """The tags that are provisioned."""
    return VirtualFleet(traffic.seed, traffic.tags, "ixkio-plain", account="bench")


def with_strangers(traffic: Traffic) -> VirtualFleet:
    """The same fleet with room behind it: tags that nobody provisioned."""
    return VirtualFleet(traffic.seed, 1 << 40, "ixkio-plain", account="bench")


def tail_of(host: str, port: int) -> bytes:
    """What ends every request: what a company's back end would send, no more."""
    return b" HTTP/1.1\r\nHost: %b:%d\r\nUser-Agent: ixfast-benchmark\r\nAccept: */*\r\n\r\n" % (host.encode(), port)
