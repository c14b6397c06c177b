"""Loads the tags of an account from the database into a catalogue, with their keys, in one read-only transaction."""

from __future__ import annotations

from typing import Any

from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys
from ixfast.store.catalogue.record_loader import Loader

_CHUNK_TAGS = 5000
_CODES = "SELECT xuid FROM tag WHERE account_id = $1 AND xuid > $2 ORDER BY xuid LIMIT $3"


async def read_account(connection: Any, keks: KeyEncryptionKeys, aid: str) -> TagCatalogue:
    """Load all tags of the account with their live keys and profiles, including inactive ones: an audit is about authenticity.

    Raises InputError if there is no such account, and also if a key cannot be opened or a profile cannot be compiled: an audit
    without them would report genuine taps as forged.
    """
    catalogue = TagCatalogue()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        loader = Loader(keks)
        known = await loader.account_and_groups(connection, aid)
        if known is None:
            raise InputError("not_found", f"There is no account {aid!r}.", "account")
        account, groups = known
        catalogue.add_meta_keys(account.meta_keys)
        for group in groups:
            catalogue.add_meta_keys(group.meta_keys)
        last = ""
        while codes := [row["xuid"] for row in await connection.fetch(_CODES, account.account_id, last, _CHUNK_TAGS)]:
            last = codes[-1]
            found, failed = await loader.tags(connection, [code.encode() for code in codes])
            for code, (error, *_) in failed.items():
                raise InputError("unavailable", f"Cannot load tag {code.decode()}: {type(error).__name__}.") from error
            for record in found.values():
                await record.derive_keys()
                profile = record.group.profile
                assert profile is None or isinstance(profile, CompiledProfile)
                catalogue.add(
                    record.xuid.decode(),
                    profile,
                    uid=record.uid or b"",
                    keys=record.file_keys(),
                    cuid=record.cuid,
                    aid=aid,
                    batch=record.batch.name if record.batch is not None else None,
                    meta_keys=record.overrides.meta_keys if record.overrides is not None else (),
                )
        for batch in loader.batches.values():
            if batch.lacks_keys:
                raise InputError("unavailable", f"Cannot load batch {batch.name}: KeyUnavailableError.")
            catalogue.add_batch_meta_keys(batch.name, batch.meta_keys)
    return catalogue
