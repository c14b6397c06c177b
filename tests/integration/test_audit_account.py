"""An audit with the keys of an account in the database: read as the server reads them, and nothing written."""

from pathlib import Path

import asyncpg
import pytest

from ixfast.audit.account_tags import read_account
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.judge import judge
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys
from ixfast.keys.diversify import DEFAULT_DERIVATIONS
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

PROFILES = ("ixkio-plain", "encrypted", "lrp-tamper")


async def test_tags_of_an_account(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keks = KeyEncryptionKeys.create_file(tmp_path / "kek")
    fleets = [VirtualFleet(seed, 7, name, account="acme") for seed, name in enumerate(PROFILES)]
    others = VirtualFleet(9, 2, account="other")
    monkeypatch.setattr("ixfast.audit.account_tags._CHUNK_TAGS", 4)
    connection = await asyncpg.connect(database)
    try:
        await provision(connection, keks, fleets)
        await provision(connection, keks, [others])
        await connection.execute("SET default_transaction_read_only = on")
        catalogue = await read_account(connection, keks, "acme")
        assert len(catalogue) == 21
        for fleet in fleets:
            for tag in fleet:
                line = judge(catalogue, tag.tap())
                assert (OUTCOMES[line.code][0], catalogue.codes[line.tag]) == ("genuine", tag.xuid)
                assert OUTCOMES[judge(catalogue, tag.forged()).code] == ("forged", "mac_mismatch")
        assert OUTCOMES[judge(catalogue, others[0].tap()).code][0] == "unknown"
        with pytest.raises(InputError, match="no account"):
            await read_account(connection, keks, "nobody")
    finally:
        await connection.close()


async def test_tags_of_groups_that_derive_keys(database: str, tmp_path: Path) -> None:
    keks = KeyEncryptionKeys.create_file(tmp_path / "kek")
    fleets = [
        VirtualFleet(seed, 3, "encrypted", account="acme", derivation=derivation)
        for seed, derivation in enumerate(DEFAULT_DERIVATIONS.values())
    ]
    connection = await asyncpg.connect(database)
    try:
        await provision(connection, keks, fleets)
        catalogue = await read_account(connection, keks, "acme")
    finally:
        await connection.close()
    for fleet in fleets:
        for tag in fleet:
            line = judge(catalogue, tag.tap())
            assert (OUTCOMES[line.code][0], catalogue.codes[line.tag]) == ("genuine", tag.xuid)
            assert OUTCOMES[judge(catalogue, tag.forged()).code] == ("forged", "mac_mismatch")
