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

from ixfast.testing.virtual_tags import VirtualFleet

GENUINE, REPLAYED, FORGED, UNKNOWN = range(4)
KINDS = ("genuine", "replayed", "forged", "unknown")
COUNTER_STEPS_MAX = 0xFFFFFF
_MAC_BITS = 64
_REMEMBERED = 16  # Passed taps of a connection that may come again as replays, where requests are forgotten.


class Mix(NamedTuple):
    """Shares of the kinds of taps; they need not add up to 1."""

    genuine: float = 0.94
    replayed: float = 0.02
    forged: float = 0.02
    unknown: float = 0.02


class Traffic(NamedTuple):
    """What every process of the generator must agree on.

    `tags` are tapped, every `stride`-th of the fleet from `offset` (below `stride`) on; tags from `registered` on are
    strangers, from `tags * stride` on if it is 0. The first tap of a tag has the counter after `first_counter`.
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
    """The taps of one connection, and how far they were answered.

    `requests[i]` has kind `kinds[i]`, tag `tags[i]` (its place in the fleet) and counter `counters[i]`; the first `answered`
    of them were answered, all as expected but those in `failures`, which says what came instead. Places in `uncertain`
    got no verdict at all: the tap may have been accepted or not.
    """

    def __init__(self, traffic: Traffic, index: int, fleet: VirtualFleet) -> None:
        self._traffic = traffic
        self._fleet = fleet
        # Tags are dealt out in turns, so that the plans' popular tags lie next to each other in the database.
        step = traffic.stride
        self.own_tags = range(index * step + traffic.offset, traffic.tags * step, traffic.plans * step)
        if not self.own_tags:
            raise ValueError(f"{traffic.tags} tags are too few for {traffic.plans} connections; give each at least one")
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

    def renew(self, answered: int, count: int, tail: bytes) -> None:
        """Forget the first `answered` requests and have `count` others behind what is left: memory stays where it is.

        What the database must hold of them stays (`accepted`). Replays are from now on drawn from the last taps that passed,
        so that none is expected to fail that was answered without a verdict.
        """
        if not self._forgets:
            self._forgets = True
            self._accepted.clear()
        self.settle(answered)
        self.append(count, tail)

    def settle(self, answered: int) -> None:
        """Note what became of the first `answered` requests and forget them."""
        self.answered = answered
        self._count(self._held)
        passed = [
            (self.requests[place], self.tags[place], self.counters[place])
            for place in range(answered)
            if self.kinds[place] == GENUINE and place not in self.failures
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
            known = self._heads.get(tag)
            if known is None:
                known = self._heads[tag] = self._make_head(tag)
            head, uid, key = known
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
        """What the database must hold: by tag the passes, the last accepted counter, and the taps of uncertain fate."""
        held = dict(self._held)
        self._count(held)
        return held

    def _count(self, held: dict[int, tuple[int, int, int]]) -> None:
        for place in range(self.answered):
            if self.kinds[place] != GENUINE:
                continue
            tag = self.tags[place]
            passes, last, uncertain = held.get(tag, (0, 0, 0))
            if place in self.uncertain:
                held[tag] = passes, last, uncertain + 1
            elif place not in self.failures:
                held[tag] = passes + 1, self.counters[place], uncertain


def fleet_of(traffic: Traffic) -> VirtualFleet:
    """The tags that are provisioned."""
    return VirtualFleet(traffic.seed, traffic.strangers_from, "ixkio-plain", account="bench")


def with_strangers(traffic: Traffic) -> VirtualFleet:
    """The same fleet with room behind it: tags that nobody provisioned."""
    return VirtualFleet(traffic.seed, 1 << 40, "ixkio-plain", account="bench")


def tail_of(host: str, port: int, headers: bytes = b"") -> bytes:
    """What ends every request: what a company's back end would send, no more. `headers` have their line ends."""
    usual = b" HTTP/1.1\r\nHost: %b:%d\r\nUser-Agent: ixfast-benchmark\r\nAccept: */*\r\n" % (host.encode(), port)
    return usual + headers + b"\r\n"
