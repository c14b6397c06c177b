"""A meta key that does not open concerns its own account, and nobody's verdict."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support import eventually

from ixfast import meters
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeyUnavailableError
from ixfast.store.admin import edits
from ixfast.store.catalogue.catalogue import Catalogue, Change
from ixfast.store.connections import session
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

KEK, OTHER = KeyEncryptionKey(bytes([1]) * 32), KeyEncryptionKey(bytes([2]) * 32)
ACME = VirtualFleet(21, 3, "encrypted", account="acme")
BOLT = VirtualFleet(22, 3, "encrypted", account="bolt")


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database)
    for fleet in (ACME, BOLT):
        await provision(opened, KeyEncryptionKeys([KEK]), [fleet])
    yield opened
    await opened.close()


@pytest.fixture
def keks() -> KeyEncryptionKeys:
    return KeyEncryptionKeys([KEK])


@pytest.fixture
async def catalogue(database: str, keks: KeyEncryptionKeys) -> AsyncIterator[Catalogue]:
    pool = await session.make_pool(database, 2)
    yield Catalogue(pool, keks, meters.Meters(), tags_max=100, absent_max=100, deadline_s=5.0)
    await pool.close()


async def account_id(connection: Any, aid: str) -> int:
    return await edits.account_id_of(connection, aid)


async def spoil(connection: Any, aid: str) -> None:
    await connection.execute(
        "UPDATE meta_key SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE account_id = $1",
        await account_id(connection, aid),
    )


async def test_a_neighbour_in_the_same_look_up_is_not_touched(connection: Any, catalogue: Catalogue) -> None:
    await spoil(connection, "acme")
    codes = [ACME.xuid(0).encode(), BOLT.xuid(0).encode()]
    tags, errors = await catalogue._loader.tags(connection, codes)
    assert list(tags) == [codes[1]]
    assert isinstance(errors[codes[0]].error, KeyUnavailableError)
    with pytest.raises(KeyUnavailableError):
        await catalogue.account("acme")
    assert await catalogue.account("bolt") is not None
    assert await catalogue.account("nobody") is None


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_closed_account_in_trouble_is_none_to_others(connection: Any, catalogue: Catalogue, is_known: bool) -> None:
    if is_known:
        assert await catalogue.account("acme") is not None
    await connection.execute("UPDATE account SET open = false WHERE aid = 'acme'")
    await spoil(connection, "acme")
    await catalogue.apply([Change("account", await account_id(connection, "acme"), None)])
    assert await catalogue.account("acme", is_owner=False) is None
    with pytest.raises(KeyUnavailableError):
        await catalogue.account("acme", is_owner=True)
    assert await catalogue.account("acme", is_owner=False) is None


async def test_a_known_account_goes_on_and_still_hears_changes(connection: Any, catalogue: Catalogue) -> None:
    await catalogue._loader.tags(connection, [ACME.xuid(0).encode(), BOLT.xuid(0).encode()])
    acme = catalogue._loader.accounts[await account_id(connection, "acme")]
    (meta_key,) = acme.meta_keys
    await spoil(connection, "acme")
    await connection.execute("UPDATE account SET active = false WHERE aid = 'acme'")
    await catalogue.apply([Change("account", acme.account_id, None)])
    assert not acme.active
    assert acme.meta_keys == (meta_key,)


async def test_a_further_meta_key_that_does_not_open_makes_nobody_a_forger(
    connection: Any, catalogue: Catalogue, keks: KeyEncryptionKeys
) -> None:
    """Its taps would read as nothing under the keys that are left, so none is left until it opens."""
    await catalogue._loader.tags(connection, [ACME.xuid(0).encode()])
    acme = catalogue._loader.accounts[await account_id(connection, "acme")]
    further = bytes(range(16))
    await edits.add_meta_key(connection, KeyEncryptionKeys([OTHER]), acme.account_id, 2, further)
    await catalogue.apply([Change("account", acme.account_id, None)])
    assert acme.meta_keys == ()  # `no_meta_key` is 503
    keks.adopt([KEK.id, OTHER.id], {KEK.id: KEK, OTHER.id: OTHER})
    catalogue.keys_opened()
    await eventually(lambda: [key.value for key in acme.meta_keys] == [further, ACME.meta_key])
    assert not catalogue._loader.lacking
