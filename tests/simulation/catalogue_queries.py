"""The catalogue's look-ups (`store/sql/catalogue.sql`) on simulated rows, found by the text of the statement.

The real loader runs on this; of what it can ask, only what a fleet with stored keys needs is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from ixfast.store.queries import load

from .tables import State

Row = dict[str, Any]
_NO_KEY = {"slot": None, "version": None, "kek_id": None, "wrapped": None, "check_value": None}


def _tags_by_xuid(state: State, codes: list[str], accounts: list[int] | None) -> list[Row]:
    found: list[Row] = []
    keys = sorted(state.tables["tag_key"].values(), key=itemgetter("version"), reverse=True)
    for tag in state.tables["tag"].values():
        if tag["xuid"] in codes and (accounts is None or tag["account_id"] in accounts):
            own = [key for key in keys if key["tag_id"] == tag["tag_id"] and key["live"]]
            found += [tag | key for key in own or [_NO_KEY]]
    return found


def _api_keys_by_hash(state: State, hashes: list[bytes]) -> list[Row]:
    return [key for key in state.tables["api_key"].values() if key["token_sha256"] in hashes and not key["revoked"]]


def _by_id(table: str) -> Callable[[State, list[int]], list[Row]]:
    return lambda state, ids: [state.tables[table][own_id] for own_id in sorted(ids) if own_id in state.tables[table]]


def _none(_state: State, *_arguments: Any) -> list[Row]:
    return []


_QUERIES: dict[str, Callable[..., list[Row]]] = {
    "tags_by_xuid": _tags_by_xuid,
    "api_keys_by_hash": _api_keys_by_hash,
    "groups_by_id": _by_id("group"),
    "accounts_by_id": _by_id("account"),
    "batches_by_id": _by_id("batch"),
    "meta_keys_of_accounts": _none,
    "keys_of_groups": _none,
    "enrolling_accounts": _none,
}
_BY_TEXT = {load("catalogue")[name]: query for name, query in _QUERIES.items()}


def run(state: State, sql: str, *arguments: Any) -> list[Row]:
    """Rows of a look-up. KeyError for a statement that is not among those that are simulated."""
    return _BY_TEXT[sql](state, *arguments)
