"""The routes of the management API, each with what its description says."""

from __future__ import annotations

from typing import Any

from ixfast.http.management import compatible, files, history, masters, owners, shapes, shelves, tags, trials
from ixfast.http.management.office import PAGE_ROWS, PAGE_ROWS_MAX, Parameter, Route
from ixfast.store import stats
from ixfast.store.importing_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS

_ID: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": shapes.ID_MAX}
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
_VERDICTS = {"type": "string", "enum": list(stats.WORDS.values())}
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
    Route("GET", "/v2/accounts", owners.list_accounts, "The caller's account.", shapes.Account, paged=True, writes=False),
    _read("/v2/accounts/{aid}", owners.read_account, "An account.", shapes.Account),
    _patch("/v2/accounts/{aid}", owners.patch_account, "Change an account.", shapes.Account, shapes.AccountPatch),
    _list("/v2/api-keys", owners.list_api_keys, "API keys, the dead ones too.", shapes.ApiKey),
    _read("/v2/api-keys/{id}", owners.read_api_key, "An API key.", shapes.ApiKey),
    _create(
        "/v2/api-keys", owners.create_api_key, "Make an API key; its token is shown once.", shapes.NewApiKey,
        shapes.ApiKeyDraft, "invalid_parameter", "limit_reached",
    ),
    _patch(
        "/v2/api-keys/{id}", owners.patch_api_key, "Change the label or the end of an API key.", shapes.ApiKey,
        shapes.ApiKeyPatch, "invalid_parameter",
    ),
    _delete("/v2/api-keys/{id}", owners.revoke_api_key, "Revoke an API key, for good.", *_MATCH),
    Route(
        "POST", "/v2/api-keys/{id}/rotate", owners.rotate_api_key, "Make an API key's successor; both are live for a while.",
        shapes.NewApiKey, shapes.Rotation, status=201,
        errors=("not_found", "invalid_request", "invalid_parameter", "limit_reached"),
    ),
)  # fmt: skip

_SHELVES = (
    _list("/v2/folders", shelves.list_folders, "Folders.", shapes.Folder),
    _create(
        "/v2/folders", shelves.create_folder, "Make a folder.", shapes.Folder, shapes.FolderDraft, "invalid_parameter", *_OWN_NAME
    ),
    _read("/v2/folders/{id}", shelves.read_folder, "A folder.", shapes.Folder),
    _patch(
        "/v2/folders/{id}", shelves.patch_folder, "Change a folder.", shapes.Folder, shapes.FolderPatch, "invalid_parameter",
        *_OWN_NAME,
    ),
    _delete("/v2/folders/{id}", shelves.delete_folder, "Delete an empty folder.", "in_use", *_MATCH),
    _list("/v2/groups", shelves.list_groups, "Groups.", shapes.Group, Parameter("folder", _ID, "Those of a folder.")),
    _create(
        "/v2/groups", shelves.create_group, "Make a group.", shapes.Group, shapes.GroupDraft, "not_found", "invalid_parameter",
        "invalid_profile", *_RULES, *_OWN_NAME,
    ),
    _read("/v2/groups/{id}", shelves.read_group, "A group.", shapes.Group),
    _patch(
        "/v2/groups/{id}", shelves.patch_group, "Change a group.", shapes.Group, shapes.GroupPatch, "invalid_parameter",
        "invalid_profile", "limit_reached", *_RULES, *_OWN_NAME,
    ),
    _delete("/v2/groups/{id}", shelves.delete_group, "Delete an empty group.", "in_use", *_MATCH),
    _read(
        "/v2/groups/{id}/keys", masters.list_masters, "Versions of a group's master.", shapes.MasterVersion, scopes=_KEY_SCOPES,
        paged=True,
    ),
    _create(
        "/v2/groups/{id}/keys", masters.add_master, "Add a master to a group that derives keys.", shapes.MasterVersion,
        shapes.KeyDraft, "not_found", "invalid_parameter", "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete(
        "/v2/groups/{id}/keys/{version}", masters.retire_master, "Retire a version of a group's master.", "in_use",
        scopes=("keys",),
    ),
    _list("/v2/batches", shelves.list_batches, "Batches.", shapes.Batch, Parameter("group", _ID, "Those of a group.")),
    _create(
        "/v2/batches", shelves.create_batch, "Make a batch.", shapes.Batch, shapes.BatchDraft, "not_found", *_OWN_NAME
    ),
    _read("/v2/batches/{id}", shelves.read_batch, "A batch.", shapes.Batch),
    _patch("/v2/batches/{id}", shelves.patch_batch, "Change a batch.", shapes.Batch, shapes.BatchPatch, *_OWN_NAME),
    _delete("/v2/batches/{id}", shelves.delete_batch, "Delete an empty batch.", "in_use", *_MATCH),
)  # fmt: skip

_TAGS = (
    _list(
        "/v2/tags", tags.list_tags, "Tags: all, or by one of the four.", shapes.Tag,
        Parameter("group", _ID, "Those of a group."), Parameter("batch", _ID, "Those of a batch."),
        Parameter("cuid", _TEXT, "The one with this CUID."),
        Parameter("uid", {"type": "string", "pattern": "^[0-9A-F]{14}$"}, "The one with this UID."),
        errors=("invalid_parameter",),
    ),
    _create(
        "/v2/tags", tags.create_tag, "Make a tag.", shapes.Tag, shapes.TagDraft, "not_found", "invalid_parameter",
        "missing_parameter", *_RULES, *_OWN_NAME, "key_retired",
    ),
    _read("/v2/tags/{xuid}", tags.read_tag, "A tag.", shapes.Tag),
    _patch(
        "/v2/tags/{xuid}", tags.patch_tag, "Change or move a tag.", shapes.Tag, shapes.TagPatch, "invalid_parameter", *_RULES,
        *_OWN_NAME,
    ),
    _delete("/v2/tags/{xuid}", tags.delete_tag, "Delete a tag; its scans stay in the log.", *_MATCH),
    _read("/v2/tags/{xuid}/counter", tags.read_counter, "How far a tag was used.", shapes.Counter),
    _read(
        "/v2/tags/{xuid}/keys", tags.list_keys, "Versions of a tag's file key.", shapes.KeyVersion, scopes=_KEY_SCOPES, paged=True
    ),
    _create(
        "/v2/tags/{xuid}/keys", tags.add_key, "Add a version of a tag's file key.", shapes.KeyVersion, shapes.KeyDraft,
        "not_found", "invalid_parameter", "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete("/v2/tags/{xuid}/keys/{version}", tags.retire_key, "Retire a version of a tag's key.", "in_use", scopes=("keys",)),
    Route(
        "GET", "/v2/meta-keys", tags.list_meta_keys, "Versions of the account's meta keys.", shapes.KeyVersion,
        scopes=_KEY_SCOPES, paged=True, writes=False,
    ),
    _create(
        "/v2/meta-keys", tags.add_meta_key, "Add a meta key.", shapes.KeyVersion, shapes.KeyDraft, "invalid_parameter",
        "already_exists", "limit_reached", scopes=("keys",),
    ),
    _delete("/v2/meta-keys/{version}", tags.retire_meta_key, "Retire a meta key.", scopes=("keys",)),
)  # fmt: skip

_FILES = (
    Route(
        "POST", "/v2/imports", files.import_file, "Import a tag file, all of it or nothing.", shapes.Imported, str,
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
        "GET", "/v2/exports", files.export_file, "Tags without their keys, as a file that can be imported.", str,
        query=(
            Parameter("group", _ID, "Those of a group."), Parameter("batch", _ID, "Those of a batch."),
            Parameter("format", {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]}, "CSV or JSON lines."),
        ),
        errors=("not_found",), answer_types=("text/csv", "application/x-ndjson"), writes=False, streams=True,
    ),
)  # fmt: skip

_OTHERS = (
    Route("GET", "/v2/rules/schema", trials.show_schema, "The JSON schema of rule sets.", dict[str, Any], writes=False),
    Route(
        "POST", "/v2/rules/test", trials.try_rules, "Which group of a rule set answers given facts, and why.",
        shapes.TrialResult, shapes.Trial, errors=(*_FORM, "invalid_parameter", *_RULES), writes=False,
    ),
    _list(
        "/v2/audit", history.list_acts, "Acts of management, newest first.", shapes.Act,
        Parameter("object", _TEXT, "A kind of object."), Parameter("object_id", _TEXT, "Its id."), errors=("invalid_parameter",),
    ),
    _list(
        "/v2/scans", history.list_scans, "The scan log, newest first; the last day by default.", shapes.LoggedScan, _TAG,
        *_RANGE, Parameter("verdict", _VERDICTS, "Only this verdict."),
        errors=("invalid_parameter", "not_found", "range_too_wide"), statement_timeout_ms=stats.STATEMENT_TIMEOUT_MS,
    ),
    Route(
        "GET", "/v2/stats", history.count_scans, "Scans by verdict and by day, group or tag; the last 7 days by default.",
        shapes.Stats,
        query=(
            _TAG, *_RANGE, Parameter("by", _BY, "What is counted by."), Parameter("group", _ID, "Only tags of this group."), LIMIT
        ),
        errors=("invalid_parameter", "not_found", "range_too_wide"), writes=False,
        statement_timeout_ms=stats.STATEMENT_TIMEOUT_MS,
    ),
)  # fmt: skip

_COMPATIBLE = tuple(
    Route(
        "PATCH", path, act, summary, dict[str, str], compatible.CompatiblePatch,
        errors=("not_found", "missing_parameter", "invalid_parameter", "invalid_request", "invalid_response"),
        compatible=True,
    )
    for path, act, summary in (
        ("/v1/x/{xuid}", compatible.patch_by_xuid, "Set a tag's default response, status or assignment."),
        ("/v1/a/{aid}", compatible.patch_by_account, "The same for the tag that the header ix_c or ix_u names."),
    )
)  # fmt: skip

ROUTES: tuple[Route, ...] = (*_ACCOUNTS, *_SHELVES, *_TAGS, *_FILES, *_OTHERS, *_COMPATIBLE)
