"""No miss waits for a round that nobody runs."""

import asyncio
from typing import Any

from ixfast import meters
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.scan import Scan
from ixfast.store.catalogue import Catalogue


async def test_a_miss_at_the_moment_when_all_rounds_end_is_looked_up(monkeypatch: Any) -> None:
    loop = asyncio.get_running_loop()
    keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(32))])
    catalogue = Catalogue(None, keks, meters.Meters(), tags_max=10, absent_max=10, deadline_s=1.0)
    answers = [loop.create_future() for _ in range(3)]
    rounds = iter(answers)

    async def look_up(wanted: dict[bytes, Any]) -> tuple[dict[bytes, Any], dict[bytes, str]]:
        await next(rounds)
        return dict.fromkeys(wanted), {}

    monkeypatch.setattr(catalogue, "_look_up", look_up)
    found: list[bytes] = []

    def miss(ref: bytes) -> None:
        scan = Scan(lambda _scan: None, ref, -1, None, None, 0, loop.time())
        catalogue.fetch(scan, ref, lambda scan, _record: found.append(scan.ref))

    for ref in (b"a", b"b"):
        miss(ref)
        await asyncio.sleep(0)  # each becomes a round of its own
    # Both rounds end in the next turn of the loop, and the miss comes in the same turn, right behind them.
    for answer in answers:
        answer.set_result(None)
    loop.call_soon(miss, b"c")
    for _ in range(5):
        await asyncio.sleep(0)
    assert found == [b"a", b"b", b"c"]
    assert catalogue.idle
