"""Edits of the catalogue: the interface of this package for the management API, the command line and imports.

An edit runs in the caller's transaction, and the caller ends that with `changed`, so that the workers learn of the change.
The implementation is split by subject; this module only collects the public names.
"""

from __future__ import annotations

from ixfast.store.admin.account_edits import SCOPES, Caller, account_id_of, caller_of, create_account, create_api_key
from ixfast.store.admin.deleted_tags import continue_counter, continue_counters_of_group
from ixfast.store.admin.group_edits import create_batch, create_folder, create_group
from ixfast.store.admin.key_edits import (
    add_batch_key,
    add_master,
    add_meta_key,
    add_next_meta_key,
    add_tag_key,
    add_tag_meta_key,
    announce_keys,
    check_meta_keys,
    store_batch_key,
)
from ixfast.store.admin.tag_edits import NewTag, add_counters, add_tags
from ixfast.store.admin.transactions import changed, database_errors, record, transaction, unbounded_connection

__all__ = [
    "SCOPES",
    "Caller",
    "NewTag",
    "account_id_of",
    "add_batch_key",
    "add_counters",
    "add_master",
    "add_meta_key",
    "add_next_meta_key",
    "add_tag_key",
    "add_tag_meta_key",
    "add_tags",
    "announce_keys",
    "caller_of",
    "changed",
    "check_meta_keys",
    "continue_counter",
    "continue_counters_of_group",
    "create_account",
    "create_api_key",
    "create_batch",
    "create_folder",
    "create_group",
    "database_errors",
    "record",
    "store_batch_key",
    "transaction",
    "unbounded_connection",
]
