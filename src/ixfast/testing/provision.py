"""Provisioning of simulated tags: the demo account, or any fleets, in one transaction each.

It goes through the same functions as the management API (`store.admin.edits`), so the tags are ordinary ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ixfast.chips import PRESETS, preset
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys
from ixfast.keys.diversify import DEFAULT_DERIVATIONS, scheme_of
from ixfast.store.admin import edits
from ixfast.store.admin.edits import NewTag
from ixfast.testing.virtual_tags import VirtualFleet

DEMO_AID = "demo"
DEMO_PROFILE = "ixkio-plain"
_DEMO_SEED = 424
_DEMO_TAGS = 1000
_DEMO_TAGS_PER_OTHER_FLEET = 10
_CHUNK_TAGS = 20_000

DEMO_DERIVED: Mapping[str, str] = {
    "an10922": "plain-uid-counter",
    "boltcard": "boltcard",
    "sdm-backend": "encrypted",
    "sdm-backend-legacy": "encrypted-file",
}
"""The demo account's groups that derive keys: presets by derivation scheme. Their tags are not registered; the first tap creates
each of them."""


def demo_fleet(profile: str = DEMO_PROFILE) -> VirtualFleet:
    """The demo account's simulated tags of one preset. They are the same on every machine, so tapping them needs no key file.

    Raises `ProfileError` for an unknown preset.
    """
    offset = list(PRESETS).index(preset(profile).name)
    count = _DEMO_TAGS if profile == DEMO_PROFILE else _DEMO_TAGS_PER_OTHER_FLEET
    return VirtualFleet(_DEMO_SEED + offset, count, profile, account=DEMO_AID)


def derived_demo_fleet(scheme: str) -> VirtualFleet:
    """The demo account's simulated tags whose keys are derived by `scheme`, which must be a key of `DEMO_DERIVED`."""
    offset = len(PRESETS) + list(DEMO_DERIVED).index(scheme)
    return VirtualFleet(
        _DEMO_SEED + offset,
        _DEMO_TAGS_PER_OTHER_FLEET,
        DEMO_DERIVED[scheme],
        account=DEMO_AID,
        derivation=DEFAULT_DERIVATIONS[scheme],
        enrols=True,
    )


async def provision(connection: Any, keks: KeyEncryptionKeys, fleets: Sequence[VirtualFleet], *, is_open: bool = True) -> int:
    """Create the account of the fleets, a group and a batch for each, and all tags, in one transaction.

    Returns the number of tags. A fleet with an encrypted mirror adds its meta key to the account, unless that key is derived, or
    each tag has its own. A fleet that enrols gets a group and a batch but no tags. Raises InputError `already_exists` if the
    account exists.
    """
    aid = fleets[0].account
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        account_id = await edits.create_account(connection, aid, name=aid, is_open=is_open)
        folder_id = await edits.create_folder(connection, account_id, "Demo")
        encrypted = [f for f in fleets if f.profile.encrypted and not (f.derives_meta_key or f.own_meta_keys)]
        for version, fleet in enumerate(encrypted, start=1):
            await edits.add_meta_key(connection, keks, account_id, version, fleet.meta_key)
        for fleet in fleets:
            await _add_fleet(connection, keks, account_id, folder_id, fleet)
        await edits.changed(connection, ("account", account_id, None), ("tags_added", None, None))
    return sum(len(fleet) for fleet in fleets if not fleet.enrols)


async def _add_fleet(connection: Any, keks: KeyEncryptionKeys, account_id: int, folder_id: int, fleet: VirtualFleet) -> None:
    name, derivation = fleet.profile.name, fleet.derivation
    if derivation is not None:
        name = f"{name}-{scheme_of(derivation)}"
    group_id = await edits.create_group(
        connection, folder_id, name, fleet.profile.profile, derivation=derivation, enrols=fleet.enrols
    )
    batch_id = await edits.create_batch(connection, group_id, fleet.batch or "First")
    if derivation is not None:
        await edits.add_master(connection, keks, account_id, group_id, fleet.master)
    if fleet.enrols:
        return
    for start in range(0, len(fleet), _CHUNK_TAGS):
        indices = range(start, min(start + _CHUNK_TAGS, len(fleet)))
        keys = ((i, fleet.file_key(i) if derivation is None else None) for i in indices)
        meta_key = fleet.meta_key_of if fleet.own_meta_keys and fleet.profile.encrypted else lambda _index: None
        tags = [NewTag(fleet.xuid(i), fleet.uid(i), key, f"{name}-{i}", meta_key=meta_key(i)) for i, key in keys]
        await edits.add_tags(connection, keks, account_id, group_id, tags, batch_id=batch_id)


async def ensure_demo(connection: Any, keks: KeyEncryptionKeys) -> bool:
    """Provision the demo account unless it exists. Returns whether it was created now."""
    try:
        await provision(connection, keks, [*map(demo_fleet, PRESETS), *map(derived_demo_fleet, DEMO_DERIVED)])
    except InputError as error:
        if error.code != "already_exists":
            raise
        return False
    return True
