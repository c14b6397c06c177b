"""The routes of the management API, each with its handler and its OpenAPI description."""

from __future__ import annotations

from typing import Any

from ixfast.http.management import (
    accounts,
    batches,
    folders,
    groups,
    ixkio_v1,
    master_keys,
    rule_trial,
    scan_history,
    schemas,
    tag_file_transfer,
    tag_keys,
    tags,
)
from ixfast.http.management.call import PAGE_ROWS, PAGE_ROWS_MAX, Parameter, Route
from ixfast.store.admin import scan_log
from ixfast.store.imports.meta_key_owners import META_KEY_OWNERS
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS

_ID: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": schemas.ID_MAX}
_TEXT: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}
LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS},
    "Maximum number of items on the page.",
)
CURSOR = Parameter("cursor", {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}, "`next_cursor` of the previous page.")
_OF_SCANS = (
    Parameter("tag", _TEXT, "Only scans of the tag with this code."),
    Parameter("group", _ID, "Only scans of tags of this group."),
    Parameter("batch", _ID, "Only scans of tags of this batch."),
    Parameter("from", _MOMENT, "The beginning of the range: a time, or a day (UTC)."),
    Parameter("to", _MOMENT, "The end of the range, exclusive: a time, or a day (UTC). Now by default."),
)
_VERDICTS = {"type": "array", "items": {"type": "string", "enum": list(scan_log.WORDS.values())}, "minItems": 1}
_FLAG = {"type": "string", "enum": ["true", "false"]}
_ANY_UID = Parameter("allow_any_uid", _FLAG, "`true`: accept UIDs that do not begin with 04, the code of NXP's chips.")
_BY = {"type": "string", "enum": list(scan_log.BY), "default": "day"}
_READ = ("read", "manage")
_READ_KEYS = ("read", "manage", "keys")
_BODY_ERRORS = ("invalid_request",)
_NAME_ERRORS = ("already_exists",)
_MATCH_ERRORS = ("precondition_failed",)
_RULE_ERRORS = ("invalid_rule", "invalid_response")


def _list(
    path: str, handler: Any, summary: str, response: Any, *query: Parameter, scopes: tuple[str, ...] = _READ, **more: Any
) -> Route:
    query = (*query, LIMIT, CURSOR)
    return Route("GET", path, handler, summary, response, query=query, scopes=scopes, paged=True, writes=False, **more)


def _read(path: str, handler: Any, summary: str, response: Any, **more: Any) -> Route:
    return Route("GET", path, handler, summary, response, scopes=_READ, writes=False, errors=("not_found",), **more)


def _create(path: str, handler: Any, summary: str, response: Any, body: Any, *errors: str, **more: Any) -> Route:
    return Route("POST", path, handler, summary, response, body, status=201, errors=(*_BODY_ERRORS, *errors), **more)


def _patch(path: str, handler: Any, summary: str, response: Any, body: Any, *errors: str, **more: Any) -> Route:
    return Route(
        "PATCH", path, handler, summary, response, body, errors=("not_found", *_BODY_ERRORS, *_MATCH_ERRORS, *errors), **more
    )


def _meta_keys(path: str, of: str, listed: Any, added: Any, retired: Any) -> tuple[Route, ...]:
    """The routes of the meta keys of a tag or a batch."""
    return (
        _list(
            path, listed, f"List versions of a {of}'s own meta key.", schemas.KeyVersion, errors=("not_found",), scopes=_READ_KEYS
        ),
        _create(
            path,
            added,
            f"Add a version of a {of}'s own meta key.",
            schemas.KeyVersion,
            schemas.KeyDraft,
            "not_found",
            "invalid_parameter",
            "already_exists",
            "limit_reached",
            scopes=("keys",),
        ),
        _delete(f"{path}/{{version}}", retired, f"Retire a version of a {of}'s own meta key.", scopes=("keys",)),
    )


def _delete(path: str, handler: Any, summary: str, *errors: str, **more: Any) -> Route:
    return Route("DELETE", path, handler, summary, None, status=204, errors=("not_found", *errors), **more)


_ACCOUNTS = (
    _list("/v2/accounts", accounts.list_accounts, "List the account of the API key.", schemas.Account),
    _read("/v2/accounts/{aid}", accounts.read_account, "Read an account.", schemas.Account),
    _patch("/v2/accounts/{aid}", accounts.patch_account, "Change an account.", schemas.Account, schemas.AccountPatch),
    _list("/v2/api-keys", accounts.list_api_keys, "List API keys.", schemas.ApiKey),
    _read("/v2/api-keys/{id}", accounts.read_api_key, "Read an API key.", schemas.ApiKey),
    _create(
        "/v2/api-keys",
        accounts.create_api_key,
        "Create an API key.",
        schemas.NewApiKey,
        schemas.ApiKeyDraft,
        "invalid_parameter",
        "limit_reached",
    ),
    _patch(
        "/v2/api-keys/{id}",
        accounts.patch_api_key,
        "Change the label or expiry of an API key.",
        schemas.ApiKey,
        schemas.ApiKeyPatch,
        "invalid_parameter",
    ),
    _delete("/v2/api-keys/{id}", accounts.revoke_api_key, "Revoke an API key.", *_MATCH_ERRORS),
    Route(
        "POST",
        "/v2/api-keys/{id}/rotate",
        accounts.rotate_api_key,
        "Create a successor of an API key.",
        schemas.NewApiKey,
        schemas.Rotation,
        status=201,
        errors=("not_found", "invalid_request", "invalid_parameter", "limit_reached"),
    ),
)

_FOLDERS_GROUPS_BATCHES = (
    _list("/v2/folders", folders.list_folders, "List folders.", schemas.Folder),
    _create(
        "/v2/folders",
        folders.create_folder,
        "Create a folder.",
        schemas.Folder,
        schemas.FolderDraft,
        "invalid_parameter",
        *_NAME_ERRORS,
    ),
    _read("/v2/folders/{id}", folders.read_folder, "Read a folder.", schemas.Folder),
    _patch(
        "/v2/folders/{id}",
        folders.patch_folder,
        "Change a folder.",
        schemas.Folder,
        schemas.FolderPatch,
        "invalid_parameter",
        *_NAME_ERRORS,
    ),
    _delete("/v2/folders/{id}", folders.delete_folder, "Delete an empty folder.", "in_use", *_MATCH_ERRORS),
    _list(
        "/v2/groups", groups.list_groups, "List groups.", schemas.Group, Parameter("folder", _ID, "Only groups of this folder.")
    ),
    _create(
        "/v2/groups",
        groups.create_group,
        "Create a group.",
        schemas.Group,
        schemas.GroupDraft,
        "not_found",
        "invalid_parameter",
        "invalid_profile",
        *_RULE_ERRORS,
        *_NAME_ERRORS,
    ),
    _read("/v2/groups/{id}", groups.read_group, "Read a group.", schemas.Group),
    _patch(
        "/v2/groups/{id}",
        groups.patch_group,
        "Change a group.",
        schemas.Group,
        schemas.GroupPatch,
        "invalid_parameter",
        "invalid_profile",
        "limit_reached",
        *_RULE_ERRORS,
        *_NAME_ERRORS,
    ),
    _delete("/v2/groups/{id}", groups.delete_group, "Delete an empty group.", "in_use", *_MATCH_ERRORS),
    _list(
        "/v2/groups/{id}/keys",
        master_keys.list_master_keys,
        "List versions of a group's master key.",
        schemas.MasterVersion,
        scopes=_READ_KEYS,
        errors=("not_found",),
    ),
    _create(
        "/v2/groups/{id}/keys",
        master_keys.add_master_key,
        "Add a master key to a group that derives its keys.",
        schemas.MasterVersion,
        schemas.KeyDraft,
        "not_found",
        "invalid_parameter",
        "already_exists",
        "limit_reached",
        scopes=("keys",),
    ),
    _delete(
        "/v2/groups/{id}/keys/{version}",
        master_keys.retire_master_key,
        "Retire a version of a group's master key.",
        "in_use",
        scopes=("keys",),
    ),
    _list(
        "/v2/batches", batches.list_batches, "List batches.", schemas.Batch, Parameter("group", _ID, "Only those of this group.")
    ),
    _create(
        "/v2/batches", batches.create_batch, "Create a batch.", schemas.Batch, schemas.BatchDraft, "not_found", *_NAME_ERRORS
    ),
    _read("/v2/batches/{id}", batches.read_batch, "Read a batch.", schemas.Batch),
    _patch("/v2/batches/{id}", batches.patch_batch, "Change a batch.", schemas.Batch, schemas.BatchPatch, *_NAME_ERRORS),
    _delete("/v2/batches/{id}", batches.delete_batch, "Delete an empty batch.", "in_use", *_MATCH_ERRORS),
    *_meta_keys(
        "/v2/batches/{id}/meta-keys",
        "batch",
        tag_keys.list_batch_meta_keys,
        tag_keys.add_batch_meta_key,
        tag_keys.retire_batch_meta_key,
    ),
)

_TAGS = (
    _list(
        "/v2/tags",
        tags.list_tags,
        "List tags: all, or those that one parameter selects.",
        schemas.Tag,
        Parameter("group", _ID, "Only those of this group."),
        Parameter("batch", _ID, "Only those of this batch."),
        Parameter("cuid", _TEXT, "The tag with this CUID."),
        Parameter("uid", {"type": "string", "pattern": "^[0-9A-F]{14}$"}, "The tag with this UID."),
        errors=("invalid_parameter", "uid_reversed"),
    ),
    _create(
        "/v2/tags",
        tags.create_tag,
        "Create a tag.",
        schemas.Tag,
        schemas.TagDraft,
        "not_found",
        "invalid_parameter",
        "missing_parameter",
        *_RULE_ERRORS,
        *_NAME_ERRORS,
        "key_retired",
        "uid_reversed",
        query=(_ANY_UID,),
    ),
    _read("/v2/tags/{xuid}", tags.read_tag, "Read a tag.", schemas.Tag),
    _patch(
        "/v2/tags/{xuid}",
        tags.patch_tag,
        "Change or move a tag.",
        schemas.Tag,
        schemas.TagPatch,
        "invalid_parameter",
        *_RULE_ERRORS,
        *_NAME_ERRORS,
        "key_retired",
        "uid_reversed",
        query=(_ANY_UID,),
    ),
    _delete("/v2/tags/{xuid}", tags.delete_tag, "Delete a tag.", *_MATCH_ERRORS),
    _read("/v2/tags/{xuid}/counter", tags.read_counter, "Read the counter of a tag's newest accepted tap.", schemas.Counter),
    _list(
        "/v2/tags/{xuid}/keys",
        tag_keys.list_keys,
        "List versions of a tag's file key.",
        schemas.KeyVersion,
        scopes=_READ_KEYS,
        errors=("not_found",),
    ),
    _create(
        "/v2/tags/{xuid}/keys",
        tag_keys.add_key,
        "Add a version of a tag's file key.",
        schemas.KeyVersion,
        schemas.KeyDraft,
        "not_found",
        "invalid_parameter",
        "already_exists",
        "limit_reached",
        "key_retired",
        scopes=("keys",),
    ),
    _delete(
        "/v2/tags/{xuid}/keys/{version}", tag_keys.retire_key, "Retire a version of a tag's file key.", "in_use", scopes=("keys",)
    ),
    *_meta_keys(
        "/v2/tags/{xuid}/meta-keys",
        "tag",
        tag_keys.list_tag_meta_keys,
        tag_keys.add_tag_meta_key,
        tag_keys.retire_tag_meta_key,
    ),
    _list("/v2/meta-keys", tag_keys.list_meta_keys, "List the account's meta keys.", schemas.KeyVersion, scopes=_READ_KEYS),
    _create(
        "/v2/meta-keys",
        tag_keys.add_meta_key,
        "Add a meta key.",
        schemas.KeyVersion,
        schemas.KeyDraft,
        "invalid_parameter",
        "already_exists",
        "limit_reached",
        scopes=("keys",),
    ),
    _delete("/v2/meta-keys/{version}", tag_keys.retire_meta_key, "Retire a meta key.", scopes=("keys",)),
)

_FILES = (
    Route(
        "POST",
        "/v2/imports",
        tag_file_transfer.import_file,
        "Import a tag file, as a whole or not at all.",
        schemas.Imported,
        str,
        query=(
            Parameter("group", _ID, "The group that new tags are added to."),
            Parameter("batch", _ID, "The batch of that group that new tags are added to."),
            Parameter("dry_run", _FLAG, "`true`: do everything except the commit."),
            Parameter("preset", {"type": "string", "enum": list(PRESETS)}, "Column names as another program writes them."),
            Parameter("ignore", _TEXT, "Columns to ignore, separated by commas."),
            Parameter("allow_zero_keys", _FLAG, "`true`: accept the all-zero key, which is public."),
            _ANY_UID,
            Parameter(
                "meta_keys",
                {"type": "string", "enum": list(META_KEY_OWNERS), "default": META_KEY_OWNERS[0]},
                "The owner of the meta keys in the file; `auto`: the account if they fit, else each tag.",
            ),
            Parameter("retire_old_keys", _FLAG, "`true`: retire the keys that are replaced."),
            Parameter("code_length", {"type": "integer", "enum": list(CODE_CHARS)}, "Length of random tag codes."),
        ),
        errors=("missing_parameter", "not_found", "already_exists", "import_running", "invalid_file"),
        body_types=("text/csv", "application/x-ndjson"),
        streams=True,
    ),
    Route(
        "GET",
        "/v2/exports",
        tag_file_transfer.export_file,
        "Export tags, without keys, as a file that can be imported.",
        str,
        query=(
            Parameter("group", _ID, "Only those of this group."),
            Parameter("batch", _ID, "Only those of this batch."),
            Parameter("format", {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]}, "Format of the file."),
        ),
        scopes=_READ,
        errors=("not_found",),
        response_types=("text/csv", "application/x-ndjson"),
        writes=False,
        streams=True,
    ),
)

_RULES_AND_LOGS = (
    Route(
        "GET",
        "/v2/rules/schema",
        rule_trial.read_schema,
        "Read the JSON Schema of rule sets.",
        dict[str, Any],
        scopes=_READ,
        writes=False,
    ),
    Route(
        "POST",
        "/v2/rules/test",
        rule_trial.try_rules,
        "Show which rule group matches the given facts, and why.",
        schemas.TrialResult,
        schemas.Trial,
        scopes=_READ,
        errors=(*_BODY_ERRORS, "invalid_parameter", *_RULE_ERRORS),
        writes=False,
    ),
    _list(
        "/v2/audit",
        scan_history.list_acts,
        "List the changes in the audit log.",
        schemas.Act,
        Parameter("object", {"type": "string", "enum": list(scan_history.OBJECTS)}, "Only this kind of object."),
        Parameter("object_id", _TEXT, "Only the object with this id."),
        errors=("invalid_parameter",),
    ),
    _list(
        "/v2/scans",
        scan_history.list_scans,
        "List the scans in the scan log.",
        schemas.LoggedScan,
        *_OF_SCANS,
        Parameter("verdict", _VERDICTS, "Only scans with one of these verdicts, separated by commas."),
        errors=("invalid_parameter", "not_found", "range_too_wide"),
        statement_timeout_ms=scan_log.STATEMENT_TIMEOUT_MS,
    ),
    Route(
        "GET",
        "/v2/stats",
        scan_history.count_scans,
        "Count scans by verdict, and by hour, day, group, batch, tag or country.",
        schemas.Stats,
        query=(*_OF_SCANS, Parameter("by", _BY, "What scans are counted by."), LIMIT),
        scopes=_READ,
        errors=("invalid_parameter", "not_found", "range_too_wide"),
        writes=False,
        statement_timeout_ms=scan_log.STATEMENT_TIMEOUT_MS,
    ),
)

_IX: dict[str, dict[str, Any]] = {
    "ix_dr": _TEXT,
    "ix_status": {"type": "string", "enum": ["Active", "Inactive"]},
    "ix_assigned": {"type": "string", "enum": ["Assigned", "Unassigned"]},
}
_COMPATIBLE = tuple(
    Route(
        "PATCH",
        path,
        handler,
        summary,
        dict[str, str],
        ixkio_v1.CompatiblePatch,
        query=tuple(Parameter(name, schema, "May be sent here instead of in the body.") for name, schema in _IX.items()),
        errors=("not_found", "missing_parameter", "invalid_parameter", "invalid_request", "invalid_response"),
        compatible=True,
    )
    for path, handler, summary in (
        ("/v1/x/{xuid}", ixkio_v1.patch_by_xuid, "Change the default response, status or assignment of a tag."),
        ("/v1/a/{aid}", ixkio_v1.patch_by_account, "Change the tag that the header ix_c or ix_u names."),
    )
)

ROUTES: tuple[Route, ...] = (*_ACCOUNTS, *_FOLDERS_GROUPS_BATCHES, *_TAGS, *_FILES, *_RULES_AND_LOGS, *_COMPATIBLE)
