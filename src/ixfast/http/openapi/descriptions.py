"""The prose and the examples of the OpenAPI description, where types and routes have none of their own.

`document.py` adds them to the schemas and operations that it generates; a test refuses any that is missing or unused. Examples
are what a server returned, for one account with one tag. Docstrings of the types remain the descriptions of schemas.
"""

from __future__ import annotations

from typing import Any

SCHEMAS = {
    "Account": "An account owns tags.",
    "AccountPatch": "Members of an account to change.",
    "ApiKey": "An API key, without its token.",
    "ApiKeyDraft": "An API key to create. You can grant only scopes that your key has itself, and scan and read.",
    "ApiKeyPatch": "Members of an API key to change.",
    "Folder": "A folder contains groups and defines their extended fields.",
    "FolderDraft": "A folder to create.",
    "FolderPatch": "Members of a folder to change.",
    "GroupDraft": "A group to create.",
    "GroupPatch": "Members of a group to change. `fields` are merged by name, and null removes a value.",
    "Batch": "A part of a group, for example one delivery of tags.",
    "BatchDraft": "A batch to create.",
    "BatchPatch": "Members of a batch to change.",
    "KeyDraft": "A key to add as the next version.",
    "ProblemBody": "What went wrong.",
    "LineProblem": "A mistake in a tag file.",
    "VisitorBody": "The person who tapped, for rules and subtags.",
    "ScannedTag": "The tag that was scanned.",
    "TamperStates": "The states of the tamper wire.",
    "Liveness": "The worker is alive.",
    "Stats": "Numbers of scans in a range.",
}
"""Descriptions of schemas whose types have no docstring."""

MEMBERS = {
    "id": "Id of the object.",
    "created_at": "When the object was created.",
    "active": "Whether scans of its tags are verified; if false, they get an error that names what is inactive.",
    "name": "Name, for people.",
    "rules": "The rule set; null for the default.",
    "fields": "Values of extended fields by name.",
    "aid": "Account id (AID).",
    "xuid": "Tag code (XUID).",
    "uid": "Chip UID: 14 hex digits, upper case.",
    "cuid": "Customer's own id (CUID).",
    "group_id": "Id of the group.",
    "batch_id": "Id of the batch.",
    "folder_id": "Id of the folder.",
    "code": "Error code. Codes never change.",
    "message": "Text for people. It may change.",
    "reason": "Cause of a 503.",
    "version": "Version of the key, 1 to 127.",
    "live": "Whether it is in use: neither retired nor revoked nor expired.",
    "check_value": "First 3 bytes of AES-CMAC over 16 zero bytes, in hex.",
    "derivation": "How keys are derived from a master key; null if each tag has a stored key.",
    "key": "The key: 32 hex digits. Responses never contain it.",
    "label": "A note on the purpose of the API key.",
    "scopes": "What the API key permits: scan verifies taps, read reads everything except keys, manage also changes it, and keys "
    "adds and retires key material.",
    "expires_at": "When the API key expires; null for never.",
    "verdict": "What the engine decided.",
    "counter": "Tap counter, if the MAC is right.",
    "key_version": "Version of the file key under which the tap was made.",
    "scan_count": "Accepted scans of the tag.",
    "at": "When it happened.",
    "response": "The owner's response text.",
    "originality": "Result of the chip's registered originality signature; null without one.",
    "originality_signature": "The 56 bytes of Read_Sig of an NTAG 424 DNA: 112 hex digits. Null removes it.",
    "assigned": "Whether the tag is assigned.",
    "profile": "Name of a preset, or an encoding profile; null for a standard group, whose tags are not authenticated.",
    "retry_window_s": "How many seconds after a tap was accepted its URL may be repeated, 0 to 3600; 0, the default, is never. "
    "Anyone who repeats the URL of the newest tap in that time, not only the first caller, gets the first answer again, with the "
    "verdict repeat.",
    "country_statistics": "Whether the country of each visitor that a caller passes on is stored, as two letters, to count scans "
    "by country. Nothing else of a visitor is stored.",
    "enrols": "Whether the first genuine tap of an unknown chip creates its tag.",
    "scheme": "Name of the scheme.",
    "key_number": "Number of the chip's key.",
    "meta_key_number": "Number of the chip's meta key.",
    "Account.open": "Whether anyone can verify its tags, without an API key.",
    "AccountPatch.open": "Whether anyone can verify its tags, without an API key.",
    "Account.cors": "Whether responses of `/v1/t` allow calls by browsers from all origins.",
    "AccountPatch.cors": "Whether responses of `/v1/t` allow calls by browsers from all origins.",
    "Account.active": "If false, scans of its tags get folder_inactive, and its API keys cannot scan.",
    "ApiKey.revoked_at": "When the API key was revoked, or null.",
    "NewApiKey.revoked_at": "Null: the API key is new.",
    "NewApiKey.token": "The token. No other response contains it.",
    "Rotation.overlap_s": "Seconds for which the old API key stays valid.",
    "Rotation.expires_at": "When the new API key expires; null for never.",
    "Folder.fields": "Definitions of the extended fields of its groups and tags.",
    "FolderDraft.fields": "Definitions of the extended fields of its groups and tags.",
    "FolderPatch.fields": "Definitions of the extended fields; removing one hides its values but keeps them.",
    "Definition.name": "Name of the field, unique in the folder.",
    "Definition.in_reply": "Whether responses to scans contain the field.",
    "Group.warnings": "Parameters of the profile that `/v1/t` can mistake for something else, and what to do about it.",
    "Group.kind": "`authentication` if the group has a profile, else `standard`.",
    "EncodingProfile.template": "End of the URL as the chip writes it, with placeholders.",
    "EncodingProfile.window": "Text that the MAC covers, in the notation of the template.",
    "EncodingProfile.tamper_offset": "Position of the tamper state in the decrypted file data.",
    "EncodingProfile.allow_without_counter": "Accept taps that cannot be checked for replays.",
    "An10922.input": "The input M: hex digits and placeholders.",
    "An10922.aid": "The application id that `{aid}` stands for, in hex.",
    "An10922.system_id": "The system id that `{system_id}` stands for, in hex.",
    "BoltCard.version": "Version of the keys on the card.",
    "KeyDraft.retire_others": "Retire all older versions at once.",
    "Tag.rules": "The tag's own rule set; null for the group's.",
    "Tag.assigned_at": "When the tag was assigned, or null.",
    "Tag.batch_id": "Id of the batch, or null.",
    "TagDraft.xuid_length": "Length of a random tag code.",
    "TagDraft.meta_key": "The tag's own meta key: 32 hex digits. Requires the scope keys, too. Responses never contain it.",
    "TagDraft.key": "File key: 32 hex digits. Requires the scope keys, too. Responses never contain it.",
    "TagPatch.uid": "Chip UID. It can be set once and not be changed.",
    "TagPatch.batch_id": "Id of the batch to move the tag to, and thereby to its group; null for none.",
    "Counter.counter": "Counter of the newest accepted tap, or null.",
    "Counter.last_at": "When the newest accepted tap was scanned; null if none was, or if an import raised the counter.",
    "Imported.dry_run": "Whether nothing was stored.",
    "Imported.lines": "Lines that describe a tag.",
    "Imported.added": "Tags that were added.",
    "Imported.changed": "Tags that were changed.",
    "Imported.unchanged": "Tags that are as the file says already.",
    "Imported.keys_added": "File keys that were added to tags without one.",
    "Imported.keys_replaced": "File keys that were added as a newer version.",
    "Imported.meta_keys_added": "Meta keys that were added to the account.",
    "Imported.batch_meta_keys_added": "Meta keys that were added to the batch.",
    "Imported.tag_meta_keys_added": "Tags that got a meta key of their own.",
    "Imported.warnings": "Why taps of these tags may be unknown: the group's encoding profile does not name the owner of "
    "the meta keys.",
    "Trial.rules": "The rule set to try.",
    "TrialResult.group": "Name of the rule group that matched; null for the default.",
    "TrialResult.steps": "Every condition that was evaluated, in order.",
    "TrialResult.warnings": "Facts and subtags of the rule set that can never be known on this server.",
    "TrialStep.step": "A rule group, a combination of conditions, or a comparison.",
    "TrialStep.depth": "How deep the step is nested.",
    "TrialStep.holds": "Whether the condition is true; null if unknown.",
    "TrialStep.found": "Value of the fact; empty for a step that combines others.",
    "Trial.facts": "Facts of a scan by name. Those that are absent are unknown.",
    "Act.api_key_id": "Id of the API key; null for a command on a host.",
    "Act.act": "What was done, such as create, update or add_key.",
    "Act.object": "Kind of object.",
    "Act.object_id": "Id of the object.",
    "Act.before": "The object before, or null.",
    "Act.after": "The object after, or null.",
    "LoggedScan.scan_id": "Id of the scan: 16 hex digits.",
    "LoggedScan.tag": "Tag code; null if the tag is unknown.",
    "LoggedScan.reason": "Reason of a refusal, as in the response to the scan; null for a pass.",
    "Stats.from": "Beginning of the range.",
    "Stats.to": "End of the range, exclusive.",
    "Stats.by": "What scans are counted by.",
    "Stats.counts": "One element for each hour, day, group, batch, tag or country that has scans.",
    "Count.object": "An hour or day (UTC), the id of a group or batch, a tag code, or two letters for a country; null for scans "
    "of unknown tags, and for tags without a batch.",
    "Count.total": "Number of scans.",
    "Count.verdicts": "Number of scans by verdict.",
    "CompatiblePatch.ix_dr": "Default response of the tag; an empty text restores the group's rules.",
    "CompatiblePatch.ix_status": "Active or Inactive, case-insensitive.",
    "CompatiblePatch.ix_assigned": "Assigned or Unassigned, case-insensitive.",
    "Problem.error": "The error.",
    "ProblemBody.request_id": "The caller's X-Request-Id, or a random id.",
    "ProblemBody.field": "Path of the member, or name of the parameter, that is wrong.",
    "ProblemBody.problems": "Mistakes in a tag file, by line.",
    "LineProblem.line": "Line of the file, from 1.",
    "LineProblem.column": "Name of the column; null for the whole line.",
    "LineProblem.code": "Code of the mistake.",
    "LineProblem.message": "What is wrong.",
    "LineProblem.remedy": "How to fix it.",
    "FlatError.error": "Error code.",
    "FlatError.parameter": "Name of the parameter that is wrong.",
    "ScanBody.url": "The tapped URL, verbatim.",
    "ScanBody.query": "The query string of the tapped URL, verbatim.",
    "ScanBody.account": "Account id, for open accounts without an API key. Tags of other accounts are then not found.",
    "ScanBody.counter": "Tap counter: a number, or 6 hex digits.",
    "ScanBody.code": "MAC of the tap: 16 hex digits.",
    "ScanBody.tamper": "Tamper status, as the chip mirrors it.",
    "ScanBody.parameters": "Parameters of the tap, under the names that the encoding profile uses.",
    "ScanBody.visitor": "The person who tapped.",
    "VisitorBody.ip": "IP address.",
    "VisitorBody.user_agent": "User agent of the browser.",
    "BatchBody.scans": "The scans, each as for `/v2/scans`.",
    "ScanAnswer.scan_id": "Id of the scan in the scan log: 16 hex digits.",
    "ScanAnswer.authentic": "True for genuine and repeat only.",
    "ScanAnswer.reason": "Reason of the verdict, or null.",
    "ScanAnswer.tag": "The tag; null if it is unknown.",
    "ScanAnswer.previous_counter": "Counter that was accepted before; null at the first tap of a key.",
    "ScanAnswer.gap": "Taps between the two counters that were never received.",
    "ScanAnswer.tamper": "Tamper state; null if the tag does not report it.",
    "ScanAnswer.file_data": "Decrypted file data in hex, or null.",
    "ScanAnswer.rule": "Name of the rule group that chose the response text; null for the default.",
    "ScanAnswer.fields": "Extended fields that are switched to *add to response*.",
    "ScanAnswer.first_answer": "Null, unless this response repeats an earlier one with the same Idempotency-Key.",
    "ScannedTag.name": "Name of the tag, with its subtags replaced.",
    "ScannedTag.folder": "Name of the folder.",
    "ScannedTag.group": "Name of the group.",
    "ScannedTag.batch": "Name of the batch, or null.",
    "TamperStates.stored": "Whether the tamper wire was ever found open.",
    "TamperStates.current": "State of the tamper wire at this tap.",
    "FirstAnswer.at": "When the tap was accepted (UTC, by the database's clock).",
    "FirstAnswer.of_now": "Members that were computed again, from the tag, group and rules as they are now.",
    "Liveness.alive": "Always true.",
    "Readiness.ready": "Whether the worker can verify scans.",
    "Readiness.problems": "Reasons by part of the worker.",
    "RuleSetDocument.groups": "Rule groups, in the order in which they are tried.",
    "RuleSetDocument.default": "Response text if no group matches.",
    "RuleSetDocument.time_zone": "IANA time zone of times, dates and weekdays that do not name one; UTC by default.",
    "GroupDocument.name": "Unique name of the rule group.",
    "GroupDocument.when": "The condition: a line of the rule language, or an object.",
    "GroupDocument.response": "Response text if the condition is true.",
    "ConditionDocument.all": "Conditions that must all be true.",
    "ConditionDocument.any": "Conditions of which at least one must be true.",
    "ConditionDocument.not": "A condition that must be false.",
    "ConditionDocument.fact": "Name of a fact.",
    "ConditionDocument.op": "Operator of the fact.",
    "ConditionDocument.value": "Value or values to compare with.",
    "ConditionDocument.zone": "IANA time zone, for time, date and weekday.",
}
"""Descriptions of members: by schema and member, else by the member alone."""

OPERATIONS = {
    "scan": "Compatible with ixkio's Response API. A tap that passes is consumed: neither it nor an older one of the tag "
    "passes again. The response is flat, and all values are strings; a forged or used tap is not an error.",
    "scan_form": "Consumes nothing.",
    "scan_v2": "Send the tapped URL, or the parts of the tap. A tap that passes is consumed. If a response is lost, retry with "
    "the same Idempotency-Key: you get the first response again instead of `replayed`.",
    "scan_batch": "The response has one element for each scan, in the same order: its result, or an error of its own.",
    "get_v2_api_keys": "Includes expired and revoked API keys.",
    "post_v2_api_keys": "Store the token: no other response contains it.",
    "delete_v2_api_keys_id": "This cannot be undone. The API key stays in the list.",
    "post_v2_api_keys_id_rotate": "The successor has the same scopes and label. Both API keys are valid for `overlap_s` seconds.",
    "delete_v2_folders_id": "Refused with `in_use` while the folder contains groups.",
    "delete_v2_groups_id": "Refused with `in_use` while the group contains batches or tags.",
    "delete_v2_batches_id": "Refused with `in_use` while the batch contains tags.",
    "delete_v2_tags_xuid": "Its scans stay in the scan log. If it is created again, its old taps stay invalid.",
    "post_v2_tags": "Without `xuid`, the tag gets a random tag code.",
    "post_v2_tags_xuid_keys": "Older versions stay valid until they are retired, or until the tag is tapped with a newer one.",
    "post_v2_groups_id_keys": "It is used with the derivation that the group has now.",
    "delete_v2_tags_xuid_keys_version": "Refused with `in_use` for the only live version.",
    "delete_v2_groups_id_keys_version": "Refused with `in_use` for the only live version.",
    "post_v2_imports": "If a line is invalid, nothing is imported, and `problems` lists the mistakes by line.",
    "post_v2_rules_test": "Nothing is stored.",
    "get_v2_audit": "Newest first. Entries contain neither keys nor tokens, and cannot be changed.",
    "get_v2_scans": "Newest first, for at most 92 days and by default the last day. Scans of unknown tags are logged if their "
    "caller sent an API key.",
    "get_v2_stats": "For at most 31 days and by default the last 7. Passes are always logged, refusals on a best-effort basis. "
    "Scans are counted by country only for groups with `country_statistics`.",
    "readyz": "503 if the worker cannot verify scans; load balancers should then use another host.",
    "metrics": "In Prometheus' text format.",
}
"""What the summary of an operation leaves open, by operation id."""

ERRORS = {
    "not_found": "the object does not exist, or belongs to another account",
    "missing_parameter": "a required parameter is missing",
    "invalid_parameter": "a parameter is malformed",
    "unauthorised": "no valid API key with the required scope",
    "idempotency_conflict": "the Idempotency-Key was used for another tap",
    "rate_limited": "too many scans; nothing was consumed",
    "overloaded": "the server is overloaded; nothing happened, retry",
    "outcome_unknown": "no reply of the database in time; it may have happened",
    "unavailable": "temporarily impossible, see `reason`; nothing happened",
    "draining": "the server is shutting down; nothing happened, retry",
    "invalid_request": "malformed HTTP, or the body does not match the schema",
    "too_large": "the body or the batch is too large",
    "unsupported_encoding": "a Content-Encoding, or a charset other than UTF-8",
    "expectation_failed": "an Expect other than 100-continue",
    "already_exists": "the name, code or id is in use, or the key was used before",
    "in_use": "the object contains others, or is the only live key",
    "limit_reached": "no further one is allowed",
    "key_retired": "the deleted tag had a newer key",
    "import_running": "another import into the account is running",
    "precondition_failed": "the object has changed since it was read",
    "invalid_profile": "the encoding profile is inconsistent",
    "invalid_rule": "the rule set is malformed",
    "invalid_response": "a response text is malformed or too long",
    "invalid_file": "the tag file has invalid lines",
    "uid_reversed": "the bytes of the UID are in reverse order",
    "range_too_wide": "the range has too many days or scans",
}
"""Error codes in a few words, for the descriptions of responses."""

_TAG = {
    "xuid": "q8w3sbcz", "uid": "04A1B2C3D4E5F6", "cuid": "SH-1001", "name": "Runner {cuid}", "group_id": 24, "batch_id": 24,
    "active": True, "assigned": False, "assigned_at": None, "rules": None, "fields": {}, "originality": None,
    "created_at": "2026-11-30T10:45:36.520472Z",
}  # fmt: skip
_SCAN = {
    "scan_id": "556df19f9f996857", "verdict": "genuine", "authentic": True, "reason": None,
    "tag": {
        "xuid": "q8w3sbcz", "cuid": "SH-1001", "uid": "04A1B2C3D4E5F6", "name": "Runner SH-1001", "folder": "Footwear",
        "group": "Sneakers", "batch": "Spring",
    },
    "counter": 5, "previous_counter": 1, "gap": 3, "scan_count": 2, "tamper": None, "originality": None, "file_data": None,
    "response": "Hello SH-1001", "rule": "genuine", "fields": {"Product Name": "Runner"}, "first_answer": None,
}  # fmt: skip
_TAP = {"url": "https://tag.example/t?x=q8w3sbcz&u=04A1B2C3D4E5F6&n=000005&e=E88456C162AAD07E"}
_FOLDER = {
    "id": 2, "name": "Shoes", "active": True, "fields": [{"name": "Product Name", "in_reply": True}],
    "created_at": "2026-11-30T10:45:36.356918Z",
}  # fmt: skip
_RULES = {
    "groups": [{"name": "genuine", "when": "authentication == pass", "response": "Hello {cuid}"}], "default": "Not genuine",
}  # fmt: skip
_GROUP = {
    "id": 24, "folder_id": 2, "name": "Sneakers", "kind": "authentication", "active": True,
    "profile": {
        "name": "ixkio-plain", "scheme": "ntag424-aes", "template": "x={xuid}&u={uid}&n={counter}&e={mac}", "window": "",
        "tamper_offset": None, "allow_without_counter": False,
    },
    "rules": _RULES, "fields": {}, "retry_window_s": 0, "derivation": None, "enrols": False, "country_statistics": False,
    "created_at": "2026-11-30T10:45:36.407441Z",
}  # fmt: skip
_BATCH = {"id": 24, "group_id": 24, "name": "Spring", "active": True, "created_at": "2026-11-30T10:45:36.500592Z"}
_ACCOUNT = {
    "aid": "shop", "name": "Shoe Shop", "open": False, "active": True, "cors": True, "created_at": "2026-11-30T10:44:47.377581Z",
}  # fmt: skip
_API_KEY = {
    "id": 3, "label": "web server", "scopes": ["scan"], "live": True, "expires_at": "2027-12-31T00:00:00Z", "revoked_at": None,
    "created_at": "2026-11-30T10:45:36.982169Z",
}  # fmt: skip
_KEY = {"version": 2, "live": True, "check_value": "3E451E", "created_at": "2026-11-30T10:45:36.803132Z"}
_COMPATIBLE = {"xuid": "q8w3sbcz", "ix_dr": "Sold out", "ix_status": "Active", "ix_assigned": "Assigned"}

EXAMPLES: dict[str, tuple[Any, Any]] = {
    "scan": (None, {"xuid": "q8w3sbcz", "response": "Hello SH-1001", "Product Name": "Runner"}),
    "scan_v2": (_TAP, _SCAN),
    "scan_batch": ({"scans": [_TAP]}, {"scans": [_SCAN]}),
    "get_v2_accounts_aid": (None, _ACCOUNT),
    "patch_v2_accounts_aid": ({"name": "Shoe Shop"}, _ACCOUNT),
    "post_v2_folders": ({"name": "Shoes", "fields": [{"name": "Product Name", "in_reply": True}]}, _FOLDER),
    "get_v2_folders": (None, {"items": [_FOLDER], "next_cursor": None}),
    "post_v2_groups": ({"folder_id": 2, "name": "Sneakers", "profile": "ixkio-plain", "rules": _RULES}, _GROUP),
    "post_v2_batches": ({"group_id": 24, "name": "Spring"}, _BATCH),
    "post_v2_tags": (
        {
            "batch_id": 24, "xuid": "q8w3sbcz", "uid": "04A1B2C3D4E5F6", "cuid": "SH-1001", "name": "Runner {cuid}",
            "key": "00112233445566778899aabbccddeeff",
        },
        _TAG,
    ),
    "get_v2_tags_xuid": (None, _TAG),
    "get_v2_tags_xuid_counter": (
        None, {"scan_count": 3, "key_version": 1, "counter": 7, "last_at": "2026-11-30T10:45:36.754804Z"},
    ),
    "post_v2_tags_xuid_keys": ({"key": "101112131415161718191a1b1c1d1e1f", "retire_others": True}, _KEY),
    "post_v2_api_keys": (
        {"scopes": ["scan"], "label": "web server", "expires_at": "2027-12-31T00:00:00Z"},
        {**_API_KEY, "token": "ixf_MUuOI0blsyCP6BvFwHLplhz97Y7M-L-_"},
    ),
    "get_v2_api_keys_id": (None, _API_KEY),
    "post_v2_rules_test": (
        {
            "rules": {"groups": [{"name": "fresh", "when": "first_scan", "response": "Welcome"}], "default": "Hello"},
            "facts": {"scan_count": 7},
        },
        {
            "group": None,
            "response": "Hello",
            "steps": [
                {"step": "fresh", "depth": 0, "holds": False, "found": ""},
                {"step": "first_scan == true", "depth": 1, "holds": False, "found": "false"},
                {"step": "default", "depth": 0, "holds": True, "found": ""},
            ],
            "warnings": [],
        },
    ),
    "get_v2_stats": (
        None,
        {
            "from": "2026-11-23T10:45:39.097305Z",
            "to": "2026-11-30T10:45:39.097305Z",
            "by": "tag",
            "counts": [{"object": "q8w3sbcz", "total": 6, "verdicts": {"forged": 1, "genuine": 3, "replayed": 2}}],
        },
    ),
    "patch_v1_x_xuid": ({"ix_dr": "Sold out"}, _COMPATIBLE),
    "readyz": (None, {"ready": True, "problems": {}}),
}  # fmt: skip
"""A request body, or None, and the body of the response, by operation id."""


def describe_schemas(schemas: dict[str, dict[str, Any]]) -> None:
    """Add descriptions to schemas and their members that have none."""
    for name, schema in schemas.items():
        if "description" not in schema and name in SCHEMAS:
            schema["description"] = SCHEMAS[name]
        for member, property_ in schema.get("properties", {}).items():
            text = MEMBERS.get(f"{name}.{member}", MEMBERS.get(member))
            if text is not None:
                property_.setdefault("description", text)


def describe_operation(operation: dict[str, Any]) -> None:
    """Add the description and the examples of an operation."""
    name = operation["operationId"]
    parts = [OPERATIONS[name]] if name in OPERATIONS else []
    if "description" in operation:
        parts.append(operation["description"])
    if parts:
        operation["description"] = "\n\n".join(parts)
    request, response = EXAMPLES.get(name, (None, None))
    if request is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = request
    if response is not None:
        status = next(status for status in operation["responses"] if status.startswith("2"))
        operation["responses"][status]["content"]["application/json"]["example"] = response
