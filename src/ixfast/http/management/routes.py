"""The routes of the management API, each with what its description says."""

from __future__ import annotations

from typing import Any

from ixfast.http.management import (
    accounts,
    folders,
    ixkio_v1,
    master_keys,
    rule_trial,
    scan_history,
    schemas,
    tag_file_transfer,
    tags,
)
from ixfast.http.management.call import PAGE_ROWS, PAGE_ROWS_MAX, Parameter, Route
from ixfast.store.admin import scan_log
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS

_ID: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": schemas.ID_MAX}
_TEXT: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}
LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS},
    "Items of a page.",
)
CURSOR = Parameter("cursor", {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}, "`next_cursor` of the page before.")
_TAG = Parameter("tag", _TEXT, "A tag code.")
_RANGE = (
    Parameter("from", _MOMENT, "The first moment, or a day (UTC)."),
    Parameter("to", _MOMENT, "The moment after the last one, or a day (UTC); now by default."),
)
_VERDICTS = {"type": "string", "enum": list(scan_log.WORDS.values())}
_FLAG = {"type": "string", "enum": ["true", "false"]}
_BY = {"type": "string", "enum": ["day", "group", "tag"], "default": "day"}
_KEY_SCOPES = ("manage", "keys")
_FORM = ("invalid_request",)
_OWN_NAME = ("already_exists",)
_MATCH = ("precondition_failed",)
_RULES = ("invalid_rule", "invalid_response")


def _list(path: str, act: Any, summary: str, answer: Any, *query: Parameter, **more: Any) -> Route:
    return Route("GET", path, act, summary, answer, query=(*query, LIMIT, CURSOR), paged=True, writes=False, **more)


def _read(path: str, act: Any, summary: str, answer: Any, **more: Any) -> Route:
    return Route("GET", path, act, summary, answer, writes=False, errors=("not_found",), **more)


def _create(path: str, act: Any, summary: str, answer: Any, body: Any, *errors: str, **more: Any) -> Route:
    return Route("POST", path, act, summary, answer, body, status=201, errors=(*_FORM, *errors), **more)


def _patch(path: str, act: Any, summary: str, answer: Any, body: Any, *errors: str, **more: Any) -> Route:
    return Route("PATCH", path, act, summary, answer, body, errors=("not_found", *_FORM, *_MATCH, *errors), **more)


def _delete(path: str, act: Any, summary: str, *errors: str, **more: Any) -> Route:
    return Route("DELETE", path, act, summary, None, status=204, errors=("not_found", *errors), **more)


_ACCOUNTS = (
    Route("GET", "/v2/accounts", accounts.list_accounts, "The caller's account.", schemas.Account, paged=True, writes=False),
    _read("/v2/accounts/{aid}", accounts.read_account, "An account.", schemas.Account),
    _patch("/v2/accounts/{aid}", accounts.patch_account, "Change an account.", schemas.Account, schemas.AccountPatch),
    _list("/v2/api-keys", accounts.list_api_keys, "API keys, the dead ones too.", schemas.ApiKey),
    _read("/v2/api-keys/{id}", accounts.read_api_key, "An API key.", schemas.ApiKey),
    _create(
        "/v2/api-keys", accounts.create_api_key, "Make an API key; its token is shown once.", schemas.NewApiKey,
        schemas.ApiKeyDraft, "invalid_parameter", "limit_reached",
    ),
    _patch(
        "/v2/api-keys/{id}", accounts.patch_api_key, "Change the label or the end of an API key.", schemas.ApiKey,
        schemas.ApiKeyPatch, "invalid_parameter",
    ),
    _delete("/v2/api-keys/{id}", accounts.revoke_api_key, "Revoke an API key, for good.", *_MATCH),
    Route(
        "POST", "/v2/api-keys/{id}/rotate", accounts.rotate_api_key, "Make an API key's successor; both are live for a while.",
        schemas.NewApiKey, schemas.Rotation, status=201,
        errors=("not_found", "invalid_request", "invalid_parameter", "limit_reached"),
    ),
)  # fmt: skip

_SHELVES = (
    _list("/v2/folders", folders.list_folders, "Folders.", schemas.Folder),
    _create(
        "/v2/folders", folders.create_folder, "Make a folder.", schemas.Folder, schemas.FolderDraft, "invalid_parameter",
        *_OWN_NAME,
    ),
    _read("/v2/folders/{id}", folders.read_folder, "A folder.", schemas.Folder),
    _patch(
        "/v2/folders/{id}", folders.patch_folder, "Change a folder.", schemas.Folder, schemas.FolderPatch, "invalid_parameter",
        *_OWN_NAME,
    ),
    _delete("/v2/folders/{id}", folders.delete_folder, "Delete an empty folder.", "in_use", *_MATCH),
    _list("/v2/groups", folders.list_groups, "Groups.", schemas.Group, Parameter("folder", _ID, "Those of a folder.")),
    _create(
        "/v2/groups", folders.create_group, "Make a group.", schemas.Group, schemas.GroupDraft, "not_found", "invalid_parameter",
        "invalid_profile", *_RULES, *_OWN_NAME,
    ),
    _read("/v2/groups/{id}", folders.read_group, "A group.", schemas.Group),
    _patch(
        "/v2/groups/{id}", folders.patch_group, "Change a group.", schemas.Group, schemas.GroupPatch, "invalid_parameter",
        "invalid_profile", "limit_reached", *_RULES, *_OWN_NAME,
    ),
    _delete("/v2/groups/{id}", folders.delete_group, "Delete an empty group.", "in_use", *_MATCH),
    _read(
        "/v2/groups/{id}/keys", master_keys.list_masters, "Versions of a group's master.", schemas.MasterVersion,
        scopes=_KEY_SCOPES, paged=True,
    ),
    _create(
        "/v2/groups/{id}/keys", master_keys.add_master, "Add a master to a group that derives keys.", schemas.MasterVersion,
        schemas.KeyDraft, "not_found", "invalid_parameter", "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete(
        "/v2/groups/{id}/keys/{version}", master_keys.retire_master, "Retire a version of a group's master.", "in_use",
        scopes=("keys",),
    ),
    _list("/v2/batches", folders.list_batches, "Batches.", schemas.Batch, Parameter("group", _ID, "Those of a group.")),
    _create(
        "/v2/batches", folders.create_batch, "Make a batch.", schemas.Batch, schemas.BatchDraft, "not_found", *_OWN_NAME
    ),
    _read("/v2/batches/{id}", folders.read_batch, "A batch.", schemas.Batch),
    _patch("/v2/batches/{id}", folders.patch_batch, "Change a batch.", schemas.Batch, schemas.BatchPatch, *_OWN_NAME),
    _delete("/v2/batches/{id}", folders.delete_batch, "Delete an empty batch.", "in_use", *_MATCH),
)  # fmt: skip

_TAGS = (
    _list(
        "/v2/tags", tags.list_tags, "Tags: all, or by one of the four.", schemas.Tag,
        Parameter("group", _ID, "Those of a group."), Parameter("batch", _ID, "Those of a batch."),
        Parameter("cuid", _TEXT, "The one with this CUID."),
        Parameter("uid", {"type": "string", "pattern": "^[0-9A-F]{14}$"}, "The one with this UID."),
        errors=("invalid_parameter",),
    ),
    _create(
        "/v2/tags", tags.create_tag, "Make a tag.", schemas.Tag, schemas.TagDraft, "not_found", "invalid_parameter",
        "missing_parameter", *_RULES, *_OWN_NAME, "key_retired",
    ),
    _read("/v2/tags/{xuid}", tags.read_tag, "A tag.", schemas.Tag),
    _patch(
        "/v2/tags/{xuid}", tags.patch_tag, "Change or move a tag.", schemas.Tag, schemas.TagPatch, "invalid_parameter", *_RULES,
        *_OWN_NAME,
    ),
    _delete("/v2/tags/{xuid}", tags.delete_tag, "Delete a tag; its scans stay in the log.", *_MATCH),
    _read("/v2/tags/{xuid}/counter", tags.read_counter, "How far a tag was used.", schemas.Counter),
    _read(
        "/v2/tags/{xuid}/keys", tags.list_keys, "Versions of a tag's file key.", schemas.KeyVersion,
        scopes=_KEY_SCOPES, paged=True,
    ),
    _create(
        "/v2/tags/{xuid}/keys", tags.add_key, "Add a version of a tag's file key.", schemas.KeyVersion, schemas.KeyDraft,
        "not_found", "invalid_parameter", "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete("/v2/tags/{xuid}/keys/{version}", tags.retire_key, "Retire a version of a tag's key.", "in_use", scopes=("keys",)),
    Route(
        "GET", "/v2/meta-keys", tags.list_meta_keys, "Versions of the account's meta keys.", schemas.KeyVersion,
        scopes=_KEY_SCOPES, paged=True, writes=False,
    ),
    _create(
        "/v2/meta-keys", tags.add_meta_key, "Add a meta key.", schemas.KeyVersion, schemas.KeyDraft, "invalid_parameter",
        "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete("/v2/meta-keys/{version}", tags.retire_meta_key, "Retire a meta key.", scopes=("keys",)),
)  # fmt: skip

_FILES = (
    Route(
        "POST", "/v2/imports", tag_file_transfer.import_file, "Import a tag file, all of it or nothing.", schemas.Imported, str,
        query=(
            Parameter("group", _ID, "Where new tags get into."),
            Parameter("batch", _ID, "A batch of the group for them."),
            Parameter("dry_run", _FLAG, "Do everything but the commit."),
            Parameter("preset", {"type": "string", "enum": list(PRESETS)}, "Names of columns as another program writes them."),
            Parameter("ignore", _TEXT, "Columns that are not read, with commas between them."),
            Parameter("allow_zero_keys", _FLAG, "Take keys of all zeros, which everybody knows."),
            Parameter("retire_old_keys", _FLAG, "Keys that are replaced verify nothing any more."),
            Parameter("code_length", {"type": "integer", "enum": list(CODE_CHARS)}, "Characters of a tag code that is made."),
        ),
        errors=("missing_parameter", "not_found", "already_exists", "import_running", "invalid_file"),
        body_types=("text/csv", "application/x-ndjson"), streams=True,
    ),
    Route(
        "GET", "/v2/exports", tag_file_transfer.export_file, "Tags without their keys, as a file that can be imported.", str,
        query=(
            Parameter("group", _ID, "Those of a group."), Parameter("batch", _ID, "Those of a batch."),
            Parameter("format", {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]}, "CSV or JSON lines."),
        ),
        errors=("not_found",), answer_types=("text/csv", "application/x-ndjson"), writes=False, streams=True,
    ),
)  # fmt: skip

_OTHERS = (
    Route("GET", "/v2/rules/schema", rule_trial.show_schema, "The JSON schema of rule sets.", dict[str, Any], writes=False),
    Route(
        "POST", "/v2/rules/test", rule_trial.try_rules, "Which group of a rule set answers given facts, and why.",
        schemas.TrialResult, schemas.Trial, errors=(*_FORM, "invalid_parameter", *_RULES), writes=False,
    ),
    _list(
        "/v2/audit", scan_history.list_acts, "Acts of management, newest first.", schemas.Act,
        Parameter("object", _TEXT, "A kind of object."), Parameter("object_id", _TEXT, "Its id."), errors=("invalid_parameter",),
    ),
    _list(
        "/v2/scans", scan_history.list_scans, "The scan log, newest first; the last day by default.", schemas.LoggedScan, _TAG,
        *_RANGE, Parameter("verdict", _VERDICTS, "Only this verdict."),
        errors=("invalid_parameter", "not_found", "range_too_wide"), statement_timeout_ms=scan_log.STATEMENT_TIMEOUT_MS,
    ),
    Route(
        "GET", "/v2/stats", scan_history.count_scans, "Scans by verdict and by day, group or tag; the last 7 days by default.",
        schemas.Stats,
        query=(
            _TAG, *_RANGE, Parameter("by", _BY, "What is counted by."), Parameter("group", _ID, "Only tags of this group."), LIMIT
        ),
        errors=("invalid_parameter", "not_found", "range_too_wide"), writes=False,
        statement_timeout_ms=scan_log.STATEMENT_TIMEOUT_MS,
    ),
)  # fmt: skip

_COMPATIBLE = tuple(
    Route(
        "PATCH", path, act, summary, dict[str, str], ixkio_v1.CompatiblePatch,
        errors=("not_found", "missing_parameter", "invalid_parameter", "invalid_request", "invalid_response"),
        compatible=True,
    )
    for path, act, summary in (
        ("/v1/x/{xuid}", ixkio_v1.patch_by_xuid, "Set a tag's default response, status or assignment."),
        ("/v1/a/{aid}", ixkio_v1.patch_by_account, "The same for the tag that the header ix_c or ix_u names."),
    )
)  # fmt: skip

ROUTES: tuple[Route, ...] = (*_ACCOUNTS, *_SHELVES, *_TAGS, *_FILES, *_OTHERS, *_COMPATIBLE)
