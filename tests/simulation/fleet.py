"""The tags, groups and API keys of every run, as rows of the catalogue, and the taps that the tags make.

Keys are sealed once for all runs; a run gets copies of the rows.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import msgspec

from ixfast.chips import compile_profile, preset
from ixfast.domain.references import token_sha256
from ixfast.keys import KeyEncryptionKeys, check_value
from ixfast.keys.envelope import KeySlot, wrap
from ixfast.keys.kek import KeyEncryptionKey

from .tables import Counter, State

ACCOUNT = 1
AID = "acme"
STRICT, RETRYING, PLAIN = 1, 2, 3
"""Groups: single use, with a retry window, and without authentication."""
RETRY_WINDOW_S = 4
BATCH = 1
TAGS = {1: STRICT, 2: STRICT, 3: STRICT, 4: RETRYING, 5: RETRYING, 6: PLAIN}
"""Tag ids with their groups."""
BATCHED = (2, 4)
"""Tags that belong to the batch."""
KEY_VERSIONS = (1, 2)
API_KEYS = {1: "token-one", 2: "token-two"}

_PROFILE = preset("ixkio-plain")
_COMPILED = compile_profile(_PROFILE)
_KEK = KeyEncryptionKey(hashlib.sha256(b"simulation").digest())


def keks() -> KeyEncryptionKeys:
    return KeyEncryptionKeys([_KEK])


def xuid(tag_id: int) -> str:
    return f"tag{tag_id:05d}"


def uid(tag_id: int) -> bytes:
    return b"\x04" + tag_id.to_bytes(6)


def file_key(tag_id: int, version: int) -> bytes:
    return hashlib.sha256(b"%d/%d" % (tag_id, version)).digest()[:16]


@functools.cache
def mac(tag_id: int, version: int, counter: int) -> bytes:
    """The code that the tag's chip writes under this version of its key: 8 bytes."""
    found: bytes = _COMPILED.scheme.simulated_mac(file_key(tag_id, version), uid(tag_id), counter, b"")
    return found


def position(version: int, counter: int) -> int:
    return version << 24 | counter


@functools.cache
def _rows() -> dict[str, dict[Any, Any]]:
    state = State.empty()
    tables = state.tables
    tables["account"][ACCOUNT] = {
        "account_id": ACCOUNT, "aid": AID, "name": "", "open": True, "active": True, "cors": True,
    }  # fmt: skip
    for group_id, retry_window_s in ((STRICT, 0), (RETRYING, RETRY_WINDOW_S), (PLAIN, 0)):
        authenticates = group_id != PLAIN
        tables["group"][group_id] = {
            "group_id": group_id, "group_name": f"Group {group_id}", "group_active": True, "rule_set": None,
            "kind": "authentication" if authenticates else "standard",
            "profile": msgspec.json.encode(_PROFILE).decode() if authenticates else None,
            "retry_window_s": retry_window_s, "derivation": None, "enrols": False, "country_statistics": False,
            "field_values": "{}", "field_definitions": "[]", "folder_name": "Folder", "folder_active": True,
            "account_id": ACCOUNT,
        }  # fmt: skip
    tables["batch"][BATCH] = {
        "batch_id": BATCH, "name": "Batch", "active": True, "account_id": ACCOUNT, "version": None, "kek_id": None,
    }  # fmt: skip
    for tag_id, group_id in TAGS.items():
        tables["tag"][tag_id] = {
            "tag_id": tag_id, "xuid": xuid(tag_id), "cuid": None, "uid": uid(tag_id), "name": None, "active": True,
            "group_id": group_id, "batch_id": BATCH if tag_id in BATCHED else None, "assigned": True, "account_id": ACCOUNT,
            "rule_set": None, "fields": None, "originality": None, "created_at": 0.0, "assigned_at": 0.0,
        }  # fmt: skip
        tables["counter"][tag_id] = Counter()
        for version in KEY_VERSIONS if group_id != PLAIN else ():
            key = file_key(tag_id, version)
            tables["tag_key"][tag_id, version] = {
                "tag_id": tag_id, "slot": KeySlot.FILE, "version": version, "live": version == 1, "kek_id": _KEK.id,
                "check_value": check_value(key),
                "wrapped": wrap(_KEK, key, account_id=ACCOUNT, tag_id=tag_id, slot=KeySlot.FILE, version=version),
            }  # fmt: skip
    for api_key_id, token in API_KEYS.items():
        tables["api_key"][api_key_id] = {
            "api_key_id": api_key_id, "token_sha256": token_sha256(token), "account_id": ACCOUNT, "aid": AID,
            "scopes": ["scan"], "label": "", "expires_at": None, "revoked": False,
        }  # fmt: skip
    return tables


def initial_state() -> State:
    return State(_rows()).copy()
